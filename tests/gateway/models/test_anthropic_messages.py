from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.models.anthropic_messages import GO_ON, OMITTED, messages_body
from gateway.models.port import AssistantInput, CallInput, ModelInput, ModelRequest, TextInput, ToolResultInput
from gateway.testing.anthropic_rules import objections
from protocol.frames import ImagePart, ResourcePart, TextPart, ToolSpec

MARK = {"cache_control": {"type": "ephemeral"}}


def body(*inputs: ModelInput, tools: Sequence[ToolSpec] = (), cache: bool = False, **options: Any) -> dict[str, Any]:
    made = messages_body(ModelRequest(inputs=inputs, tools=tools), cache=cache, **options)
    assert not list(objections({"model": "m", "max_tokens": 9, **made}))
    return made


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def user(*words: str) -> dict[str, Any]:
    return {"role": "user", "content": [text(word) for word in words]}


def assistant(*words: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [text(word) for word in words]}


def test_a_conversation_with_everything() -> None:
    tools = [
        ToolSpec(name="see", description="", parameters={"properties": {}}),
        ToolSpec(name="look", description="Looks.", parameters={"type": "object", "properties": {}}),
    ]
    made = body(
        TextInput("system", [TextPart(text="Be"), TextPart(text="brief.")]),
        TextInput("system", "Be kind."),
        TextInput(
            "user", [TextPart(text="see"), ImagePart(mime_type="image/jpg", data="AAAA"), ResourcePart(uri="x:y")]
        ),
        AssistantInput("Looking.", [CallInput("t1", "look", {"at": "é"}), CallInput("t.2", "see", {})]),
        ToolResultInput("t1", '{"seen": 1}', is_error=False),
        ToolResultInput("t.2", "no light", is_error=True),
        TextInput("user", "and?"),
        AssistantInput("", [CallInput("t3", "see", {})]),
        ToolResultInput("t3", "", is_error=False),
        tools=tools,
    )
    second = made["messages"][1]["content"][2]["id"]
    assert second != "t.2"
    assert made == {
        "system": [text("Be"), text("brief."), text("Be kind.")],
        "messages": [
            {
                "role": "user",
                "content": [
                    text("see"),
                    {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "AAAA"}},
                    text("x:y"),
                ],
            },
            {
                "role": "assistant",
                "content": [
                    text("Looking."),
                    {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "é"}},
                    {"type": "tool_use", "id": second, "name": "see", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": '{"seen": 1}'},
                    {"type": "tool_result", "tool_use_id": second, "content": "no light", "is_error": True},
                    text("and?"),
                ],
            },
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t3", "name": "see", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t3"}]},
        ],
        "tools": [
            {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}},
            {"name": "see", "input_schema": {"type": "object", "properties": {}}},
        ],
    }


def test_messages_of_one_role_become_one() -> None:
    made = body(
        TextInput("user", "a"),
        TextInput("user", "b"),
        AssistantInput("c"),
        AssistantInput("d"),
        TextInput("user", "e"),
    )
    assert made["messages"] == [user("a", "b"), assistant("c", "d"), user("e")]


def test_what_is_empty_is_left_out() -> None:
    made = body(
        TextInput("system", " "),
        TextInput("user", "a"),
        AssistantInput(" \n"),
        TextInput("user", [TextPart(text="")]),
        TextInput("user", "b"),
    )
    assert made == {"messages": [user("a", "b")]}


@pytest.mark.parametrize("inputs", [[], [TextInput("user", "")], [TextInput("system", "Go.")], [AssistantInput("")]])
def test_a_conversation_without_a_message_has_one(inputs: list[ModelInput]) -> None:
    assert body(*inputs)["messages"] == [user(OMITTED)]


def test_a_conversation_begins_and_ends_with_a_user() -> None:
    assert body(AssistantInput("a "))["messages"] == [user(OMITTED), assistant("a "), user(GO_ON)]


def test_results_come_before_what_was_said_before_them() -> None:
    made = body(
        TextInput("user", "a"),
        AssistantInput("", [CallInput("x", "f", {}), CallInput("y", "f", {})]),
        ToolResultInput("x", "1", is_error=False),
        TextInput("user", "hurry"),
        ToolResultInput("y", "2", is_error=False),
    )
    kinds = [block.get("tool_use_id") or block["text"] for block in made["messages"][2]["content"]]
    assert kinds == ["x", "y", "hurry"]


def test_an_image_that_the_api_does_not_take_is_told_of() -> None:
    made = body(TextInput("user", [ImagePart(mime_type="image/svg+xml", data="AAAA")]))
    assert "image/svg+xml" in made["messages"][0]["content"][0]["text"]


def test_the_operator_is_heard_after_the_users_turn() -> None:
    inputs = [
        TextInput("system", [TextPart(text="one"), ImagePart(mime_type="image/png", data="AAAA")]),
        TextInput("user", "a"),
        TextInput("system", "two"),
        TextInput("user", "b"),
        AssistantInput("c"),
        TextInput("system", "three"),
        TextInput("user", "d"),
    ]
    made = body(*inputs)
    two, three = [{"role": "system", "content": [text(words)]} for words in ("two", "three")]
    assert made["system"] == [text("one")]
    assert made["messages"] == [user("a", "b"), two, assistant("c"), user("d"), three]
    moved = body(*inputs, system_in_place=False)
    assert moved["system"] == [text("one"), text("two"), text("three")]
    assert moved["messages"] == [user("a", "b"), assistant("c"), user("d")]


def test_steps_replace_what_was_made_of_them() -> None:
    kept: list[dict[str, Any]] = [text("a"), {"type": "tool_use", "id": "", "name": "f", "input": {}}, text("b")]
    inputs = [
        TextInput("user", "x"),
        AssistantInput("ab", [CallInput("our:1", "f", {})]),
        ToolResultInput("our:1", "r", is_error=False),
    ]
    made = body(*inputs, steps={1: kept})
    sent = made["messages"][1]["content"]
    assert [block["type"] for block in sent] == ["text", "tool_use", "text"]
    assert sent[1]["id"] == made["messages"][2]["content"][0]["tool_use_id"]
    assert kept[1]["id"] == ""


def marked(made: dict[str, Any]) -> list[str]:
    blocks = [*made.get("tools", []), *made.get("system", [])]
    for message in made["messages"]:
        blocks += message["content"]
    return [
        block.get("name") or block.get("text") or block["tool_use_id"] for block in blocks if "cache_control" in block
    ]


def test_ends_of_prefixes_are_marked() -> None:
    tools = [ToolSpec(name=name, description="", parameters={}) for name in ("b", "a")]
    first: list[ModelInput] = [TextInput("system", "one"), TextInput("user", "hello")]
    assert marked(body(*first, tools=tools, cache=True)) == ["b", "one", "hello"]
    second = [*first, AssistantInput("hi"), TextInput("user", "look")]
    assert marked(body(*second, tools=tools, cache=True)) == ["b", "one", "hello", "look"]
    third: list[ModelInput] = [*second]
    for id in ("x", "y"):
        third += [AssistantInput("", [CallInput(id, "a", {})]), ToolResultInput(id, "1", is_error=False)]
    assert marked(body(*third, tools=tools, cache=True)) == ["b", "one", "look", "y"]


def test_a_later_request_begins_with_what_was_sent() -> None:
    tools = [ToolSpec(name=name, description="", parameters={}) for name in ("b", "a")]
    inputs: list[ModelInput] = [
        TextInput("system", "one"),
        TextInput("user", "hello"),
        AssistantInput("", [CallInput("x.1", "a", {})]),
        ToolResultInput("x.1", "1", is_error=False),
    ]
    more = [*inputs, AssistantInput("hi"), TextInput("user", "and?"), TextInput("system", "two")]
    before, after = body(*inputs, tools=tools), body(*more, tools=tools[::-1])
    assert after["tools"] == before["tools"]
    assert after["system"] == before["system"]
    assert after["messages"][: len(before["messages"])] == before["messages"]


WORDS = st.sampled_from(["", " ", "a", "b\n"])


@st.composite
def conversations(draw: st.DrawFn) -> list[ModelInput]:
    """Anything that the port allows: calls are followed by their results."""
    inputs: list[ModelInput] = []
    for step in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from(["user", "system", "assistant", "calls"]))
        if kind == "user" or kind == "system":
            inputs.append(TextInput(kind, draw(WORDS)))
        elif kind == "assistant":
            inputs.append(AssistantInput(draw(WORDS)))
        else:
            calls = [CallInput(f"c.{step}:{place}", "f", {}) for place in range(draw(st.integers(1, 3)))]
            inputs.append(AssistantInput(draw(WORDS), calls))
            inputs += [ToolResultInput(call.id, draw(WORDS), is_error=draw(st.booleans())) for call in calls]
    return inputs


@given(conversations(), st.booleans())
def test_no_conversation_is_objected_to(inputs: list[ModelInput], system_in_place: bool) -> None:
    tools = [ToolSpec(name="f", description="", parameters={})]
    made = messages_body(ModelRequest(inputs=inputs, tools=tools), system_in_place=system_in_place)
    assert not list(objections({"model": "m", "max_tokens": 9, **made}, system_role=system_in_place))


# ---- images of results, and tools that the API does not take


PNG = ImagePart(mime_type="image/png", data="AAAA")


def test_images_of_a_result_stand_in_it() -> None:
    made = body(
        TextInput("user", "draw"),
        AssistantInput("", [CallInput("a", "draw", {}), CallInput("b", "draw", {})]),
        ToolResultInput("a", "Two:", is_error=False, images=(PNG, PNG)),
        ToolResultInput("b", "", is_error=False, images=(PNG,)),
    )
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    image = {"type": "image", "source": source}
    first, second = made["messages"][-1]["content"]
    assert first["content"] == [text("Two:"), image, image]
    assert second["content"] == [image]


def test_a_tool_that_the_api_does_not_take_costs_itself_only() -> None:
    plain = ToolSpec(name="a", description="", parameters={"properties": {"x": {}, "y.z-1": {}}})
    wrong = [
        ToolSpec(name="b", description="", parameters={"properties": {"$filter": {}}}),
        ToolSpec(name="c", description="", parameters={"properties": {"x" * 65: {}}}),
        ToolSpec(name="d", description="", parameters={"properties": ["x"]}),
    ]
    either = ToolSpec(
        name="e", description="", parameters={"anyOf": [{}], "oneOf": [{}], "allOf": [{}], "properties": {}}
    )
    made = body(TextInput("user", "hi"), tools=[*wrong, either, plain])
    assert [(tool["name"], tool["input_schema"].keys()) for tool in made["tools"]] == [
        ("a", {"type", "properties"}),
        ("e", {"type", "properties"}),
    ]
    assert "tools" not in body(TextInput("user", "hi"), tools=wrong)
