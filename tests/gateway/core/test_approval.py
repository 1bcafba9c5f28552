from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.approval import Approvals, Rule, When, definition, evaluate, rule_of
from gateway.core.policy import matches

LARGE = When({"amount": {"gt": 100}})


@pytest.mark.parametrize("name", ["always", "never", "first"])
def test_a_rule_may_be_a_word(name: str) -> None:
    assert rule_of(name) == name


def test_a_rule_may_be_conditions_written_as_data_or_made() -> None:
    assert rule_of({"when": {"amount": {"gt": 100}}}) == rule_of(LARGE) == LARGE
    assert msgspec.convert({"when": {"amount": {"gt": 100}}}, Rule) == LARGE


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("sometimes", "'sometimes': Invalid enum value 'sometimes'"),
        (None, "None: Expected `str | object`, got `null`"),
        ({}, "{}: Object missing required field `when`"),
        ({"when": {}}, "when: expected a parameter with a condition"),
        ({"when": {"a": {"over": 1}}}, "when.a: there is no operator 'over'"),
        ({"when": {"a": {"gt": 1}}, "unless": {}}, "Object contains unknown field `unless`"),
        (object(), "unsupported"),
    ],
)
def test_what_is_no_rule_is_refused_in_words(written: object, reason: str) -> None:
    with pytest.raises(ValueError, match=r"an approval is 'always', 'never', 'first' or \{'when'") as refused:
        rule_of(written)
    assert reason in str(refused.value)


def test_a_rule_says_what_becomes_of_a_call() -> None:
    assert evaluate("always", {}) == "ask"
    assert evaluate("never", {}) == "run"
    assert evaluate("first", {}) == "ask first"
    assert evaluate(LARGE, {"amount": 101}) == "ask"
    assert evaluate(LARGE, {"amount": 100}) == "run"
    assert evaluate(LARGE, {}) == "ask"


APPROVALS = Approvals(
    {
        "intern": {"*": "always", "github__*": "first", "github__read_*": "never", "pay": LARGE},
        "lead": {"github__*": "never", "pay": "first"},
        "guest": {},
    },
    {"github__*": "always", "*_file": "first", "read*": "never"},
)


@pytest.mark.parametrize(
    ("roles", "tool", "own", "parameters", "verdict"),
    [
        (None, "pay", "never", {}, "run"),
        (None, "pay", "always", {}, "ask"),
        (None, "pay", "first", {}, "ask first"),
        (None, "pay", LARGE, {"amount": 3}, "run"),
        (None, "github__push", "never", {}, "ask"),
        (("guest", "unheard-of"), "github__push", "never", {}, "ask"),
        (("lead",), "github__push", "never", {}, "run"),
        (("intern",), "github__push", "always", {}, "ask first"),
        (("intern",), "github__read_me", "always", {}, "run"),
        (("intern",), "anything", "never", {}, "ask"),
        (("intern", "lead"), "github__read_me", "always", {}, "run"),
        (("intern", "lead"), "github__push", "never", {}, "ask first"),
        (("intern", "lead"), "pay", "never", {"amount": 101}, "ask"),
        (("lead", "intern"), "pay", "never", {"amount": 1}, "ask first"),
        ((), "write_file", "never", {}, "ask first"),
        ((), "read_file", "always", {}, "ask first"),  # the longer of two patterns
        ((), "readable", "always", {}, "run"),
    ],
)
def test_of_several_rules_one_counts(
    roles: tuple[str, ...] | None, tool: str, own: Rule, parameters: dict[str, Any], verdict: str
) -> None:
    assert APPROVALS.decide(roles, tool, own, parameters) == verdict


def test_of_patterns_that_are_as_long_the_strictest_counts() -> None:
    approvals = Approvals({}, {"a*": "never", "*b": "first"})
    assert approvals.decide(None, "a_b", "always", {}) == "ask first"


def test_whether_calls_may_wait_for_a_person() -> None:
    assert not APPROVALS.may_ask(None, "pay", "never")
    assert APPROVALS.may_ask(None, "pay", LARGE)
    assert APPROVALS.may_ask(("intern",), "anything", "never")
    assert not APPROVALS.may_ask(("lead",), "github__push", "always")


@pytest.mark.parametrize("pattern", ["", "tool:pay", "a b", "a?", "é*"])
def test_a_pattern_that_no_name_could_match_is_refused(pattern: str) -> None:
    words = "is not a pattern of tool names such as 'github__\\*'"
    with pytest.raises(ValueError, match=words):
        Approvals({}, {pattern: "always"})
    with pytest.raises(ValueError, match=words):
        Approvals({"r": {pattern: "always"}}, {})


RULES: st.SearchStrategy[Rule] = st.sampled_from(["always", "never", "first", LARGE])
BY_PATTERN = st.dictionaries(st.text("ab*", min_size=1, max_size=3), RULES, max_size=4)
STRICTNESS = ["run", "ask first", "ask"]


@given(st.dictionaries(st.sampled_from("xyz"), BY_PATTERN), BY_PATTERN, st.text("ab", min_size=1, max_size=3), RULES)
def test_of_several_roles_the_strictest_of_those_counts_that_have_a_rule(
    roles: dict[str, dict[str, Rule]], tools: dict[str, Rule], tool: str, own: Rule
) -> None:
    approvals, parameters = Approvals(roles, tools), {"amount": 101}
    single = {name: approvals.decide((name,), tool, own, parameters) for name in roles}
    with_rule = [single[name] for name in roles if any(matches(pattern, tool) for pattern in roles[name])]
    without = Approvals({}, tools).decide(None, tool, own, parameters)
    assert approvals.decide(tuple(roles), tool, own, parameters) == max(with_rule or [without], key=STRICTNESS.index)
    assert all(single[name] == without for name in roles if not any(matches(p, tool) for p in roles[name]))


def test_what_is_remembered_is_bound_to_all_that_is_known_of_a_tool() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {}, "b": {}}}
    first = definition("pay", "Pays.", schema, "server")
    assert first.startswith("pay@")
    assert first == definition("pay", "Pays.", {"properties": {"b": {}, "a": {}}, "type": "object"}, "server")
    others = [
        definition("pay2", "Pays.", schema, "server"),
        definition("pay", "Pays!", schema, "server"),
        definition("pay", "Pays.", {}, "server"),
        definition("pay", "Pays.", schema, "client"),
    ]
    assert len({first, *others}) == 5
