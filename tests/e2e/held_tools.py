"""Tools that run until the test lets them end: a call of `mark` by a file of that name in the folder HELD_TOOLS. Each
run is a line in its file `trace`: tool, call, process."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import NamedTuple

from gateway import ToolContext, tool

__all__ = ["Run", "hold", "hold_again", "runs_of"]


class Run(NamedTuple):
    tool: str
    call_id: str
    pid: int


async def _held(name: str, context: ToolContext, mark: str) -> str:
    folder = Path(os.environ["HELD_TOOLS"])
    # One short write to a file that is only appended to is whole, whoever else writes.
    file = os.open(folder / "trace", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{name} {context.call_id} {os.getpid()}\n".encode())
    finally:
        os.close(file)
    while not (folder / mark).exists():
        await asyncio.sleep(0.02)
    return mark


@tool(idempotent=False, timeout=60)
async def hold(ctx: ToolContext, mark: str) -> str:
    """Do something that must not happen twice."""
    return await _held("hold", ctx, mark)


@tool(idempotent=True, timeout=60)
async def hold_again(ctx: ToolContext, mark: str) -> str:
    """Do something that may happen any number of times."""
    return await _held("hold_again", ctx, mark)


def runs_of(folder: Path, call_id: str) -> list[Run]:
    """The runs of one call, in the order in which they began."""
    trace = folder / "trace"
    lines = [line.split() for line in trace.read_text().splitlines()] if trace.exists() else []
    return [Run(name, call, int(pid)) for name, call, pid in lines if call == call_id]
