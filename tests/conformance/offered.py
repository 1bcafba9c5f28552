"""The gateway that the conformance suite looks at: tools of its own, and an MCP server behind it for the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.requests import HTTPConnection

from gateway import Gateway, Principal, Settings, ToolContext, tool
from gateway.tools.port import ToolError
from tests.conformance.names import Renamed
from tests.conformance.upstream import PIXEL, TOOLS, upstream
from tests.gateway.host_apps import hosted

__all__ = ["offered"]


@tool
async def test_simple_text() -> str:
    """Say something."""
    return "This is a simple text response for testing."


@tool
async def test_image_content() -> dict[str, Any]:
    """Show something."""
    return {"content": [{"type": "image", "mime_type": "image/png", "data": PIXEL}]}


@tool
async def test_error_handling() -> str:
    """Fail."""
    raise ToolError("This tool intentionally returns an error for testing")


@tool
async def test_tool_with_progress(ctx: ToolContext) -> str:
    """Take three steps."""
    for progress in (0, 50, 100):
        ctx.report(progress, 100)
        # The suite wants them apart.
        await asyncio.sleep(0.06)
    return "done"


@tool
async def test_logging_tool() -> str:
    """Do what others would log."""
    return "done"


@tool
async def test_streaming_elicitation(ctx: ToolContext) -> str:
    """Ask the user, who does not answer."""
    answer = await ctx.ask("Who are you?", {"type": "object", "properties": {"name": {"type": "string"}}})
    return answer.action


def _anybody(connection: HTTPConnection) -> Principal:
    # Some requests of the suite leave out the query of the URL, and it can send no header of ours.
    return Principal(tenant="host", subject="conformance")


@asynccontextmanager
async def offered(folder: Path) -> AsyncGenerator[str]:
    """Its /mcp."""
    async with hosted(upstream()) as server:
        settings = Settings.of(
            store={"url": f"sqlite:///{folder / 'conformance.db'}"},
            limits={"messages_per_minute": 6000, "question_seconds": 0.3},
            mcp={"up": {"url": f"{server}/mcp", "rename": {name: name for name in TOOLS}}},
        )
        tools = [
            test_simple_text,
            test_image_content,
            test_error_handling,
            test_tool_with_progress,
            test_logging_tool,
            test_streaming_elicitation,
        ]
        async with hosted(Renamed(Gateway(settings, authenticate=_anybody, tools=tools).app)) as url:
            yield f"{url}/mcp"
