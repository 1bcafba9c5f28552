"""The contract of ContextStore (stores/ports): until when turns wait for people and clients, and who may answer."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from stores.ports import AlreadyAnswered, ContextStore, NotFound, StoreError, Undecided
from stores.records import Accepted, ContextKey, NewEvent, TurnState
from tests.stores.context_stores import (
    ALL,
    NEWEST,
    Clock,
    approval,
    end,
    ids,
    message,
    response,
    rows_of,
    running,
    submitted,
    tool_call,
    turn,
)

A, B = ContextKey("t/ann", "conv_a"), ContextKey("t/ann", "conv_b")


def denial(id: str, call_id: str, turn_id: str) -> NewEvent:
    return replace(approval(id, call_id, turn_id), denies=True)


async def parked(store: ContextStore, key: ContextKey, wake_at: float | None, *calls: NewEvent) -> int:
    """A PARKED turn; its fence."""
    fence = (await running(store, key)).fence
    await store.write(key, "a", fence, calls)
    assert await store.park(key, "a", fence, NEWEST, wake_at)
    return fence


# ---- until when


async def test_a_parked_turn_wants_a_runner_once_its_time_has_come(any_store: ContextStore, clock: Clock) -> None:
    await parked(any_store, A, clock.now + 5)
    await parked(any_store, B, None)
    assert await any_store.turns_to_run(["inst"], ALL) == []
    clock.now += 4.999
    assert await any_store.turns_to_run(["inst"], ALL) == []
    clock.now += 0.001
    (found,) = await any_store.turns_to_run(["inst"], ALL)
    assert (found, found.state) == ((await rows_of(any_store, A)).turn, TurnState.PARKED)
    assert await any_store.turns_to_run(None, ALL) == [found]
    claimed = await any_store.claim(A, "a", "other", found.fence)
    assert claimed is not None
    assert (claimed.rows.turn.state, claimed.rows.turn.runner) == (TurnState.RUNNING, "other")
    assert await any_store.turns_to_run(["inst", "other"], ALL) == []


async def test_the_time_is_that_of_the_last_parking(any_store: ContextStore, clock: Clock) -> None:
    fence = await parked(any_store, A, clock.now - 1)
    for wake_at in (clock.now + 60, None):
        await any_store.claim(A, "a", "inst", fence)
        fence += 1
        assert await any_store.park(A, "a", fence, NEWEST, wake_at)
        assert await any_store.turns_to_run(["inst"], ALL) == []


async def test_one_that_was_woken_is_looked_for_once(any_store: ContextStore, clock: Clock) -> None:
    await parked(any_store, A, clock.now - 1)
    await any_store.steer(A, "a", message("s1", "a"))
    assert ids(await any_store.turns_to_run(["inst"], ALL)) == ["a"]


async def test_of_those_who_claim_a_turn_whose_time_has_come_one_gets_it(any_store: ContextStore, clock: Clock) -> None:
    fence = await parked(any_store, A, clock.now)
    claims = await asyncio.gather(*(any_store.claim(A, "a", f"inst{number}", fence) for number in range(10)))
    assert sum(claim is not None for claim in claims) == 1


async def test_what_waits_behind_a_parked_turn_waits_on_when_that_ones_time_has_come(
    any_store: ContextStore, clock: Clock
) -> None:
    await parked(any_store, A, clock.now)
    await submitted(any_store, A, "b")
    assert ids(await any_store.turns_to_run(["inst"], ALL)) == ["a"]


async def test_those_whose_time_has_come_have_their_place_among_the_others(store: ContextStore, clock: Clock) -> None:
    for name in ("first", "second", "third"):
        key = ContextKey("t/ann", name)
        clock.now += 1
        await store.submit(key, message("a", "a"), turn("a"))
        if name == "second":
            await store.claim(key, "a", "inst", 0)
            await store.park(key, "a", 1, NEWEST, clock.now)
    assert [found.key.id for found in await store.turns_to_run(["inst"], ALL)] == ["first", "second", "third"]
    assert [found.key.id for found in await store.turns_to_run(["inst"], 2)] == ["first", "second"]


async def test_events_tell_when_they_were_stored(any_store: ContextStore, clock: Clock) -> None:
    fence = (await running(any_store, A)).fence
    clock.now += 10
    await any_store.write(A, "a", fence, [tool_call("c1", "a", "client", needs_approval=True)])
    clock.now += 10
    await any_store.approve(A, approval("p1", "c1", "a"))
    rows, _, _ = await any_store.inputs(A, "a", 0)
    told = [1000.0, 1010.0, 1020.0]
    assert [row.stored_at for row in rows] == told
    assert [row.stored_at for row in (await rows_of(any_store, A)).events] == told
    claimed = await any_store.claim(A, "a", "other", fence)
    assert claimed is not None
    assert [row.stored_at for row in claimed.rows.events] == told


# ---- who may answer


async def _answer(store: ContextStore, id: str, session_id: str | None = "s1") -> Accepted | type[StoreError]:
    try:
        return await store.answer(A, response(id, "c1", "a"), session_id)
    except StoreError as error:
        return type(error)


ASKED = tool_call("c1", "a", "client", session_id="s1", needs_approval=True)


async def test_a_call_that_waits_for_a_person_takes_no_answer_before(any_store: ContextStore) -> None:
    await parked(any_store, A, None, ASKED)
    assert await _answer(any_store, "r1") is Undecided
    assert await _answer(any_store, "r1", "s2") is NotFound
    assert not (await rows_of(any_store, A)).calls["c1"].answered
    await any_store.approve(A, approval("p1", "c1", "a"))
    assert await _answer(any_store, "r1") == Accepted(turn_id="a", woken=False)
    assert await _answer(any_store, "r2") is AlreadyAnswered


async def test_a_call_that_was_denied_takes_no_answer(any_store: ContextStore) -> None:
    await parked(any_store, A, None, ASKED)
    await any_store.approve(A, denial("p1", "c1", "a"))
    call = (await rows_of(any_store, A)).calls["c1"]
    assert (call.decided, call.denied) == (True, True)
    assert await _answer(any_store, "r1") is AlreadyAnswered


async def test_a_call_of_a_turn_that_is_over_takes_no_answer(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.write(A, "a", fence, [tool_call("c1", "a", "client", session_id="s1")])
    # Without its answer, as where a turn is given up.
    assert await any_store.end_turn(A, "a", fence, [end("a")], NEWEST)
    assert await _answer(any_store, "r1") is AlreadyAnswered


async def test_of_an_answer_and_a_timeout_at_once_one_is_stored(any_store: ContextStore) -> None:
    for number in range(20):
        key = ContextKey("t/ann", f"race{number}")
        fence = (await running(any_store, key)).fence
        await any_store.write(key, "a", fence, [tool_call("c1", "a", "client", session_id="s1")])
        late, answered = await asyncio.gather(
            any_store.write(key, "a", fence, [response("timeout", "c1", "a")]),
            any_store.answer(key, response("answer", "c1", "a"), "s1"),
            return_exceptions=True,
        )
        assert not isinstance(late, BaseException)
        refused = isinstance(answered, AlreadyAnswered)
        assert late.passed == ([] if refused else ["timeout"])
        stored = [row.id for row in (await rows_of(any_store, key)).events if row.type == "tool_response"]
        assert stored == (["timeout"] if refused else ["answer"])


async def test_a_decision_that_came_before_an_answer_to_undecided_calls_stands(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    late = [replace(response(f"late_{id}", id, "a"), undecided=True) for id in ("c1", "c2")]
    await any_store.write(A, "a", fence, [ASKED, replace(ASKED, id="c2")])
    await any_store.approve(A, approval("p1", "c1", "a"))
    assert (await any_store.write(A, "a", fence, late)).passed == ["late_c1"]
    told = (await rows_of(any_store, A)).calls
    assert (told["c1"].answered, told["c2"].answered) == (False, True)
    # Any other answer counts, decided or not.
    assert (await any_store.write(A, "a", fence, [response("r1", "c1", "a")])).passed == []


async def test_of_a_decision_and_a_timeout_at_once_one_is_stored(any_store: ContextStore) -> None:
    for number in range(20):
        key = ContextKey("t/ann", f"race{number}")
        fence = (await running(any_store, key)).fence
        await any_store.write(key, "a", fence, [ASKED])
        late, decided = await asyncio.gather(
            any_store.write(key, "a", fence, [replace(response("timeout", "c1", "a"), undecided=True)]),
            any_store.approve(key, approval("p1", "c1", "a")),
            return_exceptions=True,
        )
        assert not isinstance(late, BaseException)
        refused = isinstance(decided, AlreadyAnswered)
        assert late.passed == ([] if refused else ["timeout"])
        call = (await rows_of(any_store, key)).calls["c1"]
        assert (call.answered, call.decided) == (refused, not refused)


async def test_a_decision_that_comes_after_its_time_is_refused(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.write(A, "a", fence, [ASKED])
    await any_store.write(A, "a", fence, [response("timeout", "c1", "a")])
    with pytest.raises(AlreadyAnswered):
        await any_store.approve(A, approval("p1", "c1", "a"))
