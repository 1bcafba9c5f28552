"""The contract of ContextStore (stores/ports), what a conversation is made of: every adapter passes it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from stores.ports import ContextStore, NotFound
from stores.records import ContextKey, EventRow, NewEvent, Pin, Summary, ThreadRows
from tests.stores.context_stores import ALL, ended, message, running, tool_call

A, B = ContextKey("t/ann", "conv_a"), ContextKey("t/bob", "conv_a")


async def thread_of(store: ContextStore, after: int | None = None, limit: int = ALL, key: ContextKey = A) -> ThreadRows:
    found = await store.thread(key, after, limit)
    assert found is not None
    return found


def ids(rows: list[EventRow] | ThreadRows) -> list[str]:
    return [row.id for row in (rows.rows if isinstance(rows, ThreadRows) else rows)]


async def say(store: ContextStore, *names: str, key: ContextKey = A) -> None:
    for name in names:
        await store.submit(key, message(name), None)


async def born(store: ContextStore) -> int:
    return (await thread_of(store)).context.born


def summary(turn_id: str, text: str = "They met.") -> Summary:
    return Summary(turn_id=turn_id, first_id="m1", turns=2, text=text)


# ---- reading


async def test_an_unknown_context_has_no_thread(any_store: ContextStore) -> None:
    await say(any_store, "m1", key=B)
    assert await any_store.thread(A, None, ALL) is None
    assert await any_store.older(A, ALL, ALL) == ([], False)
    assert await any_store.find_event(A, "m1") is None


async def test_events_are_read_from_the_newest_back_and_then_only_what_is_new(any_store: ContextStore) -> None:
    await say(any_store, "m1", "m2", "m3", "m4")
    newest = await thread_of(any_store, None, 2)
    assert ids(newest) == ["m3", "m4"]
    assert newest.more
    older, more = await any_store.older(A, newest.rows[0].order, 1)
    assert (ids(older), more) == (["m2"], True)
    oldest, more = await any_store.older(A, older[0].order, ALL)
    assert (ids(oldest), more) == (["m1"], False)
    last = newest.rows[-1].order
    assert ids(await thread_of(any_store, last)) == []
    await say(any_store, "m5", "m6", "m7")
    first = await thread_of(any_store, last, 2)
    assert (ids(first), first.more) == (["m5", "m6"], True)
    rest = await thread_of(any_store, last)
    assert (ids(rest), rest.more) == (["m5", "m6", "m7"], False)


async def test_of_large_events_a_page_has_fewer(store: ContextStore) -> None:
    for number in range(8):
        large = replace(message(f"m{number}"), body=b'"%b"' % (b"x" * 1_000_000))
        await store.submit(A, large, None)
    newest = await thread_of(store)
    assert newest.more
    assert 0 < len(newest.rows) < 8
    older, more = await store.older(A, newest.rows[0].order, ALL)
    assert more
    assert 0 < len(older) < 8 - len(newest.rows)
    newer = await thread_of(store, older[0].order - 1)
    assert newer.more
    assert newer.rows[0].id == older[0].id


async def test_events_of_turns_are_among_them(any_store: ContextStore) -> None:
    await ended(any_store, A, "a")
    assert ids(await thread_of(any_store)) == ["a", "a/end"]


async def test_an_event_is_found_by_its_id(any_store: ContextStore) -> None:
    await say(any_store, "m1")
    found = await any_store.find_event(A, "m1")
    assert found is not None
    assert (found.id, found.type, found.turn_id) == ("m1", "message", None)
    assert await any_store.find_event(A, "m2") is None


async def test_a_context_is_told_from_a_deleted_one_of_its_name(any_store: ContextStore) -> None:
    await say(any_store, "m1")
    before = (await thread_of(any_store)).context.born
    assert await any_store.raise_epoch(A, before) is not None
    assert (await thread_of(any_store)).context.born == before
    await any_store.delete_context(A)
    await say(any_store, "m1")
    assert (await thread_of(any_store)).context.born != before


# ---- settings


async def test_settings_are_set_as_a_whole(any_store: ContextStore) -> None:
    await any_store.create_context(A, None, None, b'{"system":"a"}')
    assert (await thread_of(any_store)).context.settings == b'{"system":"a"}'
    told = [NewEvent(id=f"x{n}", type="context", body=b"{}") for n in range(2)]
    assert await any_store.update_context(A, "title", None, told[0])
    assert (await thread_of(any_store)).context.settings == b'{"system":"a"}'
    assert await any_store.update_context(A, None, None, told[1], settings=b"{}")
    assert (await thread_of(any_store)).context.settings == b"{}"


async def test_a_title_may_be_set_only_where_there_is_none(any_store: ContextStore) -> None:
    await any_store.create_context(A, None, None)
    told = [NewEvent(id=f"x{n}", type="context", body=b"{}") for n in range(2)]
    assert await any_store.update_context(A, "first", None, told[0], if_untitled=True) is True
    assert await any_store.update_context(A, "second", None, told[1], if_untitled=True) is False
    other = await born(any_store) + 1
    assert await any_store.update_context(A, "second", None, told[1], born=other) is False
    found = await thread_of(any_store)
    assert found.context.title == "first"
    assert ids(found) == ["x0"]


# ---- pins


async def test_pins_are_set_as_a_whole_and_only_to_messages(any_store: ContextStore) -> None:
    claimed = await running(any_store, A, "a")
    await any_store.write(A, "a", claimed.fence, [tool_call("c", "a"), message("said", "a")])
    await say(any_store, "m1")

    async def pin(number: int, *names: str) -> None:
        event = NewEvent(id=f"x{number}", type="context", body=b"{}")
        await any_store.update_context(A, None, None, event, pins=names)

    await pin(1, "said", "m1", "m1")
    assert (await thread_of(any_store)).pins == [Pin("m1", None), Pin("said", "a")]
    for wrong in ("c", "nothing"):
        with pytest.raises(NotFound):
            await pin(2, "m1", wrong)
    assert (await thread_of(any_store)).pins == [Pin("m1", None), Pin("said", "a")]
    assert await any_store.find_event(A, "x2") is None
    await pin(3)
    assert (await thread_of(any_store)).pins == []


async def test_a_message_may_be_pinned_from_the_start(any_store: ContextStore) -> None:
    rules = replace(message("rules"), pinned=True)
    await any_store.submit(A, rules, None)
    await any_store.submit(A, rules, None)
    await say(any_store, "m1")
    assert (await thread_of(any_store)).pins == [Pin("rules", None)]
    assert (await thread_of(any_store, ALL)).pins == [Pin("rules", None)]


# ---- summaries


async def test_a_summary_is_read_once(any_store: ContextStore) -> None:
    await say(any_store, "m1", "m2")
    assert await any_store.put_summary(A, summary("m2"), await born(any_store))
    found = await thread_of(any_store)
    (stored,) = found.summaries
    assert replace(stored, order=0) == summary("m2")
    assert stored.order > found.rows[-1].order
    assert (await thread_of(any_store, found.rows[-1].order)).summaries == [stored]
    assert (await thread_of(any_store, stored.order)).summaries == []
    await say(any_store, "m3")
    assert ids(await thread_of(any_store, stored.order)) == ["m3"]


async def test_a_summary_up_to_the_same_turn_takes_the_place_of_the_one_before(any_store: ContextStore) -> None:
    await say(any_store, "m1", "m2")
    await any_store.put_summary(A, summary("m1"), await born(any_store))
    await any_store.put_summary(A, summary("m2"), await born(any_store))
    await any_store.put_summary(A, summary("m1", "They parted."), await born(any_store))
    texts = {found.turn_id: found.text for found in (await thread_of(any_store)).summaries}
    assert texts == {"m2": "They met.", "m1": "They parted."}


async def test_summaries_and_pins_go_with_their_context(any_store: ContextStore) -> None:
    await any_store.submit(A, replace(message("rules"), pinned=True), None)
    await any_store.put_summary(A, summary("rules"), await born(any_store))
    before = await born(any_store)
    await any_store.delete_context(A)
    assert await any_store.put_summary(A, summary("rules"), before) is False
    await say(any_store, "rules")
    assert await any_store.put_summary(A, summary("rules"), before) is False
    found = await thread_of(any_store)
    assert (found.summaries, found.pins) == ([], [])
