from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from gateway.core.policy import Policy, matches


class Bearer(Struct, frozen=True):
    roles: tuple[str, ...] | None = None
    owner: str = "default/someone"


POLICY = Policy(
    {
        "reader": ["context:*", "resource:docs/*", "!resource:docs/secret/*"],
        "clerk": ["context:*", "tool:calculator", "tool:refund"],
        "billing": ["billing"],
        "admin": ["*"],
        "no-shell": ["!tool:shell"],
    },
    {
        "default/amy": ["tool:shell", "billing", "!tool:refund"],
        "acme/bob": ["!tool:shell"],
    },
)
NOBODY = Bearer()
AMY, BOB = "default/amy", "acme/bob"


def bears(*roles: str, owner: str = "default/someone") -> Bearer:
    return Bearer(roles, owner)


def test_without_roles_one_has_ones_own_and_the_unrestricted() -> None:
    assert POLICY.may(NOBODY, "context:write")
    assert POLICY.may(NOBODY, "resource:docs/secret/a")
    assert not POLICY.may(NOBODY, "message:system")
    assert POLICY.may_use(NOBODY, "tool:calculator")


@pytest.mark.parametrize("permission", ["billing", "tool:refund", "context:x"])
def test_without_roles_nothing_restricted_may_be_used_whatever_its_permission_is_called(permission: str) -> None:
    assert not POLICY.may_use(NOBODY, "tool:refund", permission)
    assert not POLICY.may_use(NOBODY, "resource:ledger", permission)


def test_with_roles_one_has_exactly_what_they_grant() -> None:
    assert POLICY.may(bears("reader"), "resource:docs/a")
    assert not POLICY.may(bears("reader"), "resource:ledger")
    assert not POLICY.may_use(bears("reader"), "tool:calculator")
    assert POLICY.may_use(bears("clerk"), "tool:calculator")
    assert POLICY.may_use(bears("reader", "clerk"), "tool:calculator")
    assert not POLICY.may(bears(), "context:write")
    assert not POLICY.may(bears("unheard-of"), "context:write")
    assert POLICY.may(bears("admin"), "message:system")


def test_a_denial_wins_over_every_grant() -> None:
    assert not POLICY.may(bears("reader"), "resource:docs/secret/a")
    assert not POLICY.may(bears("admin", "reader"), "resource:docs/secret/a")
    assert not POLICY.may_use(bears("admin", "no-shell"), "tool:shell")
    assert POLICY.may_use(bears("admin", "no-shell"), "tool:calculator")


def test_a_restricted_tool_needs_its_name_and_its_permission() -> None:
    assert not POLICY.may_use(bears("clerk"), "tool:refund", "billing")
    assert not POLICY.may_use(bears("billing"), "tool:refund", "billing")
    assert POLICY.may_use(bears("clerk", "billing"), "tool:refund", "billing")


def test_what_a_user_has_adds_to_its_roles() -> None:
    assert not POLICY.may_use(bears("clerk"), "tool:shell")
    assert POLICY.may_use(bears("clerk", owner=AMY), "tool:shell")
    assert POLICY.may_use(bears("clerk", owner=AMY), "tool:calculator")
    assert POLICY.may_use(bears(owner=AMY), "tool:shell")
    assert not POLICY.may_use(bears(owner=AMY), "tool:calculator")


def test_what_a_user_has_adds_to_what_everybody_has_without_a_role() -> None:
    assert POLICY.may(Bearer(None, AMY), "context:write")
    assert not POLICY.may_use(Bearer(None, BOB), "tool:shell")
    assert POLICY.may_use(Bearer(None, BOB), "tool:calculator")


def test_a_user_opens_what_is_restricted_without_a_role_only_where_it_was_given_to_it() -> None:
    assert POLICY.may_use(Bearer(None, AMY), "tool:ledger", "billing")
    assert not POLICY.may_use(Bearer(None, AMY), "tool:ledger", "tool:other")
    assert not POLICY.may_use(Bearer(None, BOB), "tool:ledger", "billing")


def test_a_denial_of_a_user_wins_over_its_roles_and_one_of_its_roles_over_its_own_grants() -> None:
    assert not POLICY.may_use(bears("admin", owner=AMY), "tool:refund")
    assert not POLICY.may_use(bears("no-shell", owner=AMY), "tool:shell")
    assert not POLICY.may_use(bears("admin", owner=BOB), "tool:shell")


def test_a_user_of_the_same_name_in_another_tenant_is_somebody_else() -> None:
    assert not POLICY.may_use(bears("clerk", owner="acme/amy"), "tool:shell")


@pytest.mark.parametrize("pattern", ["", "!", "!!tool:x", " tool:x", "! tool:x"])
def test_a_pattern_that_means_nothing_names_whose_it_is(pattern: str) -> None:
    with pytest.raises(ValueError, match="role 'odd'"):
        Policy({"odd": [pattern]})
    with pytest.raises(ValueError, match="user 'acme/odd'"):
        Policy({}, {"acme/odd": [pattern]})


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
        ("resource:file://docs/**", "resource:file://docs/a/b.md", True),
    ],
)
def test_wildcards(pattern: str, text: str, fits: bool) -> None:
    assert matches(pattern, text) is fits


@given(st.text("ab*", max_size=8), st.text("ab\n", max_size=8))
def test_wildcards_mean_what_a_regular_expression_says(pattern: str, text: str) -> None:
    expression = ".*".join(map(re.escape, pattern.split("*")))
    assert matches(pattern, text) is (re.fullmatch(expression, text, re.DOTALL) is not None)
