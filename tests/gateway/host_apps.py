"""Hosts of a gateway for tests: settings, who asks, and a server of the host's application."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp

from gateway import Gateway, Principal, Settings

__all__ = ["ANN", "by_query", "gateway_in", "hosted", "sockets", "until"]

ANN = Principal(tenant="host", subject="ann")


def by_query(connection: HTTPConnection) -> Principal | None:
    """Whoever `?user=` names: no way to authenticate anybody but a test."""
    user = connection.query_params.get("user")
    return None if user is None else Principal(tenant="host", subject=user)


def gateway_in(folder: Path, *, delay: float = 1, **options: Any) -> Gateway:
    """A gateway of the demo model, with `delay` milliseconds a word."""
    settings = Settings.of(
        store={"url": f"sqlite:///{folder / 'host.db'}"},
        models={"demo": {"provider": "demo", "delay": delay}},
    )
    return Gateway(settings, **options)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@asynccontextmanager
async def hosted(app: ASGIApp, ws: Any = "websockets-sansio") -> AsyncGenerator[str]:
    """A plain uvicorn that serves the application and runs its lifespan; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = _Server(uvicorn.Config(app, ws=ws, lifespan="on", log_config=None))
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve([listener]))
        await server.up.wait()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True


def sockets(gateway: Gateway) -> int:
    """How many the gateway counts as open."""
    value = gateway.stats.registry.get_sample_value("tidegate_sockets")
    assert value is not None
    return round(value)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nothing tells of."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)
