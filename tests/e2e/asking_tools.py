"""Tools that ask their users while they run; each run of a booking is a line in the file ASKING_TRACE."""

from __future__ import annotations

import os
from typing import Any

from gateway import ToolContext, tool

__all__ = ["book", "confirm", "look_up"]

_ROOM = {
    "type": "object",
    "properties": {
        "nights": {"type": "integer", "title": "Nights"},
        "view": {"enum": ["sea", "yard"], "default": "yard"},
        "breakfast": {"type": "boolean"},
    },
    "required": ["nights"],
}


async def _booked(ctx: ToolContext, city: str) -> dict[str, Any]:
    trace = os.environ.get("ASKING_TRACE")
    if trace is not None:
        # One short write to a file that is only appended to is whole, whoever else writes.
        file = os.open(trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(file, f"{ctx.call_id} {os.getpid()}\n".encode())
        os.close(file)
    answer = await ctx.ask(f"Which room in {city}?", _ROOM)
    return {"city": city, "action": answer.action, **(answer.content or {})}


@tool(timeout=5, idle_timeout=0.5)
async def book(ctx: ToolContext, city: str) -> dict[str, Any]:
    """Book a room, as the user wants it."""
    return await _booked(ctx, city)


@tool(timeout=5, idle_timeout=0.5, idempotent=True)
async def look_up(ctx: ToolContext, city: str) -> dict[str, Any]:
    """Look up rooms as the user wants them, which may be done twice."""
    return await _booked(ctx, city)


@tool(timeout=5)
async def confirm(ctx: ToolContext) -> str:
    """Have the user confirm something elsewhere."""
    answer = await ctx.ask("Please sign in.", url="https://example.com/sign-in?state=1")
    return answer.action
