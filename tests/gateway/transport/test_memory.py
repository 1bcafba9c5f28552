"""The outlet and inbox within one process."""

from __future__ import annotations

import asyncio

import pytest

from gateway.transport.memory import MemoryPipe
from gateway.transport.port import HIGH_WATER, Frames, Outlet


async def test_frames_in_order_and_the_close_after_them() -> None:
    pipe = MemoryPipe()
    outlet: Outlet = pipe
    outlet.write(Frames([b"one", b"two"]))
    outlet.write_one(b"three")
    outlet.ping()
    outlet.close(4401, "why")
    outlet.write_one(b"late")
    outlet.close(1000, "again")
    assert [await pipe.take() for _ in range(4)] == [b"one", b"two", b"three", None]
    assert pipe.code == 4401
    assert await pipe.receive() == {"type": "websocket.disconnect", "code": 4401, "reason": "why"}
    assert not await pipe.put(b"late")


async def test_a_client_that_takes_nothing_is_felt_and_then_heard_of_again() -> None:
    pipe = MemoryPipe()
    drained = asyncio.Event()
    pipe.on_drain(drained.set)
    assert pipe.unsent_since is None
    pipe.write_one(b"x" * HIGH_WATER)
    assert pipe.writable
    pipe.write_one(b"y")
    assert not pipe.writable
    assert pipe.unsent_since is not None
    assert pipe.last_seen <= asyncio.get_running_loop().time()
    assert not drained.is_set()
    await pipe.take()
    assert drained.is_set()
    assert pipe.writable
    assert await pipe.take() == b"y"
    assert pipe.unsent_since is None


async def test_a_gateway_that_reads_nothing_holds_the_sender_back() -> None:
    pipe = MemoryPipe()
    for n in range(64):
        assert await pipe.put(b"%d" % n)
    waiting = asyncio.ensure_future(pipe.put(b"64"))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert [(await pipe.receive())["text"] for _ in range(65)] == [str(n) for n in range(65)]
    assert await waiting


async def test_what_was_sent_before_hanging_up_is_read_and_nothing_is_kept() -> None:
    pipe = MemoryPipe()
    drained = asyncio.Event()
    pipe.on_drain(drained.set)
    await pipe.put(b"last words")
    pipe.write_one(b"x" * (HIGH_WATER + 1))
    pipe.hang_up(1000)
    pipe.hang_up(1001)
    assert drained.is_set()
    assert not pipe.writable
    assert pipe.unsent_since is None
    assert (await pipe.receive())["text"] == "last words"
    assert (await pipe.receive())["code"] == 1000
    assert (await pipe.receive())["code"] == 1000
    assert await pipe.take() is None


@pytest.mark.parametrize("hangs_up", [True, False])
async def test_whoever_waits_is_told_of_the_end(hangs_up: bool) -> None:
    pipe = MemoryPipe()
    for _ in range(64):
        await pipe.put(b"")
    taking, putting = asyncio.ensure_future(pipe.take()), asyncio.ensure_future(pipe.put(b"too much"))
    await asyncio.sleep(0)
    if hangs_up:
        pipe.hang_up(1000)
    else:
        pipe.close(1012, "")
    assert await taking is None
    assert not await putting


async def test_a_take_that_is_cancelled_loses_nothing() -> None:
    pipe = MemoryPipe()
    taken: list[bytes | None] = []
    for n in range(300):
        task = asyncio.ensure_future(pipe.take())
        await asyncio.sleep(0)
        pipe.write_one(b"%d" % n)
        if n % 3 == 0:
            task.cancel()
        try:
            taken.append(await task)
        except asyncio.CancelledError:
            taken.append(await pipe.take())
    assert taken == [b"%d" % n for n in range(300)]


async def test_a_long_backlog_lets_others_run() -> None:
    pipe = MemoryPipe()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while pipe.unsent_since is not None:
            turns += 1
            await asyncio.sleep(0)

    pipe.write(Frames([b"x"] * 1000))
    running = asyncio.ensure_future(other())
    for _ in range(1000):
        await pipe.take()
    await running
    assert turns > 10
