"""The outlet over plain ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from starlette.types import Message

from gateway.transport.fallback import AsgiOutlet
from gateway.transport.port import HIGH_WATER, Frames, Outlet
from tests.gateway.transport.serving import until


class _Server:
    """The `send` of an ASGI server. It takes messages while `gate` is set."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.news = asyncio.Condition()
        self.gone = False

    async def send(self, message: Message) -> None:
        await self.gate.wait()
        if self.gone:
            raise OSError
        async with self.news:
            self.sent.append(message)
            self.news.notify_all()

    async def has(self, count: int) -> None:
        async with asyncio.timeout(20), self.news:
            await self.news.wait_for(lambda: len(self.sent) >= count)


@asynccontextmanager
async def _running(server: _Server) -> AsyncGenerator[AsgiOutlet]:
    async with asyncio.TaskGroup() as group:
        outlet = AsgiOutlet(server.send)
        task = group.create_task(outlet.run())
        yield outlet
        task.cancel()


async def test_frames_in_order_and_the_close_after_them() -> None:
    server = _Server()
    async with _running(server) as made:
        outlet: Outlet = made
        outlet.write(Frames([b"one", "zwö".encode()]))
        outlet.write_one(b"three")
        outlet.ping()
        outlet.close(4401, "why")
        outlet.write_one(b"late")
        await server.has(4)
    assert [message.get("text") for message in server.sent] == ["one", "zwö", "three", None]
    assert server.sent[-1] == {"type": "websocket.close", "code": 4401, "reason": "why"}


async def test_a_slow_server_is_felt_and_then_heard_of_again() -> None:
    server = _Server()
    server.gate.clear()
    drained = asyncio.Event()
    async with _running(server) as outlet:
        outlet.on_drain(drained.set)
        assert outlet.unsent_since is None
        outlet.write_one(b"x" * HIGH_WATER)
        assert outlet.writable
        assert outlet.unsent_since is not None
        outlet.write_one(b"y")
        assert not outlet.writable
        server.gate.set()
        async with asyncio.timeout(20):
            await drained.wait()
        assert outlet.writable
        await server.has(2)
        assert outlet.last_seen <= asyncio.get_running_loop().time()


async def test_a_client_that_is_gone_ends_the_task() -> None:
    server = _Server()
    server.gone = True
    async with asyncio.TaskGroup() as group:
        outlet = AsgiOutlet(server.send)
        group.create_task(outlet.run())
        outlet.write_one(b"anyone?")
    assert not outlet.writable
    outlet.write_one(b"no")
    outlet.close(1000, "")
    assert server.sent == []


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_closing_over_a_client_that_does_not_read_gives_up_its_output() -> None:
    server = _Server()
    server.gate.clear()
    async with asyncio.TaskGroup() as group:
        outlet = AsgiOutlet(server.send)
        group.create_task(outlet.run())
        outlet.write_one(b"stuck")
        await asyncio.sleep(0)
        outlet.close(4408, "")
        await until(lambda: outlet.unsent_since is None)
        server.gate.set()
    assert [message["type"] for message in server.sent] == ["websocket.close"]
