"""Runs a gateway under uvicorn, with our socket transport, until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager

import structlog
import uvicorn

from gateway.app import Gateway
from gateway.listening import shared_sockets
from gateway.logs import configure_logs
from gateway.settings import Settings, check_exposure
from gateway.transport.http import HttpProtocol
from gateway.transport.websocket import SocketProtocol

__all__ = ["serve"]

_log = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    """uvicorn that drains: the first signal lets running turns end, the second one ends it at once."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, announced: bool) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._announced = announced
        self._drain: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """As uvicorn's, but the exit status says that the end was asked for."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop)
        try:
            yield
        finally:
            for name in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(name)

    def _stop(self) -> None:
        if self._drain is None:
            self._drain = asyncio.ensure_future(self._drain_and_exit())
        else:
            self._drain.cancel()
            self.force_exit = True
            self.should_exit = True

    async def _drain_and_exit(self) -> None:
        seconds = self._gateway.settings.server.drain_seconds
        _log.info("draining", seconds=seconds)
        # Whoever connects from now on is another instance's, which may listen on the same port.
        for server in self.servers:
            server.close()
        await self._gateway.drain(seconds)
        self.should_exit = True

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started and not self._announced:
            await self._announce()

    async def _announce(self) -> None:
        settings = self._gateway.settings
        port = settings.server.port
        for server in self.servers:
            for socket in server.sockets:
                port = socket.getsockname()[1]
        scheme = "https" if settings.server.tls_cert is not None else "http"
        host = f"[{settings.server.host}]" if ":" in settings.server.host else settings.server.host
        url = f"{scheme}://{host}:{port}"
        sys.stdout.write(f"Tidegate listens on {url}\n")
        if settings.local:
            sys.stdout.write(f"Open {url}/?ticket={await self._gateway.local_ticket()} (good once)\n")
        sys.stdout.flush()


def serve(settings: Settings, gateway: Gateway | None = None, *, shared: bool = False, announced: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; the exit status. On a `shared` port other processes may listen too; where it was
    `announced` nothing is printed. Raises SettingsError where that would let everybody in."""
    check_exposure(settings)
    configure_logs()
    # The threads of the store hold the interpreter for moments; the loop, and every token, waits for it no longer.
    sys.setswitchinterval(0.0005)
    gateway = gateway or Gateway(settings)
    gateway.listen_alone()
    # What was loaded stays: collections need not look at it again, and a full one is a stall for every stream.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    server = settings.server
    config = uvicorn.Config(
        gateway.app,
        host=server.host,
        port=server.port,
        http=HttpProtocol,
        ws=SocketProtocol,
        ws_max_size=settings.limits.max_frame_bytes,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=4096,
        ssl_certfile=server.tls_cert,
        ssl_keyfile=server.tls_key,
        proxy_headers=bool(server.trusted_proxies),
        forwarded_allow_ips=list(server.trusted_proxies) or None,
        timeout_graceful_shutdown=5,
    )
    uvicorn_server = _Server(config, gateway, announced)
    sockets = shared_sockets(server.host, server.port) if shared else None
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(uvicorn_server.serve(sockets))
    return 0 if uvicorn_server.started else 3
