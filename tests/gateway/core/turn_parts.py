"""What the tests of the turn machine say and look at: machines, events, and what is in effects."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import count
from typing import Any, Literal

from gateway.core.deadlines import Waits
from gateway.core.turn import TurnMachine
from gateway.core.turn_effects import Effect, End, Expire, Publish, Route, Store
from gateway.core.turn_state import Recovered
from protocol.frames import (
    Delta,
    DurableEvent,
    ErrorBody,
    Message,
    MessageStart,
    ToolApproval,
    ToolCall,
    ToolProgress,
    ToolResponse,
    TurnEnd,
)
from tests.gateway.core.turn_rig import CONTEXT, TURN, user_message

__all__ = [
    "ASK",
    "CLIENT",
    "FINAL",
    "RETRYABLE",
    "assistant",
    "begun",
    "called",
    "decided",
    "expired",
    "machine",
    "responded",
    "resumed",
    "said",
    "statuses",
    "stored",
    "the_end",
]

RETRYABLE = ErrorBody(code="provider_overloaded", message="busy", retryable=True)
FINAL = ErrorBody(code="provider_error", message="no", retryable=False)
ASK = Route(ask=True)
CLIENT = Route(runs_on="client", session_id="sess_1")


def machine(
    *,
    kind: Literal["message", "tool"] = "message",
    max_steps: int = 4,
    max_retries: int = 1,
    waits: Waits = Waits(),  # noqa: B008 - a constant
) -> TurnMachine:
    ids = count(1)
    return TurnMachine(
        context_id=CONTEXT,
        turn_id=TURN,
        kind=kind,
        model="m",
        max_steps=max_steps,
        max_retries=max_retries,
        mint=lambda prefix: f"{prefix}{next(ids)}",
        now=lambda: "now",
        step_id=lambda step: f"msg_{step}",
        read_id=lambda message_id, place: f"read_{message_id}_{place}",
        waits=waits,
    )


def begun(**options: Any) -> TurnMachine:
    turn = machine(**options)
    turn.begin(Recovered(events=[user_message(TURN)]))
    return turn


def assistant(id: str, text: str, status: Literal["complete", "truncated", "cancelled"] = "complete") -> Message:
    return Message(
        context_id=CONTEXT,
        turn_id=TURN,
        id=id,
        content=text,
        role="assistant",
        timestamp="now",
        status=status,
        model="m",
    )


def called(id: str, message_id: str | None = "msg_0", route: Route = Route()) -> ToolCall:  # noqa: B008 - a constant
    return ToolCall(
        context_id=CONTEXT,
        turn_id=TURN,
        id=id,
        tool="charge",
        parameters={"amount": 1},
        timestamp="now",
        runs_on=route.runs_on,
        session_id=route.session_id,
        message_id=message_id,
        approval="required" if route.ask else None,
    )


def decided(id: str, *, approved: bool, edited: bool = False, reason: str | None = None) -> ToolApproval:
    parameters = {"amount": 2} if edited else None
    return ToolApproval(
        context_id=CONTEXT, turn_id=TURN, tool_call_id=id, approved=approved, parameters=parameters, reason=reason
    )


def expired(turn: TurnMachine, effects: Sequence[Effect], acted: Collection[str] = ()) -> list[Effect]:
    """The effects, and what comes of it that nobody came; on the calls that are `acted` on somebody did, unread."""
    late = [event.tool_call_id for effect in effects if isinstance(effect, Expire) for event in effect.events]
    kept = [call_id for call_id in late if call_id not in acted]
    return [*effects, *(turn.expired(kept) if kept else ())]


def responded(id: str, status: Literal["success", "cancelled"] = "success") -> ToolResponse:
    return ToolResponse(
        context_id=CONTEXT,
        turn_id=TURN,
        id=f"resp_{id}",
        tool_call_id=id,
        result=None,
        status=status,
        timestamp="now",
    )


def stored(effects: Sequence[Effect]) -> list[DurableEvent]:
    events: list[DurableEvent] = []
    for effect in effects:
        if isinstance(effect, Store | End):
            events += effect.events
    return events


def said(effects: Sequence[Effect]) -> list[MessageStart | Delta | ToolProgress]:
    return [effect.event for effect in effects if isinstance(effect, Publish)]


def the_end(effects: Sequence[Effect]) -> TurnEnd:
    end = stored(effects)[-1]
    assert isinstance(end, TurnEnd)
    return end


def statuses(effects: Sequence[Effect]) -> list[str]:
    return [event.status for event in stored(effects) if isinstance(event, ToolResponse)]


def resumed(*events: DurableEvent, **found: Any) -> tuple[TurnMachine, list[Effect]]:
    turn = machine()
    return turn, turn.begin(Recovered(events=[user_message(TURN), *events], **found))
