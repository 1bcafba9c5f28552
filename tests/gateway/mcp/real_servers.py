"""Real MCP servers of others, installed once: npm packages as a lock file pins them, PyPI packages each in its own
environment, beside those of the tests in .venv."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.mcp.settings import McpServerSettings
from tests.e2e.gateways import free_port
from tests.e2e.npm_clients import installed, node

__all__ = ["everything_http", "npm_server", "pypi_server"]

_HERE = Path(__file__).parent
_ENVIRONMENTS = Path(sys.prefix) / "mcp-servers"
_STARTED = re.compile(rb"listening on port|running on|started", re.IGNORECASE)


def npm_server(name: str, *arguments: str) -> McpServerSettings:
    """`@modelcontextprotocol/server-<name>` on standard input and output."""
    return McpServerSettings(command=node(), args=(str(_script(name)), *arguments))


def pypi_server(name: str, *arguments: str) -> McpServerSettings:
    """`mcp-server-<name>` of PyPI, in an environment with what tests/gateway/mcp/pypi/<name>.txt pins."""
    return McpServerSettings(command=str(_environment(name) / "bin" / f"mcp-server-{name}"), args=arguments)


@asynccontextmanager
async def everything_http() -> AsyncGenerator[str]:
    """`server-everything` on Streamable HTTP: its URL."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        node(), str(_script("everything")), "streamableHttp",
        env=os.environ | {"PORT": str(port)},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async with asyncio.timeout(30):
            while not _STARTED.search(line := await process.stderr.readline()):
                assert line, "it ended before it listened"
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        await process.wait()


def _script(name: str) -> Path:
    return installed(_HERE / "npm") / "node_modules" / "@modelcontextprotocol" / f"server-{name}" / "dist" / "index.js"


def _environment(name: str) -> Path:
    pins = _HERE / "pypi" / f"{name}.txt"
    place = _ENVIRONMENTS / f"{name}-{hashlib.sha256(pins.read_bytes()).hexdigest()[:16]}"
    if place.exists():
        return place
    _ENVIRONMENTS.mkdir(exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=_ENVIRONMENTS))
    try:
        # Debian's python3 comes without ensurepip: the pip of the tests does it.
        _run(sys.executable, "-m", "venv", "--without-pip", str(work))
        python = str(work / "bin" / "python")
        _run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "-r", str(pins))
        # Scripts of an environment name its folder; a link keeps both names good.
        work.chmod(0o755)
        try:
            place.symlink_to(work.name, target_is_directory=True)
        except FileExistsError:
            shutil.rmtree(work)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return place


def _run(*command: str) -> None:
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
