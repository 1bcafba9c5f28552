"""Input schemas of MCP servers' tools: which may be offered to a model.

A schema is a text from outside that a model reads, that providers compile, and that arguments are checked against. So
it is walked once, keyword by keyword: what is too large, wrong, or refers to another document makes its tool unusable,
and nothing of it is ever fetched, compiled or run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final, cast
from urllib.parse import unquote

from gateway.mcp.descriptions import clean, is_clean

__all__ = ["DIALECTS", "MAX_DEPTH", "MAX_SIZE", "UnsafeSchema", "check_schema", "measure", "offered", "resolve"]

Json = dict[str, Any]

MAX_SIZE: Final = 65_536
"""Characters of all texts and names together, and values times eight."""
MAX_DEPTH: Final = 64
"""Levels of JSON; a parameter within a parameter is two."""

_JSON_SCHEMA: Final = "json-schema.org"
DIALECTS: Final = frozenset(
    f"{_JSON_SCHEMA}/{draft}/schema" for draft in ("draft-04", "draft-06", "draft-07", "draft/2019-09", "draft/2020-12")
)
_TYPES: Final = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_PROSE: Final = frozenset({"title", "description", "$comment"})
_PROSE_LENGTH: Final = 2_048
_SHOWN: Final = 64
# Providers refuse requests in which a tool has one of these at the top of its parameters.
_NOT_AT_THE_TOP: Final = frozenset(
    {"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "enum", "const", "dependentSchemas"}
)


class UnsafeSchema(Exception):
    """The tool can't be offered; the message says why, in words for the operator's log."""


def check_schema(schema: Any) -> Json:
    """A copy of it in which titles and descriptions are clean, and which names no document but itself. Raises
    UnsafeSchema.

    The dialects are those of JSON Schema from draft 4 on (https://json-schema.org/specification-links), 2020-12 where
    none is named. The copy is of 2020-12, because providers read every schema so. Unknown keywords stay.
    """
    if not isinstance(schema, dict):
        raise UnsafeSchema("it is no object")
    root = cast("Json", schema)
    measure(root)
    if root.get("type") != "object":
        raise UnsafeSchema("it is not for an object")
    if "$schema" in root and _dialect(root["$schema"]) not in DIALECTS:
        raise UnsafeSchema(f"$schema: {_show(root['$schema'])} is no dialect that is known")
    walk = _Walk(root)
    checked = walk.schema({key: value for key, value in root.items() if key not in ("$id", "$schema", "id")}, "")
    walk.targets(checked)
    return checked


def offered(checked: Json) -> Json:
    """What of a checked schema providers take as a tool's parameters."""
    return {key: value for key, value in checked.items() if key not in _NOT_AT_THE_TOP}


def resolve(root: Any, reference: str) -> Any:
    """What the reference stands for, if it is a JSON Pointer (RFC 6901) within the schema. Raises LookupError."""
    if reference == "#":
        return root
    if not reference.startswith("#/"):
        raise LookupError(reference)
    found = root
    for step in unquote(reference[2:]).split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list):
            if not (name.isascii() and name.isdigit()):
                raise LookupError(reference)
            found = cast("list[Any]", found)[int(name)]
        elif isinstance(found, dict):
            found = cast("Json", found)[name]
        else:
            raise LookupError(reference)
    return found


def _dialect(named: Any) -> str:
    return str(named).removesuffix("#").removeprefix("https://").removeprefix("http://")


class _Walk:
    """One look at every schema within a schema; data within it, such as defaults, is only looked at for hidden text."""

    def __init__(self, root: Json) -> None:
        self._root = root
        self._seen: set[int] = set()
        self._references: dict[str, str] = {}  # and where they stand

    def schema(self, schema: Any, at: str) -> Any:
        """The schema with clean descriptions."""
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise UnsafeSchema(f"{at or 'it'}: {_show(schema)} is no schema")
        self._seen.add(id(cast("object", schema)))
        checked: Json = {}
        for key, value in cast("Json", schema).items():
            place = f"{at}.{key}" if at else key
            if key == "items" and isinstance(value, list):
                # Before 2020-12.
                checked["prefixItems"] = self._schemas(value, place)
            elif key == "additionalItems":
                if isinstance(cast("Json", schema).get("items"), list):
                    checked["items"] = self.schema(value, place)
            elif key in _SCHEMA:
                checked[key] = self.schema(value, place)
            elif key in _SCHEMAS:
                checked[key] = self._schemas(value, place)
            elif key in _NAMED:
                checked[key] = self._named(value, place)
            else:
                checked[key] = self._keyword(key, value, place)
        _range(checked)
        return checked

    def targets(self, checked: Json) -> None:
        """What is referred to has to be there, and to be a schema as well."""
        while self._references:
            reference, at = self._references.popitem()
            try:
                target = resolve(self._root, reference)
                resolve(checked, reference)
            except LookupError:
                raise UnsafeSchema(f"{at}: {_show(reference)} is not in it") from None
            if id(target) not in self._seen:
                self.schema(target, at)

    def _schemas(self, value: Any, at: str) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise UnsafeSchema(f"{at}: {_show(value)} is no list of schemas")
        return [self.schema(item, f"{at}[{place}]") for place, item in enumerate(cast("list[Any]", value))]

    def _named(self, value: Any, at: str) -> Json:
        if not isinstance(value, dict):
            raise UnsafeSchema(f"{at}: {_show(value)} is no object of schemas")
        named = cast("Json", value)
        _no_hidden(named.keys(), at)
        # Before 2019-09 a list of names may stand in `dependencies` in place of a schema.
        bare = at.rpartition(".")[2] == "dependencies"
        return {
            name: item if bare and isinstance(item, list) else self.schema(item, f"{at}.{name[:_SHOWN]}")
            for name, item in named.items()
        }

    def _keyword(self, key: str, value: Any, at: str) -> Any:
        if key in ("$dynamicRef", "$recursiveRef", "$id"):
            raise UnsafeSchema(f"{at}: {_show(value)} names another document, or none that is known before")
        if key == "$ref":
            if not isinstance(value, str) or not (value == "#" or value.startswith("#/")):
                raise UnsafeSchema(f"{at}: {_show(value)} is not in it, and others are not fetched")
            self._references[value] = at
        elif key in _PROSE:
            if not isinstance(value, str):
                raise UnsafeSchema(f"{at}: {_show(value)} is no text")
            return clean(value, _PROSE_LENGTH)
        elif key in _RULES and not _RULES[key](value):
            raise UnsafeSchema(f"{at}: {_show(value)} is not what this keyword takes")
        _no_hidden(_texts(value), at)
        return value


def _range(checked: Json) -> None:
    """In draft 4 it is said of a limit, by a bool, whether the limit itself is beyond it."""
    for limit, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(beyond := checked.get(exclusive), bool):
            del checked[exclusive]
            if beyond and limit in checked:
                checked[exclusive] = checked.pop(limit)


def measure(root: Any) -> int:
    """Its size, as MAX_SIZE counts it; without recursion, and before anything else looks at it. Raises UnsafeSchema."""
    size = 0
    level: list[Any] = [root]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            size += 8
            if isinstance(value, dict):
                size += sum(len(name) for name in cast("Json", value))
                below += cast("Json", value).values()
            elif isinstance(value, list):
                below += cast("list[Any]", value)
            elif isinstance(value, str):
                size += len(value)
            elif isinstance(value, int) and abs(value) >= 2**63:
                raise UnsafeSchema("it has a number that is too large")
            elif isinstance(value, float) and not math.isfinite(value):
                raise UnsafeSchema("it has a number that is not one")
            if size > MAX_SIZE:
                raise UnsafeSchema(f"it is larger than {MAX_SIZE:,} characters")
        if not below:
            return size
        level = below
    raise UnsafeSchema(f"it has more than {MAX_DEPTH} levels")


def _texts(value: Any) -> Iterable[str]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from cast("Json", value)
            waiting += cast("Json", value).values()
        elif isinstance(value, list):
            waiting += cast("list[Any]", value)


def _no_hidden(texts: Iterable[str], at: str) -> None:
    # Not cleaned as descriptions are: an argument that is compared with it would no longer be the same.
    if not all(map(is_clean, texts)):
        raise UnsafeSchema(f"{at}: it has characters that can't be seen")


def _show(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _is_type(value: Any) -> bool:
    if isinstance(value, list):
        names = cast("list[Any]", value)
        return bool(names) and all(isinstance(name, str) and name in _TYPES for name in names)
    return isinstance(value, str) and value in _TYPES


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_limit(value: Any) -> bool:
    # A bool is draft 4's way to say it.
    return isinstance(value, int | float)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _is_step(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_names(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    names = cast("list[Any]", value)
    return all(isinstance(name, str) for name in names) and len(set(names)) == len(names)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


_SCHEMA: Final = frozenset(
    {
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_SCHEMAS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED: Final = frozenset(
    {"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"}
)
_RULES: Final[dict[str, Callable[[Any], bool]]] = {
    "$anchor": _is_text,
    "$schema": _is_text,
    "contentEncoding": _is_text,
    "contentMediaType": _is_text,
    "deprecated": _is_flag,
    "enum": _is_list,
    "exclusiveMaximum": _is_limit,
    "exclusiveMinimum": _is_limit,
    "examples": _is_list,
    "format": _is_text,
    "maxContains": _is_count,
    "maxItems": _is_count,
    "maxLength": _is_count,
    "maxProperties": _is_count,
    "maximum": _is_number,
    "minContains": _is_count,
    "minItems": _is_count,
    "minLength": _is_count,
    "minProperties": _is_count,
    "minimum": _is_number,
    "multipleOf": _is_step,
    "pattern": _is_text,
    "readOnly": _is_flag,
    "required": _is_names,
    "type": _is_type,
    "uniqueItems": _is_flag,
    "writeOnly": _is_flag,
}
