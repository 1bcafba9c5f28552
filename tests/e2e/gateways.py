"""Real gateway processes for tests."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from typer.testing import CliRunner

from gateway.cli_keys import keys

__all__ = ["GatewayProcess", "free_port"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class GatewayProcess:
    """`tidegate serve` on a port and a data directory of its own, which outlive its kills and restarts.

    Keys are of `tenant`: so that tests which share a gateway know nothing of each other. `env` is added to the
    environment at every start.
    """

    def __init__(self, folder: Path, *, config: str = "", script: list[str] | None = None) -> None:
        self.folder = folder
        self._port = free_port()
        self.config = folder / "tidegate.toml"
        self.config.write_text(config)
        self._place = ["--config", str(self.config), "--data", str(folder)]
        self._script = script or [sys.executable, "-m", "gateway.cli", "serve"]
        self.process: subprocess.Popen[bytes] | None = None
        self.tenant = "default"
        self.env: dict[str, str] = {}
        self.started = 0.0  # by time.monotonic

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/ws"

    @property
    def processes(self) -> Sequence[subprocess.Popen[bytes]]:
        """Those that were started, whether or not they still run."""
        return [] if self.process is None else [self.process]

    @property
    def alive(self) -> bool:
        return bool(self.processes) and all(process.poll() is None for process in self.processes)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    async def start(self, **env: str) -> None:
        with (self.folder / "gateway.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self._script, *self._place, "--port", str(self.port)],
                env=os.environ | self.env | env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started = time.monotonic()
        try:
            await self.ready()
        except BaseException:
            self.kill()
            raise

    async def ready(self, seconds: float = 30) -> None:
        async with httpx.AsyncClient() as client, asyncio.timeout(seconds):
            while True:
                try:
                    if (await client.get(f"{self.url}/readyz")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                assert self.process is not None
                if self.process.poll() is not None:
                    raise RuntimeError((self.folder / "gateway.log").read_text()[-4000:])
                await asyncio.sleep(0.03)

    def kill(self) -> None:
        """As a power cut would end it."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    async def died(self, seconds: float = 30) -> int:
        """Wait for the process to end by itself; its exit status."""
        process = self.process
        assert process is not None
        async with asyncio.timeout(seconds):
            while process.poll() is None:
                await asyncio.sleep(0.02)
        return process.returncode

    def terminate(self) -> None:
        assert self.process is not None
        self.process.terminate()

    def key(self, subject: str = "ann", *more: str) -> str:
        """A new API key of the subject."""
        words = ["create", "--subject", subject, "--tenant", self.tenant, *more, *self._place]
        # The command without its process, which costs more than most tests; in a thread, as it runs a loop of its own.
        with ThreadPoolExecutor(1) as thread:
            made = thread.submit(CliRunner().invoke, keys, words).result()
        assert made.exit_code == 0, made.output
        return made.stdout.strip()

    def log(self) -> str:
        return (self.folder / "gateway.log").read_text()
