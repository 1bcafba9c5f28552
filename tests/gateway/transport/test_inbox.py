"""What was received and not yet consumed."""

from __future__ import annotations

import asyncio

import pytest

from gateway.transport.inbox import Inbox

END = {"type": "websocket.disconnect", "code": 1000}


def _message(number: int) -> dict[str, object]:
    return {"type": "websocket.receive", "text": str(number)}


async def test_order_and_the_end() -> None:
    inbox = Inbox()
    inbox.put(_message(1), 1)
    inbox.put(_message(2), 1)
    inbox.end(END, drop=False)
    inbox.end({"type": "websocket.disconnect", "code": 1006}, drop=False)
    inbox.put(_message(3), 1)
    assert [await inbox.take() for _ in range(4)] == [_message(1), _message(2), END, END]


async def test_the_end_can_drop_what_was_not_consumed() -> None:
    inbox = Inbox()
    inbox.put(_message(1), 1)
    inbox.end(END, drop=True)
    assert await inbox.take() == END


async def test_a_cancelled_take_loses_nothing() -> None:
    inbox = Inbox()
    async with asyncio.TaskGroup() as group:
        one, other = group.create_task(inbox.take()), group.create_task(inbox.take())
        await asyncio.sleep(0)
        inbox.put(_message(1), 1)
        one.cancel()
    assert one.cancelled()
    assert other.result() == _message(1)


@pytest.mark.parametrize(("count", "size"), [(64, 1), (2, 512 * 1024)])
async def test_the_bound(count: int, size: int) -> None:
    inbox = Inbox()
    for number in range(count):
        assert not inbox.full
        inbox.put(_message(number), size)
    assert inbox.full
    assert not inbox.has_room
    for _ in range(count):
        await inbox.take()
    assert inbox.has_room
