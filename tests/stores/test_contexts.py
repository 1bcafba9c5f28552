"""The contract of ContextStore (stores/ports), contexts and reading: every adapter passes it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from stores.ports import ContextStore, Fenced, NotFound
from stores.records import ContextKey, ContextRecord, History, NewEvent
from tests.stores.context_stores import (
    ALL,
    NEWEST,
    Clock,
    approval,
    end,
    epoch_of,
    ids,
    message,
    response,
    running,
    sequence,
    submitted,
    tool_call,
)

A, B, BOBS = ContextKey("t/ann", "conv_a"), ContextKey("t/ann", "conv_b"), ContextKey("t/bob", "conv_a")
EMPTY = History([], [], has_more=False)


def told(id: str) -> NewEvent:
    return NewEvent(id=id, type="context", body=b"{}")


async def record_of(store: ContextStore, key: ContextKey) -> ContextRecord:
    record = await store.get_context(key)
    assert record is not None
    return record


# ---- making


async def test_a_new_context_is_empty(any_store: ContextStore) -> None:
    assert await any_store.get_context(A) is None
    assert await any_store.create_context(A, None, None) is True
    assert (await record_of(any_store, A)).key == A
    assert await any_store.history(A, None, ALL) == EMPTY
    assert await any_store.turns_to_run([], ALL) == []


async def test_a_new_context_has_its_title_metadata_and_times(store: ContextStore, clock: Clock) -> None:
    await store.create_context(A, "title", b'{"a":1}')
    record = await record_of(store, A)
    assert (record.title, record.metadata) == ("title", b'{"a":1}')
    assert record.created_at == record.updated_at == clock.now


async def test_a_context_that_exists_is_left_as_it_was(store: ContextStore, clock: Clock) -> None:
    await store.create_context(A, "title", b'{"a":1}')
    await store.submit(A, message("u1"), None)
    before = await record_of(store, A)
    clock.now += 1
    assert await store.create_context(A, "other", b"{}") is False
    assert await record_of(store, A) == before
    assert [row.id for row, _ in await store.unsequenced(A)] == ["u1"]


async def test_one_of_many_makes_the_context(any_store: ContextStore) -> None:
    made = await asyncio.gather(*(any_store.create_context(A, None, None) for _ in range(20)))
    assert sorted(made) == [False] * 19 + [True]


async def test_equal_ids_of_two_owners_never_meet(any_store: ContextStore) -> None:
    await running(any_store, A)
    assert (await any_store.submit(BOBS, message("a"), None)).created
    assert await any_store.load_turn(BOBS, "a") is None
    assert await any_store.active_turn(BOBS) is None
    assert await any_store.delete_context(BOBS)
    assert await any_store.load_turn(A, "a") is not None


async def test_a_new_context_begins_above_every_epoch_of_one_that_was_deleted(any_store: ContextStore) -> None:
    await any_store.create_context(A, None, None)
    first = await epoch_of(any_store, A)
    await any_store.delete_context(A)
    await any_store.create_context(A, None, None)
    second = await epoch_of(any_store, A)
    assert second > first
    await any_store.raise_epoch(A, second)
    await any_store.raise_epoch(A, second + 1)
    await any_store.delete_context(A)
    await any_store.submit(A, message("u1"), None)
    assert await epoch_of(any_store, A) > second + 2


# ---- listing


async def test_contexts_are_listed_newest_first_and_only_their_owners(store: ContextStore, clock: Clock) -> None:
    for key in (A, B, BOBS):
        clock.now += 1
        await store.create_context(key, None, None)
    listed, following = await store.list_contexts("t/ann", None, ALL)
    assert ([record.key for record in listed], following) == ([B, A], None)
    assert listed[0] == await store.get_context(B)
    assert await store.list_contexts("t/nobody", None, ALL) == ([], None)


async def test_a_token_leads_to_the_next_page(store: ContextStore, clock: Clock) -> None:
    for number in range(7):
        clock.now += number % 2  # some were updated at the same time
        await store.create_context(ContextKey("t/ann", f"c {number}"), None, None)
    whole, _ = await store.list_contexts("t/ann", None, ALL)
    pages: list[list[ContextRecord]] = []
    after: str | None = None
    while not pages or after is not None:
        page, after = await store.list_contexts("t/ann", after, 3)
        pages.append(page)
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [record for page in pages for record in page] == whole


async def test_no_page_follows_one_that_is_full_and_the_last(store: ContextStore) -> None:
    await store.create_context(A, None, None)
    await store.create_context(B, None, None)
    listed, following = await store.list_contexts("t/ann", None, 2)
    assert (len(listed), following) == (2, None)


@pytest.mark.parametrize("token", ["", "x", "nonsense", "eA==", "ü", "bm9uc2Vuc2U="])
async def test_a_token_that_is_not_one_of_these_is_a_value_error(store: ContextStore, token: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the port promises no more
        await store.list_contexts("t/ann", token, ALL)


async def test_every_stored_event_raises_updated_at(store: ContextStore, clock: Clock) -> None:
    fence = (await running(store, A)).fence
    asked = tool_call("c1", "a", "client", needs_approval=True)
    steps: list[Callable[[], Awaitable[object]]] = [
        lambda: store.submit(A, message("u1"), None),
        lambda: store.update_context(A, None, None, told("x1")),
        lambda: store.steer(A, "a", message("s1", "a")),
        lambda: store.write(A, "a", fence, [asked]),
        lambda: store.approve(A, approval("p1", "c1", "a")),
        lambda: store.answer(A, response("r1", "c1", "a"), None),
        lambda: store.end_turn(A, "a", fence, [end("a")], NEWEST),
    ]
    for step in steps:
        clock.now += 1
        await step()
        assert (await record_of(store, A)).updated_at == clock.now
    assert (await record_of(store, A)).created_at < clock.now


# ---- changing


async def test_what_is_not_none_is_set(store: ContextStore) -> None:
    await store.create_context(A, "title", b'{"a":1}')
    await store.update_context(A, None, b'{"a":2}', told("x1"))
    assert (await record_of(store, A)).title == "title"
    await store.update_context(A, "", None, told("x2"))
    record = await record_of(store, A)
    assert (record.title, record.metadata) == ("", b'{"a":2}')


async def test_the_event_that_tells_of_a_change_is_stored(any_store: ContextStore) -> None:
    await any_store.create_context(A, None, None)
    await any_store.update_context(A, "title", None, told("x1"))
    ((row, owned),) = await any_store.unsequenced(A)
    assert (row.id, row.type, row.body, row.turn_id, row.seq, owned) == ("x1", "context", b"{}", None, None, False)


async def test_a_context_that_is_not_there_cannot_be_changed(any_store: ContextStore) -> None:
    with pytest.raises(NotFound):
        await any_store.update_context(A, "title", None, told("x1"))
    assert await any_store.get_context(A) is None


# ---- deleting


async def test_a_context_is_deleted_with_all_that_belongs_to_it(any_store: ContextStore) -> None:
    turn = await running(any_store, A)
    await any_store.write(A, "a", turn.fence, [tool_call("c1", "a")])
    await any_store.cancel(A, "x1", "a", None)
    assert await any_store.delete_context(A) is True
    for _ in range(2):  # and again where a new one has the same key
        assert await any_store.load_turn(A, "a") is None
        assert await any_store.get_call(A, "c1") is None
        assert await any_store.active_turn(A) is None
        assert await any_store.next_turn(A) is None
        assert await any_store.inputs(A, "a", 0) == ([], [], False)
        assert await any_store.unsequenced(A) == []
        assert await any_store.history(A, None, ALL) == EMPTY
        assert await any_store.open_calls(A, 0) == []
        assert await any_store.turns_to_run([], ALL) == []
        assert await any_store.stray_contexts(ALL) == []
        await any_store.create_context(A, None, None)
    await running(any_store, A)
    assert (await any_store.cancel(A, "x1", "a", None)).duplicate is False


async def test_a_context_that_is_not_there_cannot_be_deleted(any_store: ContextStore) -> None:
    assert await any_store.delete_context(A) is False
    await any_store.create_context(A, None, None)
    assert await any_store.delete_context(A) is True
    assert await any_store.delete_context(A) is False


async def test_whoever_runs_a_turn_of_a_deleted_context_meets_fenced(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.delete_context(A)
    for refused in (
        any_store.write(A, "a", fence, []),
        any_store.claim_call(A, "a", fence, "c1"),
        any_store.end_turn(A, "a", fence, [end("a")], NEWEST),
        any_store.park(A, "a", fence, NEWEST),
    ):
        with pytest.raises(Fenced):
            await refused
    await any_store.release(A, "a", fence)
    assert await any_store.claim(A, "a", "inst", fence) is None


# ---- epochs


async def test_the_epoch_is_raised_by_one_if_it_is_the_expected_one(any_store: ContextStore) -> None:
    await any_store.create_context(A, None, None)
    epoch = await epoch_of(any_store, A)
    assert await any_store.raise_epoch(A, epoch + 1) is None
    assert await any_store.raise_epoch(A, epoch) == (epoch + 1, 0)
    assert await any_store.raise_epoch(A, epoch) is None
    assert await epoch_of(any_store, A) == epoch + 1


async def test_raising_the_epoch_tells_the_highest_recorded_seq(any_store: ContextStore) -> None:
    for name in ("u1", "u2", "u3"):
        await any_store.submit(A, message(name), None)
    await sequence(any_store, A, u1=8, u2=5)
    epoch = await epoch_of(any_store, A)
    assert await any_store.raise_epoch(A, epoch) == (epoch + 1, 8)


async def test_the_epoch_of_a_context_that_is_not_there_cannot_be_raised(any_store: ContextStore) -> None:
    with pytest.raises(NotFound):
        await any_store.raise_epoch(A, 0)


async def test_one_of_many_raises_the_epoch(any_store: ContextStore) -> None:
    await any_store.create_context(A, None, None)
    epoch = await epoch_of(any_store, A)
    answers = await asyncio.gather(*(any_store.raise_epoch(A, epoch) for _ in range(20)))
    assert [answer for answer in answers if answer is not None] == [(epoch + 1, 0)]


# ---- history


async def test_history_gives_the_newest_sequenced_events_in_the_order_of_their_seqs(any_store: ContextStore) -> None:
    for number in range(5):
        await any_store.submit(A, message(f"u{number}"), None)
    await sequence(any_store, A, u0=9, u1=2, u2=7, u3=4, u4=1)
    page = await any_store.history(A, None, 3)
    assert [(row.seq, row.id) for row in page.rows] == [(4, "u3"), (7, "u2"), (9, "u0")]
    assert page.has_more is True
    assert (await any_store.history(A, None, 5)).has_more is False


async def test_history_gives_what_is_below_a_seq(any_store: ContextStore) -> None:
    for number in range(5):
        await any_store.submit(A, message(f"u{number}"), None)
    await sequence(any_store, A, u0=1, u1=2, u2=3, u3=4)
    page = await any_store.history(A, 4, 2)
    assert (ids(page.rows), page.has_more) == (["u1", "u2"], True)
    page = await any_store.history(A, 2, 2)
    assert (ids(page.rows), page.has_more) == (["u0"], False)
    assert await any_store.history(A, 1, 2) == EMPTY


async def test_history_without_a_bound_gives_what_has_no_seq_as_well(any_store: ContextStore) -> None:
    for name in ("u2", "u1", "u3"):
        await any_store.submit(A, message(name), None)
    await sequence(any_store, A, u1=1)
    newest = await any_store.history(A, None, 1)
    assert (ids(newest.rows), ids(newest.unsequenced)) == (["u1"], ["u2", "u3"])
    assert [row.seq for row in newest.unsequenced] == [None, None]
    assert (await any_store.history(A, NEWEST, 1)).unsequenced == []


async def test_the_history_of_an_unknown_context_is_empty(any_store: ContextStore) -> None:
    assert await any_store.history(A, None, ALL) == EMPTY
    assert await any_store.history(A, 5, ALL) == EMPTY


# ---- open calls


async def test_a_call_is_open_while_its_response_is_not_stored(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.write(A, "a", fence, [tool_call("c2", "a"), tool_call("c1", "a", "client")])
    await sequence(any_store, A, a=1, c2=2, c1=3)
    rows = await any_store.open_calls(A, 9)
    assert [(row.id, row.type, row.seq) for row in rows] == [("c2", "tool_call", 2), ("c1", "tool_call", 3)]


async def test_a_call_is_open_while_its_response_has_no_seq_or_one_above(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.write(A, "a", fence, [tool_call("c1", "a"), tool_call("c2", "a", "client")])
    await any_store.answer(A, response("r2", "c2", "a"), None)
    await any_store.write(A, "a", fence, [response("r1", "c1", "a")])
    await sequence(any_store, A, a=1, c1=2, c2=3, r2=4)
    assert ids(await any_store.open_calls(A, 4)) == ["c1"]
    assert ids(await any_store.open_calls(A, 3)) == ["c1", "c2"]
    await sequence(any_store, A, r1=5)
    assert ids(await any_store.open_calls(A, 5)) == []


async def test_calls_without_a_seq_or_with_one_above_are_open_too(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.write(A, "a", fence, [tool_call("c1", "a"), tool_call("c2", "a")])
    await any_store.write(A, "a", fence, [response("r1", "c1", "a"), response("r2", "c2", "a")])
    await sequence(any_store, A, c1=7, r1=8)
    assert ids(await any_store.open_calls(A, 6)) == ["c1", "c2"]


async def test_an_unknown_context_has_no_open_calls(any_store: ContextStore) -> None:
    await submitted(any_store, B, "a")
    assert await any_store.open_calls(A, 0) == []
