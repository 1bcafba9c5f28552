"""A host of MCP servers that runs, and calls of its tools as turns make them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway.auth.principal import Principal
from gateway.mcp.host import McpHost, ServerStatus
from gateway.mcp.settings import McpServerSettings
from gateway.testing.mcp_plain import plain_command
from gateway.testing.mcp_server import FakeMCP
from gateway.tools.port import Answer, Question, ToolContext, ToolOutcome
from gateway.tools.runner import ToolRunner

__all__ = ["ANN", "BOB", "World", "alive", "eventually", "fake", "journal", "plain", "running", "running_all"]

ANN = Principal(tenant="t", subject="ann")
BOB = Principal(tenant="t", subject="bob")


class World:
    """`changes` are what the host's hook was told; `asked` is who was asked what, and `answer` what they say."""

    def __init__(self, host: McpHost) -> None:
        self.host = host
        self.changes: list[tuple[str, str | None, str, str | None]] = []
        self.asked: list[tuple[str, Question]] = []
        self.answer: Callable[[], Coroutine[Any, Any, Answer]] = self._accept
        self.reports: list[tuple[float, float | None, str | None]] = []
        host.on_change(lambda server, owner, kind, uri: self.changes.append((server, owner, kind, uri)))

    async def run(self, name: str, principal: Principal = ANN, /, **arguments: Any) -> ToolOutcome:
        """How a call of the tool ends; of the server `fake` where no other is named."""
        tool = await self.host.find(principal, name if "__" in name else f"fake__{name}")
        assert tool is not None, f"no tool {name}"

        async def ask(question: Question) -> Answer:
            self.asked.append((principal.subject, question))
            return await self.answer()

        def report(progress: float, total: float | None, message: str | None) -> None:
            self.reports.append((progress, total, message))

        context = ToolContext(principal, "ctx_1", "call_1", report, ask)
        return await ToolRunner(max_result_bytes=16_000_000).run(tool, context, arguments)

    async def result(self, name: str, principal: Principal = ANN, /, **arguments: Any) -> Any:
        """What the tool says, in success or failure."""
        return (await self.run(name, principal, **arguments)).result

    async def names(self, principal: Principal = ANN) -> list[str]:
        return [tool.name.removeprefix("fake__") for tool in await self.host.tools(principal)]

    def status(self) -> ServerStatus:
        (status,) = self.host.status()
        return status

    async def _accept(self) -> Answer:
        return Answer("accept", {"name": "Ann"})


@asynccontextmanager
async def running(settings: McpServerSettings, *, name: str = "fake", **options: Any) -> AsyncGenerator[World]:
    async with running_all({name: settings}, **options) as world:
        yield world


@asynccontextmanager
async def running_all(servers: dict[str, McpServerSettings], **options: Any) -> AsyncGenerator[World]:
    host = McpHost(servers, **options)
    task = asyncio.create_task(host.run())
    await asyncio.sleep(0)
    try:
        yield World(host)
    finally:
        task.cancel()
        async with asyncio.timeout(15):
            await asyncio.wait((task,))
    assert task.cancelled()


def fake(*arguments: str, **settings: Any) -> McpServerSettings:
    """The fake server as a process."""
    command, args = FakeMCP.command(*arguments)
    return McpServerSettings(command=command, args=tuple(args), **settings)


def plain(*arguments: str, **settings: Any) -> McpServerSettings:
    """The small one."""
    command, args = plain_command(*arguments)
    return McpServerSettings(command=command, args=tuple(args), **settings)


async def eventually(true: Callable[[], Any], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


def journal(path: Path, event: str) -> list[dict[str, Any]]:
    """What the fake noted of one kind."""
    if not path.exists():
        return []
    return [line for line in map(json.loads, path.read_text().splitlines()) if line["event"] == event]


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
