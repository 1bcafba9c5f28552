"""The end of a server that was not to end yet, or has not begun: with real signals to this process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn

from gateway.app import Gateway
from gateway.serve import _Server  # pyright: ignore[reportPrivateUsage]
from gateway.settings import Settings, StoreSettings

MOST = 20.0


class Given(Gateway):
    """Runs as the test says."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Settings(store=StoreSettings(url=f"sqlite:///{folder / 'store.db'}")))
        self.drains: list[float] = []
        self.drained = asyncio.Event()

    async def drain(self, seconds: float) -> None:
        self.drains.append(seconds)
        await self.drained.wait()


class Waiting(Given):
    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()
        yield


class Failing(Given):
    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._fail())
            yield

    async def _fail(self) -> None:
        await asyncio.sleep(0)
        raise RuntimeError("a bug")


class Idle(Given):
    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        yield


def server_of(given: Given, *, supervised: bool = False) -> _Server:
    config = uvicorn.Config(given.app, lifespan="on", log_config=None)
    return _Server(config, given, announced=True, supervised=supervised)


def free() -> list[socket.socket]:
    opened = socket.socket()
    opened.bind(("127.0.0.1", 0))
    return [opened]


async def test_a_signal_ends_a_start_that_waits_for_a_store(tmp_path: Path) -> None:
    server, sockets = server_of(Waiting(tmp_path)), free()
    serving = asyncio.create_task(server.serve(sockets))  # type: ignore[arg-type]
    async with asyncio.timeout(MOST):
        with pytest.raises(asyncio.CancelledError):
            await serving
    assert server.stopped_early
    sockets[0].close()


async def test_a_gateway_that_ends_by_itself_ends_its_server(tmp_path: Path) -> None:
    server = server_of(Failing(tmp_path))
    async with asyncio.timeout(MOST):
        await server.serve(free())  # type: ignore[arg-type]
    assert server.failed


@pytest.mark.parametrize("supervised", [True, False])
async def test_a_second_signal_is_no_haste_where_a_supervisor_sends_one_too(
    tmp_path: Path, *, supervised: bool
) -> None:
    given = Idle(tmp_path)
    server = server_of(given, supervised=supervised)
    serving = asyncio.create_task(server.serve(free()))  # type: ignore[arg-type]
    async with asyncio.timeout(MOST):
        while not server.started:
            await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        while not given.drains:
            await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        began = time.monotonic()
        while time.monotonic() - began < 0.05 and not server.force_exit:
            await asyncio.sleep(0)
        assert server.force_exit is not supervised
        given.drained.set()
        await serving
    assert not server.failed
