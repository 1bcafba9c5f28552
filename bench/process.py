"""A gateway process of our own to put load on."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

import httpx
from msgspec import Struct

from bench.client import Target

__all__ = ["Gateway", "GatewayFailed", "gateway", "make_key", "serving", "settings_text", "stop"]

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_CONFIG = """\
[server]
drain_seconds = 0

[auth]
local = false

[models.demo]
provider = "demo"
delay = {delay_ms}
{model}

[limits]
messages_per_minute = 1000000
connections_per_principal = 1000000
concurrent_turns = 100000

{more}
"""


class GatewayFailed(Exception):
    """The gateway did not start; the message is the end of what it said."""


class Gateway(Struct, frozen=True):
    """A target, and the process behind it; `pid` is None where it is not ours."""

    target: Target
    pid: int | None


@asynccontextmanager
async def gateway(target: Target | None, delay_ms: float, model: str = "") -> AsyncGenerator[Gateway]:
    """The gateway at `target`, or without one a new `tidegate serve` with a data directory and limits of its own.

    `delay_ms` is the pace of its demo model, in milliseconds a word, `model` are more lines of its settings. Raises
    GatewayFailed.
    """
    if target is not None:
        yield Gateway(target, None)
        return
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as name:
        folder = Path(name)
        config = folder / "tidegate.toml"
        config.write_text(settings_text(delay_ms, model))
        async with serving(config, folder) as (url, pid):
            key = await asyncio.to_thread(make_key, config, folder)
            yield Gateway(Target(url=url, key=key), pid)


def settings_text(delay_ms: float, model: str = "", more: str = "") -> str:
    """The settings of a gateway under load: `model` are more lines of its demo model's, `more` are more sections."""
    return _CONFIG.format(delay_ms=delay_ms, model=model, more=more)


@asynccontextmanager
async def serving(config: Path, folder: Path, log_name: str = "gateway.log") -> AsyncGenerator[tuple[str, int]]:
    """The URL and the process id of a new `tidegate serve`, which ends afterwards. Raises GatewayFailed."""
    port = _free_port()
    with (folder / log_name).open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *_command("serve", config, folder), "--port", str(port), stdout=log, stderr=log
        )
        try:
            await _wait_until_ready(f"http://127.0.0.1:{port}/readyz", process, folder / log_name)
            yield f"ws://127.0.0.1:{port}/v1/ws", process.pid
        finally:
            await stop(process)


def _command(name: str, config: Path, folder: Path) -> list[str]:
    words = name.split()
    return [sys.executable, "-m", "gateway.cli", *words, "--config", str(config), "--data", str(folder)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_key(config: Path, folder: Path) -> str:
    """A key of the store that these settings name. Raises GatewayFailed."""
    command = [*_command("keys create", config, folder), "--subject", "bench"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise GatewayFailed(made.stderr[-2000:])
    return made.stdout.strip()


async def _wait_until_ready(url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    try:
        async with asyncio.timeout(_START_SECONDS), httpx.AsyncClient(trust_env=False) as client:
            while process.returncode is None:
                try:
                    if (await client.get(url)).status_code == HTTPStatus.OK:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        raise GatewayFailed(f"not ready in {_START_SECONDS:.0f} s: {_end_of(log)}") from error
    raise GatewayFailed(_end_of(log))


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


async def stop(process: asyncio.subprocess.Process) -> None:
    """Ask it to end, and kill it where it does not within 20 seconds."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
