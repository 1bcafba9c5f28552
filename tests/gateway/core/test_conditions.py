from __future__ import annotations

import math
import time
from typing import Any

import pytest

from gateway.core.conditions import check, hold

OPERATORS = "equals, not_equals, in, gt, gte, lt, lte, matches"


@pytest.mark.parametrize(
    ("condition", "holding", "others"),
    [
        ({"equals": "EUR"}, ["EUR"], ["eur", ""]),
        ({"equals": 5}, [5, 5.0], [4, 0]),
        ({"equals": True}, [True], [False]),
        ({"equals": None}, [None], []),
        ({"not_equals": "EUR"}, ["USD"], ["EUR"]),
        ({"in": ["US", "CA", 1, True]}, ["US", 1, 1.0, True], ["DE", 2, False]),
        ({"gt": 100}, [101, 100.5, math.inf, 10**400], [100, 99, -math.inf]),
        ({"gte": 100}, [100, 101], [99.9]),
        ({"lt": 0}, [-1], [0, 1]),
        ({"lte": 0}, [0, -1], [0.1]),
        ({"matches": "/etc/*"}, ["/etc/", "/etc/passwd", "/etc/a\nb"], ["/usr", "x/etc/", ""]),
        ({"gte": 10, "lt": 20}, [10, 19], [9, 20]),
    ],
)
def test_a_condition_holds_for_some_values_and_not_for_others(
    condition: dict[str, Any], holding: list[Any], others: list[Any]
) -> None:
    check({"x": condition})
    assert [value for value in holding if not hold({"x": condition}, {"x": value})] == []
    assert [value for value in others if hold({"x": condition}, {"x": value})] == []


@pytest.mark.parametrize(
    ("condition", "value"),
    [
        ({"equals": 5}, "6"),
        ({"equals": 1}, False),
        ({"equals": True}, 0),
        ({"equals": "a"}, None),
        ({"equals": "a"}, ["b"]),
        ({"not_equals": "a"}, {"a": 1}),
        ({"in": ["a", "b"]}, 3),
        ({"in": [1, 2]}, True),
        ({"in": ["a"]}, ["b"]),
        ({"gt": 100}, "5"),
        ({"gt": 100}, True),
        ({"lt": 0}, math.nan),
        ({"matches": "a*"}, 5),
        ({"matches": "a*"}, ["b"]),
    ],
)
def test_what_is_of_another_type_counts_as_holding(condition: dict[str, Any], value: object) -> None:
    assert hold({"x": condition}, {"x": value})


def test_a_parameter_that_is_missing_counts_as_holding() -> None:
    assert hold({"x": {"gt": 100}}, {})
    assert hold({"a.b": {"gt": 100}}, {"a": {}})
    assert hold({"a.b": {"gt": 100}}, {"a": {"b": {}}})


def test_all_conditions_must_hold() -> None:
    conditions = {"amount": {"gt": 100}, "currency": {"equals": "EUR"}}
    assert hold(conditions, {"amount": 101, "currency": "EUR"})
    assert not hold(conditions, {"amount": 101, "currency": "USD"})
    assert not hold(conditions, {"amount": 100, "currency": "EUR"})
    assert not hold(conditions, {"amount": 100})
    assert hold(conditions, {"amount": 101})


def test_dots_name_a_parameter_in_an_object() -> None:
    conditions = {"card.owner.country": {"equals": "US"}}
    assert hold(conditions, {"card": {"owner": {"country": "US"}}})
    assert not hold(conditions, {"card": {"owner": {"country": "DE"}}})
    assert hold(conditions, {"card": "US"})
    assert hold(conditions, {"card": [{"owner": {"country": "DE"}}]})


def test_whoever_makes_up_the_parameters_does_not_choose_which_reading_of_a_name_counts() -> None:
    conditions = {"card.amount": {"gt": 100}}
    assert not hold(conditions, {"card.amount": 1})
    assert hold(conditions, {"card.amount": 1, "card": {"amount": 1000}})
    assert hold(conditions, {"card.amount": 1000, "card": {"amount": 1}})
    assert hold(conditions, {"card.amount": 1, "card": [{"amount": 1000}]})
    assert not hold(conditions, {"card.amount": 1, "card": {"amount": 2}})


def test_one_reading_must_fit_the_whole_condition() -> None:
    assert not hold({"a.b": {"gt": 10, "lt": 20}}, {"a.b": 5, "a": {"b": 25}})


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "when: expected a parameter with a condition"),
    ({"": {"gt": 1}}, "when: '' names no parameter"),
    ({"a..b": {"gt": 1}}, "when: 'a..b' names no parameter"),
    ({"a": {}}, f"when.a: expected a condition with one of {OPERATORS}"),
    ({"a": {"over": 1}}, f"when.a: there is no operator 'over', expected one of {OPERATORS}"),
    ({"a": {"gt": "1"}}, "when.a.gt: expected a number"),
    ({"a": {"lte": True}}, "when.a.lte: expected a number"),
    ({"a": {"lt": math.nan}}, "when.a.lt: expected a number"),
    ({"a": {"equals": []}}, "when.a.equals: expected a text, a number or a boolean"),
    ({"a": {"not_equals": {}}}, "when.a.not_equals: expected a text, a number or a boolean"),
    ({"a": {"in": "ab"}}, "when.a.in: expected a list of texts, numbers or booleans"),
    ({"a": {"in": []}}, "when.a.in: expected a list of texts, numbers or booleans"),
    ({"a": {"in": [[]]}}, "when.a.in: expected a list of texts, numbers or booleans"),
    ({"a": {"matches": 1}}, "when.a.matches: expected a text, in which * stands for any run of characters"),
]


@pytest.mark.parametrize(("conditions", "problem"), REFUSED)
def test_what_could_not_be_judged_is_refused_in_words(conditions: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=r"^when") as refused:
        check(conditions)
    assert str(refused.value) == problem


def test_a_hostile_text_takes_no_longer_than_its_length() -> None:
    conditions = {"x": {"matches": "*a" * 50 + "*b"}}
    begun = time.perf_counter()
    assert not hold(conditions, {"x": "a" * 1_000_000})
    assert time.perf_counter() - begun < 1.0
