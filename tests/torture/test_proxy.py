"""The proxy does to connections what networks do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.torture.proxy import Proxy


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """In front of a server that says everything it hears, and nothing else."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                writer.write(data)
        except ConnectionError:
            pass
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Proxy(server.sockets[0].getsockname()[1]).serving() as made, asyncio.timeout(10):
        yield made


async def test_it_passes_everything_on_and_the_end_too(proxy: Proxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"hello")
    writer.write_eof()
    assert await reader.read() == b"hello"
    writer.close()


async def test_it_cuts(proxy: Proxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    proxy.cut()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1)
    writer.close()


async def test_it_cuts_in_the_middle_of_a_reply(proxy: Proxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"hello")
    await reader.readexactly(5)
    proxy.cut_after(3)
    writer.write(b"again")
    assert await reader.readexactly(3) == b"aga"
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1)
    writer.close()


async def test_what_it_swallows_never_comes(proxy: Proxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"hello")
    await reader.readexactly(5)
    proxy.silent = True
    writer.write(b"again")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readexactly(1), 0.1)
    proxy.heal()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1)
    writer.close()


async def test_it_throttles(proxy: Proxy) -> None:
    proxy.rate = 20_000.0
    began = asyncio.get_running_loop().time()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(bytes(4000))
    await reader.readexactly(4000)
    assert asyncio.get_running_loop().time() - began > 0.1
    writer.close()
