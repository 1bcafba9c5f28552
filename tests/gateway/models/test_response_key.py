from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from gateway.models.port import AssistantInput, CallInput, ModelInput, ModelRequest, TextInput, ToolResultInput
from gateway.models.response_key import fingerprint, request_key
from gateway.models.settings import ModelSettings
from protocol.frames import ImagePart, TextPart, ToolSpec

TOOL = ToolSpec("look", "Looks.", {"type": "object", "properties": {"a": {}, "b": {}}})


def key(
    inputs: Sequence[ModelInput] = (),
    *,
    model: str = "m",
    settings: str = "f",
    owner: str | None = "ann",
    tools: Sequence[ToolSpec] = (),
) -> str:
    return request_key(model, settings, owner, ModelRequest(inputs=inputs, tools=tools, owner="not this one"))


def loop(one: str, other: str, *, answered: str | None = None, **parameters: Any) -> list[ModelInput]:
    """Two calls in one step, answered in the reverse order, under these ids."""
    return [
        TextInput("user", "hi"),
        AssistantInput("let me see", [CallInput(one, "look", parameters or {"a": 1}), CallInput(other, "look", {})]),
        ToolResultInput(answered or other, "2", False),
        ToolResultInput(one, "1", False),
    ]


def test_equal_conversations_meet_whatever_the_ids_of_their_calls() -> None:
    assert key(loop("tool_1", "tool_2")) == key(loop("tool_9", "tool_0"))
    assert key(loop("a", "b", x=1, y=2)) == key(loop("c", "d", y=2, x=1))
    assert key([TextInput("user", [TextPart("a")])]) == key([TextInput("user", [TextPart("a")])])


def test_which_call_was_answered_counts() -> None:
    assert key(loop("a", "b")) != key(loop("a", "b", answered="a"))
    assert key(loop("a", "b")) != key(loop("a", "b", answered="unknown"))


@pytest.mark.parametrize(
    "inputs",
    [
        [TextInput("user", "hi there")],
        [TextInput("system", "hi")],
        [TextInput("user", "hi"), TextInput("user", "")],
        [TextInput("user", ""), TextInput("user", "hi")],
        [TextInput("user", 'hi"]\n["user","')],
        [AssistantInput("hi")],
        [AssistantInput("hi", [CallInput("c", "look", {})])],
        [AssistantInput("hi", [CallInput("c", "look", {"a": 1})])],
        [AssistantInput("hi", [CallInput("c", "look", {"a": "1"})])],
        [AssistantInput("hi", [CallInput("c", "peek", {})])],
        [ToolResultInput("c", "hi", False)],
        [ToolResultInput("c", "hi", True)],
        [ToolResultInput("c", "hi", False, (ImagePart("image/png", "aaaa"),))],
        [TextInput("user", [TextPart("hi")])],
        [TextInput("user", [ImagePart("image/png", "aaaa")])],
        [TextInput("user", [ImagePart("image/png", "aaab")])],
    ],
)
def test_different_conversations_do_not(inputs: list[ModelInput]) -> None:
    plain = [TextInput("user", "hi")]
    assert key(inputs) == key(inputs)
    assert key(inputs) != key(plain)
    assert key([*inputs, *plain]) != key([*plain, *inputs])


def test_all_of_them_differ_from_each_other_in_what_else_they_are_of() -> None:
    keys = [
        key(),
        key(model="other"),
        key(settings="g"),
        key(owner="bob"),
        key(owner=""),
        key(owner=None),
        key(tools=[TOOL]),
        key(tools=[msgspec.structs.replace(TOOL, description="Looks well.")]),
        key(tools=[msgspec.structs.replace(TOOL, parameters={"type": "object"})]),
    ]
    assert len(set(keys)) == len(keys)
    assert all(one.startswith("response:") and len(one) == 9 + 64 for one in keys)


def test_a_fingerprint_is_of_every_setting() -> None:
    base: dict[str, Any] = {"provider": "openai", "model": "gpt"}
    others: list[dict[str, Any]] = [
        {},
        {"model": "gpt-2"},
        {"provider": "demo"},
        {"base_url": "http://x.example"},
        {"temperature": 0.5},
        {"max_tokens": 7},
        {"extra": {"top_p": 0.5}},
        {"extra": {"top_p": 0.6}},
    ]
    prints = [fingerprint(msgspec.convert(base | other, ModelSettings)) for other in others]
    assert len(set(prints)) == len(prints)
    one, other = ({"extra": {"a": 1, "b": 2}}, {"extra": {"b": 2, "a": 1}})
    assert fingerprint(msgspec.convert(base | one, ModelSettings)) == fingerprint(
        msgspec.convert(base | other, ModelSettings)
    )
