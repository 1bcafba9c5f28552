"""Events of one conversation, for tests."""

from __future__ import annotations

from typing import Any

from protocol.frames import (
    Delta,
    Message,
    MessageStart,
    Partial,
    Running,
    Snapshot,
    ToolCall,
    ToolProgress,
    ToolResponse,
    TurnEnd,
    Usage,
)
from protocol.frames import DurableEvent as Durable

__all__ = ["call", "delta", "end", "response", "said", "snapshot", "start", "step", "whole"]


def said(id: str, content: str = "hi", turn_id: str | None = None, **fields: Any) -> Message:
    return Message(
        context_id="c",
        turn_id=turn_id or id,
        id=id,
        content=content,
        role="user",
        timestamp="t",
        status="complete",
        **fields,
    )


def start(id: str, turn_id: str, attempt: int = 1) -> MessageStart:
    return MessageStart(context_id="c", turn_id=turn_id, id=id, role="assistant", model="m", attempt=attempt)


def delta(id: str, turn_id: str, text: str, channel: Any = "text") -> Delta:
    return Delta(context_id="c", turn_id=turn_id, message_id=id, text=text, channel=channel)


def whole(id: str, turn_id: str, content: str) -> Message:
    return Message(
        context_id="c",
        turn_id=turn_id,
        id=id,
        content=content,
        role="assistant",
        timestamp="t",
        status="complete",
    )


def call(id: str, turn_id: str, **fields: Any) -> ToolCall:
    fields = {"message_id": f"{turn_id}.1", "parameters": {"n": 1}, **fields}
    return ToolCall(context_id="c", turn_id=turn_id, id=id, tool="dig", timestamp="t", runs_on="server", **fields)


def step(
    id: str, turn_id: str, progress: float, total: float | None = None, message: str | None = None
) -> ToolProgress:
    return ToolProgress(
        context_id="c", turn_id=turn_id, tool_call_id=id, progress=progress, total=total, message=message
    )


def response(call_id: str, turn_id: str, result: Any = "done", status: Any = "success") -> ToolResponse:
    return ToolResponse(
        context_id="c",
        turn_id=turn_id,
        id=f"{call_id}.r",
        tool_call_id=call_id,
        result=result,
        status=status,
        timestamp="t",
    )


def end(turn_id: str, status: Any = "complete", error: Any = None) -> TurnEnd:
    usage = Usage(input_tokens=1, output_tokens=1)
    return TurnEnd(context_id="c", turn_id=turn_id, status=status, steps=1, usage=usage, error=error)


def snapshot(
    *events: Durable,
    partial: tuple[Partial, ...] = (),
    running: tuple[Running, ...] = (),
    has_more: bool = False,
) -> Snapshot:
    return Snapshot(
        context_id="c",
        epoch="1",
        seq=1,
        events=list(events),
        has_more=has_more,
        partial=list(partial),
        running=list(running),
    )
