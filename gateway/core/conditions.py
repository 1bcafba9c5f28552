"""Conditions on the parameters of a call, as rules of approval have them (docs/tools.md, Approval).

`{amount = {gt = 100}, "card.country" = {in = ["US", "CA"]}}`: by parameter, operators with what to compare with; a
parameter in an object is named with dots. What can't be judged counts as holding: a parameter that is missing, or of
another type than what it is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from gateway.core.policy import matches

__all__ = ["Conditions", "check", "hold"]

Conditions = Mapping[str, Mapping[str, Any]]

_EXPECTED: Final = {
    "equals": "a text, a number or a boolean",
    "not_equals": "a text, a number or a boolean",
    "in": "a list of texts, numbers or booleans",
    "gt": "a number",
    "gte": "a number",
    "lt": "a number",
    "lte": "a number",
    "matches": "a text, in which * stands for any run of characters",
}
_OPERATORS: Final = ", ".join(_EXPECTED)


def check(conditions: Conditions) -> None:
    """Raises ValueError for what could not be judged, or would hold for every call."""
    if not conditions:
        raise ValueError("when: expected a parameter with a condition")
    for parameter, condition in conditions.items():
        if not all(parameter.split(".")):
            raise ValueError(f"when: {parameter!r} names no parameter")
        if not condition:
            raise ValueError(f"when.{parameter}: expected a condition with one of {_OPERATORS}")
        for operator, operand in condition.items():
            if operator not in _EXPECTED:
                raise ValueError(f"when.{parameter}: there is no operator {operator!r}, expected one of {_OPERATORS}")
            if not _fits(operator, operand):
                raise ValueError(f"when.{parameter}.{operator}: expected {_EXPECTED[operator]}")


def hold(conditions: Conditions, parameters: Mapping[str, Any]) -> bool:
    """Whether all of them hold."""
    return all(_holds(parameter.split("."), condition, parameters) for parameter, condition in conditions.items())


def _fits(operator: str, operand: object) -> bool:
    if operator in ("equals", "not_equals"):
        return _kind(operand) is not None
    if operator == "in":
        ones = cast("list[object]", operand) if isinstance(operand, list) else []
        return bool(ones) and all(_kind(one) is not None for one in ones)
    return _kind(operand) == ("text" if operator == "matches" else "number")


def _kind(value: object) -> str | None:
    """The JSON type of a value that can be compared; None of any other."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) or (isinstance(value, float) and not math.isnan(value)):
        return "number"
    return "text" if isinstance(value, str) else None


def _holds(names: Sequence[str], condition: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
    values = list(_readings(parameters, names))
    return not values or any(
        all(_compare(operator, value, operand) for operator, operand in condition.items()) for value in values
    )


def _readings(parameters: Mapping[str, Any], names: Sequence[str]) -> Iterator[object]:
    """All that the dotted names may mean: a name may have dots of its own, and whoever makes up the parameters must
    not choose which of them is looked at."""
    for length in range(1, len(names) + 1):
        name = ".".join(names[:length])
        if name not in parameters:
            continue
        value = parameters[name]
        if length == len(names):
            yield value
        elif isinstance(value, dict):
            yield from _readings(cast("dict[str, Any]", value), names[length:])
        else:
            yield []  # which nothing is compared with


def _compare(operator: str, value: Any, operand: Any) -> bool:
    kind = _kind(value)
    if operator == "in":
        alike = [one for one in operand if _kind(one) == kind]
        return not alike or value in alike
    if kind != _kind(operand):
        return True
    match operator:
        case "equals":
            return value == operand
        case "not_equals":
            return value != operand
        case "gt":
            return value > operand
        case "gte":
            return value >= operand
        case "lt":
            return value < operand
        case "lte":
            return value <= operand
        case _:
            return matches(operand, value)
