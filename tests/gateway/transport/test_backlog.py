from __future__ import annotations

import asyncio

from gateway.transport.backlog import Backlog
from gateway.transport.port import HIGH_WATER, LOW_WATER


async def test_it_stops_above_the_high_water_and_flows_at_the_low() -> None:
    backlog = Backlog(asyncio.get_running_loop())
    told: list[int] = []
    backlog.on_flow = lambda: told.append(backlog.size)
    backlog.add(HIGH_WATER)
    assert backlog.flowing
    backlog.add(1)
    assert not backlog.flowing
    backlog.take(HIGH_WATER - LOW_WATER)
    assert not backlog.flowing
    assert told == []
    backlog.take(1)
    assert backlog.flowing
    assert told == [LOW_WATER]
    backlog.take(LOW_WATER)
    assert told == [LOW_WATER]


async def test_it_says_since_when_it_is_there_without_progress() -> None:
    loop = asyncio.get_running_loop()
    backlog = Backlog(loop)
    assert backlog.since is None
    before = loop.time()
    backlog.add(10)
    since = backlog.since
    assert since is not None
    assert since >= before
    backlog.add(10)
    assert backlog.since == since
    await asyncio.sleep(0.001)
    backlog.take(5)
    assert backlog.since is not None
    assert backlog.since > since
    backlog.take(100)
    assert (backlog.size, backlog.since) == (0, None)


async def test_what_is_cleared_is_gone_and_nobody_is_told() -> None:
    backlog = Backlog(asyncio.get_running_loop())
    backlog.on_flow = lambda: told.append(True)
    told: list[bool] = []
    backlog.add(HIGH_WATER + 1)
    backlog.clear()
    assert (backlog.size, backlog.since, told) == (0, None, [])
