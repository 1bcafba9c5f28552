"""Several instances on one database: whatever they do at once, it is as if it came one after another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TypeVar

import pytest

from stores.ports import AlreadyAnswered, Fenced
from stores.postgres import Limits, PostgresStore
from stores.records import Claimed, ContextKey
from tests.servers.postgres import administrator
from tests.stores.context_stores import (
    NEWEST,
    Clock,
    approval,
    end,
    epoch_of,
    message,
    response,
    rows_of,
    running,
    submitted,
    tool_call,
    turn,
)

KEY = ContextKey("t/ann", "conv")
ROUNDS = 3

_T = TypeVar("_T")


@pytest.fixture
async def stores(postgres: str, clock: Clock) -> AsyncGenerator[Sequence[PostgresStore]]:
    opened = [await PostgresStore.open(postgres, limits=Limits(max_size=4), clock=clock) for _ in range(3)]
    yield opened
    for store in opened:
        await store.close()


async def race(
    stores: Sequence[PostgresStore], postgres: str, call: Callable[[PostgresStore, int], Awaitable[_T]]
) -> list[_T | BaseException]:
    """What nine calls, three of each instance, come to that begin while the context is locked."""
    async with administrator(postgres.rpartition("/")[2]) as admin, admin.transaction():
        await admin.execute("SELECT FROM contexts WHERE owner = $1 AND context_id = $2 FOR UPDATE", *KEY)
        calls = [asyncio.ensure_future(call(store, place)) for place, store in enumerate([*stores] * 3)]
        async with asyncio.timeout(5):
            while await admin.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < len(calls):
                await asyncio.sleep(0)
    return await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize("_", range(ROUNDS))
async def test_one_makes_the_context_and_its_epochs_only_rise(stores: Sequence[PostgresStore], _: int) -> None:
    epochs: list[int] = []
    for _round in range(5):
        made = await asyncio.gather(*(store.create_context(KEY, None, None) for store in [*stores] * 3))
        assert sorted(made) == [False] * 8 + [True]
        epochs.append(await epoch_of(stores[0], KEY))
        gone = await asyncio.gather(*(store.delete_context(KEY) for store in [*stores] * 3))
        assert sorted(gone) == [False] * 8 + [True]
    assert epochs == sorted(set(epochs))


@pytest.mark.parametrize("_", range(ROUNDS))
async def test_whoever_makes_what_others_delete_never_meets_an_old_epoch(
    stores: Sequence[PostgresStore], _: int
) -> None:
    born: list[int] = []

    async def make(store: PostgresStore, name: str) -> None:
        for number in range(10):
            await store.submit(KEY, message(f"{name}{number}"), None)

    async def unmake(store: PostgresStore) -> None:
        for _number in range(10):
            record = await store.get_context(KEY)
            if record is not None:
                born.append(record.born)
            await store.delete_context(KEY)

    await asyncio.gather(make(stores[0], "a"), make(stores[1], "b"), unmake(stores[2]))
    assert born == sorted(born)
    await stores[0].create_context(KEY, None, None)
    assert (await epoch_of(stores[0], KEY)) >= max(born, default=0)
    rows = await stores[0].unsequenced(KEY)
    assert [row.order for row, _owned in rows] == list(range(1, len(rows) + 1)), "nothing is left of what was deleted"


@pytest.mark.parametrize("_", range(ROUNDS))
async def test_one_claims_the_turn(stores: Sequence[PostgresStore], postgres: str, _: int) -> None:
    await submitted(stores[0], KEY, "a")
    claims = await race(stores, postgres, lambda store, n: store.claim(KEY, "a", f"inst{n}", 0))
    assert sum(claim is not None for claim in claims) == 1


@pytest.mark.parametrize("_", range(ROUNDS))
async def test_one_turn_of_a_context_is_claimed(stores: Sequence[PostgresStore], postgres: str, _: int) -> None:
    await submitted(stores[0], KEY, *(f"t{n}" for n in range(9)))
    claims = await race(stores, postgres, lambda store, n: store.claim(KEY, f"t{n}", "inst", 0))
    assert sum(claim is not None for claim in claims) == 1


@pytest.mark.parametrize("_", range(ROUNDS))
async def test_one_raises_the_epoch(stores: Sequence[PostgresStore], postgres: str, _: int) -> None:
    await stores[0].create_context(KEY, None, None)
    epoch = await epoch_of(stores[0], KEY)
    raised = await race(stores, postgres, lambda store, _: store.raise_epoch(KEY, epoch))
    assert [one for one in raised if one is not None] == [(epoch + 1, 0)]


@pytest.mark.parametrize("_", range(ROUNDS))
async def test_equal_messages_are_stored_once(stores: Sequence[PostgresStore], postgres: str, _: int) -> None:
    await stores[0].create_context(KEY, None, None)
    accepted = await race(stores, postgres, lambda store, _: store.submit(KEY, message("m", "m"), turn("m")))
    assert [one.duplicate for one in accepted if not isinstance(one, BaseException)].count(False) == 1
    assert len(accepted) == 9
    assert [row.id for row, _ in await stores[1].unsequenced(KEY)] == ["m"]


@pytest.mark.parametrize("_", range(ROUNDS))
async def test_orders_have_no_gap_and_follow_the_commits(
    stores: Sequence[PostgresStore], postgres: str, _: int
) -> None:
    await stores[0].create_context(KEY, None, None)
    seen: list[int] = []
    over = asyncio.Event()

    async def read(store: PostgresStore) -> None:
        while not over.is_set():
            rows = [row.order for row, _ in await store.unsequenced(KEY)]
            assert rows == list(range(1, len(rows) + 1)), "nothing appears below what was seen"
            seen.append(len(rows))

    async def write(store: PostgresStore, name: str) -> None:
        for number in range(15):
            await store.submit(KEY, message(f"{name}{number}"), None)

    async with asyncio.TaskGroup() as group:
        group.create_task(read(stores[2]))
        await asyncio.gather(*(write(store, name) for store, name in zip(stores, "abc", strict=True)))
        over.set()
    assert seen == sorted(seen)
    assert len(await stores[0].unsequenced(KEY)) == 45


@pytest.mark.parametrize("_", range(ROUNDS))
@pytest.mark.parametrize("kind", ["answer", "approve"])
async def test_one_answers_and_one_decides(stores: Sequence[PostgresStore], postgres: str, kind: str, _: int) -> None:
    claimed = await running(stores[0], KEY)
    asked = tool_call("c", "a", "client", needs_approval=kind == "approve")
    await stores[0].write(KEY, "a", claimed.fence, [asked])
    await stores[0].park(KEY, "a", claimed.fence, NEWEST)

    def call(store: PostgresStore, n: int) -> Awaitable[object]:
        if kind == "answer":
            return store.answer(KEY, response(f"r{n}", "c", "a"), None)
        return store.approve(KEY, approval(f"p{n}", "c", "a"))

    told = await race(stores, postgres, call)
    assert sum(isinstance(one, AlreadyAnswered) for one in told) == 8
    assert sum(getattr(one, "woken", False) for one in told) == 1


@pytest.mark.parametrize("_", range(ROUNDS))
async def test_a_turn_is_not_ended_over_what_came_meanwhile(
    stores: Sequence[PostgresStore], postgres: str, _: int
) -> None:
    claimed = await running(stores[0], KEY)

    async def call(store: PostgresStore, n: int) -> object:
        if n == 4:
            return await store.end_turn(KEY, "a", claimed.fence, [end("a")], 1)
        return await store.steer(KEY, "a", message(f"s{n}", "a"))

    told = await race(stores, postgres, call)
    state = (await rows_of(stores[0], KEY)).turn.state
    steered = [one for place, one in enumerate(told) if place != 4 and one is not None]
    assert (told[4] is None) is bool(steered), "either it was steered or it ended"
    assert (state == "ended") is (told[4] is not None)


@pytest.mark.parametrize("_", range(ROUNDS))
async def test_who_lost_the_turn_writes_nothing(stores: Sequence[PostgresStore], postgres: str, _: int) -> None:
    claimed = await running(stores[0], KEY)

    async def call(store: PostgresStore, n: int) -> object:
        if n == 4:
            return await store.claim(KEY, "a", "other", claimed.fence)
        return await store.write(KEY, "a", claimed.fence, [message(f"w{n}", "a")])

    told = await race(stores, postgres, call)
    taken = told[4]
    assert isinstance(taken, Claimed)
    written = {f"w{n}" for n, one in enumerate(told) if n != 4 and not isinstance(one, BaseException)}
    assert {type(one) for one in told if isinstance(one, BaseException)} <= {Fenced}
    rows = await rows_of(stores[1], KEY)
    assert {row.id for row in rows.events} == {"a", *written}
    assert {row.id for row in taken.rows.events} == {"a", *written}, (
        "the claim sees all that was written under the old fence"
    )
