"""Conversations to read, by hand."""

from __future__ import annotations

from typing import Any

from gateway.core.inputs import AssistantInput, CallInput, TextInput, ToolResultInput
from protocol.frames import DurableEvent, Message, ResponseStatus, Role, ToolCall, ToolResponse, TurnEnd, Usage

__all__ = ["answer", "call", "end", "message", "paid", "said", "turn", "user"]


def message(id: str, turn: str | None, role: Role = "user", content: Any = None, **more: Any) -> Message:
    text = id if content is None else content
    return Message(
        context_id="c", turn_id=turn, id=id, content=text, role=role, timestamp="now", status="complete", **more
    )


def call(id: str, turn: str, of: str | None) -> ToolCall:
    return ToolCall(
        context_id="c",
        turn_id=turn,
        id=id,
        tool="charge",
        parameters={"amount": 1},
        timestamp="now",
        runs_on="server",
        message_id=of,
    )


def answer(id: str, turn: str, result: Any = "paid", status: ResponseStatus = "success") -> ToolResponse:
    return ToolResponse(
        context_id="c", turn_id=turn, id=f"r{id}", tool_call_id=id, result=result, status=status, timestamp="now"
    )


def end(turn: str) -> TurnEnd:
    return TurnEnd(
        context_id="c", turn_id=turn, status="complete", steps=1, usage=Usage(input_tokens=0, output_tokens=0)
    )


def turn(id: str, **more: Any) -> list[DurableEvent]:
    """Asked under its own name, answered with an `a` behind it."""
    return [message(id, id, **more), message(f"{id}a", id, "assistant"), end(id)]


def user(text: str) -> TextInput:
    return TextInput("user", text)


def said(text: str, *calls: str) -> AssistantInput:
    return AssistantInput(text, tuple(CallInput(made, "charge", {"amount": 1}) for made in calls))


def paid(id: str) -> ToolResultInput:
    return ToolResultInput(id, "paid", is_error=False)
