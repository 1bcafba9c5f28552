"""Commands and scripts to a Redis or Valkey server: bounded in connections and time, with one kind of error."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Protocol, TypeAlias, cast

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from stores.lua_scripts import script
from stores.ports import Unavailable

__all__ = ["Argument", "RedisClient", "RedisUrlError", "Reply", "unavailable"]

Argument: TypeAlias = bytes | str | int
Reply: TypeAlias = "bytes | int | bool | list[Reply] | None"


class RedisUrlError(ValueError):
    """The URL names no server. The message does not hold it, since it may hold a password."""


class _Commands(Protocol):
    """What is used of `redis.asyncio.Redis`, whose own types are open."""

    async def execute_command(self, *command: Argument) -> Reply: ...

    async def aclose(self, close_connection_pool: bool | None = None) -> None: ...


class RedisClient:
    """A pool of `max_connections` at most, made when they are needed. A call takes `timeout` seconds at most, together
    with its wait for a connection. All calls may raise Unavailable."""

    def __init__(self, url: str, *, timeout: float = 2.0, max_connections: int = 32) -> None:
        """Connects to nothing yet. Raises RedisUrlError."""
        self._timeout = timeout
        self._free = asyncio.Semaphore(max_connections)
        self._redis = cast("_Commands", Redis(connection_pool=_pool(url, timeout, max_connections)))
        self._closed = False

    async def call(self, *command: Argument, resend: bool) -> Reply:
        """The reply to one command, in one round trip. `resend` says that it may be sent a second time, where the
        reply to the first was cut off: that it answers and does the same when it was carried out already."""
        try:
            async with asyncio.timeout(self._timeout), self._free:
                try:
                    return await self._send(command)
                except RedisConnectionError:
                    if not resend:
                        raise
                return await self._send(command)
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            raise unavailable(error) from error

    async def run(self, name: str, keys: Sequence[str], arguments: Sequence[Argument], *, resend: bool) -> Reply:
        """As `call`, of the script `lua/<name>.lua`."""
        try:
            return await self.call("EVALSHA", _sha(name), len(keys), *keys, *arguments, resend=resend)
        except Unavailable as error:
            if not isinstance(error.__cause__, NoScriptError):
                raise
        # The server is new, or has forgotten it; nothing was carried out.
        return await self.call("EVAL", script(name), len(keys), *keys, *arguments, resend=resend)

    async def close(self) -> None:
        """Calls that wait for a reply, and all later ones, raise Unavailable."""
        self._closed = True
        # What is lost by an end that is not clean, the server finds out by itself.
        with suppress(RedisError, OSError):
            await self._redis.aclose(close_connection_pool=True)

    async def _send(self, command: Sequence[Argument]) -> Reply:
        if self._closed:
            raise RedisConnectionError("the client is closed")
        return await self._redis.execute_command(*command)


def unavailable(error: RedisError | OSError) -> Unavailable:
    """What a driver's error is to users of the ports. Servers repeat the arguments of a command that they don't know,
    which may be a password or what somebody wrote: that part is cut off, from the cause too."""
    error.args = tuple(arg.partition(", with args")[0] if isinstance(arg, str) else arg for arg in error.args)
    words = str(error).split(maxsplit=1)
    code = f" {words[0]}" if words and isinstance(error, ResponseError) and words[0].isupper() else ""
    return Unavailable(f"redis: {type(error).__name__}{code}")


def _pool(url: str, timeout: float, max_connections: int) -> ConnectionPool:
    options: dict[str, Any] = {
        "max_connections": max_connections,
        "protocol": 2,
        # Each call has one bound over all that it does; a second one for each read would add nothing.
        "socket_timeout": None,
        "socket_connect_timeout": timeout,
        # Who calls knows what may be sent again.
        "retry": Retry(NoBackoff(), 0),
    }
    try:
        pool = ConnectionPool.from_url(url, **options)  # pyright: ignore[reportUnknownMemberType]
        pool.make_connection()  # which alone tells options that there are not
    except (ValueError, TypeError):
        # Not with its cause, which may repeat parts of the URL.
        raise RedisUrlError("expected redis://HOST, rediss://HOST or unix:///PATH") from None
    return pool


@cache
def _sha(name: str) -> str:
    """How a server names the script."""
    return hashlib.sha1(script(name).encode(), usedforsecurity=False).hexdigest()
