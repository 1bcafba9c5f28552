"""A driver of the turn machine without I/O: it keeps what a store and a log would keep, loses what a crash would lose,
and asserts on the way what must hold at any moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

from gateway.core.deadlines import Waits, since_when
from gateway.core.resources import is_read, uris_of
from gateway.core.turn import TurnMachine
from gateway.core.turn_effects import (
    Append,
    CallModel,
    Effect,
    End,
    Expire,
    Park,
    Publish,
    Route,
    RunTool,
    StopModel,
    StopTool,
    Store,
    TellTool,
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

__all__ = [
    "CONTEXT",
    "IDEMPOTENT",
    "MAX_RETRIES",
    "MAX_STEPS",
    "TURN",
    "WAITS",
    "Crash",
    "Rig",
    "event_id",
    "user_message",
]

CONTEXT, TURN = "conv_1", "msg_user"
MAX_STEPS, MAX_RETRIES = 4, 1
WAITS = Waits(client=10, approval=20)
IDEMPOTENT = "lookup"


class Crash(Exception):
    """The runner is gone."""


def user_message(id: str, content: str = "hello", resources: Sequence[str] | None = None) -> Message:
    return Message(
        context_id=CONTEXT,
        turn_id=TURN,
        id=id,
        content=content,
        role="user",
        timestamp="now",
        status="complete",
        resources=list(resources) if resources is not None else None,
    )


def event_id(event: DurableEvent) -> str:
    if isinstance(event, TurnEnd):
        return "end"
    if isinstance(event, ToolApproval):
        return f"approval {event.tool_call_id}"
    assert isinstance(event, Message | ToolCall | ToolResponse)
    return event.id


class Rig:
    """One turn, of a message that names `resources`. `crash_in` counts the durable steps that are left before the
    runner is gone (None: it lives on)."""

    def __init__(self, resources: Sequence[str] = ()) -> None:
        self.rows: list[DurableEvent] = [user_message(TURN, resources=resources)]
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
        self.told: dict[str, TellTool] = {}
        self.crash_in: int | None = None
        self.takeovers = 0
        self.now = 0.0
        self.wake_at: float | None = None
        self.stored_at: dict[str, float] = {TURN: 0.0}
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
            read_id=lambda message_id, place: f"read_{message_id}_{place}",
            waits=WAITS,
        )
        self.parked = False
        self.crash_in = None
        self.streaming: str | None = None
        self.tools: set[str] = set()
        self.asking: dict[str, str] = {}  # the questions whose tools wait, with the calls that asked
        self.outbox: list[Event] = []
        self.own = {event_id(event) for event in self.rows}
        self.read_upto = len(self.rows)
        self.read_cancels = len(self.cancelled_calls)
        self._missing()
        live = next(iter(self.open.values()), None)
        found = Recovered(
            events=tuple(self.rows),
            interrupted=frozenset(c for c in self.claimed - set(self.answers) if not self.idempotent(self.calls[c])),
            cancelled_calls=frozenset(self.cancelled_calls),
            live=live,
            draft=self.draft,
            begun_before=self.takeovers > 0,
            cancelled=self.cancelled,
            since=since_when((row, self.stored_at[event_id(row)]) for row in self.rows),
            now=self.now,
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
            case Expire():
                self._expire(effect)
            case CallModel():
                assert self.streaming in (None, effect.message_id)
                assert not set(self.calls) - set(self.answers), "a step begins when all calls are answered"
                self._check_read(effect.reads)
                self.streaming = effect.message_id
            case StopModel():
                self.streaming = None
            case RunTool():
                self._run_tool(effect)
            case StopTool(call_id=call_id):
                assert call_id in self.tools
                self.end_tool(call_id)
            case TellTool(question_id=question_id):
                assert question_id in self.answers or question_id not in self.calls, "told before it is stored"
                if self.asking.pop(question_id, None) is not None:
                    self.told[question_id] = effect
            case Park():
                self._park(effect)
            case End():
                self._end(effect)

    def _check_read(self, reads: str | None) -> None:
        """What a step is given was read."""
        said = [row for row in self.rows if isinstance(row, Message) and row.role == "user"]
        given = said[: 1 + next((n for n, row in enumerate(said) if row.id == reads), 0)]
        wanted = [uri for row in given for uri in uris_of(row)]
        assert self.readings()[: len(wanted)] == wanted

    def readings(self) -> list[str]:
        return [call.parameters["uri"] for call in self.calls.values() if is_read(call)]

    def _write(self, events: Sequence[DurableEvent]) -> None:
        """As a store does: an answer to a call that has one is passed over."""
        for event in events:
            if isinstance(event, ToolResponse) and event.tool_call_id in self.answers:
                continue
            self._insert(event)
            if isinstance(event, ToolCall):
                self.machine.stored(event.id, self.now)
            self.own.add(event_id(event))
            self.outbox.append(event)

    def _expire(self, effect: Expire) -> None:
        self._boundary()
        acted = set(self.answers) | (set(self.decisions) & effect.undecided)
        kept = [event for event in effect.events if event.tool_call_id not in acted]
        self._write(kept)
        self._boundary()
        if kept:
            self._all(self.machine.expired([event.tool_call_id for event in kept]))

    def _insert(self, event: DurableEvent) -> None:
        assert event_id(event) not in {event_id(row) for row in self.rows}, "stored twice"
        self.rows.append(event)
        self.stored_at[event_id(event)] = self.now
        if isinstance(event, ToolCall):
            self.calls[event.id] = event
            self.draft = self.machine.written or self.draft
        elif isinstance(event, ToolResponse):
            self.answers[event.tool_call_id] = event
            left = [c.id for c in self.unanswered() if c.asked_by == event.tool_call_id]
            assert not left, "a question is answered no later than its call"
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
        assert call.asked_by is None, "a question is not run"
        if call.approval is not None:
            assert decision is not None
            assert decision.approved
        edited = decision.parameters if decision is not None else None
        assert effect.parameters == (call.parameters if edited is None else edited)
        assert effect.tool == call.tool
        if not self.idempotent(call):
            assert call.id not in self.claimed, "run twice"
        self.claimed.add(call.id)
        self._boundary()
        self.runs.append(effect)
        self.tools.add(call.id)

    def _park(self, effect: Park) -> None:
        for call in self.unanswered():
            assert call.asked_by is None, "parked though a tool runs"
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
        self.wake_at = effect.wake_at

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

    def tick(self) -> None:
        """Whatever was stored meanwhile is not read yet."""
        self.do(lambda: self.machine.tick(self.now))

    def read_inputs_now(self) -> None:
        for row in self.rows[self.read_upto :]:
            if event_id(row) in self.own:
                continue
            self.own.add(event_id(row))
            match row:
                case ToolApproval():
                    self._all(self.machine.approval(row, self.stored_at[event_id(row)]))
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
        self._all(self.machine.tick(self.now))

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

    # ---- tools

    def idempotent(self, call: ToolCall) -> bool:
        return call.tool == IDEMPOTENT or is_read(call)

    def ask(self, call_id: str, question_id: str) -> None:
        """A running tool asks its user."""
        self.asking[question_id] = call_id
        self.do(lambda: self.machine.asked(call_id, question_id, {"message": "sure?"}))

    def end_tool(self, call_id: str) -> None:
        """The tool, and what it waits for, is gone."""
        self.tools.discard(call_id)
        self.asking = {question: call for question, call in self.asking.items() if call != call_id}

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

    def wait(self, seconds: float) -> None:
        """Time goes by; a parked turn is woken when it is to be."""
        self.now += seconds
        if self.parked and self.wake_at is not None and self.wake_at <= self.now:
            self.start()

    def waited_for(self, call: ToolCall) -> float:
        """How long the call, which has its answer, could be acted on."""
        since = since_when((row, self.stored_at[event_id(row)]) for row in self.rows)[call.id]
        return self.stored_at[self.answers[call.id].id] - since

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
            # A runner that had to take over meanwhile may have begun to read.
            self.refused |= {id for id in set(self.calls) - before if not is_read(self.calls[id])}
