"""Real gateway processes for tests."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

__all__ = ["GatewayProcess", "free_port"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class GatewayProcess:
    """`tidegate serve` on a port and a data directory of its own, which outlive its kills and restarts."""

    def __init__(self, folder: Path, *, config: str = "", script: list[str] | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.config = folder / "tidegate.toml"
        self.config.write_text(config)
        self._place = ["--config", str(self.config), "--data", str(folder)]
        self._script = script or [sys.executable, "-m", "gateway.cli", "serve"]
        self.process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self.port}"
        self.ws = f"ws://127.0.0.1:{self.port}/v1/ws"

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
                env=os.environ | env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
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
        made = subprocess.run(
            [sys.executable, "-m", "gateway.cli", "keys", "create", "--subject", subject, *more, *self._place],
            check=True,
            capture_output=True,
            text=True,
        )
        return made.stdout.strip()

    def log(self) -> str:
        return (self.folder / "gateway.log").read_text()
