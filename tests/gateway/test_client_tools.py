"""Which calls a client runs, how often, and what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest

from gateway import tool
from gateway.client_errors import Disconnected, Refused
from gateway.client_tools import CallBook, Start, Stop, ToolServer, spec
from protocol.frames import AnswerTool, DurableEvent, Running, Snapshot, ToolApproval, ToolCall, ToolResponse

_CONTEXT = "c"


def _call(id: str = "k", **fields: object) -> ToolCall:
    given = {"tool": "double", "parameters": {"n": 2}, "runs_on": "client", "session_id": "s", **fields}
    return ToolCall(context_id=_CONTEXT, seq=2, id=id, timestamp="t", **given)  # type: ignore[arg-type]


def _response(id: str = "k") -> ToolResponse:
    return ToolResponse(context_id=_CONTEXT, id="r", tool_call_id=id, result=1, status="success", timestamp="t", seq=3)


def _approval(approved: bool, **fields: object) -> ToolApproval:
    return ToolApproval(context_id=_CONTEXT, tool_call_id="k", approved=approved, seq=3, **fields)  # type: ignore[arg-type]


def _snapshot(*calls: ToolCall, events: tuple[DurableEvent, ...] = ()) -> Snapshot:
    return Snapshot(
        context_id=_CONTEXT,
        epoch="1",
        seq=9,
        events=list(events),
        has_more=False,
        partial=[],
        running=[Running(call=call) for call in calls],
    )


def test_a_call_of_ones_own_is_started_once() -> None:
    book = CallBook()
    assert book.observe(_call(), "s") == [Start(_call(), {"n": 2})]
    assert book.observe(_call(), "s") == []
    assert book.observe(_snapshot(_call()), "s") == []
    assert book.observe(_snapshot(_call(), _call("k2")), "s") == [Start(_call("k2"), {"n": 2})]


def test_calls_of_others_are_left_alone() -> None:
    book = CallBook()
    assert book.observe(_call(session_id="other"), "s") == []
    assert book.observe(_call(runs_on="server", session_id=None), None) == []


def test_a_call_that_needs_approval_waits_for_it() -> None:
    asked = _call(approval="required")
    for approval, effects in (
        (_approval(True), [Start(asked, {"n": 2})]),
        (_approval(True, parameters={"n": 5}), [Start(asked, {"n": 5})]),
        (_approval(False), []),
    ):
        book = CallBook()
        assert book.observe(asked, "s") == []
        assert book.observe(approval, "s") == effects
        assert book.observe(approval, "s") == []
        assert CallBook().observe(_snapshot(asked, events=(asked, approval)), "s") == effects


def test_what_a_snapshot_shows_of_an_earlier_clients_time_is_inherited() -> None:
    book = CallBook()
    approved, asked = _call("approved", approval="required"), _call("asked", approval="required")
    decision = ToolApproval(context_id=_CONTEXT, tool_call_id="approved", approved=True, parameters={"n": 5}, seq=3)
    snapshot = _snapshot(_call("k"), approved, asked, events=(approved, decision))
    assert book.observe(snapshot, "s", inherited=True) == [
        Start(_call("k"), {"n": 2}, inherited=True),
        Start(approved, {"n": 5}, inherited=True),
    ]
    # Nobody can have run what nobody had decided.
    late = ToolApproval(context_id=_CONTEXT, tool_call_id="asked", approved=True, seq=4)
    assert book.observe(late, "s", inherited=True) == [Start(asked, {"n": 2})]
    assert book.observe(_call("new"), "s", inherited=True) == [Start(_call("new"), {"n": 2})]
    assert book.observe(_snapshot(_call("k"), events=(_response("k"),)), "s", inherited=True) == [Stop(_CONTEXT, "k")]


def test_an_answered_call_is_stopped() -> None:
    book = CallBook()
    book.observe(_call(), "s")
    assert book.observe(_response(), "s") == [Stop(_CONTEXT, "k")]
    assert book.observe(_snapshot(events=(_call("x"), _response("x"))), "s") == []
    assert book.observe(_response("unknown"), "s") == []


@tool
async def double(n: int) -> int:
    """Twice as much."""
    return 2 * n


class _Desk:
    """Takes the answers, and owns the tasks."""

    def __init__(
        self, group: asyncio.TaskGroup, refusal: Exception | None = None, *, refused: int | None = None
    ) -> None:
        self.answers: list[AnswerTool] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._group = group
        self._refusal = refusal
        self._refused = refused  # how many are (None: all)

    async def request(self, answer: AnswerTool) -> object:
        self.answers.append(answer)
        if self._refusal is not None and (self._refused is None or len(self.answers) <= self._refused):
            raise self._refusal
        return None

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        self.tasks.append(self._group.create_task(work))
        return self.tasks[-1]


async def test_answers_of_runs_errors_and_unknown_tools() -> None:
    async with asyncio.TaskGroup() as group:
        desk = _Desk(group)
        server = ToolServer([double], desk.request, desk.spawn, at_once=1)
        assert [declared.name for declared in server.specs] == ["double"]
        server.observe(_call("ok"), "s", "ann")
        server.observe(_call("wrong", parameters={"n": "x"}), "s", "ann")
        server.observe(_call("none", tool="nothing"), "s", "ann")
    answers = {answer.tool_call_id: answer for answer in desk.answers}
    assert (answers["ok"].status, answers["ok"].result, answers["ok"].context_id) == ("success", 4, _CONTEXT)
    assert answers["wrong"].status == "error"
    assert "'n'" in answers["wrong"].result
    assert answers["none"].status == "error"
    assert len({answer.id for answer in desk.answers}) == 3
    await server.close()


@pytest.mark.parametrize("refusal", [Refused("conflict", "answered before"), Disconnected(None, "left")])
async def test_a_refused_answer_ends_the_call_only(refusal: Exception) -> None:
    async with asyncio.TaskGroup() as group:
        desk = _Desk(group, refusal)
        server = ToolServer([double], desk.request, desk.spawn)
        server.observe(_call(), "s", "ann")
    assert len(desk.answers) == 1


async def test_a_run_is_stopped_when_its_call_is_answered_elsewhere() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    @tool(name="double")
    async def endless(n: int) -> None:
        """Never ends by itself."""
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with asyncio.TaskGroup() as group:
        desk = _Desk(group)
        server = ToolServer([endless], desk.request, desk.spawn)
        server.observe(_call(), "s", "ann")
        await begun.wait()
        server.observe(_response(), "s", "ann")
        await ended.wait()
    assert desk.answers == []


async def test_what_is_inherited_is_run_again_only_where_that_does_no_harm() -> None:
    @tool(idempotent=True)
    async def again(n: int) -> int:
        """Any number of times."""
        return n

    async with asyncio.TaskGroup() as group:
        desk = _Desk(group)
        server = ToolServer([double, again], desk.request, desk.spawn)
        server.observe(_snapshot(_call("k"), _call("k2", tool="again")), "s", "ann", inherited=True)
    told = {answer.tool_call_id: (answer.status, answer.result) for answer in desk.answers}
    assert told == {"k": ("interrupted", None), "k2": ("success", 2)}


async def test_a_result_that_is_too_large_to_send_is_an_error_of_the_call() -> None:
    async with asyncio.TaskGroup() as group:
        desk = _Desk(group, Refused("too_large", "it is"), refused=1)
        server = ToolServer([double], desk.request, desk.spawn)
        server.observe(_call(), "s", "ann")
    assert [(answer.id, answer.status) for answer in desk.answers] == [
        (desk.answers[0].id, "success"),
        (desk.answers[0].id, "error"),
    ]
    assert "larger" in desk.answers[1].result


async def test_no_more_than_so_many_run_at_once_and_those_that_wait_are_stopped_too() -> None:
    begun: list[int] = []
    go_on = asyncio.Event()

    @tool(name="double")
    async def held(n: int) -> int:
        """Wait for the test."""
        begun.append(n)
        await go_on.wait()
        return n

    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        desk = _Desk(group)
        server = ToolServer([held], desk.request, desk.spawn, at_once=2)
        for number in range(5):
            server.observe(_call(f"k{number}", parameters={"n": number}), "s", "ann")
        while len(begun) < 2:
            await asyncio.sleep(0)
        server.observe(_response("k3"), "s", "ann")
        go_on.set()
    assert begun == [0, 1, 2, 4]
    assert sorted(answer.tool_call_id for answer in desk.answers) == ["k0", "k1", "k2", "k4"]


def test_a_tool_declares_when_a_person_is_asked() -> None:
    @tool(approval="always")
    async def pay() -> None:
        """Pay."""

    @tool(approval="first")
    async def look() -> None:
        """Look."""

    @tool(approval={"when": {"amount": {"gt": 1}}})
    async def sometimes(amount: int) -> None:
        """Pay, if it is little."""

    assert [spec(each).approval for each in (pay, look, double)] == ["always", "first", None]

    async def request(answer: AnswerTool) -> object:
        raise AssertionError(answer)

    def spawn(work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        raise AssertionError(work)

    with pytest.raises(ValueError, match="conditions are settings"):
        ToolServer([sometimes], request, spawn)


def test_two_tools_of_one_name_are_refused() -> None:
    async def request(answer: AnswerTool) -> object:
        raise AssertionError(answer)

    def spawn(work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        raise AssertionError(work)

    with pytest.raises(ValueError, match="two tools named 'double'"):
        ToolServer([double, double], request, spawn)
