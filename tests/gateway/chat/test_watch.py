"""Whoever watches a connection hears of its loss once, and of its return."""

from __future__ import annotations

from contextlib import suppress

import pytest

from gateway.chat.watch import watched
from gateway.client_port import Closed, NotOpened, Open

READY = b'{"type":"ready","session_id":"s"}'


class Script:
    """A channel that gives these messages, then is closed with the code."""

    def __init__(self, messages: list[bytes], code: int | None) -> None:
        self._messages = messages
        self._code = code

    async def send(self, payload: bytes) -> None:
        raise Closed(self._code)

    async def receive(self) -> bytes:
        if not self._messages:
            raise Closed(self._code)
        return self._messages.pop(0)

    async def close(self, code: int = 1000) -> None:
        pass


def opening(*channels: Script | NotOpened) -> tuple[Open, list[bool]]:
    left, told = list(channels), list[bool]()

    async def open_channel() -> Script:
        channel = left.pop(0)
        if isinstance(channel, NotOpened):
            raise channel
        return channel

    return watched(open_channel, told.append), told


async def drain(open_channel: Open) -> None:
    channel = await open_channel()
    with suppress(Closed):
        while True:
            await channel.receive()


async def test_a_loss_and_a_return_are_told_once() -> None:
    open_channel, told = opening(
        Script([READY, b"{}"], 1012), NotOpened("away"), Script([], 1006), Script([b"{}", READY], None)
    )
    await drain(open_channel)
    assert told == [False]
    with pytest.raises(NotOpened) as error:
        await open_channel()
    assert not error.value.final
    await drain(open_channel)
    assert told == [False]
    await drain(open_channel)
    assert told == [False, True, False]


@pytest.mark.parametrize("code", [4401, 4403, 4409])
async def test_an_end_for_good_is_no_loss(code: int) -> None:
    open_channel, told = opening(Script([READY], code))
    await drain(open_channel)
    assert told == []


async def test_a_gateway_that_is_not_there_at_first_is_not_waited_for() -> None:
    open_channel, told = opening(NotOpened("away"), NotOpened("busy", status=503))
    with pytest.raises(NotOpened) as away:
        await open_channel()
    with pytest.raises(NotOpened) as busy:
        await open_channel()
    assert (away.value.final, busy.value.final) == (True, False)
    assert told == []
