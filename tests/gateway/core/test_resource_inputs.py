from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gateway.core.inputs import ModelInput, TextInput
from gateway.core.resources import READ_RESOURCE
from gateway.core.turn_inputs import inputs_of
from protocol.frames import DurableEvent, ImagePart, ResourcePart, ResponseStatus, TextPart, ToolCall
from tests.gateway.core.conversations import answer, call, message, paid, said, user

PNG = "iVBORw0KGgoAAAAA"


def read(id: str, uri: str) -> ToolCall:
    return replace(call(id, "t", None), tool=READ_RESOURCE, parameters={"uri": uri})


def resource(uri: str, text: str) -> TextInput:
    return TextInput("user", text, resource=uri)


def given(result: Any, status: ResponseStatus = "success") -> ModelInput:
    """What a model is given of a resource that was read so."""
    events = [message("u", "t", resources=["docs:a"]), read("r1", "docs:a"), answer("r1", "t", result, status)]
    first, then = inputs_of(events)
    assert then == user("u")
    return first


def test_text_stands_under_a_heading_before_the_message() -> None:
    result = {"uri": "docs:a", "mime_type": "text/markdown", "text": "# A"}
    assert given(result) == resource("docs:a", "[Resource docs:a (text/markdown)]\n# A")
    assert given({"text": ""}) == resource("docs:a", "[Resource docs:a]")


def test_images_are_images() -> None:
    image = {"type": "image", "mime_type": "image/jpeg", "data": PNG}
    seen = given({"uri": "docs:a", "mime_type": "image/png", "content": [image]})
    parts: list[Any] = [TextPart(text="[Resource docs:a (image/png)]"), ImagePart(mime_type="image/png", data=PNG)]
    assert seen == TextInput("user", parts, resource="docs:a")


def test_what_is_no_image_is_told_in_words() -> None:
    image = {"type": "image", "mime_type": "image/jpeg", "data": "AAAA"}
    seen = given({"mime_type": "image/jpeg", "content": [image]})
    told = "[Resource docs:a (image/jpeg)]\n(An image of the type image/jpeg, which can't be shown.)"
    assert seen == resource("docs:a", told)


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ("a ZIP file of 3 bytes", "[Resource docs:a]\na ZIP file of 3 bytes"),
        ([1], "[Resource docs:a]\n[1]"),
        ({"mime_type": 1, "size": 3}, '[Resource docs:a]\n{"mime_type":1,"size":3}'),
    ],
)
def test_any_other_result_is_told_as_it_is(result: Any, told: str) -> None:
    assert given(result) == resource("docs:a", told)


@pytest.mark.parametrize(
    ("status", "result", "told"),
    [
        ("error", "there is no such file", "could not be read (there is no such file)"),
        ("error", None, "could not be read"),
        ("timeout", None, "was not read: it took too long"),
        ("denied", None, "was not read: it is not allowed"),
        ("cancelled", None, "was not read: the reading was cancelled"),
        ("interrupted", None, "was not read: the reading was interrupted"),
    ],
)
def test_a_failure_is_told(status: ResponseStatus, result: Any, told: str) -> None:
    assert given(result, status) == resource("docs:a", f"[Resource docs:a {told}]")


def test_what_was_never_read_is_told_so() -> None:
    missing = resource("docs:a", "[Resource docs:a was not read]")
    asked = message("u", "t", resources=["docs:a"])
    assert inputs_of([asked]) == [missing, user("u")]
    assert inputs_of([asked, read("r1", "docs:a")]) == [missing, user("u")]


def test_a_part_stays_where_it_is_as_a_mention() -> None:
    parts: list[Any] = [TextPart(text="see"), ResourcePart(uri="docs:a")]
    events = [message("u", "t", content=parts), read("r1", "docs:a"), answer("r1", "t", {"text": "A"})]
    assert inputs_of(events) == [resource("docs:a", "[Resource docs:a]\nA"), TextInput("user", parts)]


def test_the_operator_said_the_message_and_nobody_the_resource() -> None:
    events = [message("s", "t", "system", resources=["docs:a"]), read("r1", "docs:a"), answer("r1", "t", "A")]
    assert inputs_of(events) == [resource("docs:a", "[Resource docs:a]\nA"), TextInput("system", "s")]


def test_each_message_has_its_own_reading_of_what_both_name() -> None:
    steps: list[DurableEvent] = [
        message("u", "t", resources=["docs:a"]),
        read("r1", "docs:a"),
        answer("r1", "t", "before"),
        call("c1", "t", "a"),
        message("a", "t", "assistant"),
        message("s", "t", resources=["docs:a"]),
        read("r2", "docs:a"),
        answer("c1", "t"),
        answer("r2", "t", "after"),
    ]
    before, after = (resource("docs:a", f"[Resource docs:a]\n{word}") for word in ("before", "after"))
    assert inputs_of(steps, None) == [before, user("u"), said("a", "c1"), paid("c1")]
    assert inputs_of(steps) == [before, user("u"), said("a", "c1"), paid("c1"), after, user("s")]


def test_a_model_never_sees_what_tools_ask() -> None:
    question = replace(call("q1", "t", None), asked_by="c1", approval="required")
    events = [message("u", "t"), call("c1", "t", "a"), message("a", "t", "assistant"), question]
    events += [answer("q1", "t", {"card": 1}), answer("c1", "t")]
    assert inputs_of(events) == [user("u"), said("a", "c1"), paid("c1")]
    asked_while_reading = [message("u", "t", resources=["docs:a"]), read("r1", "docs:a")]
    asked_while_reading += [replace(question, tool=READ_RESOURCE, asked_by="r1"), answer("q1", "t")]
    assert inputs_of([*asked_while_reading, answer("r1", "t", "A")])[0] == resource("docs:a", "[Resource docs:a]\nA")
