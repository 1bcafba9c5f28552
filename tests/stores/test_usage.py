"""The contract of UsageStore, and of usage that comes with events, over every adapter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pytest
from msgspec.structs import replace

from stores.ports import ContextStore, Fenced, UsageStore
from stores.records import ContextKey, NewEvent, NewUsage, UsageBy, UsagePage, UsageRow
from tests.stores.context_stores import (
    ALL,
    NEWEST,
    Clock,
    end,
    message,
    open_postgres,
    open_reference,
    open_sharded,
    open_sqlite,
    rows_of,
    running,
    used,
)

KEY = ContextKey("t/ann", "chat")
DAY = "2026-01-15"


class Accounts(ContextStore, UsageStore, Protocol):
    pass


@pytest.fixture(
    params=[open_sqlite, open_sharded, open_postgres, open_reference],
    ids=["sqlite", "sharded", "postgres", "reference"],
)
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncGenerator[Accounts]:
    open_store: Callable[[Path, Clock], AbstractAsyncContextManager[Accounts]] = request.param
    async with open_store(tmp_path, clock) as opened:
        yield opened


def step(id: str, usage: NewUsage | None = None) -> NewEvent:
    return replace(message(id, "a"), usage=usage or used(DAY))


async def page(
    store: UsageStore,
    by: UsageBy = "day",
    *,
    owner: str | None = "t/ann",
    first: str = "2026-01-01",
    last: str = "2026-12-31",
    after: str | None = None,
    limit: int = ALL,
) -> UsagePage:
    return await store.usage("t", owner, first, last, by, after, limit)


async def names(store: UsageStore, by: UsageBy) -> list[tuple[str, int]]:
    return [(row.name, row.steps) for row in (await page(store, by)).rows]


async def test_a_step_is_added_with_its_event(store: Accounts) -> None:
    turn = await running(store, KEY)
    await store.write(KEY, "a", turn.fence, [step("m1")])
    row = UsageRow(name=DAY, input_tokens=100, output_tokens=20, cached_tokens=5, reasoning_tokens=3, steps=1, cost=7)
    assert await page(store) == UsagePage([row], False, replace(row, name=""))


async def test_nothing_used_is_no_rows_and_a_total_of_nothing(store: Accounts) -> None:
    assert await page(store) == UsagePage([], False, UsageRow(name=""))


async def test_an_event_that_is_written_again_is_not_added_again(store: Accounts) -> None:
    turn = await running(store, KEY)
    await store.write(KEY, "a", turn.fence, [step("m1")])
    assert (await store.write(KEY, "a", turn.fence, [step("m1"), step("m2")])).passed == ["m1"]
    assert await names(store, "day") == [(DAY, 2)]


async def test_two_runners_that_write_at_once_add_once(store: Accounts) -> None:
    turn = await running(store, KEY)
    writes = [store.write(KEY, "a", turn.fence, [step("m1")]) for _ in range(20)]
    written = await asyncio.gather(*writes)
    assert sorted(list(answer.passed) for answer in written) == [[], *[["m1"]] * 19]
    assert await names(store, "day") == [(DAY, 1)]


async def test_who_has_lost_the_turn_adds_nothing(store: Accounts) -> None:
    turn = await running(store, KEY)
    taken = await store.claim(KEY, "a", "other", turn.fence)
    assert taken is not None
    with pytest.raises(Fenced):
        await store.write(KEY, "a", turn.fence, [step("m1")])
    assert await names(store, "day") == []
    await store.write(KEY, "a", taken.rows.turn.fence, [step("m1")])
    assert await names(store, "day") == [(DAY, 1)]


async def test_the_end_adds_its_message_unless_it_is_refused(store: Accounts) -> None:
    turn = await running(store, KEY)
    await store.steer(KEY, "a", message("steering", "a"))
    seen = (await rows_of(store, KEY)).events[0].order
    assert not await store.end_turn(KEY, "a", turn.fence, [step("m1"), end("a")], seen)
    assert await names(store, "day") == []
    assert await store.end_turn(KEY, "a", turn.fence, [step("m1"), end("a")], NEWEST)
    assert await store.end_turn(KEY, "a", turn.fence, [step("m1"), end("a")], NEWEST)
    assert await names(store, "day") == [(DAY, 1)]


async def test_sums_are_kept_apart_by_day_context_and_model(store: Accounts) -> None:
    turn = await running(store, KEY)
    other = ContextKey("t/ann", "other")
    second = await running(store, other)
    calls = [step("m1"), step("m2", used("2026-01-16")), step("m3", used(DAY, "large", estimated=True))]
    await store.write(KEY, "a", turn.fence, calls)
    await store.write(other, "a", second.fence, [step("m1")])
    assert await names(store, "day") == [(DAY, 3), ("2026-01-16", 1)]
    assert await names(store, "context") == [("chat", 3), ("other", 1)]
    assert await names(store, "model") == [("demo", 3), ("large", 1)]
    assert await names(store, "subject") == [("ann", 4)]
    assert (await page(store)).total.estimated_steps == 1


async def test_a_range_holds_its_first_and_last_day(store: Accounts) -> None:
    for day in ("2026-01-14", DAY, "2026-01-16", "2026-01-17"):
        await store.add_usage(KEY, day, used(day))
    found = await page(store, first=DAY, last="2026-01-16")
    assert [row.name for row in found.rows] == [DAY, "2026-01-16"]
    assert found.total.steps == 2


async def test_pages_go_on_after_a_name_and_have_the_whole_total(store: Accounts) -> None:
    for number in range(1, 6):
        await store.add_usage(KEY, f"call{number}", used(f"2026-02-0{number}"))
    first = await page(store, limit=3)
    assert [row.name for row in first.rows] == ["2026-02-01", "2026-02-02", "2026-02-03"]
    assert first.has_more
    rest = await page(store, limit=3, after="2026-02-03")
    assert [row.name for row in rest.rows] == ["2026-02-04", "2026-02-05"]
    assert not rest.has_more
    assert first.total == rest.total
    assert first.total.steps == 5


async def test_owners_and_tenants_do_not_meet(store: Accounts) -> None:
    await store.add_usage(KEY, "one", used(DAY))
    await store.add_usage(ContextKey("t/bob", "chat"), "one", used(DAY, subject="bob"))
    await store.add_usage(ContextKey("u/ann", "chat"), "one", replace(used(DAY), tenant="u"))
    assert await names(store, "subject") == [("ann", 1)]
    tenant = await page(store, "subject", owner=None)
    assert [(row.name, row.steps) for row in tenant.rows] == [("ann", 1), ("bob", 1)]
    assert tenant.total.steps == 2


async def test_a_deleted_context_leaves_its_sums_without_its_name(store: Accounts) -> None:
    for id in ("chat", "other"):
        key = ContextKey("t/ann", id)
        turn = await running(store, key)
        await store.write(key, "a", turn.fence, [step("m1"), step("m2", used(DAY, "large"))])
    before = (await page(store)).total
    assert await store.delete_context(KEY)
    assert await names(store, "context") == [("", 2), ("other", 2)]
    assert await store.delete_context(ContextKey("t/ann", "other"))
    assert await names(store, "context") == [("", 4)]
    assert await names(store, "model") == [("demo", 2), ("large", 2)]
    assert (await page(store)).total == before


async def test_a_context_of_the_same_name_begins_anew(store: Accounts) -> None:
    for _ in range(2):
        turn = await running(store, KEY)
        await store.write(KEY, "a", turn.fence, [step("m1")])
        assert (await names(store, "context"))[-1] == ("chat", 1)
        await store.delete_context(KEY)
    assert await names(store, "context") == [("", 2)]


async def test_a_call_without_an_event_is_added_once(store: Accounts) -> None:
    await store.create_context(KEY, None, None)
    added = await asyncio.gather(*(store.add_usage(KEY, "title", used(DAY)) for _ in range(10)))
    assert sorted(added) == [False] * 9 + [True]
    assert await store.add_usage(ContextKey("t/bob", "chat"), "title", used(DAY, subject="bob"))
    assert await names(store, "context") == [("chat", 1)]


async def test_a_call_for_a_context_that_is_gone_is_kept_without_it(store: Accounts) -> None:
    assert await store.add_usage(KEY, "title", used(DAY))
    assert await names(store, "context") == [("", 1)]


async def test_an_id_is_remembered_for_a_week(store: Accounts) -> None:
    assert await store.add_usage(KEY, "title", used(DAY))
    assert await store.add_usage(KEY, "later", used("2026-01-22"))
    assert not await store.add_usage(KEY, "title", used("2026-01-22"))
