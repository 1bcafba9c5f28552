"""A driver of the turn machine without I/O: it keeps what a store and a log would keep, loses what a crash would lose,
and asserts on the way what must hold at any moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

from gateway.core.turn import TurnMachine
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
from gateway.core.turn_state import Phase, Recovered, Written
from protocol.frames import (
    Delta,
    DurableEvent,
    Event,
    Message,
    MessageStart,
    ToolApproval,
    ToolCall,
    ToolResponse,
    TurnEnd,
)

__all__ = ["CONTEXT", "IDEMPOTENT", "MAX_RETRIES", "MAX_STEPS", "TURN", "Crash", "Rig", "event_id", "user_message"]

CONTEXT, TURN = "conv_1", "msg_user"
MAX_STEPS, MAX_RETRIES = 4, 1
IDEMPOTENT = "lookup"


class Crash(Exception):
    """The runner is gone."""


def user_message(id: str, content: str = "hello") -> Message:
    return Message(
        context_id=CONTEXT, turn_id=TURN, id=id, content=content, role="user", timestamp="now", status="complete"
    )


def event_id(event: DurableEvent) -> str:
    if isinstance(event, TurnEnd):
        return "end"
    if isinstance(event, ToolApproval):
        return f"approval {event.tool_call_id}"
    assert isinstance(event, Message | ToolCall | ToolResponse)
    return event.id


class Rig:
    """One turn. `crash_in` counts the durable steps that are left before the runner is gone (None: it lives on)."""

    def __init__(self) -> None:
        self.rows: list[DurableEvent] = [user_message(TURN)]
        self.calls: dict[str, ToolCall] = {}
        self.claimed: set[str] = set()
        self.answers: dict[str, ToolResponse] = {}
        self.decisions: dict[str, ToolApproval] = {}
        self.cancelled_calls: list[str] = []
        self.cancelled = False
        self.draft: Written | None = None
        self.parked = False
        self.log: list[Event] = []
        self.logged: set[str] = set()
        self.open: dict[str, Written] = {}
        self.refused: set[str] = set()
        self.runs: list[RunTool] = []
        self.crash_in: int | None = None
        self.takeovers = 0
        self._ids = count(1)
        self.machine: TurnMachine
        self.start()

    # ---- the life of a runner

    def start(self) -> None:
        """A new runner takes the turn up, as run_start.py does."""
        self.machine = TurnMachine(
            context_id=CONTEXT,
            turn_id=TURN,
            kind="message",
            model="m",
            max_steps=MAX_STEPS,
            max_retries=MAX_RETRIES,
            mint=lambda prefix: f"{prefix}{next(self._ids)}",
            now=lambda: "now",
            step_id=lambda step: f"msg_{step}",
        )
        self.parked = False
        self.crash_in = None
        self.streaming: str | None = None
        self.tools: set[str] = set()
        self.outbox: list[Event] = []
        self.own = {event_id(event) for event in self.rows}
        self.read_upto = len(self.rows)
        self.read_cancels = len(self.cancelled_calls)
        self._missing()
        live = next(iter(self.open.values()), None)
        found = Recovered(
            events=tuple(self.rows),
            interrupted=frozenset(c for c in self.claimed - set(self.answers) if self.calls[c].tool != IDEMPOTENT),
            cancelled_calls=frozenset(self.cancelled_calls),
            live=live,
            draft=self.draft,
            begun_before=self.takeovers > 0,
            cancelled=self.cancelled,
        )
        self.takeovers += 1
        self.do(lambda: self.machine.begin(found))
        assert set(self.cancelled_calls) <= set(self.answers)

    def _missing(self) -> None:
        for event in self.rows:
            if event_id(event) in self.logged:
                continue
            opened = self.open.get(event.id) if isinstance(event, Message) else None
            if isinstance(event, Message) and opened is not None and event.content != opened.text:
                assert isinstance(event.content, str)
                rest = event.content.removeprefix(opened.text)
                if not event.content.startswith(opened.text):
                    self.outbox.append(self._start_of(event, opened.attempt + 1))
                self.outbox.append(Delta(context_id=CONTEXT, turn_id=TURN, message_id=event.id, text=rest))
            self.outbox.append(event)

    def _start_of(self, event: Message, attempt: int) -> MessageStart:
        return MessageStart(context_id=CONTEXT, turn_id=TURN, id=event.id, role="assistant", model="m", attempt=attempt)

    def do(self, step: Callable[[], Sequence[Effect]]) -> None:
        """Carry out what the machine makes of an input; a crash on the way brings a new runner."""
        try:
            for effect in step():
                self._carry_out(effect)
        except Crash:
            self.start()

    def _boundary(self) -> None:
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in < 0:
                raise Crash

    # ---- effects

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Publish(event=event):
                self.outbox.append(event)
            case Append(event=event):
                self.outbox.append(event)
            case Store(events=events):
                self._boundary()
                self._write(events)
                self._boundary()
            case CallModel(message_id=message_id):
                assert self.streaming in (None, message_id)
                assert not set(self.calls) - set(self.answers), "a step begins when all calls are answered"
                self.streaming = message_id
            case StopModel():
                self.streaming = None
            case RunTool():
                self._run_tool(effect)
            case StopTool(call_id=call_id):
                assert call_id in self.tools
                self.tools.discard(call_id)
            case Park():
                self._park()
            case End():
                self._end(effect)

    def _write(self, events: Sequence[DurableEvent]) -> None:
        """As a store does: an answer to a call that has one is passed over."""
        for event in events:
            if isinstance(event, ToolResponse) and event.tool_call_id in self.answers:
                continue
            self._insert(event)
            self.own.add(event_id(event))
            self.outbox.append(event)

    def _insert(self, event: DurableEvent) -> None:
        assert event_id(event) not in {event_id(row) for row in self.rows}, "stored twice"
        self.rows.append(event)
        if isinstance(event, ToolCall):
            self.calls[event.id] = event
            self.draft = self.machine.written or self.draft
        elif isinstance(event, ToolResponse):
            self.answers[event.tool_call_id] = event
        elif isinstance(event, ToolApproval):
            self.decisions[event.tool_call_id] = event

    def _run_tool(self, effect: RunTool) -> None:
        call = self.calls[effect.call_id]
        self._boundary()
        if call.id in self.answers:
            return
        decision = self.decisions.get(call.id)
        assert call.runs_on == "server"
        assert call.id not in self.refused
        if call.approval is not None:
            assert decision is not None
            assert decision.approved
        edited = decision.parameters if decision is not None else None
        assert effect.parameters == (call.parameters if edited is None else edited)
        assert effect.tool == call.tool
        if call.tool != IDEMPOTENT:
            assert call.id not in self.claimed, "run twice"
        self.claimed.add(call.id)
        self._boundary()
        self.runs.append(effect)
        self.tools.add(call.id)

    def _park(self) -> None:
        for call in self.unanswered():
            assert self.undecided(call) or self.with_client(call) or call.id in self.decisions, "parked too early"
        assert not self.tools
        assert self.streaming is None
        self._boundary()
        if self.read_upto < len(self.rows) and any(event_id(row) not in self.own for row in self.rows):
            return
        if self.read_cancels < len(self.cancelled_calls) or self.cancelled:
            return
        self.flush()
        self.parked = True

    def _end(self, effect: End) -> None:
        self._boundary()
        unread = any(event_id(row) not in self.own for row in self.rows)
        if effect.may_continue and (unread or self.read_cancels < len(self.cancelled_calls) or self.cancelled):
            self.machine.go_on()
            self.read_inputs_now()
            return
        self._write(effect.events)
        self._boundary()
        self.machine.ended()
        self.read_inputs_now()

    # ---- what the runner reads and says

    def read_inputs(self) -> None:
        self.do(lambda: (self.read_inputs_now(), ())[1])

    def read_inputs_now(self) -> None:
        for row in self.rows[self.read_upto :]:
            if event_id(row) in self.own:
                continue
            self.own.add(event_id(row))
            match row:
                case ToolApproval():
                    self._all(self.machine.approval(row))
                case ToolResponse():
                    self._all(self.machine.answered(row))
                case Message():
                    self._all(self.machine.steer(row))
                case _:
                    raise AssertionError(row)
        self.read_upto = len(self.rows)
        upto = len(self.cancelled_calls)
        for call_id in self.cancelled_calls[self.read_cancels : upto]:
            self.read_cancels += 1
            self._all(self.machine.cancel_call(call_id))
        if self.cancelled:
            self._all(self.machine.cancel())

    def _all(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            self._carry_out(effect)

    def flush(self, most: int | None = None) -> None:
        """The log takes what the runner says."""
        taken = self.outbox[:most] if most is not None else list(self.outbox)
        del self.outbox[: len(taken)]
        for event in taken:
            self._append(event)

    def _append(self, event: Event) -> None:
        if isinstance(event, MessageStart):
            before = self.open.get(event.id)
            assert before is None or event.attempt > before.attempt
            self.open[event.id] = Written(event.id, event.attempt, "")
        elif isinstance(event, Delta):
            opened = self.open[event.message_id]
            if event.channel == "text":
                self.open[event.message_id] = Written(opened.message_id, opened.attempt, opened.text + event.text)
        else:
            assert not isinstance(event, ToolResponse) or event.tool_call_id in self.logged
            if not isinstance(event, Message | ToolCall | ToolApproval | ToolResponse | TurnEnd):
                self.log.append(event)  # progress
                return
            if event_id(event) in self.logged:
                return
            self.logged.add(event_id(event))
            if isinstance(event, Message) and event.role == "assistant":
                opened = self.open.pop(event.id, None)
                assert opened is None or opened.text == event.content, "a message is what was seen of it"
        self.log.append(event)

    def lose_log(self) -> None:
        """Another epoch: readers begin with a snapshot, the runner says again what it must."""
        recorded = {event_id(event) for event in self.rows[: len(self.rows) // 2]} & self.logged
        self.log.clear()
        self.logged = recorded
        self.open.clear()
        again = [effect.event for effect in self.machine.republish() if isinstance(effect, Publish)]
        self.outbox = [*again, *(row for row in self.rows if event_id(row) in self.own - recorded)]

    # ---- what others do

    def unanswered(self) -> list[ToolCall]:
        return [call for call in self.calls.values() if call.id not in self.answers]

    def undecided(self, call: ToolCall) -> bool:
        return call.approval is not None and call.id not in self.decisions

    def with_client(self, call: ToolCall) -> bool:
        decision = self.decisions.get(call.id)
        return call.runs_on == "client" and not self.undecided(call) and (decision is None or decision.approved)

    @property
    def over(self) -> bool:
        return self.machine.phase is Phase.OVER

    def input(self, event: DurableEvent) -> None:
        """Somebody else stored an event for the turn; a parked one is woken."""
        self._insert(event)
        if self.parked:
            self.start()

    def cancel(self) -> None:
        self.cancelled = True
        if self.parked:
            self.start()

    def cancel_call(self, call_id: str) -> None:
        self.cancelled_calls.append(call_id)
        if self.parked:
            self.start()

    def call(self, tool: str, route: Route, parameters: dict[str, object]) -> None:
        before = set(self.calls)
        self.do(lambda: self.machine.call(tool, parameters, route))
        if route.refusal is not None:
            self.refused |= set(self.calls) - before
