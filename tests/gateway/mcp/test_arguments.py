from __future__ import annotations

import time
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mcp.arguments import Arguments
from gateway.mcp.schemas import check_schema


def problem(properties: dict[str, Any], arguments: dict[str, Any], **more: Any) -> str | None:
    return Arguments(check_schema({"type": "object", "properties": properties, **more})).problem(arguments)


@pytest.mark.parametrize(
    ("schema", "value", "said"),
    [
        ({"type": "string"}, 1, "parameter 'a': expected `string`, got `integer`"),
        ({"type": ["string", "null"]}, True, "parameter 'a': expected `string` or `null`, got `boolean`"),
        ({"type": "integer"}, 1.5, "parameter 'a': expected `integer`, got `number`"),
        ({"type": "number"}, "1", "parameter 'a': expected `number`, got `string`"),
        ({"type": "object"}, [], "parameter 'a': expected `object`, got `array`"),
        ({"type": "array"}, None, "parameter 'a': expected `array`, got `null`"),
        ({"enum": ["x", "y"]}, "z", "parameter 'a': expected one of `x`, `y`"),
        (
            {"enum": list(range(10))},
            10,
            "parameter 'a': expected one of `0`, `1`, `2`, `3`, `4`, `5`, `6`, `7` or 2 others",
        ),
        ({"const": 1}, True, "parameter 'a': expected `1`"),
        ({"minimum": 3}, 2, "parameter 'a': expected a number >= 3"),
        ({"maximum": 3}, 4, "parameter 'a': expected a number <= 3"),
        ({"exclusiveMinimum": 3}, 3, "parameter 'a': expected a number > 3"),
        ({"exclusiveMaximum": 3}, 3, "parameter 'a': expected a number < 3"),
        ({"minLength": 2}, "x", "parameter 'a': expected at least 2 characters"),
        ({"maxLength": 1}, "xy", "parameter 'a': expected at most 1 characters"),
        ({"minItems": 1}, [], "parameter 'a': expected at least 1 items"),
        ({"maxProperties": 0}, {"b": 1}, "parameter 'a': expected at most 0 entries"),
        ({"items": {"type": "string"}}, ["x", 2], "parameter 'a[1]': expected `string`, got `integer`"),
        ({"prefixItems": [{"type": "string"}], "items": False}, ["x", 2], "parameter 'a[1]': nothing fits here"),
        ({"properties": {"b": {"type": "string"}}}, {"b": 2}, "parameter 'a.b': expected `string`, got `integer`"),
        ({"required": ["b"]}, {}, "parameter 'a.b' is missing"),
        ({"additionalProperties": False}, {"b": 1, "c": 2}, "unknown parameters 'a.b', 'a.c'"),
        ({"additionalProperties": {"type": "string"}}, {"b": 1}, "parameter 'a.b': expected `string`, got `integer`"),
        ({"properties": {"b": False}}, {"b": 1}, "parameter 'a.b': nothing fits here"),
        ({"allOf": [{"minimum": 1}, {"maximum": 2}]}, 3, "parameter 'a': expected a number <= 2"),
        ({"$ref": "#/$defs/text"}, 3, "parameter 'a': expected `string`, got `integer`"),
        ({"anyOf": [{"type": "string"}]}, 3, "parameter 'a': expected `string`, got `integer`"),
        (
            {"oneOf": [{"type": "string"}, {"type": "null"}, {"minimum": 5}]},
            3,
            "parameter 'a': expected `string`, got `integer`; the 2 alternatives don't fit either",
        ),
    ],
)
def test_what_is_wrong_is_said_by_its_name(schema: dict[str, Any], value: Any, said: str) -> None:
    assert problem({"a": schema}, {"a": value}, **{"$defs": {"text": {"type": "string"}}}) == said


def test_missing_and_unknown_parameters() -> None:
    assert problem({"a": {}}, {}, required=["a"]) == "parameter 'a' is missing"
    assert problem({"a": {}}, {"b": 1}, additionalProperties=False) == "unknown parameter 'b'"
    assert problem({"a": {}}, {"b": 1}) is None
    assert problem({"a": {}}, {}, minProperties=1) == "the parameters: expected at least 1 entries"


RIGHT: list[tuple[Any, Any]] = [
    ({"type": "integer"}, 2.0),
    ({"type": "number"}, 2),
    ({"pattern": "^a$"}, "b"),
    ({"format": "email"}, "b"),
    ({"not": {"pattern": "^a$"}}, "b"),
    ({"if": {"pattern": "^a$"}, "then": False}, "b"),
    ({"oneOf": [{}, {}]}, "b"),
    ({"anyOf": [{"type": "null"}, {"type": "string"}]}, "b"),
    ({"patternProperties": {"^b": {}}, "additionalProperties": False}, {"b": 1}),
    ({"uniqueItems": True}, [1, 1]),
    ({"multipleOf": 2}, 3),
    ({"enum": [{"b": 1}]}, {"b": 2}),
    ({"enum": [[1]]}, 2),
    ({"minimum": 3}, "2"),
    ({"minLength": 2}, 1),
    (True, 1),
]


@pytest.mark.parametrize(("schema", "value"), RIGHT)
def test_what_is_right_or_for_the_server_to_say(schema: Any, value: Any) -> None:
    assert problem({"a": schema}, {"a": value}) is None


def test_a_pattern_for_names_leaves_them_to_the_server() -> None:
    schema: dict[str, Any] = {
        "patternProperties": {"^b": {}},
        "properties": {"c": {"type": "string"}},
        "additionalProperties": False,
    }
    assert problem({"a": schema}, {"a": {"b": 1, "x": 1}}) is None
    assert problem({"a": schema}, {"a": {"c": 1}}) == "parameter 'a.c': expected `string`, got `integer`"
    wide: dict[str, Any] = {"additionalProperties": False, "properties": {"c": {}}}
    assert problem({"a": wide}, {"a": {"c": 1}}) is None


def test_a_hostile_schema_takes_no_time() -> None:
    # Each of 40 definitions is two of the next one: all of them are 2 to the power of 40.
    doubling: dict[str, Any] = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    circle = {"x": {"$ref": "#/$defs/y"}, "y": {"$ref": "#/$defs/x"}}
    definitions = {**doubling, "d40": {"type": "string"}, **circle}
    arguments: list[tuple[dict[str, Any], Any]] = [
        ({"$ref": "#/$defs/d0"}, "b"),
        ({"$ref": "#/$defs/x"}, "b"),
        ({"pattern": "(a+)+$"}, "a" * 60 + "b"),
        ({"patternProperties": {"(a+)+$": False}}, {"a" * 60 + "b": 1}),
        ({"items": {"anyOf": [{"type": "string"}] * 500}}, [1] * 5_000),
        ({"properties": {"deeper": {"$ref": "#/properties/a"}}}, nested(5_000)),
    ]
    begin = time.perf_counter()
    for schema, value in arguments:
        problem({"a": schema}, {"a": value}, **{"$defs": definitions})
    assert time.perf_counter() - begin < 2


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"deeper": value}
    return value


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0]) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=5,
)
NUMBERS = st.integers(-2, 2)
COUNTS = st.integers(0, 2)
SCHEMAS: st.SearchStrategy[Any] = st.deferred(
    lambda: (
        st.booleans()
        | st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from(
                    ["string", "integer", "number", "object", "array", "null", ["string", "boolean"]]
                ),
                "enum": st.lists(VALUES, min_size=1, max_size=3),
                "minimum": NUMBERS,
                "exclusiveMaximum": NUMBERS,
                "minLength": COUNTS,
                "maxItems": COUNTS,
                "pattern": st.just("^a"),
                "required": st.lists(st.sampled_from("ab"), unique=True),
                "properties": st.dictionaries(st.sampled_from("ab"), SCHEMAS, max_size=2),
                "additionalProperties": SCHEMAS,
                "items": SCHEMAS,
                "prefixItems": st.lists(SCHEMAS, min_size=1, max_size=2),
                "anyOf": st.lists(SCHEMAS, min_size=1, max_size=2),
                "allOf": st.lists(SCHEMAS, min_size=1, max_size=2),
                "not": SCHEMAS,
            },
        )
    )
)


@given(SCHEMAS, VALUES)
def test_what_is_found_is_wrong_by_the_schema(schema: Any, value: Any) -> None:
    whole = check_schema({"type": "object", "properties": {"a": schema}})
    if Arguments(whole).problem({"a": value}) is not None:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"a": value}, whole)


@pytest.mark.parametrize(
    "rules",
    [
        {"enum": list(range(8_000))},
        {"type": ["integer"] * 8_000},
        {"$ref": "#/$defs/" + "a" * 60_000},
    ],
)
def test_what_is_long_to_compare_with_is_not_compared_without_end(rules: dict[str, Any]) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {"items": rules}}, "$defs": {"a" * 60_000: {}}}
    began = time.process_time()
    assert Arguments(schema).problem({"a": [7_999] * 19_000 + ["wrong"]}) is None
    assert time.process_time() - began < 1
