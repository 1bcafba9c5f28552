"""Durable events as the store takes them."""

from __future__ import annotations

from gateway.core.turn_state import Written
from protocol.codec import encode
from protocol.frames import DurableEvent, Message, ToolApproval, ToolCall, ToolResponse, TurnEnd
from protocol.ids import new_id
from stores.records import Asked, NewCall, NewEvent
from stores.search_text import searchable

__all__ = ["new_event"]


def new_event(
    event: DurableEvent, *, frame_id: str | None = None, draft: Written | None = None, asked: Asked | None = None
) -> NewEvent:
    """The row of `event`. A `tool_approval` is kept under its `frame_id`; a `tool_call` with the `draft` of the
    message it came from, and with what is `asked` of a person."""
    body = encode(event)
    if isinstance(event, Message):
        text = searchable(event.role, event.content)
        pinned = event.role == "system"
        return NewEvent(id=event.id, type="message", body=body, turn_id=event.turn_id, pinned=pinned, text=text)
    if isinstance(event, ToolCall):
        call = NewCall(
            runs_on=event.runs_on,
            session_id=event.session_id,
            needs_approval=event.approval == "required",
            asked=asked,
            draft=encode(draft) if draft is not None else None,
        )
        return NewEvent(id=event.id, type="tool_call", body=body, turn_id=event.turn_id, call=call)
    if isinstance(event, ToolResponse):
        return NewEvent(id=event.id, type="tool_response", body=body, turn_id=event.turn_id, answers=event.tool_call_id)
    if isinstance(event, ToolApproval):
        return NewEvent(
            id=frame_id or new_id("appr_"),
            type="tool_approval",
            body=body,
            turn_id=event.turn_id,
            decides=event.tool_call_id,
            denies=not event.approved,
        )
    if isinstance(event, TurnEnd):
        return NewEvent(id=f"{event.turn_id}/end", type="turn_end", body=body, turn_id=event.turn_id)
    return NewEvent(id=frame_id or new_id("ctx_"), type="context", body=body)
