"""The calls of one turn: those of its steps or of a person, the questions that running tools ask, the reads of what its
messages name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from gateway.core.turn_effects import Append, Effect, Expire, Publish, RunTool, StopTool, Store, TellTool
from gateway.core.turn_events import ResponseStatus, TurnEvents
from gateway.core.turn_state import CallState, Recovered, TurnCall
from protocol.frames import DurableEvent, ErrorBody, ToolApproval, ToolCall, ToolResponse
from stores.records import Asked

__all__ = ["TurnCalls"]

Refusal = tuple[Literal["error", "denied"], str]


class TurnCalls:
    """Every call gets one answer. Inputs that come too late change nothing."""

    def __init__(self, make: TurnEvents) -> None:
        self._make = make
        self._calls: dict[str, TurnCall] = {}

    def __contains__(self, call_id: str) -> bool:
        return call_id in self._calls

    @property
    def unanswered(self) -> list[TurnCall]:
        return [call for call in self._calls.values() if not call.answered]

    def made_by(self, message_id: str) -> bool:
        """Whether the step of that message called anything."""
        return any(call.event.message_id == message_id for call in self._calls.values())

    def torn(self, closed: set[str | None]) -> str | None:
        """The message that is not `closed` though a call of its step is stored."""
        messages = (call.event.message_id for call in self._calls.values())
        return next((message_id for message_id in messages if message_id not in closed), None)

    # ---- taking over

    def replay(self, event: ToolCall | ToolApproval | ToolResponse) -> None:
        """Take in what is stored."""
        if isinstance(event, ToolCall):
            self._calls[event.id] = TurnCall(event)
        elif isinstance(event, ToolApproval):
            self._calls[event.tool_call_id].decide(event)
        else:
            self._calls[event.tool_call_id].state = CallState.ANSWERED

    def take_up(self, found: Recovered) -> list[Effect]:
        """Go on with what has no answer yet. Who asked a question is not there any more to hear it answered."""
        effects: list[Effect] = []
        questions = [call for call in self.unanswered if call.is_question]
        if questions:
            effects.append(Store(tuple(self._close(call, "cancelled", None) for call in questions)))
        for call in self.unanswered:
            effects += self._take_up(call, found)
        return effects

    def _take_up(self, call: TurnCall, found: Recovered) -> list[Effect]:
        call_id = call.event.id
        if call_id in found.cancelled_calls:
            return self._answer(call, "cancelled", None)
        if call.state is CallState.DENIED:
            return self._answer(call, "denied", call.reason)
        if call.state is not CallState.READY:
            return []
        return self._answer(call, "interrupted", None) if call_id in found.interrupted else self._run(call)

    # ---- what is called

    def called(self, event: ToolCall, refusal: Refusal | None = None, asked: Asked | None = None) -> list[Effect]:
        """A step's call; one that was refused must not look, in the store, like one that nobody has run yet. `asked` is
        what a person is to decide about, if any is."""
        call = self._calls[event.id] = TurnCall(event)
        if refusal is not None:
            return [Store((event, self._close(call, *refusal)))]
        effects: list[Effect] = [Store((event,), asked)]
        return effects if call.waits else effects + self._run(call)

    def read(self, events: Sequence[ToolCall]) -> list[Effect]:
        """What a message names is to be read."""
        calls = [TurnCall(event) for event in events]
        self._calls |= {call.event.id: call for call in calls}
        return [Store(tuple(events)), *(effect for call in calls for effect in self._run(call))]

    def ask(self, call_id: str, question_id: str, parameters: dict[str, Any]) -> list[Effect]:
        """A running tool asks its user. Where it runs no more, nobody is asked."""
        asking = self._calls.get(call_id)
        if asking is None or asking.state is not CallState.RUNNING:
            return [TellTool(question_id, "cancel")]
        event = self._make.question(question_id, asking.event, parameters)
        self._calls[question_id] = TurnCall(event)
        return [Store((event,))]

    # ---- what becomes of it

    def progress(self, call_id: str, progress: float, total: float | None, message: str | None) -> list[Effect]:
        call = self._calls.get(call_id)
        if call is None or call.state is not CallState.RUNNING:
            return []
        return [Publish(self._make.progress(call_id, progress, total, message))]

    def done(self, call_id: str, status: ResponseStatus, result: Any, error: ErrorBody | None) -> list[Effect]:
        """A run has ended."""
        call = self._calls.get(call_id)
        if call is None or call.state is not CallState.RUNNING:
            return []
        return self._answer(call, status, result, error)

    def approval(self, event: ToolApproval) -> list[Effect]:
        """A person's decision, stored by whoever took it."""
        call = self._calls.get(event.tool_call_id)
        effects: list[Effect] = [Append(event)]
        if call is None or call.state is not CallState.ASKED:
            return effects
        state = call.decide(event)
        if call.is_question:
            content = event.parameters or {}
            if event.approved:
                return effects + self._reply(call, "success", content, TellTool(call.event.id, "accept", content))
            return effects + self._reply(call, "denied", call.reason, TellTool(call.event.id, "decline"))
        if state is CallState.DENIED:
            effects += self._answer(call, "denied", call.reason)
        elif state is CallState.READY:
            effects += self._run(call)
        return effects

    def answered(self, event: ToolResponse) -> list[Effect]:
        """A client's answer, stored by whoever took it."""
        call = self._calls.get(event.tool_call_id)
        if call is not None:
            call.state = CallState.ANSWERED
        return [Append(event)]

    def cancel(self, call_id: str) -> list[Effect]:
        """Somebody wants no answer to this call, or does not want to answer this question."""
        call = self._calls.get(call_id)
        if call is None or call.answered:
            return []
        if call.is_question:
            return self._reply(call, "cancelled", None, TellTool(call_id, "cancel"))
        stop: list[Effect] = [StopTool(call_id)] if call.state is CallState.RUNNING else []
        return stop + self._answer(call, "cancelled", None)

    def expire(self, late: Iterable[tuple[TurnCall, str]]) -> list[Effect]:
        """Who was to act on these has not come in time, as far as is known here; the words are for the model."""
        words = {call.event.id: said for call, said in late}
        events = tuple(self._make.response(call_id, "timeout", said, None) for call_id, said in words.items())
        undecided = frozenset(call_id for call_id in words if self._calls[call_id].state is CallState.ASKED)
        return [Expire(events, undecided)] if events else []

    def expired(self, call_ids: Iterable[str]) -> None:
        """The store knew of nobody either."""
        for call_id in call_ids:
            self._calls[call_id].state = CallState.ANSWERED

    def withdraw(self, question_id: str) -> list[Effect]:
        """The tool waits for this answer no more."""
        call = self._calls.get(question_id)
        return self._answer(call, "cancelled", None) if call is not None and not call.answered else []

    def stop_all(self) -> tuple[list[Effect], list[DurableEvent]]:
        """The turn is over: stop what runs; the answers to all that has none."""
        stops: list[Effect] = [StopTool(c.event.id) for c in self.unanswered if c.state is CallState.RUNNING]
        # A question's first: it is never open while its call is answered.
        calls = sorted(self.unanswered, key=lambda call: not call.is_question)
        return stops, [self._close(call, "cancelled", None) for call in calls]

    # ---- inside

    def _run(self, call: TurnCall) -> list[Effect]:
        call.state = CallState.RUNNING
        decided = call.event.approval == "required"
        return [RunTool(call.event.id, call.event.tool, call.parameters, decided)]

    def _reply(self, question: TurnCall, status: ResponseStatus, result: Any, told: TellTool) -> list[Effect]:
        return [*self._answer(question, status, result), told]

    def _answer(
        self, call: TurnCall, status: ResponseStatus, result: Any, error: ErrorBody | None = None
    ) -> list[Effect]:
        """Together with its open questions, of which nobody waits for an answer any more."""
        questions = [each for each in self.unanswered if each.event.asked_by == call.event.id]
        closed = [self._close(question, "cancelled", None) for question in questions]
        return [Store((*closed, self._close(call, status, result, error)))]

    def _close(
        self, call: TurnCall, status: ResponseStatus, result: Any, error: ErrorBody | None = None
    ) -> ToolResponse:
        call.state = CallState.ANSWERED
        return self._make.response(call.event.id, status, result, error)
