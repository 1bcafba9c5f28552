"""Tools that leave a trace on disk for every run, so that a test can count them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from gateway import ToolContext, tool

__all__ = ["TOOLS", "runs_of"]


def _trace(name: str, context: ToolContext) -> None:
    with Path(os.environ["TOOL_TRACE"]).open("a") as file:
        file.write(f"{name} {context.call_id}\n")


@tool(idempotent=False)
async def charge(ctx: ToolContext, amount: int) -> dict[str, int]:
    """Charge the customer, which must not happen twice."""
    _trace("charge", ctx)
    await ctx.progress(1, total=2, message="contacting the bank")
    await asyncio.sleep(0.05)
    return {"charged": amount}


@tool(idempotent=True)
async def lookup(ctx: ToolContext, word: str) -> dict[str, str]:
    """Look a word up, which may happen any number of times."""
    _trace("lookup", ctx)
    await asyncio.sleep(0.05)
    return {"word": word}


@tool(approval="always")
async def wipe(ctx: ToolContext, disk: str) -> str:
    """Wipe a disk, which a person has to allow."""
    _trace("wipe", ctx)
    return f"wiped {disk}"


TOOLS = (charge, lookup, wipe)


def runs_of(trace: Path, name: str) -> list[str]:
    """The ids of the calls for which the tool was run, one for each run."""
    if not trace.exists():
        return []
    return [line.split()[1] for line in trace.read_text().splitlines() if line.split()[0] == name]
