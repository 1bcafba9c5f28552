"""A tool of an MCP server, called over the official SDK and through the gateway's host: what does the host add?"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import mcp_types as types
from mcp import Client, StdioServerParameters
from msgspec import Struct

from bench.machine import machine
from bench.percentiles import percentiles
from bench.process import GatewayFailed, stop
from gateway.auth.principal import Principal
from gateway.mcp.host import McpHost
from gateway.mcp.settings import McpServerSettings
from gateway.testing.mcp_server import FakeMCP
from gateway.tools.port import ToolContext
from gateway.tools.runner import ToolRunner

__all__ = ["McpParameters", "Way", "measure", "run_mcp"]

_WHO: Final = Principal(tenant="bench", subject="bench")
_START_SECONDS: Final = 60.0
_MOST_MS: Final = 1.0

Call = Callable[[str], Awaitable[object]]
"""Has a text echoed by a server; what came back, whatever it is."""


class McpParameters(Struct, frozen=True, kw_only=True):
    """So many `calls` each way over each transport, one at a time, after `warm_up` that are not counted."""

    calls: int = 2000
    warm_up: int = 100


class Way:
    """One of the ways to call a tool, and how long its calls took: in wall seconds, and in CPU seconds of this process,
    which a busy machine adds less to."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []

    async def take(self, text: str) -> object:
        """What came back."""
        cpu, wall = time.process_time(), time.perf_counter()
        said = await self.call(text)
        self.seconds.append(time.perf_counter() - wall)
        self.cpu_seconds.append(time.process_time() - cpu)
        return said


def _results(transport: str, sdk: Way, host: Way) -> dict[str, object]:
    added = _median(host.seconds) - _median(sdk.seconds)
    return {
        f"{transport}_sdk_ms": percentiles(sdk.seconds),
        f"{transport}_host_ms": percentiles(host.seconds),
        f"{transport}_added_p50_ms": round(added, 3),
        f"{transport}_added_p50_cpu_ms": round(_median(host.cpu_seconds) - _median(sdk.cpu_seconds), 3),
        f"{transport}_host_over_sdk_p50": round(_median(host.seconds) / _median(sdk.seconds), 3),
        f"{transport}_within_1_ms": added <= _MOST_MS,
    }


def _median(seconds: list[float]) -> float:
    """In milliseconds."""
    return percentiles(seconds)["p50"]


async def run_mcp(parameters: McpParameters, progress: Callable[[int], None]) -> dict[str, object]:
    """Call both ways in turn, so that both bear the same load. `progress` gets the number of calls that are done.
    Raises GatewayFailed where a server does not start, MCPError where it does not answer."""
    results: dict[str, object] = {}
    faults: list[str] = []
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        progress(done)

    async with AsyncExitStack() as stack:
        command, args = FakeMCP.command()
        sdk = Way(await stack.enter_async_context(_sdk(StdioServerParameters(command=command, args=args))))
        host = Way(await stack.enter_async_context(_host(McpServerSettings(command=command, args=tuple(args)))))
        await measure(parameters, sdk, host, faults, count)
        results |= _results("stdio", sdk, host)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(_http_server())
        sdk = Way(await stack.enter_async_context(_sdk(url)))
        host = Way(await stack.enter_async_context(_host(McpServerSettings(url=url))))
        await measure(parameters, sdk, host, faults, count)
        results |= _results("http", sdk, host)
    return {
        "benchmark": "mcp",
        "machine": machine(),
        "parameters": parameters,
        "results": {"calls_each": parameters.calls, **results, "faults": faults},
    }


async def measure(parameters: McpParameters, sdk: Way, host: Way, faults: list[str], count: Callable[[], None]) -> None:
    """Take both ways in turn. `faults` gets what did not come back as it was sent, `count` is told of each call."""
    for number in range(parameters.warm_up):
        for call in (sdk.call, host.call):
            await call(f"warm-up {number}")
    gc.disable()
    try:
        for number in range(parameters.calls):
            # Neither is always the one that comes after the other.
            for way in (sdk, host) if number % 2 else (host, sdk):
                text = f"call {number}"
                said = await way.take(text)
                if said != text:
                    faults.append(f"{text}: {said}")
                count()
    finally:
        gc.enable()


@asynccontextmanager
async def _sdk(server: StdioServerParameters | str) -> AsyncGenerator[Call]:
    async with Client(server) as client:

        async def call(text: str) -> object:
            result = await client.call_tool("echo", {"text": text})
            return next(block.text if isinstance(block, types.TextContent) else block.type for block in result.content)

        yield call


@asynccontextmanager
async def _host(settings: McpServerSettings) -> AsyncGenerator[Call]:
    """As a turn has it: the tool is looked up for each call, and run under its limits."""
    host, runner = McpHost({"fake": settings}), ToolRunner()

    async def call(text: str) -> object:
        tool = await host.find(_WHO, "fake__echo")
        if tool is None:
            raise GatewayFailed(f"the host has no tool of the server: {host.status()[0].trouble}")
        context = ToolContext(_WHO, "ctx_bench", "tool_bench", _unheard)
        return (await runner.run(tool, context, {"text": text})).result

    running = asyncio.create_task(host.run())
    try:
        # It has begun after this.
        await asyncio.sleep(0)
        yield call
    finally:
        running.cancel()
        await asyncio.wait((running,))
        await runner.close()


@asynccontextmanager
async def _http_server() -> AsyncGenerator[str]:
    """The URL of a new process, which ends afterwards. Raises GatewayFailed."""
    command, args = FakeMCP.command("--http", "0")
    process = await asyncio.create_subprocess_exec(
        command, *args, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield await _url(process)
    finally:
        await stop(process)


async def _url(process: asyncio.subprocess.Process) -> str:
    lines: Any = process.stdout
    try:
        async with asyncio.timeout(_START_SECONDS):
            async for line in lines:
                if line.startswith(b"url = "):
                    return line.decode().removeprefix("url = ").strip()
    except TimeoutError as error:
        raise GatewayFailed(f"the MCP server is not ready in {_START_SECONDS:.0f} s") from error
    raise GatewayFailed("the MCP server ended before it was ready")


def _unheard(progress: float, total: float | None, message: str | None) -> None:
    """Nobody watches the progress."""
