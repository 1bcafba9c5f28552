"""A running tool's question in the terminal."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.chat.form import Form, question_text
from protocol.frames import ToolCall
from tests.gateway.chat.events import call


def question(schema: Any = None, **parameters: Any) -> ToolCall:
    asked = {"message": "Which?", **({} if schema is None else {"schema": schema}), **parameters}
    return call("q", "t", message_id=None, approval="required", asked_by="x", parameters=asked)


def form(required: Any = (), **properties: Any) -> Form:
    return Form(question({"type": "object", "properties": properties, "required": list(required)}))


def test_fields_are_asked_for_one_after_the_other() -> None:
    asked = form(
        ["city"],
        city={"type": "string", "title": "City", "description": "where to"},
        nights={"type": "integer"},
        price={"type": "number", "default": 2.5},
        breakfast={"type": "boolean"},
    )
    lines: list[str] = []
    for line in (" Rome ", "3", "", "yes"):
        lines.append(asked.prompt)
        assert asked.fill(line) is None
    assert lines == [
        "City - where to: ",
        "nights [a whole number; Enter: none]: ",
        "price [a number; Enter: 2.5]: ",
        "breakfast [y/n; Enter: none]: ",
    ]
    assert asked.filled
    assert asked.content == {"city": "Rome", "nights": 3, "price": 2.5, "breakfast": True}


@pytest.mark.parametrize(
    ("field", "wrong", "why", "right", "value"),
    [
        ({"type": "integer"}, "3.5", "this is no whole number", "-3", -3),
        ({"type": "number"}, "inf", "this is no number", "1e3", 1000.0),
        ({"type": "number"}, "ten", "this is no number", "10", 10.0),
        ({"type": "boolean"}, "maybe", "answer y or n", "N", False),
        ({"type": "array"}, "[1", "this is no JSON", "[1]", [1]),
        ({"type": ["string", "null"]}, "x", "this is no JSON", '"x"', "x"),
        ({"enum": ["s", "m", 3]}, "4", "this is none of the choices", "2", "m"),
        ({"enum": ["s", "m", 30]}, "x", "this is none of the choices", "30", 30),
        ({"oneOf": [{"const": 1, "title": "One"}, {"const": 2}, {}]}, "3", "this is none of the choices", "One", 1),
    ],
)
def test_what_does_not_fit_is_asked_for_again(field: Any, wrong: str, why: str, right: str, value: Any) -> None:
    asked = form(["it"], it=field)
    assert asked.fill(wrong) == why
    assert asked.fill("") == "this has to be filled in; /deny declines"
    assert not asked.filled
    assert asked.fill(right) is None
    assert asked.content == {"it": value}


def test_choices_are_numbered() -> None:
    assert form(["it"], it={"enum": ["small", "large"]}).prompt == "it [1 small | 2 large]: "
    assert form(["it"], it={"oneOf": [{"const": 1, "title": "One"}]}).prompt == "it [1 One]: "


def test_what_may_be_left_out_is_left_out() -> None:
    asked = form(it={"type": "string"})
    assert asked.fill("") is None
    assert asked.content == {}


@pytest.mark.parametrize("schema", [None, {}, {"properties": []}, {"type": "object", "properties": {}}, "nonsense"])
def test_without_fields_it_is_a_yes_or_no(schema: Any) -> None:
    asked = Form(question(schema))
    assert (asked.prompt, asked.filled, asked.has_fields) == ("accept? [y/n] ", True, False)


def test_a_form_that_is_no_form_is_typed_as_json() -> None:
    asked = Form(question({"properties": {"it": 1}, "required": "it"}))
    assert asked.prompt == "it [JSON; Enter: none]: "


def test_a_question_shows_its_address_with_the_host() -> None:
    assert question_text(question()) == "dig asks: Which?"
    shown = question_text(question(url="https://bank.example@evil.example/pay"))
    assert shown == (
        "dig asks: Which?\nIt wants you to open this address at evil.example:\nhttps://bank.example@evil.example/pay"
    )
    assert "at ?:" in question_text(question(url="http://["))
    assert "at ?:" in question_text(question(url="nonsense"))


def test_nothing_of_a_question_reaches_the_terminal_as_a_command() -> None:
    bad = "\x1b[2J"
    assert "\x1b" not in question_text(question(message=bad, url=f"https://x/{bad}"))
    assert "\x1b" not in form(it={"type": "string", "title": bad, "default": bad}).prompt
    assert "\x1b" not in form(it={"enum": [bad]}).prompt
