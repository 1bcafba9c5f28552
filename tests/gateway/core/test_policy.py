from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.policy import Policy, matches

POLICY = Policy(
    {
        "reader": ["context:*", "resource:docs/*", "!resource:docs/secret/*"],
        "clerk": ["context:*", "tool:calculator", "tool:refund"],
        "billing": ["billing"],
        "admin": ["*"],
        "no-shell": ["!tool:shell"],
    }
)


def test_without_roles_one_has_ones_own_and_the_unrestricted() -> None:
    assert POLICY.may(None, "context:write")
    assert POLICY.may(None, "resource:docs/secret/a")
    assert not POLICY.may(None, "message:system")
    assert POLICY.decide_tool(None, "calculator") == "run"


@pytest.mark.parametrize("permission", ["billing", "tool:refund", "context:x"])
def test_without_roles_nothing_restricted_may_be_used_whatever_its_permission_is_called(permission: str) -> None:
    assert POLICY.decide_tool(None, "refund", permission=permission) == "deny"
    assert not POLICY.may_use(None, "resource:ledger", permission)


def test_with_roles_one_has_exactly_what_they_grant() -> None:
    assert POLICY.may(("reader",), "resource:docs/a")
    assert not POLICY.may(("reader",), "resource:ledger")
    assert POLICY.decide_tool(("reader",), "calculator") == "deny"
    assert POLICY.decide_tool(("clerk",), "calculator") == "run"
    assert POLICY.decide_tool(("reader", "clerk"), "calculator") == "run"
    assert not POLICY.may((), "context:write")
    assert not POLICY.may(("unheard-of",), "context:write")
    assert POLICY.may(("admin",), "message:system")


def test_a_denial_wins_over_every_grant() -> None:
    assert not POLICY.may(("reader",), "resource:docs/secret/a")
    assert not POLICY.may(("admin", "reader"), "resource:docs/secret/a")
    assert POLICY.decide_tool(("admin", "no-shell"), "shell") == "deny"
    assert POLICY.decide_tool(("admin", "no-shell"), "calculator") == "run"


def test_a_restricted_tool_needs_its_name_and_its_permission() -> None:
    assert POLICY.decide_tool(("clerk",), "refund", permission="billing") == "deny"
    assert POLICY.decide_tool(("billing",), "refund", permission="billing") == "deny"
    assert POLICY.decide_tool(("clerk", "billing"), "refund", permission="billing") == "run"


def test_approval_asks_only_who_may() -> None:
    assert POLICY.decide_tool(("clerk",), "refund", approval="always") == "ask"
    assert POLICY.decide_tool(("reader",), "refund", approval="always") == "deny"


@pytest.mark.parametrize("pattern", ["", "!", "!!tool:x", " tool:x", "! tool:x"])
def test_a_pattern_that_means_nothing_names_its_role(pattern: str) -> None:
    with pytest.raises(ValueError, match="role 'odd'"):
        Policy({"odd": [pattern]})


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("tool:a", "tool:a", True),
        ("tool:a", "tool:ab", False),
        ("*", "", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("a*b*c", "a-b-c", True),
        ("a*b*c", "a-c", False),
        ("tool:*", "context:a", False),
        ("*:read", "context:write", False),
        ("tool:[a]?", "tool:ab", False),
    ],
)
def test_wildcards(pattern: str, text: str, fits: bool) -> None:
    assert matches(pattern, text) is fits


@given(st.text("ab*", max_size=8), st.text("ab\n", max_size=8))
def test_wildcards_mean_what_a_regular_expression_says(pattern: str, text: str) -> None:
    expression = ".*".join(map(re.escape, pattern.split("*")))
    assert matches(pattern, text) is (re.fullmatch(expression, text, re.DOTALL) is not None)
