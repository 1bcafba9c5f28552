"""Arguments of a call against a checked input schema, so that a model learns at once, in words, what is wrong.

Only what can be checked cheaply is: types, what is missing or unknown, fixed values, ranges, lengths. Patterns and
formats are left to the server, because a hostile pattern can run for ever; so are `not`, `if`, and "exactly one", which
mean something else once a part of them is not looked at. What is found here is wrong by the schema; what is not found
may be.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

from gateway.mcp.schemas import resolve

__all__ = ["Arguments"]

Json = dict[str, Any]

_STEPS: Final = 20_000
_DEPTH: Final = 64
_LISTED: Final = 8
_SHOWN: Final = 64
_RANGES: Final[tuple[tuple[str, str, Callable[[float, float], bool]], ...]] = (
    ("minimum", ">=", operator.ge),
    ("maximum", "<=", operator.le),
    ("exclusiveMinimum", ">", operator.gt),
    ("exclusiveMaximum", "<", operator.lt),
)


_LONG: Final = ("$ref", "enum", "required", "type")


class _TooMuch(Exception):
    """To look further would take too long."""


class Arguments:
    """What the arguments of one tool have to be."""

    def __init__(self, schema: Json) -> None:
        """`schema` is one that `check_schema` has returned."""
        self._schema = schema

    def problem(self, arguments: Json) -> str | None:
        """What is wrong, by the name of the parameter; None where nothing is found."""
        try:
            return next(_Look(self._schema).faults(arguments, self._schema, "", 0), None)
        except _TooMuch:
            return None


class _Look:
    """One look at arguments, which may take so many steps."""

    def __init__(self, root: Json) -> None:
        self._root = root
        self._steps = 0

    def faults(self, value: Any, schema: Any, at: str, depth: int) -> Iterator[str]:
        self._steps += 1
        if self._steps > _STEPS or depth > _DEPTH:
            raise _TooMuch
        if schema is False:
            yield _about(at, "nothing fits here")
        if not isinstance(schema, dict):
            return
        rules = cast("Json", schema)
        # What is compared with each value costs as well.
        self._steps += sum(len(rules[word]) for word in _LONG if isinstance(rules.get(word), list | str)) // 16
        if "$ref" in rules:
            yield from self.faults(value, resolve(self._root, rules["$ref"]), at, depth + 1)
        if "type" in rules and not _fits(value, rules["type"]):
            yield _about(at, f"expected {_types(rules['type'])}, got `{_type(value)}`")
            return
        yield from _fixed(value, rules, at)
        if isinstance(value, str):
            yield from _length(len(value), rules, "Length", "characters", at)
        elif isinstance(value, dict):
            yield from self._object(cast("Json", value), rules, at, depth)
        elif isinstance(value, list):
            yield from self._list(cast("list[Any]", value), rules, at, depth)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield from _range(value, rules, at)
        for every in rules.get("allOf", ()):
            yield from self.faults(value, every, at, depth + 1)
        for word in ("anyOf", "oneOf"):
            yield from self._alternatives(value, rules.get(word, ()), at, depth)

    def _alternatives(self, value: Any, schemas: list[Any], at: str, depth: int) -> Iterator[str]:
        found: list[str] = []
        for schema in schemas:
            fault = next(self.faults(value, schema, at, depth + 1), None)
            if fault is None:
                return
            found.append(fault)
        if found:
            yield found[0] if len(found) == 1 else f"{found[0]}; the {len(found) - 1} alternatives don't fit either"

    def _object(self, value: Json, rules: Json, at: str, depth: int) -> Iterator[str]:
        for name in rules.get("required", ()):
            if name not in value:
                yield f"parameter {_join(at, name)!r} is missing"
        properties: Json = rules.get("properties", {})
        others: Any = rules.get("additionalProperties", True)
        # Which names a pattern covers is for the server to say.
        others = True if "patternProperties" in rules else others
        if others is False and (unknown := [_join(at, name) for name in value if name not in properties]):
            listed = ", ".join(repr(name) for name in unknown[:_LISTED])
            yield f"unknown parameter{'s' * (len(unknown) > 1)} {listed}"
        for name, item in value.items():
            schema = properties.get(name, others)
            if schema is not False or name in properties:
                yield from self.faults(item, schema, _join(at, name), depth + 1)
        yield from _length(len(value), rules, "Properties", "entries", at)

    def _list(self, value: list[Any], rules: Json, at: str, depth: int) -> Iterator[str]:
        yield from _length(len(value), rules, "Items", "items", at)
        items = rules.get("items", True)
        first: list[Any] = rules.get("prefixItems", [])
        for place, item in enumerate(value):
            yield from self.faults(item, first[place] if place < len(first) else items, f"{at}[{place}]", depth + 1)


def _fixed(value: Any, rules: Json, at: str) -> Iterator[str]:
    allowed: list[Any] = [rules["const"]] if "const" in rules else rules.get("enum", [])
    # Of lists and objects the server knows best whether they are the same.
    if not allowed or isinstance(value, dict | list) or any(isinstance(other, dict | list) for other in allowed):
        return
    if not any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in allowed):
        listed = ", ".join(f"`{str(other)[:_SHOWN]}`" for other in allowed[:_LISTED])
        more = f" or {len(allowed) - _LISTED} others" if len(allowed) > _LISTED else ""
        yield _about(at, f"expected {'one of ' if len(allowed) > 1 else ''}{listed}{more}")


def _range(value: float, rules: Json, at: str) -> Iterator[str]:
    for word, sign, fits in _RANGES:
        limit = rules.get(word)
        if limit is not None and not fits(value, limit):
            yield _about(at, f"expected a number {sign} {limit}")


def _length(length: int, rules: Json, word: str, unit: str, at: str) -> Iterator[str]:
    least, most = rules.get(f"min{word}", 0), rules.get(f"max{word}")
    if length < least:
        yield _about(at, f"expected at least {least:g} {unit}")
    if most is not None and length > most:
        yield _about(at, f"expected at most {most:g} {unit}")


def _fits(value: Any, types: str | list[str]) -> bool:
    actual = _type(value)
    wanted = [types] if isinstance(types, str) else types
    if actual in wanted or (actual == "integer" and "number" in wanted):
        return True
    return actual == "number" and "integer" in wanted and float(value).is_integer()


def _type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _types(types: str | list[str]) -> str:
    return f"`{types}`" if isinstance(types, str) else " or ".join(f"`{name}`" for name in types)


def _about(at: str, reason: str) -> str:
    return f"parameter {at!r}: {reason}" if at else f"the parameters: {reason}"


def _join(at: str, name: str) -> str:
    return f"{at}.{name[:_SHOWN]}" if at else name[:_SHOWN]
