"""A TCP proxy before a server, with the faults of a bad network: cut, silent, slow, closed, and lying."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import TypeAlias

__all__ = ["Address", "FaultyProxy", "faulty_proxy"]

Address: TypeAlias = "tuple[str, int] | str"
"""A host and a port, or the path of a socket."""

_CHUNK = 1 << 16


class _Connection:
    def __init__(self, writer: asyncio.StreamWriter, out: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.out = out
        self.asked = False


class FaultyProxy:
    """Hands bytes on between clients and the server at `upstream` while its faults are off.

    `budget`: so many bytes may still come from the server, over all connections; then theirs is cut. `silent`: bytes
    of either side are read and dropped, for good. `flowing`: while it is not set, nothing is read from the server.
    `delay`: seconds that each piece from the server waits. `closed`: new connections are refused. `requests` counts
    how often a client wrote after the server had, or first; `to_server` what was written, in bytes.
    """

    def __init__(self, upstream: Address) -> None:
        self.upstream = upstream
        self.port = 0
        self.budget: int | None = None
        self.silent = False
        self.delay = 0.0
        self.closed = False
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.requests = 0
        self.to_server = 0
        self.connections = 0
        self._open: dict[asyncio.Task[None], _Connection | None] = {}

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Cut all connections that are open."""
        for connection in self._open.values():
            if connection is not None:
                connection.writer.transport.abort()
                connection.out.transport.abort()

    def say(self, data: bytes) -> None:
        """Say something to every client in the server's stead."""
        for connection in self._open.values():
            if connection is not None:
                connection.writer.write(data)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.closed:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._open[task] = None
        task.add_done_callback(self._open.pop)

    async def close(self) -> None:
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            if isinstance(self.upstream, str):
                upstream, out = await asyncio.open_unix_connection(self.upstream)
            else:
                upstream, out = await asyncio.open_connection(*self.upstream)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, out)
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = connection
        try:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(self._forth(connection, reader))
                await self._back(connection, upstream)
                sending.cancel()
        finally:
            writer.transport.abort()
            out.transport.abort()

    async def _forth(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(_CHUNK):
                if self.silent:
                    continue
                if not connection.asked:
                    connection.asked = True
                    self.requests += 1
                self.to_server += len(data)
                connection.out.write(data)
                await connection.out.drain()
        connection.out.transport.abort()

    async def _back(self, connection: _Connection, upstream: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while data := await upstream.read(_CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self.flowing.wait()
                if self.silent:
                    continue
                connection.asked = False
                if self.budget is not None:
                    data = data[: self.budget]
                    self.budget -= len(data)
                connection.writer.write(data)
                await connection.writer.drain()
                if self.budget == 0:
                    return


@asynccontextmanager
async def faulty_proxy(upstream: Address) -> AsyncGenerator[FaultyProxy]:
    proxy = FaultyProxy(upstream)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        async with server:
            yield proxy
    finally:
        await proxy.close()
