"""Hypothesis strategies for frames, made from the types themselves."""

from __future__ import annotations

import string
from datetime import UTC
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from protocol.frames import MIME_TYPE_PATTERN, TOOL_NAME_PATTERN
from protocol.ids import CURSOR_PATTERN, ID_PATTERN

__all__ = ["frames_of", "json_values"]

_LETTERS = string.ascii_letters + string.digits
_NUMBER = st.integers(0, 10**18 - 1)
_BY_PATTERN: dict[str, st.SearchStrategy[str]] = {
    ID_PATTERN: st.text(_LETTERS + "_.:-", min_size=1, max_size=128),
    CURSOR_PATTERN: st.builds("{}:{}".format, _NUMBER, _NUMBER),
    TOOL_NAME_PATTERN: st.text(_LETTERS + "_-", min_size=1, max_size=64),
    MIME_TYPE_PATTERN: st.text(_LETTERS + "+-.", min_size=1, max_size=64).map("image/{}".format),
}

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), inner)
    ),
    max_leaves=6,
)


def frames_of(union: Any) -> st.SearchStrategy[Any]:
    """Any value of the union of structs."""
    kind = inspect.type_info(union)
    assert isinstance(kind, inspect.UnionType)
    return st.one_of([_strategy(one) for one in kind.types])


def _strategy(kind: inspect.Type) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.Metadata(type=inner):
            return _strategy(inner)
        case inspect.AnyType():
            return json_values
        case inspect.NoneType():
            return st.none()
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType(ge=ge, lt=lt):
            return st.integers(-(2**53) if ge is None else ge, 2**53 if lt is None else lt - 1)
        case inspect.FloatType():
            return st.floats(allow_nan=False, allow_infinity=False)
        case inspect.StrType(pattern=str(pattern)):
            return _BY_PATTERN[pattern]
        case inspect.StrType(min_length=least):
            return st.text(st.characters(codec="utf-8"), min_size=least or 0, max_size=20)
        case inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case inspect.DateTimeType():
            return st.datetimes(timezones=st.just(UTC))
        case inspect.ListType(item_type=item):
            return st.lists(_strategy(item), max_size=3)
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(_strategy(key), _strategy(value), max_size=3)
        case inspect.UnionType(types=types):
            return st.one_of([_strategy(one) for one in types])
        case inspect.StructType(cls=cls, fields=fields):
            return _struct(cls, fields)
        case _:
            raise AssertionError(f"no strategy for {kind}")


def _struct(cls: type[msgspec.Struct], fields: tuple[inspect.Field, ...]) -> st.SearchStrategy[Any]:
    required = {field.name: _strategy(field.type) for field in fields if field.required}
    optional = {field.name: _strategy(field.type) for field in fields if not field.required}
    return st.fixed_dictionaries(required, optional=optional).map(lambda values: cls(**values))
