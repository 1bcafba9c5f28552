"""Which channels one connection is subscribed to, and what comes over it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Container, Iterable
from itertools import islice
from typing import NamedTuple

from redis.exceptions import ResponseError

from stores.redis_wire import Command, Wire

__all__ = ["Heard", "Subscriptions"]

_AT_ONCE = 500


class Heard(NamedTuple):
    """`kind` is "message", "confirmed", "lost" (the server ended a subscription by itself; it is asked for again), or
    "sign" of life, without a channel."""

    kind: str
    channel: bytes = b""
    payload: bytes = b""


_SIGN = Heard("sign")


class Subscriptions:
    """`wanted` are the channels to be subscribed to; whoever changes it says what may have `changed`. One task calls
    `write`, one calls `next`; both may raise RedisError and OSError."""

    def __init__(self, wire: Wire, wanted: Container[bytes]) -> None:
        self._wire = wire
        self._wanted = wanted
        self._changed: dict[bytes, None] = {}
        self._ping = False
        self._wake = asyncio.Event()
        self._asked: set[bytes] = set()
        self._confirmed: set[bytes] = set()
        # How often the server was told to end one, and has not said yet that it did.
        self._leaving: Counter[bytes] = Counter()

    def changed(self, channels: Iterable[bytes]) -> None:
        self._changed.update(dict.fromkeys(channels))
        self._wake.set()

    def ping(self) -> None:
        self._ping = True
        self._wake.set()

    def confirmed(self, channel: bytes) -> bool:
        """Whether what is published in the channel comes."""
        return channel in self._confirmed

    async def write(self) -> None:
        """Tell the server what is wanted, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._ping:
                self._ping = False
                await self._wire.send([("PING",)])
            while self._changed:
                commands = self._commands()
                if commands:
                    await self._wire.send(commands)

    def _commands(self) -> list[Command]:
        commands: list[Command] = []
        for channel in list(islice(self._changed, _AT_ONCE)):
            del self._changed[channel]
            wanted = channel in self._wanted
            if wanted and channel not in self._asked:
                self._asked.add(channel)
                commands.append(("SSUBSCRIBE", channel))
            elif not wanted and channel in self._asked:
                self._asked.discard(channel)
                self._confirmed.discard(channel)
                self._leaving[channel] += 1
                commands.append(("SUNSUBSCRIBE", channel))
        return commands

    async def next(self) -> Heard:
        while True:
            reply = await self._wire.receive()
            if isinstance(reply, ResponseError):
                raise reply  # nobody could tell whose it is
            match reply:
                case [b"smessage", bytes(channel), bytes(payload)]:
                    return Heard("message", channel, payload)
                case [b"ssubscribe", bytes(channel), _]:
                    # Replies come in the order of the commands: this one is of before it was told to end it.
                    if not self._leaving[channel] and channel in self._asked:
                        self._confirmed.add(channel)
                        return Heard("confirmed", channel)
                case [b"sunsubscribe", bytes(channel), _]:
                    if self._ended(channel):
                        return Heard("lost", channel)
                case _:
                    return _SIGN

    def _ended(self, channel: bytes) -> bool:
        """Whether the server ended it by itself."""
        if self._leaving[channel]:
            self._leaving[channel] -= 1
            if not self._leaving[channel]:
                del self._leaving[channel]
            return False
        self._asked.discard(channel)
        self._confirmed.discard(channel)
        self.changed((channel,))
        return True
