"""The contract of ContextStore (stores/ports), turns and seqs: every adapter passes it."""

from __future__ import annotations

import asyncio

import pytest

from protocol.frames import WhenBusy
from stores.ports import AlreadyAnswered, Busy, ContextStore, Fenced, IdTaken, NotFound
from stores.records import Accepted, ContextKey, Recorded, Sender, TurnState
from tests.stores.context_stores import (
    ALL,
    NEWEST,
    Clock,
    approval,
    direct_call,
    end,
    ended,
    epoch_of,
    ids,
    message,
    open_postgres,
    open_sqlite,
    response,
    rows_of,
    running,
    sequence,
    submitted,
    tool_call,
    turn,
)

A, B = ContextKey("t/ann", "conv_a"), ContextKey("t/ann", "conv_b")


async def last_order(store: ContextStore, turn_id: str = "a") -> int:
    rows, cancels, _ = await store.inputs(A, turn_id, 0)
    return max(stored.order for stored in (*rows, *cancels))


async def parked(store: ContextStore, turn_id: str = "a") -> int:
    """A PARKED turn; its fence."""
    fence = (await running(store, A, turn_id)).fence
    assert await store.park(A, turn_id, fence, NEWEST)
    return fence


async def wants_a_runner(store: ContextStore, turn_id: str) -> bool:
    found = (await rows_of(store, A, turn_id)).turn
    return found.state is TurnState.RUNNING and found.runner is None


# ---- submitting


async def test_a_message_is_stored_with_its_turn_and_makes_its_context(any_store: ContextStore) -> None:
    assert await any_store.submit(A, message("a", "a"), turn("a")) == Accepted(created=True, turn_id="a")
    epoch = await epoch_of(any_store, A)
    assert await any_store.submit(A, message("b", "b"), turn("b")) == Accepted(turn_id="b", epoch=epoch)
    rows = await rows_of(any_store, A)
    assert (rows.turn.key, rows.turn.kind, rows.turn.state, rows.turn.request) == (
        A,
        "message",
        TurnState.QUEUED,
        b'{"model":"demo"}',
    )
    assert (rows.turn.fence, rows.turn.runner, rows.turn.cancelled, rows.turn.draft) == (0, None, False, None)
    assert [(row.id, row.type, row.body, row.turn_id, row.seq) for row in rows.events] == [
        ("a", "message", b'{"id":"a"}', "a", None)
    ]
    assert (rows.calls, rows.cancels) == ({}, [])


async def test_a_message_without_turn_is_stored_alone(any_store: ContextStore) -> None:
    assert await any_store.submit(A, message("u1"), None) == Accepted(created=True)
    assert await any_store.load_turn(A, "u1") is None
    assert await any_store.turns_to_run([], ALL) == []


async def test_a_direct_call_waits_for_nobody(any_store: ContextStore) -> None:
    await running(any_store, A)
    await any_store.submit(A, *direct_call("c1"), "reject")
    claimed = await any_store.claim(A, "c1", "inst", 0)
    assert claimed is not None
    assert (claimed.rows.turn.kind, claimed.rows.turn.state) == ("tool", TurnState.RUNNING)
    assert await any_store.get_call(A, "c1") is not None


async def test_the_same_event_id_again_changes_nothing_whatever_else_differs(any_store: ContextStore) -> None:
    await running(any_store, A)
    before = await rows_of(any_store, A)
    modes: tuple[WhenBusy, ...] = ("queue", "steer", "reject", "interrupt")
    for mode in modes:
        again = await any_store.submit(A, message("a", "other"), turn("other"), mode, 0)
        assert again == Accepted(duplicate=True, turn_id="a")
    assert await any_store.load_turn(A, "other") is None
    assert await rows_of(any_store, A) == before


async def test_one_of_many_equal_messages_is_stored(any_store: ContextStore) -> None:
    answers = await asyncio.gather(*(any_store.submit(A, message("a", "a"), turn("a")) for _ in range(20)))
    assert sorted(answer.duplicate for answer in answers) == [False] + [True] * 19
    assert sum(answer.created for answer in answers) == 1


async def test_an_id_of_another_kind_of_event_is_taken(any_store: ContextStore) -> None:
    await submitted(any_store, A, "a")
    with pytest.raises(IdTaken):
        await any_store.submit(A, *direct_call("a"))
    assert (await rows_of(any_store, A)).calls == {}


async def test_reject_refuses_where_a_message_turn_is_unended(any_store: ContextStore) -> None:
    await submitted(any_store, A, "a")
    for step in ("queued", "running", "parked"):
        with pytest.raises(Busy):
            await any_store.submit(A, message("b", "b"), turn("b"), "reject")
        if step == "queued":
            await any_store.claim(A, "a", "inst", 0)
        elif step == "running":
            await any_store.park(A, "a", 1, NEWEST)
    assert await any_store.load_turn(A, "b") is None
    assert ids([row for row, _ in await any_store.unsequenced(A)]) == ["a"]


async def test_what_a_later_socket_was_refused_an_earlier_one_does_not_store(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    early, late, other = Sender("s1", 1), Sender("s1", 2), Sender("s2", 0)

    async def submit(sender: Sender | None, id: str = "b") -> Accepted:
        return await any_store.submit(A, message(id, id), turn(id), "reject", 100, sender)

    for _ in range(2):
        with pytest.raises(Busy):
            await submit(late)
    assert await any_store.end_turn(A, "a", fence, [end("a")], NEWEST) is not None
    await sequence(any_store, A, a=1, a_end=2)
    # A copy that was held up, of a message that its user knows was refused.
    with pytest.raises(Busy):
        await submit(early)
    assert await any_store.find_event(A, "b") is None
    # Whoever tries again later, or over HTTP, or from elsewhere, is somebody new; so is another message.
    assert (await submit(late)).turn_id == "b"
    assert (await submit(early)).duplicate
    for sender in (other, None, early):
        with pytest.raises(Busy):
            await submit(sender, "c")


async def test_the_newest_refusals_are_remembered(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    for number in range(40):
        with pytest.raises(Busy):
            await any_store.submit(A, message(f"b{number}"), turn(f"b{number}"), "reject", 100, Sender("s1", 2))
    assert await any_store.end_turn(A, "a", fence, [end("a")], NEWEST) is not None
    await sequence(any_store, A, a=1, a_end=2)
    for number in range(39, 7, -1):
        with pytest.raises(Busy):
            await any_store.submit(A, message(f"b{number}"), turn(f"b{number}"), "queue", 100, Sender("s1", 1))


async def test_reject_looks_only_at_unended_message_turns(any_store: ContextStore) -> None:
    await any_store.submit(A, *direct_call("c1"))
    await ended(any_store, A)
    assert (await any_store.submit(A, message("b", "b"), turn("b"), "reject")).turn_id == "b"


async def test_what_was_refused_made_no_context(any_store: ContextStore) -> None:
    with pytest.raises(Busy):
        await any_store.submit(A, message("a", "a"), turn("a"), "queue", 0)
    assert await any_store.get_context(A) is None


async def test_only_so_many_turns_wait_whatever_they_ask(any_store: ContextStore) -> None:
    await running(any_store, A)
    await submitted(any_store, A, "b", "c")
    modes: tuple[WhenBusy, ...] = ("queue", "steer", "interrupt")
    for mode in modes:
        with pytest.raises(Busy):
            await any_store.submit(A, message("d", "d"), turn("d"), mode, 2)
    assert (await rows_of(any_store, A)).turn.cancelled is False
    assert (await any_store.submit(A, message("d", "d"), turn("d"), "queue", 3)).turn_id == "d"
    assert (await any_store.submit(A, *direct_call("c1"), "queue", 0)).turn_id == "c1"


async def test_interrupt_marks_the_turn_that_runs_as_cancelled(any_store: ContextStore) -> None:
    claimed = await running(any_store, A)
    accepted = await any_store.submit(A, message("b", "b"), turn("b"), "interrupt")
    assert accepted == Accepted(turn_id="b", interrupted="a", epoch=await epoch_of(any_store, A))
    found = (await rows_of(any_store, A)).turn
    assert (found.state, found.runner, found.fence, found.cancelled) == (TurnState.RUNNING, "inst", claimed.fence, True)


async def test_interrupt_lets_a_parked_turn_run_without_runner(any_store: ContextStore) -> None:
    await parked(any_store)
    assert (await any_store.submit(A, message("b", "b"), turn("b"), "interrupt")).interrupted == "a"
    assert await wants_a_runner(any_store, "a")
    assert (await rows_of(any_store, A)).turn.cancelled is True


async def test_interrupt_puts_the_new_turn_before_all_queued_ones(any_store: ContextStore) -> None:
    await submitted(any_store, A, "a", "b")
    for name in ("c", "d"):
        assert (await any_store.submit(A, message(name, name), turn(name), "interrupt")).interrupted is None
    begun: list[str] = []
    seqs = iter(range(1, 20))
    while (following := await any_store.next_turn(A)) is not None:
        begun.append(following.id)
        await any_store.claim(A, following.id, "inst", 0)
        await any_store.end_turn(A, following.id, 1, [end(following.id)], NEWEST)
        await sequence(any_store, A, **{following.id: next(seqs), f"{following.id}_end": next(seqs)})
    assert begun == ["d", "c", "a", "b"]
    assert not (await rows_of(any_store, A)).turn.cancelled


async def test_interrupt_leaves_direct_calls_and_what_has_ended_alone(any_store: ContextStore) -> None:
    await any_store.submit(A, *direct_call("c1"))
    await any_store.claim(A, "c1", "inst", 0)
    await ended(any_store, A)
    assert (await any_store.submit(A, message("b", "b"), turn("b"), "interrupt")).interrupted is None
    assert not (await rows_of(any_store, A, "c1")).turn.cancelled
    assert not (await rows_of(any_store, A)).turn.cancelled


async def test_queue_and_steer_wait_their_turn(any_store: ContextStore) -> None:
    await running(any_store, A)
    modes: tuple[WhenBusy, ...] = ("queue", "steer")
    for mode in modes:
        accepted = await any_store.submit(A, message(mode, mode), turn(mode), mode)
        assert accepted == Accepted(turn_id=mode, epoch=await epoch_of(any_store, A))
        assert (await rows_of(any_store, A, mode)).turn.state is TurnState.QUEUED


# ---- steering


async def test_steering_adds_a_message_to_a_turn_that_runs(any_store: ContextStore) -> None:
    await running(any_store, A)
    assert await any_store.steer(A, "a", message("s1", "a")) == Accepted(turn_id="a")
    assert ids((await rows_of(any_store, A)).events) == ["a", "s1"]
    assert (await rows_of(any_store, A)).turn.runner == "inst"


async def test_steering_wakes_a_parked_turn(any_store: ContextStore) -> None:
    await parked(any_store)
    assert await any_store.steer(A, "a", message("s1", "a")) == Accepted(turn_id="a", woken=True)
    assert await wants_a_runner(any_store, "a")


async def test_steering_stores_nothing_where_the_turn_does_not_run(any_store: ContextStore) -> None:
    await ended(any_store, A)
    await submitted(any_store, A, "queued")
    await any_store.submit(A, *direct_call("c1"))
    await any_store.claim(A, "c1", "inst", 0)
    stored = await any_store.unsequenced(A)
    for name in ("a", "queued", "c1", "unknown"):
        assert await any_store.steer(A, name, message("s1", name)) is None
    assert await any_store.unsequenced(A) == stored


async def test_steering_stores_nothing_where_the_turn_was_cancelled(any_store: ContextStore) -> None:
    await running(any_store, A)
    await any_store.cancel(A, "x1", "a", None)
    assert await any_store.steer(A, "a", message("s1", "a")) is None
    assert ids((await rows_of(any_store, A)).events) == ["a"]


async def test_steering_again_is_a_duplicate_as_in_submit(any_store: ContextStore) -> None:
    await parked(any_store)
    await any_store.steer(A, "a", message("s1", "a"))
    for name in ("a", "unknown"):
        assert await any_store.steer(A, name, message("s1", name)) == Accepted(duplicate=True, turn_id="a")
    assert ids((await rows_of(any_store, A)).events) == ["a", "s1"]
    await any_store.submit(A, *direct_call("c1"))
    with pytest.raises(IdTaken):
        await any_store.steer(A, "a", message("c1", "a"))


# ---- cancelling


async def test_a_cancel_is_stored_under_the_frames_id(any_store: ContextStore) -> None:
    await running(any_store, A)
    before = await last_order(any_store)
    assert await any_store.cancel(A, "x1", "a", None) == Accepted(turn_id="a")
    assert await any_store.cancel(A, "x1", "a", None) == Accepted(duplicate=True, turn_id="a")
    (cancel,) = (await rows_of(any_store, A)).cancels
    assert (cancel.id, cancel.turn_id, cancel.call_id) == ("x1", "a", None)
    assert cancel.order > before


async def test_a_cancel_without_turn_means_the_message_turn_that_runs_or_is_parked(any_store: ContextStore) -> None:
    await parked(any_store)
    await submitted(any_store, A, "b")
    await any_store.submit(A, *direct_call("c1"))
    assert await any_store.cancel(A, "x1", None, None) == Accepted(turn_id="a", woken=True)
    assert await any_store.cancel(A, "x2", None, None) == Accepted(turn_id="a")
    assert not (await rows_of(any_store, A, "b")).turn.cancelled
    assert not (await rows_of(any_store, A, "c1")).turn.cancelled


async def test_a_cancel_without_turn_means_nothing_where_none_runs(any_store: ContextStore) -> None:
    await submitted(any_store, A, "a")
    assert await any_store.cancel(A, "x1", None, None) == Accepted()
    assert not (await rows_of(any_store, A)).turn.cancelled
    await any_store.claim(A, "a", "inst", 0)
    assert await any_store.cancel(A, "x1", None, None) == Accepted(duplicate=True)
    assert not (await rows_of(any_store, A)).turn.cancelled


async def test_a_cancelled_turn_that_is_queued_or_parked_runs_without_runner(any_store: ContextStore) -> None:
    await parked(any_store)
    await submitted(any_store, A, "b")
    await any_store.submit(A, *direct_call("c1"))
    for name in ("a", "b", "c1"):
        assert await any_store.cancel(A, f"x {name}", name, None) == Accepted(turn_id=name, woken=True)
        assert await wants_a_runner(any_store, name)
        assert (await rows_of(any_store, A, name)).turn.cancelled is True


async def test_a_cancelled_turn_that_runs_keeps_its_runner(any_store: ContextStore) -> None:
    claimed = await running(any_store, A)
    await any_store.cancel(A, "x1", "a", None)
    found = (await rows_of(any_store, A)).turn
    assert (found.runner, found.fence, found.cancelled) == ("inst", claimed.fence, True)


async def test_a_cancel_leaves_what_has_ended_alone(any_store: ContextStore) -> None:
    await ended(any_store, A)
    before = (await rows_of(any_store, A)).turn
    assert await any_store.cancel(A, "x1", "a", None) == Accepted(turn_id="a")
    assert (await rows_of(any_store, A)).turn == before
    await sequence(any_store, A, a=1, a_end=2)
    await any_store.cancel(A, "x2", "a", None)
    found = (await rows_of(any_store, A)).turn
    assert (found.state, found.cancelled) == (TurnState.DONE, False)


async def test_a_cancel_of_a_call_cancels_no_whole_turn(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.write(A, "a", fence, [tool_call("c1", "a")])
    assert await any_store.cancel(A, "x1", None, "c1") == Accepted(turn_id="a")
    rows = await rows_of(any_store, A)
    assert [(cancel.turn_id, cancel.call_id) for cancel in rows.cancels] == [("a", "c1")]
    assert rows.turn.cancelled is False


async def test_a_cancel_of_what_does_not_exist_is_not_found(any_store: ContextStore) -> None:
    with pytest.raises(NotFound):
        await any_store.cancel(A, "x1", None, None)
    await running(any_store, A)
    with pytest.raises(NotFound):
        await any_store.cancel(A, "x1", "unknown", None)
    with pytest.raises(NotFound):
        await any_store.cancel(A, "x1", None, "unknown")
    await any_store.write(A, "a", 1, [tool_call("c1", "a")])
    with pytest.raises(NotFound):
        await any_store.cancel(A, "x1", "unknown", "c1")
    assert (await rows_of(any_store, A)).cancels == []


# ---- answering and approving


async def test_an_answer_is_stored_and_wakes_a_parked_turn(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.write(A, "a", fence, [tool_call("c1", "a", "client"), tool_call("c2", "a", "client")])
    assert await any_store.answer(A, response("r1", "c1", "a"), None) == Accepted(turn_id="a")
    assert await any_store.park(A, "a", fence, NEWEST)
    assert await any_store.answer(A, response("r2", "c2", "a"), None) == Accepted(turn_id="a", woken=True)
    assert await wants_a_runner(any_store, "a")
    rows = await rows_of(any_store, A)
    assert ids(rows.events) == ["a", "c1", "c2", "r1", "r2"]
    assert rows.calls["c1"].answered


async def test_an_answer_that_comes_again_is_a_duplicate(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.write(A, "a", fence, [tool_call("c1", "a", "client")])
    await any_store.answer(A, response("r1", "c1", "a"), None)
    assert await any_store.answer(A, response("r1", "c1", "a"), None) == Accepted(duplicate=True, turn_id="a")


async def test_only_a_client_of_the_calls_session_answers_it(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    calls = [tool_call("c1", "a", "client", session_id="s1"), tool_call("c2", "a")]
    await any_store.write(A, "a", fence, calls)
    for call_id, session_id in (("c1", "s2"), ("c2", "s1"), ("c2", None), ("unknown", None)):
        with pytest.raises(NotFound):
            await any_store.answer(A, response("r1", call_id, "a"), session_id)
    assert not (await rows_of(any_store, A)).calls["c1"].answered
    assert await any_store.answer(A, response("r1", "c1", "a"), "s1") == Accepted(turn_id="a")


async def test_the_first_answer_counts(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.write(A, "a", fence, [tool_call("c1", "a", "client")])
    answers = await asyncio.gather(
        *(any_store.answer(A, response(f"r{number}", "c1", "a"), None) for number in range(10)), return_exceptions=True
    )
    assert [isinstance(answer, AlreadyAnswered) for answer in answers].count(False) == 1
    assert len((await rows_of(any_store, A)).events) == 3


async def test_an_answer_of_the_runner_counts_too(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.write(A, "a", fence, [tool_call("c1", "a", "client"), response("r1", "c1", "a")])
    with pytest.raises(AlreadyAnswered):
        await any_store.answer(A, response("r2", "c1", "a"), None)


async def test_an_approval_is_stored_and_wakes_a_parked_turn(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.write(A, "a", fence, [tool_call("c1", "a", needs_approval=True)])
    assert not (await rows_of(any_store, A)).calls["c1"].decided
    assert await any_store.park(A, "a", fence, NEWEST)
    assert await any_store.approve(A, approval("p1", "c1", "a")) == Accepted(turn_id="a", woken=True)
    assert await wants_a_runner(any_store, "a")
    assert (await rows_of(any_store, A)).calls["c1"].decided
    assert await any_store.approve(A, approval("p1", "c1", "a")) == Accepted(duplicate=True, turn_id="a")


async def test_only_a_call_that_needs_approval_is_approved(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.write(A, "a", fence, [tool_call("c1", "a")])
    for call_id in ("c1", "unknown"):
        with pytest.raises(NotFound):
            await any_store.approve(A, approval("p1", call_id, "a"))


async def test_a_call_that_was_decided_or_answered_is_not_approved(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    calls = [tool_call(name, "a", needs_approval=True) for name in ("c1", "c2")]
    await any_store.write(A, "a", fence, [*calls, response("r2", "c2", "a")])
    await any_store.approve(A, approval("p1", "c1", "a"))
    for call_id in ("c1", "c2"):
        with pytest.raises(AlreadyAnswered):
            await any_store.approve(A, approval("p2", call_id, "a"))


async def test_clients_of_no_context_find_nothing(any_store: ContextStore) -> None:
    with pytest.raises(NotFound):
        await any_store.answer(A, response("r1", "c1", "a"), None)
    with pytest.raises(NotFound):
        await any_store.approve(A, approval("p1", "c1", "a"))
    assert await any_store.get_call(A, "c1") is None


# ---- which turn runs


async def test_the_active_turn_is_the_message_turn_that_runs_or_is_parked(any_store: ContextStore) -> None:
    assert await any_store.active_turn(A) is None
    await any_store.submit(A, *direct_call("c1"))
    await any_store.claim(A, "c1", "inst", 0)
    await submitted(any_store, A, "a")
    assert await any_store.active_turn(A) is None
    fence = await parked(any_store)
    assert await any_store.active_turn(A) == (await rows_of(any_store, A)).turn
    claimed = await any_store.claim(A, "a", "inst", fence)
    assert claimed is not None
    assert await any_store.active_turn(A) == claimed.rows.turn
    await any_store.end_turn(A, "a", claimed.rows.turn.fence, [end("a")], NEWEST)
    assert await any_store.active_turn(A) is None


async def test_the_next_turn_is_the_first_queued_one_once_no_other_is_under_way(any_store: ContextStore) -> None:
    assert await any_store.next_turn(A) is None
    await any_store.submit(A, *direct_call("c1"))
    await any_store.claim(A, "c1", "inst", 0)
    await submitted(any_store, A, "a", "b")
    assert await any_store.next_turn(A) == (await rows_of(any_store, A)).turn
    fence = await parked(any_store)
    assert await any_store.next_turn(A) is None
    claimed = await any_store.claim(A, "a", "inst", fence)
    assert claimed is not None
    assert await any_store.next_turn(A) is None
    await any_store.end_turn(A, "a", claimed.rows.turn.fence, [end("a")], NEWEST)
    assert await any_store.next_turn(A) is None
    await sequence(any_store, A, a=1, a_end=2)
    assert await any_store.next_turn(A) == (await rows_of(any_store, A, "b")).turn


# ---- claiming


async def test_a_claim_sets_the_runner_and_raises_the_fence(any_store: ContextStore) -> None:
    await submitted(any_store, A, "a")
    for fence, runner in enumerate(("one", "other")):
        claimed = await any_store.claim(A, "a", runner, fence)
        assert claimed is not None
        found = claimed.rows.turn
        assert (found.state, found.runner, found.fence) == (TurnState.RUNNING, runner, fence + 1)
        assert claimed.rows == await rows_of(any_store, A)


async def test_a_claim_of_a_parked_turn_makes_it_run_and_of_an_ended_one_does_not(any_store: ContextStore) -> None:
    claimed = await any_store.claim(A, "a", "other", await parked(any_store))
    assert claimed is not None
    found = claimed.rows.turn
    assert found.state is TurnState.RUNNING
    await any_store.end_turn(A, "a", found.fence, [end("a")], NEWEST)
    claimed = await any_store.claim(A, "a", "third", found.fence)
    assert claimed is not None
    assert (claimed.rows.turn.state, claimed.rows.turn.runner) == (TurnState.ENDED, "third")


async def test_one_of_many_claims_the_turn(any_store: ContextStore) -> None:
    await submitted(any_store, A, "a")
    claims = await asyncio.gather(*(any_store.claim(A, "a", f"inst{number}", 0) for number in range(20)))
    (claimed,) = [claim for claim in claims if claim is not None]
    assert claimed.rows == await rows_of(any_store, A)


async def test_nobody_claims_with_another_fence_or_what_is_done_or_unknown(any_store: ContextStore) -> None:
    fence = (await ended(any_store, A)).fence
    for wrong in (fence - 1, fence + 1):
        assert await any_store.claim(A, "a", "other", wrong) is None
    await sequence(any_store, A, a=1, a_end=2)
    assert await any_store.claim(A, "a", "other", fence) is None
    assert await any_store.claim(A, "unknown", "other", 0) is None
    assert await any_store.claim(B, "a", "other", 0) is None


async def test_a_queued_message_turn_is_not_claimed_while_another_is_under_way(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await submitted(any_store, A, "b")
    assert await any_store.claim(A, "b", "inst", 0) is None
    await any_store.park(A, "a", fence, NEWEST)
    assert await any_store.claim(A, "b", "inst", 0) is None
    await any_store.claim(A, "a", "inst", fence)
    await any_store.end_turn(A, "a", fence + 1, [end("a")], NEWEST)
    assert await any_store.claim(A, "b", "inst", 0) is None
    assert await any_store.cancel(A, "x1", "b", None)
    assert await any_store.claim(A, "b", "inst", 0) is not None  # cancelled: it runs, only to end


async def test_another_context_or_a_direct_call_is_not_in_the_way(any_store: ContextStore) -> None:
    await running(any_store, A)
    await running(any_store, B)
    await any_store.submit(A, *direct_call("c1"))
    assert await any_store.claim(A, "c1", "inst", 0) is not None


# ---- what the runner reads


async def test_a_turn_is_loaded_with_all_that_is_stored_of_it(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.submit(A, message("u1"), None)
    await any_store.write(A, "a", fence, [tool_call("c1", "a", "client", session_id="s1", needs_approval=True)])
    await any_store.steer(A, "a", message("s1", "a"))
    await any_store.cancel(A, "x1", None, "c1")
    await any_store.submit(A, *direct_call("c2"))
    rows = await rows_of(any_store, A)
    assert ids(rows.events) == ["a", "c1", "s1"]
    assert [cancel.id for cancel in rows.cancels] == ["x1"]
    assert list(rows.calls) == ["c1"]
    assert rows.calls["c1"] == await any_store.get_call(A, "c1")
    call = rows.calls["c1"]
    assert (call.turn_id, call.runs_on, call.session_id, call.needs_approval) == ("a", "client", "s1", True)
    assert (call.decided, call.claimed, call.answered) == (False, 0, False)
    assert await any_store.load_turn(A, "unknown") is None
    assert await any_store.load_turn(B, "a") is None


async def test_inputs_are_what_was_stored_for_the_turn_after_an_order(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    seen = await last_order(any_store)
    assert await any_store.inputs(A, "a", seen) == ([], [], False)
    await any_store.write(A, "a", fence, [message("m1", "a"), tool_call("c1", "a")])
    await any_store.submit(A, message("u1"), None)
    await any_store.cancel(A, "x1", None, "c1")
    await any_store.steer(A, "a", message("s1", "a"))
    await any_store.cancel(A, "x2", "a", None)
    rows, cancels, cancelled = await any_store.inputs(A, "a", seen)
    assert (ids(rows), [cancel.id for cancel in cancels], cancelled) == (["m1", "c1", "s1"], ["x1", "x2"], True)
    orders = [rows[0].order, rows[1].order, cancels[0].order, rows[2].order, cancels[1].order]
    assert orders == sorted(set(orders))
    rows, cancels, cancelled = await any_store.inputs(A, "a", orders[3])
    assert (ids(rows), [cancel.id for cancel in cancels], cancelled) == ([], ["x2"], True)
    assert (await any_store.inputs(A, "a", orders[4]))[2] is True


# ---- what the runner writes


async def test_a_turns_events_are_stored_in_order(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    for events in ([], [message("m2", "a"), message("m1", "a")], [message("m0", "a")]):
        assert (await any_store.write(A, "a", fence, events)).passed == []
    assert ids((await rows_of(any_store, A)).events) == ["a", "m2", "m1", "m0"]


async def test_an_id_that_is_stored_and_a_second_response_are_passed_over(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    calls = [tool_call(name, "a", "client") for name in ("c1", "c2")]
    await any_store.write(A, "a", fence, calls)
    await any_store.answer(A, response("r1", "c1", "a"), None)
    events = [
        tool_call("c1", "a", draft=b"{}"),
        response("late", "c1", "a"),
        message("m1", "a"),
        message("m1", "a"),
        response("r2", "c2", "a"),
        response("r3", "c2", "a"),
    ]
    assert (await any_store.write(A, "a", fence, events)).passed == ["c1", "late", "m1", "r3"]
    rows = await rows_of(any_store, A)
    assert ids(rows.events) == ["a", "c1", "c2", "r1", "m1", "r2"]
    assert rows.turn.draft is None
    assert (rows.calls["c1"].runs_on, rows.calls["c2"].answered) == ("client", True)


async def test_a_call_with_a_draft_replaces_the_turns(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.write(A, "a", fence, [tool_call("c1", "a", draft=b'"one"'), tool_call("c2", "a")])
    assert (await rows_of(any_store, A)).turn.draft == b'"one"'
    await any_store.write(A, "a", fence, [tool_call("c3", "a", draft=b'"two"')])
    assert (await rows_of(any_store, A)).turn.draft == b'"two"'


async def test_a_call_is_claimed_under_the_fence_unless_it_is_answered(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.write(A, "a", fence, [tool_call("c1", "a")])
    assert await any_store.claim_call(A, "a", fence, "c1") is True
    assert (await rows_of(any_store, A)).calls["c1"].claimed == fence
    await any_store.claim(A, "a", "other", fence)
    assert await any_store.claim_call(A, "a", fence + 1, "c1") is True
    assert (await rows_of(any_store, A)).calls["c1"].claimed == fence + 1
    await any_store.write(A, "a", fence + 1, [response("r1", "c1", "a")])
    assert await any_store.claim_call(A, "a", fence + 1, "c1") is False


async def test_whoever_lost_the_turn_meets_fenced_and_stores_nothing(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.write(A, "a", fence, [tool_call("c1", "a")])
    await any_store.claim(A, "a", "other", fence)
    before = await rows_of(any_store, A)
    for stale in (fence, fence + 2):
        for refused in (
            any_store.write(A, "a", stale, [message("m1", "a")]),
            any_store.claim_call(A, "a", stale, "c1"),
            any_store.end_turn(A, "a", stale, [end("a")], NEWEST),
            any_store.park(A, "a", stale, NEWEST),
        ):
            with pytest.raises(Fenced):
                await refused
        await any_store.release(A, "a", stale)
    assert await rows_of(any_store, A) == before


# ---- ending, parking, releasing


async def test_a_turn_ends_with_its_last_events(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.write(A, "a", fence, [message("m1", "a")])
    events = [message("m1", "a"), message("m2", "a"), end("a")]
    written = await any_store.end_turn(A, "a", fence, events, await last_order(any_store))
    assert written is not None
    assert written.passed == ["m1"]
    rows = await rows_of(any_store, A)
    assert ids(rows.events) == ["a", "m1", "m2", "a/end"]
    assert (rows.turn.state, rows.turn.runner) == (TurnState.ENDED, "inst")


async def test_a_turn_does_not_end_over_steering_or_a_cancel_that_was_not_seen(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.write(A, "a", fence, [tool_call("c1", "a")])
    seen = 0
    for step in (
        any_store.steer(A, "a", message("s1", "a")),
        any_store.cancel(A, "x1", None, "c1"),
        any_store.cancel(A, "x2", "a", None),
    ):
        await step
        assert await any_store.end_turn(A, "a", fence, [end("a")], seen) is None
        seen = await last_order(any_store)
        rows = await rows_of(any_store, A)
        assert (rows.turn.state, ids(rows.events)[-1]) == (TurnState.RUNNING, "s1")
    assert await any_store.end_turn(A, "a", fence, [end("a")], seen)


async def test_what_the_runner_wrote_itself_keeps_no_turn_from_ending(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.write(A, "a", fence, [message("m1", "a")])
    assert await any_store.end_turn(A, "a", fence, [end("a")], 0)


async def test_a_parked_turn_has_no_runner(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.write(A, "a", fence, [tool_call("c1", "a"), response("r1", "c1", "a")])
    assert await any_store.park(A, "a", fence, 0) is True
    found = (await rows_of(any_store, A)).turn
    assert (found.state, found.runner, found.fence) == (TurnState.PARKED, None, fence)


async def test_a_turn_is_not_parked_over_something_that_the_runner_did_not_write(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.write(A, "a", fence, [tool_call("c1", "a", "client", needs_approval=True)])
    seen = 0
    for step in (
        any_store.steer(A, "a", message("s1", "a")),
        any_store.approve(A, approval("p1", "c1", "a")),
        any_store.answer(A, response("r1", "c1", "a"), None),
        any_store.cancel(A, "x1", None, "c1"),
    ):
        await step
        assert await any_store.park(A, "a", fence, seen) is False
        assert (await rows_of(any_store, A)).turn.runner == "inst"
        seen = await last_order(any_store)
    assert await any_store.park(A, "a", fence, seen) is True


@pytest.mark.parametrize("how", ["cancelled", "interrupted"])
async def test_a_turn_that_is_over_for_its_user_is_not_parked(any_store: ContextStore, how: str) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.write(A, "a", fence, [tool_call("c1", "a", needs_approval=True)])
    if how == "cancelled":
        await any_store.cancel(A, "x1", "a", None)
    else:
        # Which leaves no cancel: nobody would wake the turn, and what interrupted it would wait for good.
        assert (await any_store.submit(A, message("b", "b"), turn("b"), "interrupt")).interrupted == "a"
    assert await any_store.park(A, "a", fence, NEWEST) is False
    assert (await rows_of(any_store, A)).turn.runner == "inst"


async def test_a_released_turn_is_claimed_at_once(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.release(A, "a", fence)
    found = (await rows_of(any_store, A)).turn
    assert (found.state, found.runner) == (TurnState.RUNNING, None)
    assert await any_store.turns_to_run(["inst"], ALL) == [found]
    assert await any_store.claim(A, "a", "other", found.fence) is not None


# ---- seqs


async def test_a_seq_is_noted_where_there_is_none(any_store: ContextStore) -> None:
    await any_store.submit(A, message("u1"), None)
    await any_store.submit(A, message("u2"), None)
    epoch = await epoch_of(any_store, A)
    for seqs in ({"u1": 4, "unknown": 5}, {"u1": 9, "u2": 6}, {}):
        assert await any_store.record(A, epoch, seqs) == Recorded(done=frozenset(), waiting=False)
    assert [(row.id, row.seq) for row in (await any_store.history(A, None, ALL)).rows] == [("u1", 4), ("u2", 6)]


async def test_nothing_is_noted_under_another_epoch(any_store: ContextStore) -> None:
    assert await any_store.record(A, 0, {"u1": 1}) is None
    await any_store.submit(A, message("u1"), None)
    epoch = await epoch_of(any_store, A)
    for wrong in (epoch - 1, epoch + 1):
        assert await any_store.record(A, wrong, {"u1": 1}) is None
    await any_store.raise_epoch(A, epoch)
    assert await any_store.record(A, epoch, {"u1": 1}) is None
    assert ids([row for row, _ in await any_store.unsequenced(A)]) == ["u1"]
    assert await any_store.record(A, epoch + 1, {"u1": 1})


async def test_an_ended_turn_is_done_once_all_its_events_have_a_seq(any_store: ContextStore) -> None:
    await ended(any_store, A)
    await sequence(any_store, A, a_end=2)
    assert (await rows_of(any_store, A)).turn.state is TurnState.ENDED
    await sequence(any_store, A, a=1)
    assert (await rows_of(any_store, A)).turn.state is TurnState.DONE


async def test_recording_tells_which_turns_became_done_and_whether_another_waits(any_store: ContextStore) -> None:
    await ended(any_store, A)
    await submitted(any_store, A, "b")
    await any_store.submit(A, *direct_call("c1"))
    await any_store.claim(A, "c1", "inst", 0)
    await any_store.end_turn(A, "c1", 1, [end("c1")], NEWEST)
    epoch = await epoch_of(any_store, A)

    async def told(**seqs: int) -> tuple[set[str], bool]:
        recorded = await any_store.record(A, epoch, {id.replace("_", "/"): seq for id, seq in seqs.items()})
        assert recorded is not None
        return set(recorded.done), recorded.waiting

    assert await told(a=1) == (set(), True)
    assert await told(a_end=2, c1=3, c1_end=4) == ({"a", "c1"}, True)
    assert await told(a_end=2) == (set(), True)
    await any_store.claim(A, "b", "inst", 0)
    assert await told() == (set(), False)
    await any_store.end_turn(A, "b", 1, [end("b")], NEWEST)
    assert await told(b=5, b_end=6) == ({"b"}, False)


async def test_a_direct_call_that_is_queued_waits_for_nobody(any_store: ContextStore) -> None:
    await any_store.submit(A, *direct_call("c1"))
    assert await any_store.record(A, await epoch_of(any_store, A), {}) == Recorded(done=frozenset(), waiting=False)


async def test_a_turn_that_has_not_ended_is_not_done(any_store: ContextStore) -> None:
    await running(any_store, A)
    await sequence(any_store, A, a=1)
    assert (await rows_of(any_store, A)).turn.state is TurnState.RUNNING


async def test_events_without_seq_come_in_the_order_of_storing(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.submit(A, message("u1"), None)
    await any_store.write(A, "a", fence, [message("m1", "a")])
    await sequence(any_store, A, a=1)
    assert ids([row for row, _ in await any_store.unsequenced(A)]) == ["u1", "m1"]
    assert ids([row for row, _ in await any_store.unsequenced(A, "a")]) == ["m1"]
    assert await any_store.unsequenced(A, "unknown") == []
    assert await any_store.unsequenced(B) == []


async def test_events_without_seq_are_the_runners_while_the_turn_runs_or_has_ended(any_store: ContextStore) -> None:
    await submitted(any_store, A, "a")
    await any_store.submit(A, message("u1"), None)

    async def whose() -> list[bool]:
        return [owned for row, owned in await any_store.unsequenced(A) if row.id != "u1"]

    assert await whose() == [False]
    await any_store.claim(A, "a", "inst", 0)
    assert await whose() == [True]
    await any_store.park(A, "a", 1, NEWEST)
    assert await whose() == [False]
    await any_store.claim(A, "a", "inst", 1)
    await any_store.end_turn(A, "a", 2, [end("a")], NEWEST)
    assert await whose() == [True, True]
    assert [owned for row, owned in await any_store.unsequenced(A) if row.id == "u1"] == [False]


# ---- recovery


async def test_where_who_lives_is_not_known_only_what_is_nobodys_wants_a_runner(any_store: ContextStore) -> None:
    await running(any_store, A)
    await submitted(any_store, B, "b")
    assert [turn.key for turn in await any_store.turns_to_run(None, ALL)] == [B]
    await any_store.release(A, "a", 1)
    assert {turn.key for turn in await any_store.turns_to_run(None, ALL)} == {A, B}
    assert {turn.key for turn in await any_store.turns_to_run((), ALL)} == {A, B}


async def test_contexts_are_stray_with_events_without_seq_whose_turn_has_no_runner(any_store: ContextStore) -> None:
    await submitted(any_store, A, "a")
    await any_store.submit(B, message("u1"), None)
    assert set(await any_store.stray_contexts(ALL)) == {A, B}
    assert len(await any_store.stray_contexts(1)) == 1
    await any_store.claim(A, "a", "inst", 0)
    assert await any_store.stray_contexts(ALL) == [B]
    await sequence(any_store, B, u1=1)
    assert await any_store.stray_contexts(ALL) == []
    await any_store.park(A, "a", 1, NEWEST)
    assert await any_store.stray_contexts(ALL) == [A]


@pytest.mark.parametrize("store", [open_sqlite, open_postgres], indirect=True)
async def test_what_has_been_stray_longest_comes_first(store: ContextStore, clock: Clock) -> None:
    await store.submit(B, message("u1"), None)
    clock.now += 5
    await store.submit(A, message("u1"), None)
    clock.now += 5
    await store.submit(B, message("u2"), None)
    assert await store.stray_contexts(ALL) == [B, A]
    await sequence(store, B, u1=1)
    assert await store.stray_contexts(1) == [A]


async def test_turns_want_a_runner_that_run_or_have_ended_under_none_that_is_alive(any_store: ContextStore) -> None:
    await ended(any_store, A)
    await running(any_store, B, "b", "other")
    assert await any_store.turns_to_run(["inst", "other"], ALL) == []
    assert ids(await any_store.turns_to_run(["inst"], ALL)) == ["b"]
    assert ids(await any_store.turns_to_run(["other"], ALL)) == ["a"]
    await any_store.release(A, "a", 1)
    assert ids(await any_store.turns_to_run(["inst", "other"], ALL)) == ["a"]
    await sequence(any_store, A, a=1, a_end=2)
    await any_store.park(B, "b", 1, NEWEST)
    assert await any_store.turns_to_run([], ALL) == []


async def test_the_next_turn_of_each_context_wants_a_runner(any_store: ContextStore) -> None:
    await running(any_store, A)
    await submitted(any_store, A, "a2")
    await submitted(any_store, B, "b1", "b2")
    assert await any_store.turns_to_run(["inst"], ALL) == [await any_store.next_turn(B)]
    await any_store.submit(B, message("b3", "b3"), turn("b3"), "interrupt")
    assert ids(await any_store.turns_to_run(["inst"], ALL)) == ["b3"]


async def test_turns_that_want_a_runner_come_oldest_first(store: ContextStore, clock: Clock) -> None:
    keys = [ContextKey("t/ann", name) for name in ("z", "x", "y")]
    for key in keys:
        clock.now += 1
        await submitted(store, key, "first", "second")
    await store.claim(keys[1], "first", "gone", 0)
    assert [found.key for found in await store.turns_to_run([], ALL)] == keys
    assert [found.key for found in await store.turns_to_run([], 2)] == keys[:2]
    assert [found.created_at for found in await store.turns_to_run([], ALL)] == [1001, 1002, 1003]
