from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from protocol import frames
from protocol.codec import decode_client, decode_event, encode
from protocol.frames import CallTool, Message, SendMessage, ToolCall, ToolResponse, Usage

MESSAGE = {
    "id": "msg_123abc",
    "type": "message",
    "content": "User's message here",
    "role": "user",
    "timestamp": "2023-09-15T12:34:56.789Z",
    "context_id": "conv_456def",
}
TOOL_CALL: dict[str, Any] = {
    "id": "tool_789ghi",
    "type": "tool_call",
    "tool": "calculator",
    "parameters": {"operation": "multiply", "a": 5, "b": 3},
    "context_id": "conv_456def",
    "timestamp": "2023-09-15T12:35:21.123Z",
}
TOOL_RESPONSE: dict[str, Any] = {
    "id": "resp_321cba",
    "type": "tool_response",
    "tool_call_id": "tool_789ghi",
    "result": {"result": 15},
    "status": "success",
    "timestamp": "2023-09-15T12:35:22.456Z",
}


def test_the_message_that_the_project_began_with() -> None:
    frame = decode_client(json.dumps(MESSAGE))
    assert isinstance(frame, SendMessage)
    assert (frame.id, frame.content, frame.role) == ("msg_123abc", "User's message here", "user")
    assert frame.context_id == "conv_456def"
    assert frame.timestamp is not None
    assert frame.timestamp.isoformat() == "2023-09-15T12:34:56.789000+00:00"


def test_the_tool_call_that_the_project_began_with() -> None:
    frame = decode_client(json.dumps(TOOL_CALL))
    assert isinstance(frame, CallTool)
    assert (frame.id, frame.tool, frame.context_id) == ("tool_789ghi", "calculator", "conv_456def")
    assert frame.parameters == {"operation": "multiply", "a": 5, "b": 3}


@pytest.mark.parametrize(
    ("fields", "more"),
    [
        (MESSAGE, {"status": "complete"}),
        (TOOL_CALL, {"runs_on": "server"}),
        (TOOL_RESPONSE, {"context_id": "conv_456def"}),
    ],
)
def test_events_carry_the_same_fields_and_add_theirs(fields: dict[str, Any], more: dict[str, str]) -> None:
    event = decode_event(json.dumps({**fields, **more, "seq": 7}))
    assert isinstance(event, Message | ToolCall | ToolResponse)
    assert json.loads(encode(event)) == {**fields, **more, "seq": 7}


def test_what_is_at_its_default_is_left_out() -> None:
    assert encode(SendMessage(id="a", content="x")) == b'{"type":"message","id":"a","content":"x"}'


def test_unknown_fields_are_ignored() -> None:
    assert decode_client('{"type":"ping","id":"a","new":[1]}') == frames.Ping(id="a")


def test_usage_adds_up() -> None:
    one = Usage(input_tokens=1, output_tokens=2, cached_tokens=3, reasoning_tokens=4)
    assert one + one == Usage(input_tokens=2, output_tokens=4, cached_tokens=6, reasoning_tokens=8)


def test_frames_do_not_change() -> None:
    with pytest.raises(AttributeError):
        frames.Ping(id="a").id = "b"  # pyright: ignore[reportAttributeAccessIssue]


def test_every_struct_is_exported() -> None:
    structs = {
        name
        for name, value in vars(frames).items()
        if isinstance(value, type) and issubclass(value, msgspec.Struct) and not name.startswith("_")
    }
    assert structs - {"Struct"} <= set(frames.__all__)
