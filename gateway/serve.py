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
from stores.ports import Unavailable

__all__ = ["serve"]

_log = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    """uvicorn that drains: the first signal lets running turns end, the second one ends it at once, unless it is
    `supervised`: then whoever supervises it kills it. A signal before it serves ends the start."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, announced: bool, supervised: bool = False) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._announced = announced
        self._supervised = supervised
        self._serving: asyncio.Task[None] | None = None
        self._drain: asyncio.Task[None] | None = None
        self.stopped_early = False

    @property
    def failed(self) -> bool:
        """Whether the gateway ended, and nobody had asked for it."""
        return self.lifespan.error_occurred

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """As uvicorn's, but the exit status says that the end was asked for."""
        loop = asyncio.get_running_loop()
        self._serving = asyncio.current_task()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop)
        try:
            yield
        finally:
            for name in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(name)

    def _stop(self) -> None:
        if not self.started and self._serving is not None:
            # It may wait for a store for long, and nothing of it can be drained yet.
            self.stopped_early = True
            self._serving.cancel()
        elif self._drain is None:
            self._drain = asyncio.ensure_future(self._drain_and_exit())
        elif not self._supervised:
            # Some who supervise signal all processes at once, and the worker's own supervisor does so too: twice is no
            # haste there.
            self._drain.cancel()
            self.force_exit = True
            self.should_exit = True

    async def _drain_and_exit(self) -> None:
        seconds = self._gateway.settings.server.drain_seconds
        _log.info("draining", seconds=seconds)
        # Whoever connects from now on is another instance's, which may listen on the same port.
        for server in self.servers:
            server.close()
        try:
            await self._gateway.drain(seconds)
        finally:
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        # A process whose gateway has ended would go on to accept sockets, and refuse them all.
        return await super().on_tick(counter) or self.failed

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
            try:
                sys.stdout.write(f"Open {url}/?ticket={await self._gateway.local_ticket()} (good once)\n")
            except Unavailable as error:
                # It serves all the same, as it would if that had gone away a moment later.
                _log.warning("there is no ticket for the page; start again for one", reason=str(error))
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
    uvicorn_server = _Server(config, gateway, announced, supervised=shared)
    sockets = shared_sockets(server.host, server.port) if shared else None
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        try:
            runner.run(uvicorn_server.serve(sockets))
        except asyncio.CancelledError:
            if not uvicorn_server.stopped_early:
                raise
            return 0
    return 0 if uvicorn_server.started and not uvicorn_server.failed else 3
