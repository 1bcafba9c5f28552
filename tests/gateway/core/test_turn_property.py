"""Any turn, whatever models, tools, people and crashes do, keeps the rules of docs/protocol.md, section 3."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.resources import is_read, uris_of
from gateway.core.turn_effects import Append, Effect, Route, TellTool
from gateway.core.turn_state import Phase
from protocol.frames import ErrorBody, Message, ToolApproval, ToolCall, ToolResponse, TurnEnd
from tests.gateway.core.turn_rig import (
    CONTEXT,
    IDEMPOTENT,
    MAX_STEPS,
    TURN,
    WAITS,
    Rig,
    event_id,
    user_message,
)

RETRYABLE = ErrorBody(code="provider_error", message="failed", retryable=True)
FINAL = ErrorBody(code="provider_error", message="failed", retryable=False)
ROUTES = (
    ("charge", Route()),
    (IDEMPOTENT, Route()),
    ("charge", Route(ask=True)),
    ("browser", Route(runs_on="client", session_id="sess_1")),
    ("browser", Route(runs_on="client", session_id="sess_1", ask=True)),
    ("unknown", Route(refusal=("error", "There is no such tool."))),
)


class World:
    """Chooses what happens next by numbers, among what can happen now."""

    def __init__(self, resources: Sequence[str] = ()) -> None:
        self.rig = Rig(resources)
        self.said = 0

    def choose(self, number: int) -> None:
        """First who acts, then what: so that no part has more to say only because it has more ways."""
        groups = [
            group for group in (self.model_may(), self.tools_may(), self.people_may(), self.runner_may()) if group
        ]
        if groups:
            number, who = divmod(number, len(groups))
            groups[who][number % len(groups[who])]()

    def runner_may(self) -> list[Callable[[], None]]:
        rig = self.rig
        if rig.over or rig.parked:
            return []
        reads: list[Callable[[], None]] = [rig.read_inputs, lambda: rig.flush(2), rig.flush]
        crashes = [lambda n=n: self.crash_in(n) for n in range(3)]
        return [*reads, *reads, rig.tick, rig.tick, rig.lose_log, rig.start, *crashes]

    def model_may(self) -> list[Callable[[], None]]:
        rig = self.rig
        if rig.streaming is None or rig.over:
            return []
        return [
            *(self.text for _ in range(4)),
            self.reason,
            *(lambda call=call: self.call(*call) for call in ROUTES),
            lambda: self.model(lambda: rig.machine.finish("stop", None)),
            lambda: self.model(lambda: rig.machine.finish("length", None)),
            lambda: self.model(lambda: rig.machine.failed(RETRYABLE)),
            lambda: self.model(lambda: rig.machine.failed(RETRYABLE)),
            lambda: self.model(lambda: rig.machine.failed(FINAL)),
        ]

    def tools_may(self) -> list[Callable[[], None]]:
        tools = sorted(self.rig.tools) if not self.rig.over else []
        return [
            *(lambda call_id=call_id: self.finish_tool(call_id, "success") for call_id in tools),
            *(lambda call_id=call_id: self.finish_tool(call_id, "timeout") for call_id in tools),
            *(lambda call_id=call_id: self.progress(call_id) for call_id in tools),
            *(lambda call_id=call_id: self.ask(call_id) for call_id in [*tools, *tools]),
            *(lambda question=question: self.withdraw(question) for question in list(self.rig.asking)),
        ]

    def people_may(self) -> list[Callable[[], None]]:
        rig = self.rig
        if rig.over:
            return []
        actions: list[Callable[[], None]] = [lambda: rig.wait(1), lambda: rig.wait(8), lambda: rig.wait(30)]
        for call in rig.unanswered():
            if rig.undecided(call):
                actions += [
                    lambda call=call: self.decide(call, approved=True),
                    lambda call=call: self.decide(call, approved=True, parameters={"edited": True}),
                    lambda call=call: self.decide(call, approved=False),
                ]
            elif rig.with_client(call):
                actions.append(lambda call=call: self.answer(call))
        if not rig.cancelled:
            actions += [self.steer, self.steer, lambda: self.steer(["docs:steer", "docs:same"]), rig.cancel]
            actions += [lambda call_id=call_id: rig.cancel_call(call_id) for call_id in list(rig.calls)[-3:]]
        return actions

    def crash_in(self, steps: int) -> None:
        self.rig.crash_in = steps

    def text(self) -> None:
        self.said += 1
        self.rig.do(lambda: self.rig.machine.text(f"<{self.said}>"))

    def reason(self) -> None:
        self.rig.do(lambda: self.rig.machine.text("hm", "reasoning"))

    def call(self, tool: str, route: Route) -> None:
        self.said += 1
        self.rig.call(tool, route, {"n": self.said})

    def model(self, step: Callable[[], Sequence[Effect]]) -> None:
        self.rig.streaming = None
        self.rig.do(step)

    def finish_tool(self, call_id: str, status: Literal["success", "timeout"]) -> None:
        self.rig.end_tool(call_id)
        self.rig.do(lambda: self.rig.machine.tool_done(call_id, status, {"ok": True}))

    def progress(self, call_id: str) -> None:
        self.rig.do(lambda: self.rig.machine.tool_progress(call_id, 1, 2, None))

    def ask(self, call_id: str) -> None:
        self.said += 1
        self.rig.ask(call_id, f"question_{self.said}")

    def withdraw(self, question_id: str) -> None:
        del self.rig.asking[question_id]
        self.rig.do(lambda: self.rig.machine.withdrawn(question_id))

    def decide(self, call: ToolCall, *, approved: bool, parameters: dict[str, object] | None = None) -> None:
        self.rig.input(
            ToolApproval(
                context_id=CONTEXT, turn_id=TURN, tool_call_id=call.id, approved=approved, parameters=parameters
            )
        )

    def answer(self, call: ToolCall) -> None:
        self.rig.input(
            ToolResponse(
                context_id=CONTEXT,
                turn_id=TURN,
                id=f"answer_{call.id}",
                tool_call_id=call.id,
                result="done",
                status="success",
                timestamp="now",
            )
        )

    def steer(self, resources: Sequence[str] = ()) -> None:
        self.said += 1
        self.rig.input(user_message(f"steer_{self.said}", resources=resources))

    def settle(self) -> None:
        """Everybody does what is waited for; the turn must come to its end."""
        rig = self.rig
        for _ in range(200):
            if rig.over:
                return
            rig.read_inputs()
            if rig.over:
                return
            if rig.streaming is not None:
                self.model(lambda: rig.machine.finish("stop", None))
            for call_id in sorted(rig.tools):
                self.finish_tool(call_id, "success")
            for call in rig.unanswered():
                if rig.undecided(call):
                    self.decide(call, approved=True)
                elif rig.with_client(call):
                    self.answer(call)
        raise AssertionError(f"the turn hangs in {rig.machine.phase}")


def check(rig: Rig) -> None:
    rig.flush()
    stored = [event_id(row) for row in rig.rows]
    ended = [row for row in rig.rows if isinstance(row, TurnEnd)]
    assert len(ended) == 1
    # What others stored while the end was being stored may stand behind it; the turn's own events don't.
    late = rig.rows[stored.index("end") + 1 :]
    assert all(isinstance(row, ToolApproval) or (isinstance(row, Message) and row.role == "user") for row in late)
    responses = Counter(row.tool_call_id for row in rig.rows if isinstance(row, ToolResponse))
    assert responses == dict.fromkeys(rig.calls, 1), "one answer to each call"
    for call_id, response in rig.answers.items():
        assert stored.index(call_id) < stored.index(response.id)
        if call_id in rig.decisions and not rig.decisions[call_id].approved:
            assert response.status in ("denied", "cancelled")
    for call in rig.calls.values():
        if call.asked_by is not None:
            assert stored.index(call.asked_by) < stored.index(call.id), "a call asks, and then has its own answer"
            assert stored.index(call.id) < stored.index(rig.answers[call.asked_by].id)
            continue
        if is_read(call):
            continue
        assert call.message_id in stored, "a call's message is closed"
        assert stored.index(call.id) < stored.index(call.message_id or "")
    check_questions(rig)
    check_waiting(rig)
    check_readings(rig)
    assert rig.logged == set(stored), "the log has everything that is stored"
    assert not rig.open, "no message is left open"
    assert ended[0].steps == sum(isinstance(row, Message) and row.role == "assistant" for row in rig.rows)
    assert ended[0].steps <= MAX_STEPS
    check_unread(rig, ended[0])
    for call_id in rig.refused:
        assert rig.answers[call_id].status == "error"
    runs = Counter(run.call_id for run in rig.runs if not rig.idempotent(rig.calls[run.call_id]))
    assert all(times == 1 for times in runs.values())


def check_questions(rig: Rig) -> None:
    """What a tool was told is what is stored; nobody runs who waits for an answer."""
    assert not rig.asking
    for question_id, told in rig.told.items():
        if question_id not in rig.answers:
            assert told.action == "cancel"
            continue
        answer, decision = rig.answers[question_id], rig.decisions.get(question_id)
        if told.action == "cancel":
            assert answer.status == "cancelled"
            continue
        assert decision is not None
        assert (told.action, told.content, answer.status) == (
            ("accept", decision.parameters or {}, "success") if decision.approved else ("decline", None, "denied")
        )


def check_waiting(rig: Rig) -> None:
    """Whom a call waits for has all of the time there is, and no more than until somebody looks at the clock."""
    for call in rig.calls.values():
        nobody_came = rig.answers[call.id].status == "timeout" and call.id not in rig.claimed
        if nobody_came:
            seconds = WAITS.approval if rig.undecided(call) else WAITS.client
            assert call.asked_by is None
            assert rig.undecided(call) or rig.with_client(call)
            assert seconds is not None
            assert rig.waited_for(call) >= seconds


def check_readings(rig: Rig) -> None:
    """Messages are read in order, each of their resources once."""
    said = [row for row in rig.rows if isinstance(row, Message) and row.role == "user"]
    wanted = [uri for row in said for uri in uris_of(row)]
    assert wanted[: len(rig.readings())] == rig.readings()


def check_unread(rig: Rig, end: TurnEnd) -> None:
    """A turn that was not told to stop answers what was said last, and what its calls answered."""
    if end.status == "complete":
        steers = [place for place, row in enumerate(rig.rows) if isinstance(row, Message) and row.role == "user"]
        answers = [place for place, row in enumerate(rig.rows) if isinstance(row, Message) and row.role == "assistant"]
        assert answers[-1] > steers[-1]
        assert event_id(rig.rows[answers[-1]]) not in {call.message_id for call in rig.calls.values()}
    if end.status == "max_steps":
        assert end.steps == MAX_STEPS


@given(st.lists(st.integers(0, 1 << 20), max_size=120), st.sampled_from([(), ("docs:a", "docs:b", "docs:a")]))
def test_a_turn_keeps_the_rules_whatever_happens(choices: list[int], resources: tuple[str, ...]) -> None:
    world = World(resources)
    for choice in choices:
        world.choose(choice)
    world.settle()
    check(world.rig)
    # What comes after the end changes nothing.
    machine = world.rig.machine
    assert machine.text("late") == machine.finish("stop", None) == machine.failed(RETRYABLE) == machine.cancel() == []
    late = user_message("late")
    assert machine.steer(late) == [Append(late)]
    for call_id in world.rig.calls:
        assert machine.tool_done(call_id, "success", None) == machine.cancel_call(call_id) == []
        assert machine.tool_progress(call_id, 1, None, None) == machine.withdrawn(call_id) == []
        assert machine.asked(call_id, "late", {}) == [TellTool("late", "cancel")]
    assert machine.phase is Phase.OVER
