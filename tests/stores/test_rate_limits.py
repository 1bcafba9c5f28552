"""The contract of RateLimits (stores/ports/limits.py): every adapter passes it, and all count alike."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from gateway.core.limits import TokenBucket
from gateway.servers.valkey import ValkeyServer
from stores.lua_scripts import script
from stores.memory_limits import MemoryRateLimits
from stores.ports import RateLimits
from stores.redis_client import RedisClient
from stores.redis_limits import RedisRateLimits
from tests.servers.valkey import fresh_prefix
from tests.stores.redis_clients import expire_sooner, open_client

SLOW = 1 / 1000  # a second: so slow that nothing comes while a test runs


class Opened(Struct):
    """An adapter, and how so many seconds of what it remembers go by."""

    limits: RateLimits
    wait: Callable[[float], None]


OpenLimits = Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Opened]]


@asynccontextmanager
async def memory_limits(request: pytest.FixtureRequest) -> AsyncGenerator[Opened]:
    now = 0.0

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    yield Opened(MemoryRateLimits(clock=lambda: now), wait)


@asynccontextmanager
async def redis_limits(request: pytest.FixtureRequest) -> AsyncGenerator[Opened]:
    valkey: ValkeyServer = request.getfixturevalue("valkey")
    prefix = fresh_prefix()
    async with open_client(valkey.url) as client:
        yield Opened(RedisRateLimits(client, prefix=prefix), lambda seconds: expire_sooner(valkey.url, prefix, seconds))


@pytest.fixture(params=[memory_limits, redis_limits], ids=["memory", "redis"])
async def opened(request: pytest.FixtureRequest) -> AsyncGenerator[Opened]:
    open_limits: OpenLimits = request.param
    async with open_limits(request) as adapter:
        yield adapter


async def test_a_burst_may_come_at_once_and_then_a_wait_is_told(opened: Opened) -> None:
    limits = opened.limits
    for _ in range(3):
        assert await limits.take("ann", 1, SLOW, 3) == 0
    wait = await limits.take("ann", 1, SLOW, 3)
    assert 990 < wait <= 1000
    # Nothing was taken by who has to wait.
    assert abs(await limits.take("ann", 1, SLOW, 3) - wait) < 10
    assert 1990 < await limits.take("ann", 2, SLOW, 3) <= 2000
    assert await limits.take("ann", 0, SLOW, 3) == 0


async def test_names_have_nothing_to_do_with_each_other(opened: Opened) -> None:
    limits = opened.limits
    assert await limits.take("ann", 2, SLOW, 2) == 0
    assert await limits.take("ann ", 2, SLOW, 2) == 0
    assert await limits.take("{ann}" * 1000, 2, SLOW, 2) == 0
    assert await limits.take("", 2, SLOW, 2) == 0
    assert await limits.take("ann", 1, SLOW, 2) > 0


async def test_a_bucket_is_full_again_after_its_time(opened: Opened) -> None:
    limits = opened.limits
    assert await limits.take("ann", 3, SLOW, 3) == 0
    opened.wait(3000)
    assert await limits.take("ann", 3, SLOW, 3) == 0
    assert await limits.take("ann", 3, SLOW, 3) > 0


async def test_who_waits_as_told_is_let_in(opened: Opened) -> None:
    limits = opened.limits
    assert await limits.take("ann", 1, 100, 1) == 0
    async with asyncio.timeout(10):
        while (wait := await limits.take("ann", 1, 100, 1)) > 0:
            opened.wait(wait)
            # The server's own time goes by, as little as it is.
            await asyncio.sleep(0)


async def test_more_than_a_bucket_holds_never_comes(opened: Opened) -> None:
    limits = opened.limits
    assert 999 < await limits.take("ann", 4, SLOW, 3) <= 1000
    assert await limits.take("ann", 3, SLOW, 3) == 0
    assert 3999 < await limits.take("ann", 4, SLOW, 3) <= 4000
    opened.wait(4000)
    assert await limits.take("ann", 4, SLOW, 3) > 0


async def test_a_rate_that_was_changed_counts_at_once(opened: Opened) -> None:
    limits = opened.limits
    assert await limits.take("ann", 1, SLOW, 10) == 0
    assert await limits.take("ann", 5, SLOW, 4) > 0
    assert await limits.take("ann", 4, SLOW, 4) == 0
    assert 490 < await limits.take("ann", 5, 10 * SLOW, 10) <= 500


async def test_of_many_at_once_as_many_as_may_get_it(opened: Opened) -> None:
    waits = await asyncio.gather(*(opened.limits.take("ann", 1, SLOW, 7) for _ in range(40)))
    assert sorted(wait == 0 for wait in waits) == [False] * 33 + [True] * 7


@pytest.mark.parametrize(
    ("n", "per_second", "burst"),
    [(-1, 1, 1), (math.nan, 1, 1), (math.inf, 1, 1), (1, 0, 1), (1, math.inf, 1), (1, 1, 0), (1, 1, math.nan)],
)
async def test_what_is_no_rate_is_refused(opened: Opened, n: float, per_second: float, burst: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        await opened.limits.take("ann", n, per_second, burst)


async def test_the_quietest_names_are_forgotten() -> None:
    now = 0.0
    limits = MemoryRateLimits(max_names=2, clock=lambda: now)
    for name in ("a", "b", "a", "c"):
        assert await limits.take(name, 1, SLOW, 2) == 0
    assert len(limits) == 2
    assert await limits.take("a", 1, SLOW, 2) > 0
    assert await limits.take("b", 2, SLOW, 2) == 0
    now = 10_000.0
    for name in ("a", "b", "c", "d"):
        assert await limits.take(name, 0, SLOW, 2) == 0
    assert len(limits) == 0


async def test_a_key_goes_when_its_bucket_is_full(valkey: ValkeyServer) -> None:
    prefix = fresh_prefix()
    async with open_client(valkey.url) as client:
        limits = RedisRateLimits(client, prefix=prefix)
        await limits.take("ann", 1, 1 / 60, 30)
        await limits.take("ann", 1, 1 / 60, 30)
        keys = await client.call("KEYS", f"{prefix}:*", resend=True)
        assert isinstance(keys, list)
        assert isinstance(keys[0], bytes)
        left = await client.call("PTTL", keys[0], resend=True)
        assert isinstance(left, int)
        assert 110_000 < left <= 120_001
        assert await limits.take("bob", 0, 1 / 60, 30) == 0
        assert await limits.take("bob", 31, 1 / 60, 30) == pytest.approx(60)
        # What is full is not kept; what takes for ever is kept as long as can be.
        assert await client.call("KEYS", f"{prefix}:*", resend=True) == keys
        assert await limits.take("eve", 1e9, 1e-9, 1e9) == 0
        assert await limits.take("eve", 1, 1e-9, 1e9) == pytest.approx(1e9)


# ---- both count alike

_AT = """
local server = redis
local redis = {call = function(name, ...)
  if name == 'TIME' then return {ARGV[4], ARGV[5]} end
  if name == 'SET' then local key, value = ... return server.call('SET', key, value, 'PX', 60000) end
  return server.call(name, ...)
end}
"""


async def _take_at(client: RedisClient, key: str, now: int, n: float, per_second: float, burst: float) -> float:
    """What the script does at a time (microseconds) of the test's, which no key's end comes in the way of."""
    numbers = [repr(float(number)) for number in (n, per_second, burst)]
    text = _AT + script("take_tokens")
    reply = await client.call("EVAL", text, 1, key, *numbers, now // 10**6, now % 10**6, resend=False)
    assert isinstance(reply, bytes)
    return float(reply)


_numbers = st.one_of(st.integers(0, 5).map(float), st.floats(0, 20, allow_nan=False))
_steps = st.lists(st.tuples(st.integers(-2_000_000, 20_000_000), _numbers), min_size=1, max_size=30)
_rates = st.one_of(st.sampled_from([0.1, 0.5, 1.0, 1 / 3]), st.floats(0.01, 100, allow_nan=False))
_bursts = st.one_of(st.integers(1, 10).map(float), st.floats(0.5, 20, allow_nan=False))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_steps, per_second=_rates, burst=_bursts)
def test_all_adapters_count_alike(
    valkey: ValkeyServer, steps: list[tuple[int, float]], per_second: float, burst: float
) -> None:
    async def run() -> None:
        now = 10**12
        memory = MemoryRateLimits(clock=lambda: now // 10**6 + now % 10**6 / 10**6)
        key = fresh_prefix()
        async with open_client(valkey.url, max_connections=1) as client:
            for step, n in steps:
                now += step
                told = await _take_at(client, key, now, n, per_second, burst)
                assert told == await memory.take("a", n, per_second, burst)

    asyncio.run(run())


@settings(deadline=None)
@given(steps=_steps, per_second=_rates, burst=_bursts)
def test_they_count_as_the_core_does(steps: list[tuple[int, float]], per_second: float, burst: float) -> None:
    async def run() -> None:
        now = 0.0
        memory = MemoryRateLimits(clock=lambda: now)
        bucket = TokenBucket(per_second, burst)
        for step, n in steps:
            now += step / 10**6
            if n <= burst:  # more is an error there
                assert await memory.take("a", n, per_second, burst) == bucket.take(now, n)

    asyncio.run(run())
