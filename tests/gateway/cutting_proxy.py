"""A TCP proxy that cuts its connections after so many bytes from the server, as a bad network does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

__all__ = ["CuttingProxy", "cutting"]

_CHUNK = 512
# Each connection may bring more than the one before: the gateway merges what is late into ever larger frames.
_GROWTH = 400


class CuttingProxy:
    """`budget` is how many bytes the next connection may bring from the server before it is cut; None: any number."""

    def __init__(self, port: int, budget: int | None) -> None:
        self.budget = budget
        self.connections = 0
        self.url = ""
        self._port = port
        self._open: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def close(self) -> None:
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        budget = self.budget
        if self.budget is not None:
            self.budget += _GROWTH
        try:
            upstream, out = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(_pipe(reader, out, None))
                await _pipe(upstream, writer, budget)
                sending.cancel()
        finally:
            writer.transport.abort()
            out.transport.abort()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int | None) -> None:
    try:
        while data := await reader.read(_CHUNK):
            if budget is not None:
                data = data[:budget]
                budget -= len(data)
            writer.write(data)
            await writer.drain()
            if budget == 0:
                return
        writer.transport.abort()
    except ConnectionError:
        return


@asynccontextmanager
async def cutting(port: int, budget: int | None) -> AsyncGenerator[CuttingProxy]:
    proxy = CuttingProxy(port, budget)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with server:
            yield proxy
    finally:
        await proxy.close()
