"""When RedisHeartbeats judges: what is over is over for all, and nobody is judged who could not beat."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from gateway.servers.valkey import ValkeyServer
from stores.ports import Unavailable
from stores.redis_hot import RedisHot


class Now:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def server(tmp_path: Path) -> ValkeyServer:
    return ValkeyServer(tmp_path / "data", appendonly=True)


@pytest.fixture
async def hot(server: ValkeyServer, now: Now) -> AsyncGenerator[RedisHot]:
    server.start()
    opened = RedisHot(server.url, timeout=1, clock=now)
    try:
        yield opened
    finally:
        await opened.close()
        server.stop()


async def judges(hot: RedisHot, now: Now) -> None:
    """It does not judge for one TTL from here on, then it does."""
    assert await hot.heartbeats.alive() is None
    now.seconds += 4
    await hot.heartbeats.beat("one", 60)
    assert await hot.heartbeats.alive() is None
    now.seconds += 1
    assert await hot.heartbeats.alive() == {"one"}


async def test_it_judges_when_it_was_answered_for_one_ttl(hot: RedisHot, now: Now) -> None:
    await judges(hot, now)


async def test_a_failed_call_is_a_break(hot: RedisHot, now: Now, server: ValkeyServer) -> None:
    await judges(hot, now)
    server.stop()
    with pytest.raises(Unavailable):
        await hot.heartbeats.beat("one", 60)
    with pytest.raises(Unavailable):
        await hot.heartbeats.alive()
    server.start()
    await judges(hot, now)


async def test_another_server_is_a_break_though_no_call_failed(hot: RedisHot, now: Now, server: ValkeyServer) -> None:
    await judges(hot, now)
    await asyncio.to_thread(server.stop)  # meanwhile the end of the connection is seen
    server.start()
    await judges(hot, now)


async def test_a_hole_of_more_than_one_ttl_is_a_break(hot: RedisHot, now: Now) -> None:
    await judges(hot, now)
    now.seconds += 5
    assert await hot.heartbeats.alive() == {"one"}
    now.seconds += 5.1
    await judges(hot, now)
