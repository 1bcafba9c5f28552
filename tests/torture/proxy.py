"""A TCP proxy for everything that networks do: it cuts, goes silent, delays and throttles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

__all__ = ["Proxy"]

_CHUNK = 32 * 1024
_SLICE = 0.05
_LINGER = 5.0


class _Link:
    """One connection through the proxy; `budget` are the bytes that may still come from the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.budget: int | None = None

    def abort(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()


class Proxy:
    """Between clients and the server at `target`. Its state holds for all connections: `delay` seconds before each
    piece is passed on, `rate` bytes a second (None: any number); while `silent`, what comes is taken and lost, and
    nobody can tell; while `refusing`, nobody is let in."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.delay = 0.0
        self.rate: float | None = None
        self.silent = False
        self.refusing = False
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[Proxy]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_CHUNK)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._links)

    def cut(self) -> None:
        """Cut every connection, without a word."""
        for link in tuple(self._links):
            link.abort()

    def cut_after(self, bytes: int) -> None:
        """Cut every connection once so many more bytes have come from the server."""
        for link in self._links:
            link.budget = bytes

    def heal(self) -> None:
        """Be a good network again. What was lost in silence can't be mended but by new connections."""
        if self.silent:
            self.silent = False
            self.cut()
        self.delay, self.rate, self.refusing = 0.0, None, False
        for link in self._links:
            link.budget = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            # As the server does not await its handlers, a cancelled one would be told of as lost.
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            return
        upstream, out = await asyncio.open_connection("127.0.0.1", self.target, limit=_CHUNK)
        link = _Link(writer, out)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pipe(reader, out, link, counted=False))
                group.create_task(self._pipe(upstream, writer, link, counted=True))
            # What was said before the end arrives, where anybody takes it.
            writer.close()
            out.close()
            async with asyncio.timeout(_LINGER):
                await writer.wait_closed()
        finally:
            self._links.discard(link)
            link.abort()

    async def _pipe(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link, *, counted: bool
    ) -> None:
        try:
            while data := await reader.read(_CHUNK):
                if self.silent:
                    continue
                if self.delay:
                    await asyncio.sleep(self.delay)
                if counted and link.budget is not None:
                    data = data[: link.budget]
                    link.budget -= len(data)
                await self._write(writer, data)
                if counted and link.budget == 0:
                    link.abort()
                    return
        except OSError:
            link.abort()
            return
        if not self.silent and not writer.transport.is_closing():
            writer.write_eof()

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        # A closed transport is written to no more: not every event loop takes that as quietly as asyncio's.
        while data and not writer.transport.is_closing():
            size = len(data) if self.rate is None else max(1, int(self.rate * _SLICE))
            writer.write(data[:size])
            data = data[size:]
            await writer.drain()
            if data:
                await asyncio.sleep(_SLICE)
