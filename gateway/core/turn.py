"""One turn as a state machine (docs/protocol.md, section 3): inputs are what happened, outputs are effects.

It knows no clock, no ids and no I/O: those come in. A fresh turn and one that was taken over begin alike, from what
is stored of it (`begin`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from gateway.core.deadlines import Deadlines, Waits
from gateway.core.turn_calls import TurnCalls
from gateway.core.turn_effects import Append, CallModel, Effect, End, Park, Publish, Route, StopModel, Store
from gateway.core.turn_events import NO_USAGE, MessageStatus, TurnEvents
from gateway.core.turn_said import TurnSaid
from gateway.core.turn_state import LEGAL, CallState, IllegalTransition, Phase, Recovered, StepMessage, Written
from protocol.frames import DurableEvent, ErrorBody, Message, ToolApproval, ToolCall, ToolResponse, TurnEnd, Usage

__all__ = ["TurnMachine"]


class TurnMachine:
    """`mint(prefix)` gives new ids, `now()` timestamps; `step_id(n)` is the id of the n-th step's message, and
    `read_id(m, n)` that of the call that reads the n-th resource of the message m: the same for every runner. `waits`
    is how long calls wait for people and clients."""

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
        read_id: Callable[[str, int], str],
        waits: Waits = Waits(),  # noqa: B008 - a constant
    ) -> None:
        self.phase = Phase.NEW
        self.steps = 0
        self._make = TurnEvents(context_id, turn_id, model, mint, now)
        self._kind = kind
        self._max_steps = max_steps
        self._max_retries = max_retries
        self._step_id = step_id
        self._calls = TurnCalls(self._make)
        self._deadlines = Deadlines(waits)
        self._said = TurnSaid(turn_id, read_id)
        self._open: StepMessage | None = None
        self._next: tuple[str, int] | None = None
        self._seen_open = False  # whether readers see the message of the next step already
        self._usage: Usage = NO_USAGE
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
        torn = self._calls.torn(closed)
        if torn is not None:
            effects += self._close_torn(torn, live, found)
        elif live is not None:
            self._next, self._seen_open = (live.message_id, live.attempt + 1), True
        elif found.begun_before and not self._calls.unanswered:
            self._next = (self._step_id(self.steps), 2)
        if found.cancelled:
            return effects + self._cancel_restored(live if torn is None else None)
        effects += self._calls.take_up(found)
        self._deadlines.note(found.since)
        late = self.tick(found.now)
        if late:
            self._go(Phase.CALLS)
            return effects + late
        return effects + self._advance()

    def _replay(self, events: Sequence[DurableEvent]) -> set[str | None]:
        """Take in what is stored; the ids of finished assistant messages, and None for calls without a message."""
        closed: set[str | None] = {None}
        for event in events:
            if isinstance(event, Message) and event.role == "assistant":
                closed.add(event.id)
                self._said.note_given(event.reads)
                self.steps += 1
                self._usage += event.usage or NO_USAGE
                self._called = self._calls.made_by(event.id)
            elif isinstance(event, Message):
                self._said.add(event)
            elif isinstance(event, ToolCall | ToolApproval | ToolResponse):
                self._calls.replay(event)
        return closed

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
        self._said.note_given(reads)
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
        return self._calls.called(self._make.call(opened.id, tool, parameters, route), route.refusal, route.asked)

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

    @property
    def waits_for_people(self) -> bool:
        """Whether a person or a client is to answer something."""
        return any(call.state in (CallState.ASKED, CallState.WITH_CLIENT) for call in self._calls.unanswered)

    def tool_progress(self, call_id: str, progress: float, total: float | None, message: str | None) -> list[Effect]:
        return self._calls.progress(call_id, progress, total, message)

    def tool_done(
        self, call_id: str, status: Literal["success", "error", "timeout"], result: Any, error: ErrorBody | None = None
    ) -> list[Effect]:
        effects = self._calls.done(call_id, status, result, error)
        return effects + self._advance() if effects else []

    def asked(self, call_id: str, question_id: str, parameters: dict[str, Any]) -> list[Effect]:
        """A running tool asks its user; what becomes of that is told by `TellTool`."""
        return self._calls.ask(call_id, question_id, parameters)

    def withdrawn(self, question_id: str) -> list[Effect]:
        """The tool waits for that answer no more."""
        return self._calls.withdraw(question_id)

    def approval(self, event: ToolApproval, at: float = 0.0) -> list[Effect]:
        """A person's decision, stored by whoever took it, `at` that time."""
        self._deadlines.note({event.tool_call_id: at})
        return self._calls.approval(event) + self._advance()

    def answered(self, event: ToolResponse) -> list[Effect]:
        """A client's answer, stored by whoever took it."""
        return self._calls.answered(event) + self._advance()

    def steer(self, event: Message) -> list[Effect]:
        """A message for the turn that runs; its next step reads it."""
        self._said.add(event)
        return [Append(event), *self._advance()]

    def cancel(self) -> list[Effect]:
        if self.phase in (Phase.ENDING, Phase.OVER):
            return []
        closing = self._close("cancelled", None) if self._open is not None else None
        return self._end("cancelled", closing=closing)

    def cancel_call(self, call_id: str) -> list[Effect]:
        # Also where nothing was left to cancel: it may be why the store refused the end, or to park.
        return self._calls.cancel(call_id) + self._advance()

    # ---- what the clock says

    def tick(self, now: float) -> list[Effect]:
        """It is `now`: nobody is waited for longer than that."""
        return self._calls.expire(self._deadlines.passed(self._calls.unanswered, now))

    # ---- what the store says

    def stored(self, call_id: str, at: float) -> None:
        """The call was stored, `at` that time: it can be acted on."""
        self._deadlines.note({call_id: at})

    def expired(self, call_ids: Sequence[str]) -> list[Effect]:
        """These calls were answered with that nobody came; on what is missing of an `Expire` somebody acted."""
        self._calls.expired(call_ids)
        return self._advance()

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

    def _advance(self) -> list[Effect]:
        if self.phase in (Phase.MODEL, Phase.ENDING, Phase.OVER):
            return []
        effects = self._read_resources()
        pending = self._calls.unanswered
        if pending:
            parked = all(call.waits for call in pending)
            self._go(Phase.PARKED if parked else Phase.CALLS)
            return [*effects, Park(self._deadlines.first(pending))] if parked else effects
        if self._kind == "tool" or not (self.steps == 0 or self._called or self._said.unread):
            return self._end("complete")
        if self.steps >= self._max_steps:
            return self._end("max_steps")
        message_id, attempt = self._next or (self._step_id(self.steps), 1)
        self._next, self._seen_open = None, False
        reads = self._said.give(self._calls)
        self._open = StepMessage(message_id, attempt, reads)
        self._go(Phase.MODEL)
        return [Publish(self._make.start(message_id, attempt)), CallModel(message_id, 0, reads)]

    def _read_resources(self) -> list[Effect]:
        """Read what the messages name that the next step is given; not while readers see a message that is open, which
        goes on first."""
        if self._seen_open or self.steps >= self._max_steps:
            return []
        missing = self._said.missing(self._calls)
        return self._calls.read([self._make.read(id, uri) for id, uri in missing]) if missing else []

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
        stops, answers = self._calls.stop_all()
        effects += stops
        events += answers
        events.append(self._make.end(status, self.steps, self._usage, error))
        return [*effects, End(tuple(events), may_continue=status in ("complete", "max_steps"))]
