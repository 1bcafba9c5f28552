"""What is held for a client that takes its time."""

from __future__ import annotations

import asyncio

from gateway.http.outlet import ResponseOutlet
from gateway.transport.port import HIGH_WATER, LOW_WATER, Frames


async def test_all_that_was_written_is_taken_at_once_and_then_the_end() -> None:
    outlet = ResponseOutlet()
    outlet.write(Frames([b"a", b"b"]))
    outlet.write_one(b"c")
    outlet.close(1000, "")
    outlet.write_one(b"late")
    assert not outlet.writable
    assert await outlet.take() == [b"a", b"b", b"c"]
    assert await outlet.take() is None
    assert await outlet.take() is None


async def test_what_was_taken_counts_until_more_is_asked_for() -> None:
    outlet = ResponseOutlet()
    drained: list[int] = []
    outlet.on_drain(lambda: drained.append(outlet.unsent))
    assert outlet.unsent_since is None
    outlet.write_one(bytes(HIGH_WATER))
    assert outlet.writable
    outlet.write_one(b"x")
    assert not outlet.writable
    assert await outlet.take() == [bytes(HIGH_WATER), b"x"]
    assert (outlet.writable, outlet.empty, outlet.unsent) == (False, True, HIGH_WATER + 1)
    assert outlet.unsent_since is not None
    taking = asyncio.create_task(outlet.take())
    await asyncio.sleep(0)
    assert (outlet.writable, drained, outlet.unsent_since) == (True, [0], None)
    outlet.write_one(b"y")
    assert await taking == [b"y"]


async def test_it_is_not_writable_again_before_the_low_water() -> None:
    outlet = ResponseOutlet()
    drained: list[None] = []
    outlet.on_drain(lambda: drained.append(None))
    outlet.write_one(bytes(HIGH_WATER + 1))
    await outlet.take()
    outlet.write_one(bytes(LOW_WATER + 1))
    await outlet.take()
    assert (outlet.writable, drained) == (False, [])
    taking = asyncio.create_task(outlet.take())
    await asyncio.sleep(0)
    assert (outlet.writable, drained) == (True, [None])
    taking.cancel()


async def test_a_cancelled_take_loses_nothing() -> None:
    outlet = ResponseOutlet()
    taking = asyncio.create_task(outlet.take())
    await asyncio.sleep(0)
    outlet.write_one(b"a")
    taking.cancel()
    await asyncio.wait((taking,))
    assert await outlet.take() == [b"a"]


async def test_a_nudge_answers_once_and_is_not_before_what_was_written() -> None:
    outlet = ResponseOutlet()
    outlet.nudge()
    outlet.write_one(b"a")
    assert await outlet.take() == [b"a"]
    assert await outlet.take() == []
    taking = asyncio.create_task(outlet.take())
    await asyncio.sleep(0)
    assert not taking.done()
    outlet.nudge()
    assert await taking == []


async def test_nothing_is_kept_for_a_client_that_is_gone() -> None:
    outlet = ResponseOutlet()
    outlet.write_one(b"a")
    outlet.drop()
    outlet.write_one(b"b")
    assert (outlet.unsent, outlet.writable) == (0, False)
    assert await outlet.take() is None
