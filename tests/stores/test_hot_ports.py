"""The contracts of Bus, Heartbeats and Cache (stores/ports): every adapter passes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from msgspec import Struct

from gateway.servers.valkey import ValkeyServer
from stores.memory import MemoryBus, MemoryCache, MemoryHeartbeats
from stores.ports import Bus, Cache, Heartbeats
from stores.redis_cache import RedisCache
from stores.redis_hot import RedisHot
from tests.servers.hot import running
from tests.servers.valkey import age_heartbeats, fresh_prefix
from tests.stores.received import Received
from tests.stores.redis_clients import expire_sooner, open_client


class Ports(Struct):
    """An adapter's small ports; `wait` lets so many seconds of their clock go by."""

    bus: Bus
    heartbeats: Heartbeats
    cache: Cache
    wait: Callable[[float], None]


OpenPorts = Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Ports]]


@asynccontextmanager
async def memory_ports(request: pytest.FixtureRequest) -> AsyncGenerator[Ports]:
    now = 0.0

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    def clock() -> float:
        return now

    yield Ports(MemoryBus(), MemoryHeartbeats(clock), MemoryCache(clock=clock), wait)


@asynccontextmanager
async def redis_ports(request: pytest.FixtureRequest) -> AsyncGenerator[Ports]:
    valkey: ValkeyServer = request.getfixturevalue("valkey")
    prefix = fresh_prefix()
    now = 0.0

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds
        expire_sooner(valkey.url, prefix, seconds)
        age_heartbeats(valkey.url, prefix, seconds)

    def clock() -> float:
        return now

    hot = RedisHot(valkey.url, prefix=prefix, clock=clock)
    async with running(hot), open_client(valkey.url) as client:
        # It judges when it was answered without break for one TTL.
        assert await hot.heartbeats.alive() is None
        wait(5)
        yield Ports(hot.bus, hot.heartbeats, RedisCache(client, prefix=prefix), wait)


@pytest.fixture(params=[memory_ports, redis_ports], ids=["memory", "redis"])
async def ports(request: pytest.FixtureRequest) -> AsyncGenerator[Ports]:
    open_ports: OpenPorts = request.param
    async with open_ports(request) as opened:
        yield opened


# ---- bus


async def test_every_listener_of_a_channel_is_called(ports: Ports) -> None:
    one = Received[bytes]()
    other = Received[bytes]()
    await ports.bus.listen("a", one)
    await ports.bus.listen("a", other)
    await ports.bus.listen("b", other)
    await ports.bus.publish("a", b"wake")
    await ports.bus.publish("nobody", b"wake")
    await one.reach(1)
    await other.reach(1)
    assert one.items == other.items == [b"wake"]


async def test_who_stopped_listening_is_not_called(ports: Ports) -> None:
    stays = Received[bytes]()
    goes = Received[bytes]()
    await ports.bus.listen("a", stays)
    stop = await ports.bus.listen("a", goes)
    await stop()
    await stop()
    await ports.bus.publish("a", b"1")
    await stays.reach(1)
    assert goes.items == []
    again = Received[bytes]()
    await ports.bus.listen("a", again)
    await ports.bus.publish("a", b"2")
    await again.reach(1)


# ---- heartbeats


async def test_an_instance_lives_as_long_as_it_beats(ports: Ports) -> None:
    heartbeats = ports.heartbeats
    assert await heartbeats.alive() == frozenset()
    await heartbeats.beat("one", 5)
    await heartbeats.beat("other", 5)
    ports.wait(4)
    await heartbeats.beat("one", 5)
    assert await heartbeats.alive() == {"one", "other"}
    ports.wait(2)
    assert await heartbeats.alive() == {"one"}
    ports.wait(4)
    assert await heartbeats.alive() == frozenset()


async def test_an_instance_that_stops_is_gone_at_once(ports: Ports) -> None:
    await ports.heartbeats.beat("one", 5)
    await ports.heartbeats.stop("one")
    await ports.heartbeats.stop("unknown")
    assert await ports.heartbeats.alive() == frozenset()


# ---- cache


async def test_a_value_is_kept_for_its_time(ports: Ports) -> None:
    cache = ports.cache
    assert await cache.get("a") is None
    await cache.set("a", b"1", 5)
    await cache.set("a", b"2", 10)
    ports.wait(6)
    assert await cache.get("a") == b"2"
    ports.wait(5)
    assert await cache.get("a") is None


async def test_add_sets_only_where_there_is_nothing(ports: Ports) -> None:
    cache = ports.cache
    assert await cache.add("a", b"1", 5)
    assert not await cache.add("a", b"2", 5)
    assert await cache.get("a") == b"1"
    ports.wait(6)
    assert await cache.add("a", b"3", 5)


async def test_one_of_many_takers_gets_the_value(ports: Ports) -> None:
    cache = ports.cache
    await cache.set("a", b"1", 5)
    taken = await asyncio.gather(*(cache.take("a") for _ in range(10)))
    assert sorted(value or b"" for value in taken) == [b""] * 9 + [b"1"]
    await cache.set("a", b"1", 5)
    ports.wait(6)
    assert await cache.take("a") is None


async def test_keys_and_values_are_anything(ports: Ports) -> None:
    cache = ports.cache
    keys = ["", "a", "a ", "{a}", "a:b", "é" * 5000, "\0"]
    for place, key in enumerate(keys):
        await cache.set(key, b"\0\xff\r\n" * place, 5)
    assert [await cache.get(key) for key in keys] == [b"\0\xff\r\n" * place for place in range(len(keys))]
    # What is empty is there all the same.
    assert not await cache.add("", b"1", 5)
    assert await cache.take("") == b""
    assert await cache.take("") is None


async def test_times_shorter_than_a_second_are_kept_too(ports: Ports) -> None:
    cache = ports.cache
    await cache.set("a", b"1", 4.5)
    ports.wait(4.4)
    assert await cache.get("a") is not None
    ports.wait(0.2)
    assert await cache.get("a") is None
