"""One turn as a state machine (docs/protocol.md, section 3): inputs are what happened, outputs are effects.

It knows no clock, no ids and no I/O: those come in. A fresh turn and one that was taken over begin alike, from what
is stored of it (`begin`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from gateway.core.turn_effects import (
    Append,
    CallModel,
    Effect,
    End,
    Park,
    Publish,
    Route,
    RunTool,
    StopModel,
    StopTool,
    Store,
)
from gateway.core.turn_events import NO_USAGE, MessageStatus, ResponseStatus, TurnEvents
from gateway.core.turn_state import (
    LEGAL,
    CallState,
    IllegalTransition,
    Phase,
    Recovered,
    StepMessage,
    TurnCall,
    Written,
)
from protocol.frames import DurableEvent, ErrorBody, Message, ToolApproval, ToolCall, ToolResponse, TurnEnd, Usage

__all__ = ["TurnMachine"]


class TurnMachine:
    """`mint(prefix)` gives new ids, `now()` timestamps, `step_id(n)` the id of the n-th step's message, the same
    for every runner of the turn."""

    def __init__(
        self,
        *,
        context_id: str,
        turn_id: str,
        kind: Literal["message", "tool"],
        model: str,
        max_steps: int,
        max_retries: int,
        mint: Callable[[str], str],
        now: Callable[[], str],
        step_id: Callable[[int], str],
    ) -> None:
        self.phase = Phase.NEW
        self.steps = 0
        self._make = TurnEvents(context_id, turn_id, model, mint, now)
        self._turn_id = turn_id
        self._kind = kind
        self._max_steps = max_steps
        self._max_retries = max_retries
        self._step_id = step_id
        self._calls: dict[str, TurnCall] = {}
        self._open: StepMessage | None = None
        self._next: tuple[str, int] | None = None
        self._usage: Usage = NO_USAGE
        self._steered: list[str] = []  # the steering messages, in the order in which they were stored
        self._read = 0  # how many of them a step was given
        self._called = False

    # ---- beginning

    def begin(self, found: Recovered) -> list[Effect]:
        """Go on from what is stored."""
        self._expect(Phase.NEW)
        closed = self._replay(found.events)
        if any(isinstance(event, TurnEnd) for event in found.events):
            self._go(Phase.OVER)
            return []
        effects: list[Effect] = []
        live = found.live if found.live is not None and found.live.message_id not in closed else None
        torn = next((c.event.message_id for c in self._calls.values() if c.event.message_id not in closed), None)
        if torn is not None:
            effects += self._close_torn(torn, live, found)
        elif live is not None:
            self._next = (live.message_id, live.attempt + 1)
        elif found.begun_before and not self._unanswered():
            self._next = (self._step_id(self.steps), 2)
        if found.cancelled:
            return effects + self._cancel_restored(live if torn is None else None)
        for call in self._unanswered():
            effects += self._take_up(call, found)
        return effects + self._advance()

    def _take_up(self, call: TurnCall, found: Recovered) -> list[Effect]:
        call_id = call.event.id
        if call_id in found.cancelled_calls:
            return self._answer(call, "cancelled", None)
        if call.state is CallState.DENIED:
            return self._answer(call, "denied", call.reason)
        if call.state is not CallState.READY:
            return []
        return self._answer(call, "interrupted", None) if call_id in found.interrupted else self._run(call)

    def _replay(self, events: Sequence[DurableEvent]) -> set[str | None]:
        """Take in what is stored; the ids of finished assistant messages, and None for calls without a message."""
        closed: set[str | None] = {None}
        for event in events:
            if isinstance(event, Message) and event.role == "assistant":
                closed.add(event.id)
                self._note_read(event.reads)
                self.steps += 1
                self._usage += event.usage or NO_USAGE
                self._called = any(c.event.message_id == event.id for c in self._calls.values())
            elif isinstance(event, Message) and event.id != self._turn_id:
                self._steered.append(event.id)
            elif isinstance(event, ToolCall):
                self._calls[event.id] = TurnCall(event)
            elif isinstance(event, ToolApproval):
                self._calls[event.tool_call_id].decide(event)
            elif isinstance(event, ToolResponse):
                self._calls[event.tool_call_id].state = CallState.ANSWERED
        return closed

    def _note_read(self, reads: str | None) -> None:
        """A step was given the steering messages up to this one."""
        if reads in self._steered:
            self._read = max(self._read, self._steered.index(reads) + 1)

    def _close_torn(self, message_id: str, live: Written | None, found: Recovered) -> list[Effect]:
        """Close a message whose calls are stored as it stands. Where the log lost the attempt that made them, its
        text is published first."""
        effects: list[Effect] = []
        draft = found.draft if found.draft is not None and found.draft.message_id == message_id else None
        if live is not None and (draft is None or live.attempt >= draft.attempt):
            text = live.text
        else:
            text = draft.text if draft else ""
            effects += self._republish(message_id, draft.attempt + 1 if draft else 2, text, "")
        self.steps += 1
        self._called = True
        status: MessageStatus = "cancelled" if found.cancelled else "truncated"
        reads = draft.reads if draft is not None else None
        self._note_read(reads)
        return [*effects, Store((self._make.message(message_id, text, status, None, reads=reads),))]

    def _cancel_restored(self, live: Written | None) -> list[Effect]:
        """A turn that was cancelled: close what an earlier runner left open, and end."""
        if live is None:
            return self._end("cancelled")
        closing = self._make.message(live.message_id, live.text, "cancelled", None)
        self.steps += 1
        return self._end("cancelled", closing=closing)

    # ---- what the model does

    def text(self, text: str, channel: Literal["text", "reasoning"] = "text") -> list[Effect]:
        opened = self._open
        if self.phase is not Phase.MODEL or opened is None:
            return []
        (opened.text if channel == "text" else opened.reasoning).append(text)
        return [Publish(self._make.delta(opened.id, text, channel))]

    def call(self, tool: str, parameters: dict[str, Any], route: Route) -> list[Effect]:
        opened = self._open
        if self.phase is not Phase.MODEL or opened is None:
            return []
        opened.calls += 1
        event = self._make.call(opened.id, tool, parameters, route)
        call = self._calls[event.id] = TurnCall(event)
        if route.refusal is not None:
            # Stored as one: a call that was refused must not look like one that nobody has run yet.
            call.state = CallState.ANSWERED
            return [Store((event, self._make.response(event.id, *route.refusal, None)))]
        effects: list[Effect] = [Store((event,))]
        return effects if call.waits else effects + self._run(call)

    def finish(self, reason: Literal["stop", "length"], usage: Usage | None, model: str | None = None) -> list[Effect]:
        """`model` is the one that answered, where it is another than was asked."""
        if self.phase is not Phase.MODEL or self._open is None:
            return []
        status: MessageStatus = "complete" if reason == "stop" else "truncated"
        message = self._close(status, usage, model)
        self._go(Phase.CALLS)
        return [Store((message,)), *self._advance()]

    def failed(self, error: ErrorBody) -> list[Effect]:
        """The provider failed after it had begun, or for good."""
        opened = self._open
        if self.phase is not Phase.MODEL or opened is None:
            return []
        if error.retryable and opened.calls:
            message = self._close("truncated", None)
            self._go(Phase.CALLS)
            return [Store((message,)), *self._advance()]
        if error.retryable and opened.retry < self._max_retries:
            opened.retry += 1
            return [*self._restart(), CallModel(opened.id, opened.retry, opened.reads)]
        return self._end("failed", error=error, closing=self._close("failed", None))

    def republish(self) -> list[Effect]:
        """The log was lost under the turn: say again what of the open message had been said."""
        opened = self._open
        if opened is None:
            return []
        opened.attempt += 1
        return self._republish(opened.id, opened.attempt, "".join(opened.text), "".join(opened.reasoning))

    @property
    def written(self) -> Written | None:
        """The open message so far, to be kept as the turn's draft."""
        opened = self._open
        if opened is None:
            return None
        return Written(opened.id, opened.attempt, "".join(opened.text), reads=opened.reads)

    # ---- what tools, people and clients do

    def tool_progress(self, call_id: str, progress: float, total: float | None, message: str | None) -> list[Effect]:
        call = self._calls.get(call_id)
        if call is None or call.state is not CallState.RUNNING:
            return []
        return [Publish(self._make.progress(call_id, progress, total, message))]

    def tool_done(
        self, call_id: str, status: Literal["success", "error", "timeout"], result: Any, error: ErrorBody | None = None
    ) -> list[Effect]:
        call = self._calls.get(call_id)
        if call is None or call.state is not CallState.RUNNING:
            return []
        return [*self._answer(call, status, result, error), *self._advance()]

    def approval(self, event: ToolApproval) -> list[Effect]:
        """A person's decision, stored by whoever took it."""
        call = self._calls.get(event.tool_call_id)
        effects: list[Effect] = [Append(event)]
        if call is not None:
            state = call.decide(event)
            if state is CallState.DENIED:
                effects += self._answer(call, "denied", call.reason)
            elif state is CallState.READY:
                effects += self._run(call)
        return effects + self._advance()

    def answered(self, event: ToolResponse) -> list[Effect]:
        """A client's answer, stored by whoever took it."""
        call = self._calls.get(event.tool_call_id)
        if call is not None:
            call.state = CallState.ANSWERED
        return [Append(event), *self._advance()]

    def steer(self, event: Message) -> list[Effect]:
        """A message for the turn that runs; its next step reads it."""
        self._steered.append(event.id)
        return [Append(event), *self._advance()]

    def cancel(self) -> list[Effect]:
        if self.phase in (Phase.ENDING, Phase.OVER):
            return []
        closing = self._close("cancelled", None) if self._open is not None else None
        return self._end("cancelled", closing=closing)

    def cancel_call(self, call_id: str) -> list[Effect]:
        call = self._calls.get(call_id)
        effects: list[Effect] = []
        if call is not None and not call.answered:
            if call.state is CallState.RUNNING:
                effects.append(StopTool(call_id))
            effects += self._answer(call, "cancelled", None)
        # Also where nothing was left to cancel: it may be why the store refused the end, or to park.
        return effects + self._advance()

    # ---- what the store says

    def ended(self) -> None:
        self._expect(Phase.ENDING)
        self._go(Phase.OVER)

    def go_on(self) -> list[Effect]:
        """The store refused the end: something is unread, which comes next."""
        self._expect(Phase.ENDING)
        self._go(Phase.CALLS)
        return []

    # ---- inside

    def _go(self, phase: Phase) -> None:
        if phase not in LEGAL[self.phase]:
            raise IllegalTransition(f"{self.phase.value} -> {phase.value}")
        self.phase = phase

    def _expect(self, phase: Phase) -> None:
        if self.phase is not phase:
            raise IllegalTransition(f"{self.phase.value} is not {phase.value}")

    def _unanswered(self) -> list[TurnCall]:
        return [call for call in self._calls.values() if not call.answered]

    def _advance(self) -> list[Effect]:
        if self.phase in (Phase.MODEL, Phase.ENDING, Phase.OVER):
            return []
        pending = self._unanswered()
        if pending:
            parked = all(call.waits for call in pending)
            self._go(Phase.PARKED if parked else Phase.CALLS)
            return [Park()] if parked else []
        unread = self._read < len(self._steered)
        if self._kind == "tool" or not (self.steps == 0 or self._called or unread):
            return self._end("complete")
        if self.steps >= self._max_steps:
            return self._end("max_steps")
        message_id, attempt = self._next or (self._step_id(self.steps), 1)
        self._next = None
        self._read = len(self._steered)
        reads = self._steered[-1] if self._steered else None
        self._open = StepMessage(message_id, attempt, reads)
        self._go(Phase.MODEL)
        return [Publish(self._make.start(message_id, attempt)), CallModel(message_id, 0, reads)]

    def _restart(self) -> list[Effect]:
        opened = self._open
        assert opened is not None  # noqa: S101 - its callers have looked
        opened.attempt += 1
        opened.text.clear()
        opened.reasoning.clear()
        return [Publish(self._make.start(opened.id, opened.attempt))]

    def _republish(self, message_id: str, attempt: int, text: str, reasoning: str) -> list[Effect]:
        effects: list[Effect] = [Publish(self._make.start(message_id, attempt))]
        if reasoning:
            effects.append(Publish(self._make.delta(message_id, reasoning, "reasoning")))
        if text:
            effects.append(Publish(self._make.delta(message_id, text, "text")))
        return effects

    def _close(self, status: MessageStatus, usage: Usage | None, model: str | None = None) -> Message:
        opened = self._open
        assert opened is not None  # noqa: S101 - its callers have looked
        self._open = None
        self.steps += 1
        self._called = opened.calls > 0
        self._usage += usage or NO_USAGE
        return self._make.message(opened.id, "".join(opened.text), status, usage, model, opened.reads)

    def _run(self, call: TurnCall) -> list[Effect]:
        call.state = CallState.RUNNING
        return [RunTool(call.event.id, call.event.tool, call.parameters)]

    def _answer(
        self,
        call: TurnCall,
        status: ResponseStatus,
        result: Any,
        error: ErrorBody | None = None,
    ) -> list[Effect]:
        call.state = CallState.ANSWERED
        return [Store((self._make.response(call.event.id, status, result, error),))]

    def _end(
        self,
        status: Literal["complete", "cancelled", "failed", "max_steps"],
        *,
        error: ErrorBody | None = None,
        closing: Message | None = None,
    ) -> list[Effect]:
        effects: list[Effect] = [StopModel()] if self.phase is Phase.MODEL else []
        self._go(Phase.ENDING)
        events: list[DurableEvent] = [closing] if closing is not None else []
        for call in self._unanswered():
            if call.state is CallState.RUNNING:
                effects.append(StopTool(call.event.id))
            call.state = CallState.ANSWERED
            events.append(self._make.response(call.event.id, "cancelled", None, None))
        events.append(self._make.end(status, self.steps, self._usage, error))
        return [*effects, End(tuple(events), may_continue=status in ("complete", "max_steps"))]
