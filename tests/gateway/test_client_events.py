"""What consumers get, and what happens when one takes nothing."""

from __future__ import annotations

import asyncio
import gc

import pytest

from gateway.client_errors import Refused
from gateway.client_events import Broadcast, Frame
from protocol.frames import Snapshot
from tests.gateway.client_rig import message


def _snapshot(context_id: str) -> Snapshot:
    return Snapshot(context_id=context_id, epoch="1", seq=9, events=[], has_more=False, partial=[], running=[])


def _broadcast(*, answer_awaited: bool = False, patience: float = 60.0) -> Broadcast:
    return Broadcast(_snapshot, lambda: answer_awaited, bound=2, patience=patience)


def _frames(count: int, context_id: str = "a") -> list[Frame]:
    return [message(context_id, f"m{seq}", seq) for seq in range(1, count + 1)]


async def test_each_consumer_gets_its_contexts_in_order() -> None:
    broadcast = _broadcast()
    everything, only_b = broadcast.open(), broadcast.open("b")
    frames = [*_frames(1), *_frames(1, "b")]
    for frame in frames:
        broadcast.deliver(frame)
    assert [await anext(everything), await anext(everything)] == frames
    assert await anext(only_b) == frames[1]


async def test_reading_waits_for_a_full_queue_until_something_is_taken() -> None:
    broadcast = _broadcast()
    events = broadcast.open()
    for frame in _frames(2):
        broadcast.deliver(frame)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        room = group.create_task(broadcast.make_room())
        await asyncio.sleep(0)
        assert not room.done()
        assert [await anext(events), await anext(events)] == _frames(2)


@pytest.mark.parametrize("ended_by", ["an answer that is awaited", "time"])
async def test_one_that_takes_nothing_finds_a_snapshot(ended_by: str) -> None:
    broadcast = _broadcast(answer_awaited=ended_by != "time", patience=0.001)
    events = broadcast.open()
    async with asyncio.timeout(10):
        for frame in _frames(5):
            broadcast.deliver(frame)
            await broadcast.make_room()
        assert await anext(events) == _snapshot("a")


async def test_one_that_was_let_go_of_holds_nobody_up() -> None:
    broadcast = _broadcast()
    broadcast.open()
    gc.collect()
    closed = broadcast.open()
    for frame in _frames(3):
        broadcast.deliver(frame)
    await closed.aclose()
    async with asyncio.timeout(10):
        await broadcast.make_room()
    with pytest.raises(StopAsyncIteration):
        await anext(closed)


async def test_ends_come_after_what_waits() -> None:
    broadcast = _broadcast()
    one, other = broadcast.open("a"), broadcast.open("b")
    broadcast.deliver(_frames(1)[0])
    broadcast.drop("a", Refused("not_found", "it is gone"))
    assert await anext(one) == _frames(1)[0]
    with pytest.raises(Refused, match="it is gone"):
        await anext(one)
    broadcast.end(None)
    for events in (other, broadcast.open()):
        with pytest.raises(StopAsyncIteration):
            await anext(events)
