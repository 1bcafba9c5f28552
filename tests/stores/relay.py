"""Stands between a client and its server, and does to them what networks do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from urllib.parse import unquote, urlsplit

__all__ = ["Relay", "open_relay"]


class Relay:
    """Passes on what it gets. `requests` counts the reads of what clients sent, which are as many as requests where
    these are small and each waits for its reply. The next `cuts` replies are thrown away, and their connections
    closed; while `silent`, replies are held back for ever."""

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream)
        self._tasks: set[asyncio.Task[None]] = set()
        self.requests = 0
        self.connections = 0
        self.cuts = 0
        self.silent = False
        self.held = asyncio.Event()  # a reply was held back

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        up_reader, up_writer = await self._connect()
        requests = asyncio.create_task(self._requests(reader, up_writer))
        with suppress(OSError, asyncio.CancelledError):
            await self._replies(up_reader, writer)
        requests.cancel()
        for each in (writer, up_writer):
            each.close()
        self._tasks.discard(task)

    async def close(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        url = self._upstream
        if url.scheme == "unix":
            return await asyncio.open_unix_connection(unquote(url.path))
        return await asyncio.open_connection(url.hostname, url.port)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                self.requests += 1
                writer.write(data)
                await writer.drain()
            writer.close()

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if self.silent:
                self.held.set()
                continue
            if self.cuts > 0:
                self.cuts -= 1
                return
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def open_relay(upstream: str) -> AsyncGenerator[tuple[Relay, str]]:
    """The relay, and its URL."""
    relay = Relay(upstream)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    try:
        yield relay, f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await relay.close()
        await server.wait_closed()
