from __future__ import annotations

import pytest

from gateway.throttle import Connections, Throttle
from stores.memory_limits import MemoryRateLimits


async def test_a_minutes_worth_at_once_then_the_rate() -> None:
    now = 0.0
    throttle = Throttle(MemoryRateLimits(clock=lambda: now), 3)
    assert [round(await throttle.take("t/a")) for _ in range(4)] == [0, 0, 0, 20]
    now = 20
    assert await throttle.take("t/a") == 0


async def test_principals_do_not_share_a_bucket() -> None:
    throttle = Throttle(MemoryRateLimits(clock=lambda: 0.0), 1)
    assert await throttle.take("t/a") == 0
    assert await throttle.take("t/b") == 0
    assert await throttle.take("t/a") > 0


async def test_instances_count_together() -> None:
    limits = MemoryRateLimits(clock=lambda: 0.0)
    one, other = Throttle(limits, 1), Throttle(limits, 1)
    assert await one.take("t/a") == 0
    assert await other.take("t/a") > 0


def test_sockets_are_counted_up_to_the_limit() -> None:
    connections = Connections(2)
    assert [connections.acquire("a") for _ in range(3)] == [True, True, False]
    assert connections.acquire("b")
    connections.release("a")
    assert connections.count("a") == 1
    assert connections.acquire("a")
    connections.release("b")
    assert connections.count("b") == 0


def test_a_release_too_many_is_a_bug() -> None:
    with pytest.raises(RuntimeError):
        Connections(1).release("a")
