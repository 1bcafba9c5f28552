"""Tools that end in every way in which one can."""

from __future__ import annotations

import asyncio

from gateway import tool
from gateway.tools.port import ToolError

__all__ = ["breaks", "fails", "once", "silent", "waits", "wipe", "works"]


@tool
async def works(word: str) -> str:
    """End well."""
    return word


@tool
async def fails() -> str:
    """End with a reason."""
    raise ToolError("the shop is closed")


@tool
async def breaks() -> str:
    """End by a bug."""
    raise LookupError


@tool(idle_timeout=0.1)
async def silent() -> None:
    """Show no progress."""
    await asyncio.Event().wait()


@tool
async def waits() -> None:
    """End when somebody ends it."""
    await asyncio.Event().wait()


@tool(approval="always")
async def wipe(disk: str) -> str:
    """Wipe a disk, which a person has to allow."""
    return f"wiped {disk}"


@tool
async def once() -> str:
    """Be limited by the settings."""
    return "done"
