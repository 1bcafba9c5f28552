from __future__ import annotations

from typing import Any

import pytest

from gateway.models.anthropic_events import MAX_KEPT, Answer, Event, read_event
from gateway.models.port import CallReady, Finish, ModelPiece


def event(kind: str, **fields: Any) -> Event:
    return read_event({"type": kind, **fields})


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[Event]:
    return [
        event("content_block_start", index=index, content_block=start),
        *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
        event("content_block_stop", index=index),
    ]


END = event("message_delta", delta={"stop_reason": "tool_use"})
THOUGHT = {"type": "thinking", "thinking": "h"}
CALL = {"type": "tool_use", "id": "t", "name": "f"}


def read(*events: Event) -> tuple[Answer, list[ModelPiece]]:
    answer = Answer("m")
    pieces = [piece for event in events for piece in answer.feed(event)]
    return answer, [*pieces, *answer.finish()]


def test_the_blocks_are_kept_as_they_came() -> None:
    answer, _ = read(
        *block(
            0,
            {"type": "thinking", "thinking": "h"},
            {"thinking": "m\ud83d"},
            {"thinking": "\ude00"},
            {"signature": "s"},
        ),
        *block(1, {"type": "redacted_thinking", "data": "xyz"}),
        *block(2, {"type": "text", "text": ""}, {"text": " "}),
        *block(3, {"type": "text", "text": ""}, {"text": "a\ud83d"}, {"text": "b"}),
        *block(4, CALL, {"partial_json": ""}, {"partial_json": '{"x":'}, {"partial_json": "1}"}),
        *block(5, CALL, {"partial_json": "{"}),
        END,
    )
    assert answer.blocks == [
        {"type": "thinking", "thinking": "hm😀", "signature": "s"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "text", "text": "a�b"},
        {"type": "tool_use", "id": "", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "", "name": "f", "input": {}},
    ]
    assert answer.thought
    assert answer.step.content == " a�b"
    assert [call.parameters for call in answer.step.calls] == [{"x": 1}, {}]


@pytest.mark.parametrize("kind", ["text", "thinking", "signature", "partial_json"])
def test_of_a_very_long_answer_none_is_kept(kind: str) -> None:
    start = {"text": {"type": "text"}, "partial_json": CALL}.get(kind, {"type": "thinking"})
    deltas = [{kind: "x" * (MAX_KEPT // 4)} for _ in range(5)]
    answer, pieces = read(*block(0, start, *deltas), *block(1, CALL, {"partial_json": "{}"}), END)
    assert answer.blocks is None
    assert not answer.thought
    assert pieces[-1] == Finish("stop")


def test_blocks_after_the_end_count() -> None:
    answer = Answer("m")
    events = [END, *block(0, CALL, {"partial_json": '{"x": 1}'})[:-1]]
    assert [piece for event in events for piece in answer.feed(event)] == []
    call, _ = answer.finish()
    assert call == CallReady("f", {"x": 1})


def test_events_of_other_types_are_passed_over() -> None:
    assert read_event({"type": "new", "delta": 5}) == Event("new")
    assert read_event({}) == Event("None")
    answer, pieces = read(read_event({"type": "new"}), event("message_stop"), END)
    assert (answer.begun, pieces) == (False, [Finish("stop")])
