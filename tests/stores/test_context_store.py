"""The contract of ContextStore (stores/ports.py): every adapter passes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from stores.ports import AlreadyAnswered, Busy, ContextStore, Fenced, IdTaken, NotFound
from stores.records import ContextKey, NewCall, NewEvent, NewTurn, TurnState
from stores.sqlite import SqliteStore
from tests.reference_store import ReferenceStore

KEY = ContextKey("t/ann", "chat")
OTHER = ContextKey("t/bob", "chat")

Open = Callable[[Path], AbstractAsyncContextManager[ContextStore]]


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncGenerator[ContextStore]:
    store = await SqliteStore.open(folder / "store.db")
    yield store
    await store.close()


@asynccontextmanager
async def reference(folder: Path) -> AsyncGenerator[ContextStore]:
    yield ReferenceStore()


@pytest.fixture(params=[sqlite, reference], ids=["sqlite", "reference"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[ContextStore]:
    open_store: Open = request.param
    async with open_store(tmp_path) as opened:
        yield opened


def message(id: str, turn_id: str | None = None) -> NewEvent:
    return NewEvent(id=id, type="message", body=b"{}", turn_id=turn_id)


def turn(id: str) -> NewTurn:
    return NewTurn(id=id, kind="message", request=b'{"model":"demo"}')


def call(id: str, turn_id: str, runs_on: str = "server", **more: object) -> NewEvent:
    made = NewCall(runs_on="client" if runs_on == "client" else "server", **more)  # type: ignore[arg-type]
    return NewEvent(id=id, type="tool_call", body=b"{}", turn_id=turn_id, call=made)


def response(id: str, call_id: str, turn_id: str) -> NewEvent:
    return NewEvent(id=id, type="tool_response", body=b"{}", turn_id=turn_id, answers=call_id)


def approval(id: str, call_id: str, turn_id: str) -> NewEvent:
    return NewEvent(id=id, type="tool_approval", body=b"{}", turn_id=turn_id, decides=call_id)


def end(turn_id: str) -> NewEvent:
    return NewEvent(id=f"{turn_id}/end", type="turn_end", body=b"{}", turn_id=turn_id)


async def running(store: ContextStore, id: str = "m1") -> int:
    """A turn that runs; its fence."""
    await store.submit(KEY, message(id, id), turn(id))
    claimed = await store.claim(KEY, id, "inst", 0)
    assert claimed is not None
    return claimed.fence


async def state_of(store: ContextStore, turn_id: str) -> TurnState:
    rows = await store.load_turn(KEY, turn_id)
    assert rows is not None
    return rows.turn.state


# ---- contexts


async def test_a_context_is_made_once_and_belongs_to_its_owner(store: ContextStore) -> None:
    assert await store.create_context(KEY, None, None) is True
    assert await store.create_context(KEY, "other", None) is False
    record = await store.get_context(KEY)
    assert record is not None
    assert record.title is None
    assert await store.get_context(OTHER) is None
    assert await store.history(OTHER, None, 10) == await store.history(ContextKey("t/ann", "none"), None, 10)


async def test_an_epoch_is_raised_only_from_what_was_expected(store: ContextStore) -> None:
    await store.submit(KEY, message("a"), None)
    record = await store.get_context(KEY)
    assert record is not None
    raised = await store.raise_epoch(KEY, record.epoch)
    assert raised == (record.epoch + 1, 0)
    assert await store.raise_epoch(KEY, record.epoch) is None
    assert await store.record(KEY, record.epoch + 1, {"a": 7}) is True
    assert await store.raise_epoch(KEY, record.epoch + 1) == (record.epoch + 2, 7)
    with pytest.raises(NotFound):
        await store.raise_epoch(OTHER, 0)


async def test_one_of_many_raises_the_epoch(store: ContextStore) -> None:
    await store.create_context(KEY, None, None)
    raised = await asyncio.gather(*(store.raise_epoch(KEY, 0) for _ in range(20)))
    assert [answer for answer in raised if answer is not None] == [(1, 0)]


async def test_a_deleted_context_is_gone_with_all_of_it(store: ContextStore) -> None:
    fence = await running(store)
    assert await store.delete_context(KEY) is True
    assert await store.delete_context(KEY) is False
    assert await store.get_context(KEY) is None
    assert await store.load_turn(KEY, "m1") is None
    assert (await store.history(KEY, None, 10)).unsequenced == []
    with pytest.raises(Fenced):
        await store.write(KEY, "m1", fence, [message("late", "m1")])


# ---- what clients send


async def test_a_message_creates_its_context_and_comes_once(store: ContextStore) -> None:
    first = await store.submit(KEY, message("m1", "m1"), turn("m1"))
    again = await store.submit(KEY, message("m1", "m1"), turn("m1"))
    more = await store.submit(KEY, message("m2", "m2"), turn("m2"))
    assert (first.created, first.duplicate, first.turn_id) == (True, False, "m1")
    assert (again.created, again.duplicate, again.turn_id) == (False, True, "m1")
    assert (more.created, more.duplicate) == (False, False)
    with pytest.raises(IdTaken):
        await store.submit(KEY, call("m1", "m1"), None)


async def test_the_same_message_at_once_is_stored_once(store: ContextStore) -> None:
    answers = await asyncio.gather(*(store.submit(KEY, message("m1", "m1"), turn("m1")) for _ in range(20)))
    assert sum(not answer.duplicate for answer in answers) == 1
    assert len(await store.unsequenced(KEY)) == 1


async def test_turns_wait_in_order_and_one_runs_at_a_time(store: ContextStore) -> None:
    for name in ("a", "b", "c"):
        await store.submit(KEY, message(name, name), turn(name))
    following = await store.next_turn(KEY)
    assert following is not None
    assert following.id == "a"
    assert await store.claim(KEY, "a", "inst", 0) is not None
    assert await store.next_turn(KEY) is None
    assert await store.claim(KEY, "b", "inst", 0) is None
    active = await store.active_turn(KEY)
    assert active is not None
    assert active.id == "a"


async def test_reject_refuses_while_a_turn_runs_or_waits(store: ContextStore) -> None:
    await store.submit(KEY, message("a", "a"), turn("a"), "reject")
    with pytest.raises(Busy):
        await store.submit(KEY, message("b", "b"), turn("b"), "reject")
    assert [row.id for row, _ in await store.unsequenced(KEY)] == ["a"]


async def test_only_so_many_turns_wait(store: ContextStore) -> None:
    await running(store, "a")
    for name in ("b", "c"):
        await store.submit(KEY, message(name, name), turn(name), "queue", 2)
    with pytest.raises(Busy):
        await store.submit(KEY, message("d", "d"), turn("d"), "interrupt", 2)
    assert (await store.submit(KEY, message("c", "c"), turn("c"), "queue", 2)).duplicate
    assert (await store.inputs(KEY, "a", 0))[2] is False


async def test_interrupt_cancels_what_runs_and_goes_first(store: ContextStore) -> None:
    await running(store, "a")
    await store.submit(KEY, message("b", "b"), turn("b"))
    accepted = await store.submit(KEY, message("c", "c"), turn("c"), "interrupt")
    assert accepted.interrupted == "a"
    rows, cancels, cancelled = await store.inputs(KEY, "a", 0)
    assert ([row.id for row in rows], cancels, cancelled) == (["a"], [], True)
    assert await store.end_turn(KEY, "a", 1, [end("a")], 1 << 60)
    await store.raise_epoch(KEY, 0)
    await store.record(KEY, 1, {"a": 1, "b": 2, "c": 3, "a/end": 4})
    following = await store.next_turn(KEY)
    assert following is not None
    assert following.id == "c"


async def test_interrupt_wakes_a_parked_turn(store: ContextStore) -> None:
    fence = await running(store, "a")
    assert await store.park(KEY, "a", fence, 1 << 60)
    await store.submit(KEY, message("b", "b"), turn("b"), "interrupt")
    assert await state_of(store, "a") is TurnState.RUNNING
    assert [found.id for found in await store.turns_to_run(["inst"], 10)] == ["a"]


async def test_steering_reaches_a_turn_that_runs_or_is_parked_and_no_other(store: ContextStore) -> None:
    await store.submit(KEY, message("a", "a"), turn("a"))
    assert await store.steer(KEY, "a", message("s0", "a")) is None
    claimed = await store.claim(KEY, "a", "inst", 0)
    assert claimed is not None
    steered = await store.steer(KEY, "a", message("s1", "a"))
    assert steered is not None
    assert steered.woken is False
    again = await store.steer(KEY, "a", message("s1", "a"))
    assert again is not None
    assert again.duplicate
    assert await store.park(KEY, "a", 1, 0) is False
    assert await store.park(KEY, "a", 1, 1 << 60) is True
    woken = await store.steer(KEY, "a", message("s2", "a"))
    assert woken is not None
    assert woken.woken is True
    await store.cancel(KEY, "x", "a", None)
    assert await store.steer(KEY, "a", message("s3", "a")) is None


async def test_a_cancel_names_the_turn_that_runs(store: ContextStore) -> None:
    await running(store, "a")
    first = await store.cancel(KEY, "x", None, None)
    again = await store.cancel(KEY, "x", None, None)
    assert (first.turn_id, first.duplicate) == ("a", False)
    assert (again.turn_id, again.duplicate) == ("a", True)
    _, cancels, cancelled = await store.inputs(KEY, "a", 0)
    assert cancelled
    assert [(cancel.id, cancel.call_id) for cancel in cancels] == [("x", None)]


async def test_a_cancel_of_nothing_stops_no_later_turn_when_it_comes_again(store: ContextStore) -> None:
    await store.create_context(KEY, None, None)
    assert (await store.cancel(KEY, "x", None, None)).turn_id is None
    await running(store, "a")
    again = await store.cancel(KEY, "x", None, None)
    assert (again.duplicate, again.turn_id) == (True, None)
    assert (await store.inputs(KEY, "a", 0))[2] is False


async def test_a_cancelled_turn_that_waits_wants_a_runner(store: ContextStore) -> None:
    await running(store, "a")
    await store.submit(KEY, message("b", "b"), turn("b"))
    await store.cancel(KEY, "x", "b", None)
    assert await state_of(store, "b") is TurnState.RUNNING
    assert [found.id for found in await store.turns_to_run(["inst"], 10)] == ["b"]


async def test_a_cancel_of_what_is_not_there(store: ContextStore) -> None:
    with pytest.raises(NotFound):
        await store.cancel(KEY, "x", None, None)
    await store.create_context(KEY, None, None)
    with pytest.raises(NotFound):
        await store.cancel(KEY, "x", "nothing", None)
    with pytest.raises(NotFound):
        await store.cancel(KEY, "x", None, "nothing")


async def test_a_client_answers_its_own_call_once(store: ContextStore) -> None:
    fence = await running(store)
    await store.write(KEY, "m1", fence, [call("c1", "m1", "client", session_id="s1")])
    with pytest.raises(NotFound):
        await store.answer(KEY, response("r0", "c1", "m1"), "s2")
    assert await store.park(KEY, "m1", fence, 1 << 60)
    accepted = await store.answer(KEY, response("r1", "c1", "m1"), "s1")
    assert (accepted.turn_id, accepted.woken) == ("m1", True)
    assert (await store.answer(KEY, response("r1", "c1", "m1"), "s1")).duplicate
    with pytest.raises(AlreadyAnswered):
        await store.answer(KEY, response("r2", "c1", "m1"), None)
    found = await store.get_call(KEY, "c1")
    assert found is not None
    assert found.answered


async def test_no_client_answers_a_call_of_the_server(store: ContextStore) -> None:
    fence = await running(store)
    await store.write(KEY, "m1", fence, [call("c1", "m1")])
    with pytest.raises(NotFound):
        await store.answer(KEY, response("r1", "c1", "m1"), None)


async def test_the_first_decision_counts(store: ContextStore) -> None:
    fence = await running(store)
    await store.write(KEY, "m1", fence, [call("c1", "m1", needs_approval=True), call("c2", "m1")])
    answers = await asyncio.gather(
        *(store.approve(KEY, approval(f"p{n}", "c1", "m1")) for n in range(5)), return_exceptions=True
    )
    assert sum(isinstance(answer, AlreadyAnswered) for answer in answers) == 4
    with pytest.raises(NotFound):
        await store.approve(KEY, approval("p9", "c2", "m1"))


# ---- what a runner does


async def test_one_of_many_claims_a_turn(store: ContextStore) -> None:
    await store.submit(KEY, message("m1", "m1"), turn("m1"))
    claims = await asyncio.gather(*(store.claim(KEY, "m1", f"inst{n}", 0) for n in range(20)))
    (won,) = [claim for claim in claims if claim is not None]
    assert (won.fence, won.state) == (1, TurnState.RUNNING)


async def test_who_lost_a_turn_writes_nothing(store: ContextStore) -> None:
    old = await running(store)
    assert await store.claim(KEY, "m1", "other", old) is not None
    for refused in (
        store.write(KEY, "m1", old, [message("x", "m1")]),
        store.end_turn(KEY, "m1", old, [end("m1")], 1 << 60),
        store.park(KEY, "m1", old, 1 << 60),
    ):
        with pytest.raises(Fenced):
            await refused
    await store.release(KEY, "m1", old)
    rows = await store.load_turn(KEY, "m1")
    assert rows is not None
    assert [row.id for row in rows.events] == ["m1"]
    assert rows.turn.runner == "other"


async def test_what_is_stored_already_is_passed_over(store: ContextStore) -> None:
    fence = await running(store)
    assert await store.write(KEY, "m1", fence, [call("c1", "m1"), response("r1", "c1", "m1")]) == []
    assert await store.write(KEY, "m1", fence, [call("c1", "m1"), response("r2", "c1", "m1")]) == ["c1", "r2"]
    rows = await store.load_turn(KEY, "m1")
    assert rows is not None
    assert [row.id for row in rows.events] == ["m1", "c1", "r1"]


async def test_a_call_is_claimed_unless_it_is_answered(store: ContextStore) -> None:
    fence = await running(store)
    await store.write(KEY, "m1", fence, [call("c1", "m1", draft=b'{"text":"so far"}')])
    assert await store.claim_call(KEY, "m1", fence, "c1") is True
    rows = await store.load_turn(KEY, "m1")
    assert rows is not None
    assert rows.turn.draft == b'{"text":"so far"}'
    assert rows.calls["c1"].claimed == fence
    await store.write(KEY, "m1", fence, [response("r1", "c1", "m1")])
    assert await store.claim_call(KEY, "m1", fence, "c1") is False
    with pytest.raises(Fenced):
        await store.claim_call(KEY, "m1", fence + 1, "c1")


async def test_a_turn_does_not_end_over_something_unread(store: ContextStore) -> None:
    fence = await running(store)
    rows, _, _ = await store.inputs(KEY, "m1", 0)
    seen = rows[-1].order
    await store.steer(KEY, "m1", message("s1", "m1"))
    assert await store.end_turn(KEY, "m1", fence, [end("m1")], seen) is False
    rows, _, _ = await store.inputs(KEY, "m1", seen)
    assert [row.id for row in rows] == ["s1"]
    assert await store.end_turn(KEY, "m1", fence, [end("m1")], rows[-1].order) is True
    assert await state_of(store, "m1") is TurnState.ENDED


async def test_an_ended_turn_is_done_when_all_of_it_has_a_seq(store: ContextStore) -> None:
    fence = await running(store)
    await store.end_turn(KEY, "m1", fence, [end("m1")], 1 << 60)
    await store.raise_epoch(KEY, 0)
    assert await store.record(KEY, 1, {"m1": 1, "unknown": 9}) is True
    assert await state_of(store, "m1") is TurnState.ENDED
    assert await store.record(KEY, 0, {"m1/end": 2}) is False
    assert await store.record(KEY, 1, {"m1": 5, "m1/end": 2}) is True
    assert await state_of(store, "m1") is TurnState.DONE
    assert [row.seq for row in (await store.history(KEY, None, 10)).rows] == [1, 2]
    assert await store.claim(KEY, "m1", "other", fence) is None


async def test_recovery_finds_what_nobody_runs(store: ContextStore) -> None:
    fence = await running(store)
    assert await store.turns_to_run(["inst"], 10) == []
    (found,) = await store.turns_to_run(["other"], 10)
    assert (found.id, found.runner, found.fence) == ("m1", "inst", fence)
    await store.release(KEY, "m1", fence)
    assert [found.id for found in await store.turns_to_run(["inst"], 10)] == ["m1"]
    direct = NewTurn(id="c1", kind="tool", request=b"{}")
    await store.submit(KEY, call("c1", "c1"), direct)
    assert {found.id for found in await store.turns_to_run([], 10)} == {"m1", "c1"}


async def test_events_without_seq_know_whether_a_runner_has_them(store: ContextStore) -> None:
    await running(store)
    await store.submit(KEY, message("free"), None)
    await store.submit(KEY, message("m2", "m2"), turn("m2"))
    found = [(row.id, owned) for row, owned in await store.unsequenced(KEY)]
    assert found == [("m1", True), ("free", False), ("m2", False)]
    assert [row.id for row, _ in await store.unsequenced(KEY, "m1")] == ["m1"]
    assert await store.stray_contexts(1e12, 10) == [KEY]


# ---- reading


async def test_history_comes_in_pages_from_the_newest_back(store: ContextStore) -> None:
    for number in range(5):
        await store.submit(KEY, message(f"m{number}"), None)
    await store.raise_epoch(KEY, 0)
    await store.record(KEY, 1, {f"m{number}": number + 1 for number in range(4)})
    newest = await store.history(KEY, None, 3)
    assert [row.seq for row in newest.rows] == [2, 3, 4]
    assert [row.id for row in newest.unsequenced] == ["m4"]
    assert newest.has_more
    older = await store.history(KEY, 2, 3)
    assert ([row.seq for row in older.rows], older.unsequenced, older.has_more) == ([1], [], False)


async def test_open_calls_are_those_that_a_snapshot_may_show_as_running(store: ContextStore) -> None:
    fence = await running(store)
    await store.write(KEY, "m1", fence, [call("c1", "m1"), call("c2", "m1"), call("c3", "m1")])
    await store.write(KEY, "m1", fence, [response("r1", "c1", "m1"), response("r2", "c2", "m1")])
    assert [row.id for row in await store.open_calls(KEY, 10)] == ["c1", "c2", "c3"]
    await store.raise_epoch(KEY, 0)
    await store.record(KEY, 1, {"m1": 1, "c1": 2, "c2": 3, "c3": 4, "r1": 5, "r2": 6})
    assert [row.id for row in await store.open_calls(KEY, 6)] == ["c3"]
    assert [row.id for row in await store.open_calls(KEY, 5)] == ["c2", "c3"]
