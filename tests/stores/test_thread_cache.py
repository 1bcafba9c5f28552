"""The contract of ThreadCache (stores/ports/threads.py): every adapter passes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import pytest
from msgspec import Struct

from gateway.servers.valkey import ValkeyServer
from stores.memory_threads import MemoryThreadCache
from stores.ports import ThreadCache, Unavailable
from stores.records import ContextKey, ContextRecord, EventRow, Pin, Summary, ThreadRows
from stores.redis_threads import RedisThreadCache
from tests.servers.valkey import fresh_prefix
from tests.stores.redis_clients import expire_sooner, open_client
from tests.stores.relay import open_relay

KEY = ContextKey("ann", "c")
BODY = b'{"type":"message","content":"hello"}'
ROOMY = 512 << 10
NARROW = 10_000
BIG = b"x" * 2500  # of which three rows fit into NARROW


class Opened(Struct):
    """An adapter, and how so many seconds go by."""

    cache: ThreadCache
    wait: Callable[[float], None]


class OpenCache(Protocol):
    def __call__(self, request: pytest.FixtureRequest, max_bytes: int) -> AbstractAsyncContextManager[Opened]: ...


@asynccontextmanager
async def memory_cache(request: pytest.FixtureRequest, max_bytes: int) -> AsyncGenerator[Opened]:
    now = 0.0

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    yield Opened(MemoryThreadCache(max_bytes=max_bytes, ttl=100, clock=lambda: now), wait)


@asynccontextmanager
async def redis_cache(request: pytest.FixtureRequest, max_bytes: int) -> AsyncGenerator[Opened]:
    valkey: ValkeyServer = request.getfixturevalue("valkey")
    prefix = fresh_prefix()
    async with open_client(valkey.url) as client:
        cache = RedisThreadCache(client, prefix=prefix, max_bytes=max_bytes, ttl=100)
        yield Opened(cache, lambda seconds: expire_sooner(valkey.url, prefix, seconds))


@pytest.fixture(params=[memory_cache, redis_cache], ids=["memory", "redis"])
def open_cache(request: pytest.FixtureRequest) -> OpenCache:
    return request.param


@pytest.fixture
async def opened(request: pytest.FixtureRequest, open_cache: OpenCache) -> AsyncGenerator[Opened]:
    async with open_cache(request, ROOMY) as adapter:
        yield adapter


@pytest.fixture
async def narrow(request: pytest.FixtureRequest, open_cache: OpenCache) -> AsyncGenerator[ThreadCache]:
    async with open_cache(request, NARROW) as adapter:
        yield adapter.cache


def row(order: int, body: bytes = BODY, *, seq: int | None = None) -> EventRow:
    return EventRow(id=f"m{order}", type="message", body=body, order=order, turn_id="t" if order % 2 else None, seq=seq)


def rows(*orders: int, body: bytes = BODY) -> list[EventRow]:
    return [row(order, body) for order in orders]


def thread(
    found: Sequence[EventRow],
    *,
    born: int = 3,
    more: bool = False,
    key: ContextKey = KEY,
    settings: bytes | None = None,
) -> ThreadRows:
    record = ContextRecord(
        key=key,
        epoch=4,
        born=born,
        created_at=1.5,
        updated_at=2.5,
        title="héllo",
        metadata=b'{"a":1}',
        settings=settings,
    )
    summary = Summary(turn_id="t", first_id="m1", turns=2, text="they greet", order=9)
    return ThreadRows(record, found, [summary], [Pin("m1", None), Pin("m2", "t")], more)


async def kept(cache: ThreadCache, key: ContextKey = KEY) -> tuple[list[int], bool, int] | None:
    """The orders that are kept, whether there are more, and up to where it is whole."""
    found = await cache.load(key)
    if found is None:
        return None
    return [each.order for each in found[0].rows], found[0].more, found[1]


async def test_what_is_kept_is_what_was_given(opened: Opened) -> None:
    cache = opened.cache
    assert await cache.load(KEY) is None
    given = thread([row(1, seq=7), row(2), row(5, b"\x00\xff")], more=True)
    await cache.save(KEY, given, 6)
    found = await cache.load(KEY)
    assert found is not None
    assert found[1] == 6
    assert found[0].context == given.context
    assert list(found[0].summaries) == given.summaries
    assert list(found[0].pins) == given.pins
    assert found[0].more
    # A seq may have come meanwhile, so none is told.
    assert list(found[0].rows) == [row(1), row(2), row(5, b"\x00\xff")]


async def test_save_replaces(opened: Opened) -> None:
    cache = opened.cache
    await cache.save(KEY, thread(rows(1, 2, 3), more=True), 3)
    await cache.save(KEY, thread(rows(1)), 1)
    assert await kept(cache) == ([1], False, 1)
    await cache.save(KEY, thread([]), 0)
    assert await kept(cache) == ([], False, 0)
    assert await cache.extend(KEY, 3, rows(1, 2), 0, 2)
    assert await kept(cache) == ([1, 2], False, 2)


async def test_it_is_extended_where_it_is_whole_up_to_there(opened: Opened) -> None:
    cache = opened.cache
    assert not await cache.extend(KEY, 3, rows(1), 0, 1)
    assert await cache.load(KEY) is None
    await cache.save(KEY, thread(rows(1, 2)), 2)
    assert not await cache.extend(KEY, 3, rows(2, 3), 1, 3)
    assert not await cache.extend(KEY, 3, rows(4), 3, 4)
    assert not await cache.extend(KEY, 2, rows(3), 2, 3)
    assert await kept(cache) == ([1, 2], False, 2)
    assert await cache.extend(KEY, 3, rows(3, 4), 2, 5)
    assert not await cache.extend(KEY, 3, rows(3, 4), 2, 5)
    assert await cache.extend(KEY, 3, [], 5, 6)
    assert await cache.extend(KEY, 3, rows(7), 6, 7)
    assert await kept(cache) == ([1, 2, 3, 4, 7], False, 7)


async def test_orders_of_any_size_are_exact(opened: Opened) -> None:
    cache = opened.cache
    far = 1 << 62
    await cache.save(KEY, thread(rows(far - 1), born=far), far - 1)
    assert not await cache.extend(KEY, far, rows(far), far, far + 1)
    assert not await cache.extend(KEY, far - 1, rows(far), far - 1, far)
    assert await cache.extend(KEY, far, rows(far), far - 1, far)
    assert await kept(cache) == ([far - 1, far], False, far)


async def test_of_many_that_extend_at_once_one_does(opened: Opened) -> None:
    cache = opened.cache
    await cache.save(KEY, thread(rows(1)), 1)
    done = await asyncio.gather(*(cache.extend(KEY, 3, rows(2, 3), 1, 3) for _ in range(10)))
    assert sorted(done) == [False] * 9 + [True]
    assert await kept(cache) == ([1, 2, 3], False, 3)


async def test_contexts_have_nothing_to_do_with_each_other(opened: Opened) -> None:
    cache = opened.cache
    others = [ContextKey("an", "nc"), ContextKey("bob", "c"), ContextKey("ann", "d"), ContextKey("", "{annc}" * 100)]
    await cache.save(KEY, thread(rows(1)), 1)
    for order, other in enumerate(others, start=2):
        assert await cache.load(other) is None
        await cache.save(other, thread(rows(order), key=other), order)
    assert await kept(cache) == ([1], False, 1)
    await cache.forget(others[0])
    await cache.forget(others[0])
    assert await cache.load(others[0]) is None
    assert await kept(cache, others[1]) == ([3], False, 3)


async def test_it_is_kept_while_it_is_used(opened: Opened) -> None:
    cache = opened.cache
    await cache.save(KEY, thread(rows(1)), 1)
    opened.wait(90)
    assert await cache.load(KEY) is not None
    opened.wait(90)
    assert await cache.extend(KEY, 3, rows(2), 1, 2)
    opened.wait(90)
    assert await cache.load(KEY) is not None
    opened.wait(101)
    assert await cache.load(KEY) is None
    assert not await cache.extend(KEY, 3, rows(3), 2, 3)


async def test_the_oldest_are_dropped_beyond_the_bound(narrow: ThreadCache) -> None:
    await narrow.save(KEY, thread(rows(1, 2, 3, 4, 5, body=BIG)), 5)
    assert await kept(narrow) == ([3, 4, 5], True, 5)
    assert await narrow.extend(KEY, 3, rows(6, body=BIG), 5, 6)
    assert await kept(narrow) == ([4, 5, 6], True, 6)
    assert await narrow.extend(KEY, 3, rows(7, 8, 9, 10, body=BIG), 6, 10)
    assert await kept(narrow) == ([8, 9, 10], True, 10)
    await narrow.save(KEY, thread(rows(1, 2, body=BIG)), 2)
    assert await kept(narrow) == ([1, 2], False, 2)


async def test_what_does_not_fit_at_all_is_not_kept(narrow: ThreadCache) -> None:
    small = thread(rows(1))
    huge = b"x" * NARROW
    await narrow.save(KEY, small, 1)
    await narrow.save(KEY, thread([row(1), row(2, huge)]), 2)
    assert await narrow.load(KEY) is None
    await narrow.save(KEY, small, 1)
    await narrow.save(KEY, thread(rows(1), settings=huge), 1)
    assert await narrow.load(KEY) is None
    await narrow.save(KEY, small, 1)
    assert not await narrow.extend(KEY, 3, [row(2), row(3, huge)], 1, 3)
    assert await narrow.load(KEY) is None


# ---- in memory


async def test_what_was_used_longest_ago_goes_first() -> None:
    cache = MemoryThreadCache(max_bytes=NARROW, total_bytes=3 * 3000)
    keys = [ContextKey("ann", id) for id in "abcd"]
    for key in keys[:3]:
        await cache.save(key, thread(rows(1, body=BIG), key=key), 1)
    assert await cache.load(keys[0]) is not None
    await cache.save(keys[3], thread(rows(1, body=BIG), key=keys[3]), 1)
    assert [await cache.load(key) is not None for key in keys] == [True, False, True, True]
    assert len(cache) == 3


async def test_nothing_is_kept_where_there_is_no_room() -> None:
    cache = MemoryThreadCache(total_bytes=0)
    await cache.save(KEY, thread(rows(1)), 1)
    assert await cache.load(KEY) is None


# ---- in Redis


async def test_what_can_not_be_read_is_nothing_and_is_forgotten(valkey: ValkeyServer) -> None:
    async with open_client(valkey.url) as client:
        prefix = fresh_prefix()
        cache = RedisThreadCache(client, prefix=prefix)
        await cache.save(KEY, thread(rows(1, 2)), 2)
        keys = await client.call("KEYS", f"{prefix}:*", resend=True)
        assert isinstance(keys, list)
        (name,) = keys
        assert isinstance(name, bytes)
        for place, broken in [(0, b"3 2 x 0"), (0, b"3 2"), (0, b"4 2 100 0"), (1, b"\xc1"), (2, b"\x90"), (3, b"")]:
            await cache.save(KEY, thread(rows(1, 2)), 2)
            await client.call("LSET", name, place, broken, resend=True)
            assert await cache.load(KEY) is None
            assert await client.call("EXISTS", name, resend=True) == 0
        await client.call("RPUSH", name, "3 2 100 0", resend=True)
        assert await cache.load(KEY) is None
        assert await client.call("EXISTS", name, resend=True) == 0


async def test_what_is_under_another_contexts_name_is_not_told(valkey: ValkeyServer) -> None:
    async with open_client(valkey.url) as client:
        cache = RedisThreadCache(client, prefix=fresh_prefix())
        await cache.save(KEY, thread(rows(1), key=ContextKey("bob", "c")), 1)
        assert await cache.load(KEY) is None


async def test_each_call_is_one_round_trip(valkey: ValkeyServer) -> None:
    async with open_relay(valkey.url) as (relay, url), open_client(url) as client:
        cache = RedisThreadCache(client, prefix=fresh_prefix())

        async def calls() -> None:
            await cache.save(KEY, thread(rows(1)), 1)
            await cache.extend(KEY, 3, rows(2, 3), 1, 3)
            await cache.load(KEY)
            await cache.forget(KEY)

        await calls()  # which connects, and brings the scripts
        before = relay.requests
        await calls()
        assert relay.requests - before == 4


async def test_a_cut_reply_extends_once(valkey: ValkeyServer) -> None:
    async with open_relay(valkey.url) as (relay, url), open_client(url) as client:
        cache = RedisThreadCache(client, prefix=fresh_prefix())
        await cache.save(KEY, thread(rows(1)), 1)
        assert await cache.extend(KEY, 3, rows(2), 1, 2)
        relay.cuts = 1
        with pytest.raises(Unavailable):
            await cache.extend(KEY, 3, rows(3), 2, 3)
        relay.cuts = 1
        assert await kept(cache) == ([1, 2, 3], False, 3)
        relay.cuts = 1
        await cache.save(KEY, thread(rows(1)), 1)
        relay.cuts = 1
        assert await kept(cache) == ([1], False, 1)
