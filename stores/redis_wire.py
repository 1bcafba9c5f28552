"""One connection to a Redis or Valkey server, which is never made again: it knows whom it speaks to."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, cast

import hiredis
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from stores.redis_client import RedisUrlError

__all__ = ["Argument", "Command", "Dial", "Reply", "Wire"]

Argument: TypeAlias = bytes | str | int
Command: TypeAlias = Sequence[Argument]
Reply: TypeAlias = "bytes | int | list[Reply] | None"


_pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)  # type: ignore[reportUnknownMemberType]


class _Connection(Protocol):
    """What is used of `redis.asyncio.Connection`, whose own types are open."""

    _writer: asyncio.StreamWriter | None

    @property
    def is_connected(self) -> bool: ...

    async def connect(self) -> None: ...

    async def disconnect(self, nowait: bool = False) -> None: ...

    async def send_packed_command(self, command: bytes, check_health: bool = True) -> None: ...

    async def read_response(
        self,
        disable_decoding: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 - the driver names it
        *,
        disconnect_on_error: bool = True,
    ) -> Reply: ...

    async def can_read(self) -> bool: ...


class Wire:
    """Used by one caller at a time. All calls may raise RedisError and OSError, and bound nothing in time."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self.run_id = b""

    async def open(self) -> None:
        await self._connection.connect()
        (info,) = await self.exchange([("INFO", "server")])
        lines = info.split(b"\r\n") if isinstance(info, bytes) else []
        found = [line.removeprefix(b"run_id:") for line in lines if line.startswith(b"run_id:")]
        if not found or not found[0]:
            raise RedisConnectionError("the server does not say its run_id")
        self.run_id = found[0]

    async def usable(self) -> bool:
        """Whether it is as the last exchange left it: open, and nothing came since."""
        return self._connection.is_connected and not await self._connection.can_read()

    async def exchange(self, commands: Sequence[Command]) -> list[Reply | ResponseError]:
        """The reply to each command, all in one round trip. Where it raises, the wire is of no more use."""
        await self.send(commands)
        return [await self.receive() for _ in commands]

    async def send(self, commands: Sequence[Command]) -> None:
        # By itself it would connect anew, to whatever server is there by now.
        if not self._connection.is_connected:
            raise RedisConnectionError("the connection is closed")
        await self._connection.send_packed_command(b"".join(map(_pack, map(tuple, commands))), check_health=False)

    async def receive(self) -> Reply | ResponseError:
        """The next reply or message."""
        try:
            return await self._connection.read_response(
                disable_decoding=True, timeout=math.inf, disconnect_on_error=False
            )
        except ResponseError as error:
            return error

    async def drop(self) -> None:
        # Closing would wait until a silent peer has taken what was written.
        writer = self._connection._writer  # pyright: ignore[reportPrivateUsage]
        if writer is not None:
            writer.transport.abort()
        await self._connection.disconnect(nowait=True)


class Dial:
    """Makes wires to the server at `url`."""

    def __init__(self, url: str, *, timeout: float) -> None:
        """Connects to nothing yet. Raises RedisUrlError."""
        self._timeout = timeout
        options: dict[str, Any] = {
            "protocol": 2,
            # Whoever uses a wire bounds all that it does in time.
            "socket_timeout": None,
            "socket_connect_timeout": timeout,
            # What is sent again on another connection must be sent with that one's run_id.
            "retry": Retry(NoBackoff(), 0),
        }
        try:
            self._pool = ConnectionPool.from_url(url, **options)  # pyright: ignore[reportUnknownMemberType]
            self._pool.make_connection()  # which alone tells options that there are not
        except (ValueError, TypeError):
            # Not with its cause, which may repeat parts of the URL.
            raise RedisUrlError("expected redis://HOST, rediss://HOST or unix:///PATH") from None

    async def wire(self) -> Wire:
        """A new wire. Raises RedisError, OSError (TimeoutError is one)."""
        wire = Wire(cast("_Connection", self._pool.make_connection()))
        try:
            async with asyncio.timeout(self._timeout):
                await wire.open()
        except BaseException:
            await wire.drop()
            raise
        return wire
