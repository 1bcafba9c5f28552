"""Scripts and commands to the primary of the live log: each carries the run_id of the server it goes to."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import NamedTuple, TypeAlias

from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from stores.lua_scripts import script
from stores.ports import Unavailable
from stores.redis_client import unavailable
from stores.redis_wire import Argument, Command, Dial, Reply, Wire

__all__ = ["Answers", "Call", "RedisLink", "Script", "load"]


class Script(NamedTuple):
    text: str
    sha: str


@cache
def load(*names: str) -> Script:
    """The scripts `lua/<name>.lua`, one after another, as one."""
    text = "".join(script(name) for name in names)
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Call(NamedTuple):
    """A script to run; its ARGV[1] is the run_id of the server, `arguments` follow."""

    script: Script
    keys: Sequence[Argument]
    arguments: Sequence[Argument]


_Replies: TypeAlias = "list[Reply | ResponseError]"


class Answers(NamedTuple):
    """What a server (`run_id`) replied, to each in order."""

    run_id: bytes
    replies: list[Reply | Unavailable]


class RedisLink:
    """At most `connections`, made when they are needed. A call takes `timeout` seconds at most, with all its waiting.

    A call that fails, or is cancelled, leaves open whether the server did what it says. Nothing is ever sent twice,
    but scripts that the server did not know.
    """

    def __init__(self, url: str, *, timeout: float = 3.0, connections: int = 16) -> None:
        """Connects to nothing yet. Raises RedisUrlError."""
        self._dial = Dial(url, timeout=timeout)
        self._timeout = timeout
        self._free = asyncio.Semaphore(connections)
        self._idle: list[Wire] = []
        self._closed = False

    async def run(self, calls: Sequence[Call]) -> Answers:
        """Run scripts in order, in one round trip; a refusal of the server is in the place of its reply. Raises
        Unavailable where the server is away."""
        async with self._wire() as wire:
            commands = [_command(call, wire.run_id) for call in calls]
            replies = await wire.exchange(commands)
            unknown = next((n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)), None)
            if unknown is not None:
                replies[unknown:] = await _run_anew(wire, calls[unknown:], commands[unknown:])
            for reply in replies:
                if isinstance(reply, ReadOnlyError):
                    raise reply
            return Answers(wire.run_id, [_refusal(reply) for reply in replies])

    async def send(self, *command: Argument) -> Reply:
        """One command. Raises Unavailable."""
        async with self._wire() as wire:
            (reply,) = await wire.exchange([command])
            if isinstance(reply, ResponseError):
                raise reply
            return reply

    async def close(self) -> None:
        """Later calls raise Unavailable."""
        self._closed = True
        await self._drop_idle()

    @asynccontextmanager
    async def _wire(self) -> AsyncGenerator[Wire]:
        """The one spot where the driver's errors become Unavailable."""
        try:
            async with asyncio.timeout(self._timeout), self._free:
                wire = await self._take()
                try:
                    yield wire
                except ReadOnlyError:
                    await wire.drop()  # it is no primary any more: the address may lead to another
                    raise
                except ResponseError:
                    await self._give(wire)  # all replies were read
                    raise
                except BaseException:
                    await wire.drop()  # replies may still come
                    raise
                await self._give(wire)
        except ReadOnlyError as error:
            await self._drop_idle()
            raise unavailable(error) from error
        except ResponseError as error:
            raise unavailable(error) from error
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            # The others of its age have most likely gone with it; a caller that gave up says nothing of them.
            await self._drop_idle()
            raise unavailable(error) from error

    async def _take(self) -> Wire:
        if self._closed:
            raise ConnectionError("the link is closed")
        while self._idle:
            wire = self._idle.pop()
            usable = False
            try:
                with suppress(RedisError, OSError):  # it is as dropped as if it had said so
                    usable = await wire.usable()
            finally:
                if not usable:
                    await wire.drop()
            if usable:
                return wire
        return await self._dial.wire()

    async def _give(self, wire: Wire) -> None:
        if self._closed:
            await wire.drop()
        else:
            self._idle.append(wire)

    async def _drop_idle(self) -> None:
        while self._idle:
            await self._idle.pop().drop()


def _command(call: Call, run_id: bytes) -> Command:
    return ("EVALSHA", call.script.sha, len(call.keys), *call.keys, run_id, *call.arguments)


async def _run_anew(wire: Wire, calls: Sequence[Call], commands: Sequence[Command]) -> _Replies:
    """The server is new, or was told to forget its scripts. All that follow are sent again with the first that it did
    not know, so that they keep their order: a repeat is answered as the first time."""
    texts = {call.script.text: None for call in calls}
    loads = [("SCRIPT", "LOAD", text) for text in texts]
    replies = await wire.exchange([*loads, *commands])
    return replies[len(loads) :]


def _refusal(reply: Reply | ResponseError) -> Reply | Unavailable:
    if not isinstance(reply, ResponseError):
        return reply
    refusal = unavailable(reply)
    refusal.__cause__ = reply
    return refusal
