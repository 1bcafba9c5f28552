"""The contract of Leases (stores/ports), over every adapter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from msgspec import Struct

from gateway.servers.valkey import ValkeyServer
from stores.memory_leases import MemoryLeases
from stores.ports import Leases, Unavailable
from stores.redis_client import RedisClient
from stores.redis_leases import RedisLeases
from tests.servers.valkey import age_leases, fresh_prefix, keys_of
from tests.stores.redis_clients import expire_sooner, open_client


class Timed(Struct):
    """An adapter; `wait` lets so many seconds of its clock go by, `size` is how many names it knows."""

    leases: Leases
    wait: Callable[[float], None]
    size: Callable[[], int]


@asynccontextmanager
async def memory(request: pytest.FixtureRequest) -> AsyncGenerator[Timed]:
    now = 0.0

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    leases = MemoryLeases(clock=lambda: now)
    yield Timed(leases, wait, lambda: len(leases))


@asynccontextmanager
async def redis(request: pytest.FixtureRequest) -> AsyncGenerator[Timed]:
    valkey: ValkeyServer = request.getfixturevalue("valkey")
    prefix = fresh_prefix()

    def wait(seconds: float) -> None:
        expire_sooner(valkey.url, prefix, seconds)
        age_leases(valkey.url, prefix, seconds)

    async with open_client(valkey.url) as client:
        yield Timed(RedisLeases(client, prefix=prefix), wait, lambda: len(keys_of(valkey.url, prefix)))


@pytest.fixture(params=[memory, redis], ids=["memory", "redis"])
async def timed(request: pytest.FixtureRequest) -> AsyncGenerator[Timed]:
    open_leases: Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Timed]] = request.param
    async with open_leases(request) as opened:
        yield opened


async def test_there_are_so_many_places_by_name(timed: Timed) -> None:
    leases = timed.leases
    assert [await leases.acquire("a", holder, 2, 10) for holder in ("x", "y", "z")] == [True, True, False]
    assert await leases.acquire("b", "z", 1, 10)
    await leases.release("a", "x")
    assert await leases.acquire("a", "z", 2, 10)
    assert not await leases.acquire("a", "x", 2, 10)


async def test_of_many_at_once_as_many_have_a_place_as_there_are(timed: Timed) -> None:
    taken = await asyncio.gather(*(timed.leases.acquire("a", f"h{number}", 3, 10) for number in range(20)))
    assert sum(taken) == 3


async def test_who_has_a_place_keeps_it_by_asking_again(timed: Timed) -> None:
    leases = timed.leases
    assert await leases.acquire("a", "x", 1, 10)
    timed.wait(6)
    assert await leases.acquire("a", "x", 1, 10)
    timed.wait(6)
    assert not await leases.acquire("a", "y", 1, 10)
    # A limit that was lowered takes no place from anybody.
    assert await leases.acquire("b", "x", 2, 10)
    assert await leases.acquire("b", "y", 2, 10)
    assert await leases.acquire("b", "x", 1, 10)


async def test_the_place_of_who_says_no_more_is_free_when_its_time_is_over(timed: Timed) -> None:
    leases = timed.leases
    assert await leases.acquire("a", "gone", 2, 10)
    assert await leases.acquire("a", "stays", 2, 10)
    timed.wait(6)
    await leases.renew("a", "stays", 10)
    assert not await leases.acquire("a", "next", 2, 10)
    timed.wait(5)
    assert await leases.acquire("a", "next", 2, 10)
    assert not await leases.acquire("a", "more", 2, 10)


async def test_a_place_that_was_lost_is_had_again_over_the_limit_too(timed: Timed) -> None:
    leases = timed.leases
    assert await leases.acquire("a", "x", 1, 10)
    timed.wait(11)
    assert await leases.acquire("a", "y", 1, 10)
    await leases.renew("a", "x", 10)
    await leases.release("a", "y")
    assert not await leases.acquire("a", "z", 1, 10), "x runs"
    await leases.release("a", "x")
    assert await leases.acquire("a", "z", 1, 10)


async def test_a_longer_time_is_not_cut_by_a_shorter_one(timed: Timed) -> None:
    leases = timed.leases
    assert await leases.acquire("a", "long", 2, 100)
    assert await leases.acquire("a", "short", 2, 1)
    await leases.renew("a", "short", 1)
    timed.wait(50)
    assert await leases.acquire("a", "other", 2, 1)
    assert not await leases.acquire("a", "more", 2, 1)


async def test_giving_up_what_one_has_not_is_nothing(timed: Timed) -> None:
    await timed.leases.release("a", "x")
    assert await timed.leases.acquire("a", "y", 1, 10)
    await timed.leases.release("a", "x")
    assert not await timed.leases.acquire("a", "x", 1, 10)


async def test_nothing_is_left_of_names_that_nobody_uses(timed: Timed) -> None:
    leases = timed.leases
    for number in range(3):
        assert await leases.acquire(f"n{number}", "x", 1, 10)
    assert timed.size() == 3
    await leases.release("n0", "x")
    assert timed.size() == 2


async def test_names_are_anything(timed: Timed) -> None:
    names = ["", "a", "{a}", "a:b", "é" * 5000, "\0"]
    for name in names:
        assert await timed.leases.acquire(name, "x\0\r\né", 1, 10)
        assert not await timed.leases.acquire(name, "y", 1, 10)


async def test_a_server_that_is_away_is_unavailable() -> None:
    client = RedisClient("redis://127.0.0.1:1", timeout=1.0)
    leases = RedisLeases(client)
    for call in (leases.acquire("a", "x", 1, 10), leases.renew("a", "x", 10), leases.release("a", "x")):
        with pytest.raises(Unavailable):
            await call
    await client.close()
