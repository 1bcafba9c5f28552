"""The contract of ContextStore (stores/ports), how what is stored is numbered: every adapter passes it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from stores.ports import AlreadyAnswered, Busy, ContextStore, IdTaken, NotFound
from stores.records import ContextKey, NewEvent, Summary, Written
from tests.stores.context_stores import (
    ALL,
    NEWEST,
    direct_call,
    end,
    message,
    response,
    rows_of,
    running,
    sequence,
    submitted,
    tool_call,
    turn,
)

A, B = ContextKey("t/ann", "conv_a"), ContextKey("t/ann", "conv_b")


async def stored_orders(store: ContextStore) -> list[int]:
    """Of all that is stored in the context: events, summaries and the cancels of the turn "a"."""
    thread = await store.thread(A, None, ALL)
    assert thread is not None
    cancels = (await rows_of(store, A)).cancels
    return sorted(stored.order for stored in (*thread.rows, *thread.summaries, *cancels))


async def newest(store: ContextStore, fence: int) -> int:
    """The context's highest order, as writing nothing tells it."""
    return (await store.write(A, "a", fence, [])).newest


async def test_a_claim_gives_all_that_is_stored_of_the_turn_and_the_newest_order(any_store: ContextStore) -> None:
    await submitted(any_store, A, "a", "b")
    await submitted(any_store, B, "c", "d", "e")  # another context counts by itself
    await any_store.cancel(A, "x1", "a", None)
    claimed = await any_store.claim(A, "a", "inst", 0)
    assert claimed is not None
    assert claimed.rows == await rows_of(any_store, A)
    assert [event.order for event in claimed.rows.events] == [1]
    assert [cancel.order for cancel in claimed.rows.cancels] == [3]
    assert claimed.newest == 3
    context = await any_store.get_context(A)
    assert context is not None
    assert claimed.born == context.born
    await any_store.write(A, "a", 1, [tool_call("c1", "a", draft=b"{}")])
    again = await any_store.claim(A, "a", "other", 1)
    assert again is not None
    assert (list(again.rows.calls), again.rows.turn.draft, again.newest) == (["c1"], b"{}", 4)


async def test_a_claim_tells_one_life_of_a_context_from_another(any_store: ContextStore) -> None:
    await submitted(any_store, A, "a")
    first = await any_store.claim(A, "a", "inst", 0)
    await any_store.delete_context(A)
    await submitted(any_store, A, "a")
    second = await any_store.claim(A, "a", "inst", 0)
    assert first is not None
    assert second is not None
    assert second.born > first.born
    assert second.newest == 1


async def test_all_that_is_stored_is_numbered_without_gap(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    context = await any_store.get_context(A)
    assert context is not None
    asked = tool_call("c1", "a", "client", needs_approval=True)
    steps: list[Callable[[], Awaitable[object]]] = [
        lambda: any_store.submit(A, message("u1"), None),
        lambda: any_store.steer(A, "a", message("s1", "a")),
        lambda: any_store.write(A, "a", fence, [asked]),
        lambda: any_store.cancel(A, "x1", None, "c1"),
        lambda: any_store.approve(A, NewEvent(id="p1", type="tool_approval", body=b"{}", turn_id="a", decides="c1")),
        lambda: any_store.answer(A, response("r1", "c1", "a"), None),
        lambda: any_store.update_context(A, "title", None, NewEvent(id="k1", type="context", body=b"{}")),
        lambda: any_store.put_summary(A, Summary(turn_id="u1", first_id="a", turns=1, text="x"), context.born),
        lambda: any_store.cancel(A, "x2", None, None),
        lambda: any_store.end_turn(A, "a", fence, [end("a")], NEWEST),
    ]
    for count, step in enumerate(steps, start=1):
        await step()
        assert await newest(any_store, fence) == 1 + count
        assert await stored_orders(any_store) == list(range(1, 2 + count))


async def test_what_is_refused_or_stored_already_uses_up_no_number(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    await any_store.submit(A, *direct_call("d1"))
    await any_store.write(A, "a", fence, [tool_call("c1", "a", "client")])
    await any_store.answer(A, response("r1", "c1", "a"), None)
    await any_store.cancel(A, "x1", None, "c1")
    before = await newest(any_store, fence)
    context_event = NewEvent(id="k1", type="context", body=b"{}")
    refused: list[tuple[type[Exception] | None, Callable[[], Awaitable[object]]]] = [
        (None, lambda: any_store.submit(A, message("a", "a"), turn("a"))),
        (None, lambda: any_store.steer(A, "a", message("a", "a"))),
        (None, lambda: any_store.steer(A, "unknown", message("s1", "unknown"))),
        (None, lambda: any_store.answer(A, response("r1", "c1", "a"), None)),
        (None, lambda: any_store.cancel(A, "x1", None, "c1")),
        (None, lambda: any_store.write(A, "a", fence, [message("a", "a"), response("r2", "c1", "a")])),
        (None, lambda: any_store.end_turn(A, "a", fence, [end("a")], 0)),
        (None, lambda: any_store.put_summary(A, Summary(turn_id="a", first_id="a", turns=1, text="x"), -1)),
        (Busy, lambda: any_store.submit(A, message("b", "b"), turn("b"), "reject")),
        (IdTaken, lambda: any_store.submit(A, message("d1"), None)),
        (AlreadyAnswered, lambda: any_store.answer(A, response("r2", "c1", "a"), None)),
        (NotFound, lambda: any_store.cancel(A, "x2", "unknown", None)),
        (NotFound, lambda: any_store.update_context(A, None, None, context_event, pins=["unknown"])),
    ]
    for error, step in refused:
        if error is None:
            await step()
        else:
            with pytest.raises(error):
                await step()
        assert await newest(any_store, fence) == before


async def test_writing_tells_the_order_of_the_last_event(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    first, second = message("m1", "a"), message("m2", "a")
    assert await any_store.write(A, "a", fence, []) == Written(passed=[], newest=1)
    assert await any_store.write(A, "a", fence, [first, second]) == Written(passed=[], newest=3)
    await any_store.submit(A, message("u1"), None)
    assert await any_store.write(A, "a", fence, [first, second]) == Written(passed=["m1", "m2"], newest=4)
    mixed = [first, message("m3", "a"), second, message("m4", "a")]
    assert await any_store.write(A, "a", fence, mixed) == Written(passed=["m1", "m2"], newest=6)
    orders = {event.id: event.order for event in (await rows_of(any_store, A)).events}
    assert orders == {"a": 1, "m1": 2, "m2": 3, "m3": 5, "m4": 6}


async def test_ending_tells_the_order_of_the_last_event(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    events = [message("m1", "a"), end("a")]
    assert await any_store.end_turn(A, "a", fence, events, NEWEST) == Written(passed=[], newest=3)
    again = Written(passed=["m1", "a/end"], newest=3)
    assert await any_store.end_turn(A, "a", fence, events, NEWEST) == again
    await sequence(any_store, A, a=1, m1=2, a_end=3)
    await any_store.submit(A, message("u1"), None)
    assert await any_store.end_turn(A, "a", fence, events, NEWEST) == replace(again, newest=4)


async def test_a_summary_in_the_place_of_another_counts_on(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    context = await any_store.get_context(A)
    assert context is not None
    for text in ("one", "two"):
        assert await any_store.put_summary(A, Summary(turn_id="a", first_id="a", turns=1, text=text), context.born)
    assert await newest(any_store, fence) == 3
    assert await stored_orders(any_store) == [1, 3]


async def test_many_at_once_are_numbered_without_gap(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence

    async def others() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(any_store.submit(A, message(f"u{number % 20}"), None))
                group.create_task(any_store.cancel(A, f"x{number % 5}", "a", None))

    written, _ = await asyncio.gather(
        any_store.write(A, "a", fence, [message(f"m{number}", "a") for number in range(5)]), others()
    )
    orders = await stored_orders(any_store)
    assert orders == list(range(1, 1 + 1 + 5 + 20 + 5))
    own = [event.order for event in (await rows_of(any_store, A)).events if event.id.startswith("m")]
    assert own == list(range(written.newest - 4, written.newest + 1))


async def test_a_store_that_can_be_asked_passes_its_check(any_store: ContextStore) -> None:
    await any_store.check()
