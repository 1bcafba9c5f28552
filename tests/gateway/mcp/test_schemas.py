from __future__ import annotations

import copy
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gateway.mcp.schemas import MAX_SIZE, UnsafeSchema, check_schema, offered, resolve
from gateway.testing.mcp_script import BAD_SCHEMAS

TEXT = {"type": "string"}


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (BAD_SCHEMAS["bad_text"], "it is no object"),
        (BAD_SCHEMAS["bad_null"], "it is no object"),
        (BAD_SCHEMAS["bad_array"], "it is not for an object"),
        (BAD_SCHEMAS["bad_untyped"], "it is not for an object"),
        (BAD_SCHEMAS["bad_keyword"], "properties.a.type: 'strin' is not what"),
        (BAD_SCHEMAS["bad_properties"], "properties: list is no object of schemas"),
        (BAD_SCHEMAS["bad_remote"], "properties.a.$ref: 'http://127.0.0.1:9/schema.json' is not in it"),
        (BAD_SCHEMAS["bad_file"], "properties.a.$ref: 'file:///etc/passwd' is not in it"),
        (BAD_SCHEMAS["bad_dangling"], "properties.a.$ref: '#/$defs/nowhere' is not in it"),
        (BAD_SCHEMAS["bad_deep"], "more than 64 levels"),
        (BAD_SCHEMAS["bad_huge"], "larger than 65,536 characters"),
        (BAD_SCHEMAS["bad_dialect"], "$schema: 'http://127.0.0.1:9/dialect' is no dialect"),
        (of(a={"$ref": "other.json"}), "is not in it"),
        (of(a={"$ref": 7}), "is not in it"),
        (of(a={"$ref": "#name"}), "is not in it"),
        (of(a={"$ref": "#/properties/a/enum/x", "enum": [1]}), "is not in it"),
        (of(a={"$ref": "#/properties/a/title/0", "title": "t"}), "is not in it"),
        (of(a={"$ref": "#/properties/b/default"}, b={"default": {"type": "strin"}}), "'strin'"),
        (of(a={"$dynamicRef": "#node"}), "properties.a.$dynamicRef"),
        (of(a={"$id": "http://127.0.0.1:9/"}), "properties.a.$id"),
        (of(a="string"), "properties.a: 'string' is no schema"),
        (of(a={"anyOf": []}), "properties.a.anyOf: list is no list of schemas"),
        (of(a={"not": [TEXT]}), "properties.a.not: list is no schema"),
        (of(a={"description": 7}), "properties.a.description: 7 is no text"),
        (of(a={"required": True}), "properties.a.required: True is not what"),
        (of(a={"required": ["b", "b"]}), "properties.a.required"),
        (of(a={"minimum": "3"}), "properties.a.minimum"),
        (of(a={"exclusiveMinimum": "3"}), "properties.a.exclusiveMinimum"),
        (of(a={"minLength": -1}), "properties.a.minLength"),
        (of(a={"multipleOf": 0}), "properties.a.multipleOf"),
        (of(a={"enum": "x"}), "properties.a.enum"),
        (of(a={"type": []}), "properties.a.type"),
        (of(a={"pattern": 1}), "properties.a.pattern"),
        (of(a={"uniqueItems": 1}), "properties.a.uniqueItems"),
        (of(a={"const": 2**63}), "a number that is too large"),
        (of(a={"const": float("inf")}), "a number that is not one"),
        (of(**{"a\u202e": TEXT}), "properties: it has characters that can't be seen"),
        (of(a={"enum": ["a\u200b"]}), "properties.a.enum: it has characters"),
        (of(a={"default": {"x": ["\U000e0041"]}}), "properties.a.default: it has characters"),
        (of(a={"const": "x" * MAX_SIZE}), "larger than"),
    ],
)
def test_what_may_not_be_offered(schema: Any, reason: str) -> None:
    with pytest.raises(UnsafeSchema) as raised:
        check_schema(schema)
    assert reason in str(raised.value)
    assert len(str(raised.value)) < 300


def test_an_ordinary_one_stays_as_it_is_and_is_copied() -> None:
    schema = of(
        path={"type": "string", "description": "Where.", "pattern": "^/", "minLength": 1},
        depth={"type": ["integer", "null"], "minimum": 0, "default": None},
        tree={"$ref": "#/$defs/node"},
        any=True,
    )
    schema |= {"$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}}}
    schema |= {"required": ["path"], "additionalProperties": False, "x-other": {"hints": [1]}}
    before = copy.deepcopy(schema)
    checked = check_schema(schema)
    assert checked == schema == before
    assert checked["properties"]["path"] is not schema["properties"]["path"]


def test_descriptions_are_cleaned() -> None:
    checked = check_schema(of(a={"description": "Se\u200bcret\x1b", "title": "T\u202e"}) | {"$comment": "\ufeffno"})
    assert checked == of(a={"description": "Secret", "title": "T"}) | {"$comment": "no"}


def test_a_property_may_be_named_as_a_keyword() -> None:
    named = of(**{"$ref": TEXT, "type": TEXT, "items": TEXT, "$id": TEXT, "description": TEXT, "additionalItems": TEXT})
    assert check_schema(named) == named


@pytest.mark.parametrize(
    "draft", ["draft-04/schema#", "draft-07/schema", "draft/2019-09/schema", "draft/2020-12/schema#"]
)
def test_every_dialect_becomes_the_one_that_providers_read(draft: str) -> None:
    old = of(
        a={"type": "array", "items": [TEXT, {"type": "number"}], "additionalItems": False},
        b={"minimum": 3, "exclusiveMinimum": True, "maximum": 9, "exclusiveMaximum": False},
        c={"exclusiveMaximum": True},
        d={"items": TEXT, "additionalItems": False},
        e={"dependencies": {"x": ["y"], "z": TEXT}},
    )
    checked = check_schema({"$schema": f"http://json-schema.org/{draft}", "$id": "urn:x", "id": "urn:x", **old})
    assert checked == of(
        a={"type": "array", "prefixItems": [TEXT, {"type": "number"}], "items": False},
        b={"exclusiveMinimum": 3, "maximum": 9},
        c={},
        d={"items": TEXT},
        e={"dependencies": {"x": ["y"], "z": TEXT}},
    )
    Draft202012Validator.check_schema(checked)


def test_a_reference_into_what_was_rewritten_is_not_followed() -> None:
    with pytest.raises(UnsafeSchema, match="is not in it"):
        check_schema(of(a={"items": [TEXT]}, b={"$ref": "#/properties/a/items/0"}))


def test_what_providers_refuse_at_the_top_is_not_offered() -> None:
    checked = check_schema(of(a=TEXT, b=TEXT) | {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]})
    assert "anyOf" in checked
    assert offered(checked) == of(a=TEXT, b=TEXT)


def test_pointers() -> None:
    root = {"a/b": [{"~": 1}], "c d": 2}
    assert resolve(root, "#") is root
    assert resolve(root, "#/a~1b/0/~0") == 1
    assert resolve(root, "#/c%20d") == 2
    for wrong in ("#/a~1b/-1", "#/a~1b/1", "#/a~1b/x", "#/no", "#/c%20d/0", "x"):
        with pytest.raises(LookupError):
            resolve(root, wrong)


def test_the_largest_that_is_taken_takes_no_time() -> None:
    large = of(
        **{f"parameter{n}": {"type": "string", "description": "d" * 80, "pattern": "(a+)+$"} for n in range(380)}
    )
    begin = time.perf_counter()
    check_schema(large)
    assert time.perf_counter() - begin < 0.25


KEYS = st.sampled_from(
    ["type", "properties", "items", "anyOf", "not", "required", "enum", "minimum", "minLength", "$defs", "a", "$ref"]
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.text("ab#/", max_size=3)
    | st.sampled_from(["string", "object"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, JSON, max_size=5))
def test_what_is_taken_is_a_schema(made: dict[str, Any]) -> None:
    try:
        checked = check_schema({**made, "type": "object"})
    except UnsafeSchema:
        return
    Draft202012Validator.check_schema(checked)
