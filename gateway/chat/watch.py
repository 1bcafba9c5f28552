"""Notices when a client's connection is lost and when its session is open again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.client_port import Channel, Closed, NotOpened, Open
from protocol.errors import CLOSE_CODES, Close

__all__ = ["watched"]

# The tag comes first in what the gateway writes.
_READY: Final = b'{"type":"ready",'


def watched(open_channel: Open, told: Callable[[bool], None]) -> Open:
    """The same channels; `told` is called with False when one is lost after which the client connects again, and with
    True when the session is open again. A gateway that was not there at first is not waited for."""
    watch = _Watch(told)

    async def open_watched() -> Channel:
        try:
            channel = await open_channel()
        except NotOpened as error:
            if not watch.opened and error.status is None:
                raise NotOpened(str(error), final=True) from error.__cause__
            raise
        return _Watched(channel, watch)

    return open_watched


class _Watch:
    def __init__(self, told: Callable[[bool], None]) -> None:
        self.opened = False
        self._told = told
        self._lost = False

    def received(self, payload: bytes) -> None:
        if payload.startswith(_READY):
            self.opened = True
            if self._lost:
                self._lost = False
                self._told(True)

    def closed(self, code: int | None) -> None:
        info = CLOSE_CODES.get(code) if code is not None else None
        comes_back = info is None or info.then is Close.RECONNECT
        if self.opened and comes_back and not self._lost:
            self._lost = True
            self._told(False)


class _Watched:
    def __init__(self, channel: Channel, watch: _Watch) -> None:
        self._channel = channel
        self._watch = watch

    async def send(self, payload: bytes) -> None:
        await self._channel.send(payload)

    async def receive(self) -> bytes:
        try:
            payload = await self._channel.receive()
        except Closed as error:
            self._watch.closed(error.code)
            raise
        self._watch.received(payload)
        return payload

    async def close(self, code: int = 1000) -> None:
        await self._channel.close(code)
