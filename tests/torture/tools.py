"""The tools of the torture's gateways. Each run is a line in the ledger before it does anything."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

from gateway import ToolContext, tool

__all__ = ["charge", "grind", "lookup", "runs_in", "toil", "wipe"]

LEDGER = "TORTURE_LEDGER"


def _ledger(name: str, context: ToolContext) -> None:
    # One write of a short line to a file that is only appended to is whole, whoever else writes.
    file = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{name} {context.call_id}\n".encode())
        os.fsync(file)
    finally:
        os.close(file)


@tool(idempotent=False)
async def charge(ctx: ToolContext, mark: str) -> dict[str, str]:
    """Charge the customer, which must not happen twice."""
    _ledger("charge", ctx)
    await ctx.progress(1, total=2, message="contacting the bank")
    await asyncio.sleep(random.uniform(0.0, 0.4))  # noqa: S311 - no secret
    return {"charged": mark}


@tool(idempotent=False)
async def toil(ctx: ToolContext, mark: str, steps: int) -> dict[str, str]:
    """Do something that takes its time and must not happen twice."""
    _ledger("toil", ctx)
    for step in range(steps):
        await asyncio.sleep(0.1)
        await ctx.progress(step + 1, total=steps)
    return {"done": mark}


@tool(idempotent=True)
async def lookup(ctx: ToolContext, mark: str) -> dict[str, str]:
    """Look a word up, which may happen any number of times."""
    _ledger("lookup", ctx)
    await asyncio.sleep(0.05)
    return {"word": mark}


@tool(idempotent=True)
async def grind(ctx: ToolContext, mark: str, steps: int) -> dict[str, str]:
    """Do something that takes its time and may happen any number of times."""
    _ledger("grind", ctx)
    for step in range(steps):
        await asyncio.sleep(0.1)
        await ctx.progress(step + 1, total=steps)
    return {"ground": mark}


@tool(idempotent=False, approval="always")
async def wipe(ctx: ToolContext, mark: str) -> str:
    """Wipe a disk, which a person has to allow."""
    _ledger("wipe", ctx)
    return f"wiped {mark}"


def runs_in(ledger: Path) -> dict[str, int]:
    """How often the tool of each call was begun."""
    runs: dict[str, int] = {}
    if ledger.exists():
        for line in ledger.read_text().splitlines():
            call_id = line.split()[1]
            runs[call_id] = runs.get(call_id, 0) + 1
    return runs
