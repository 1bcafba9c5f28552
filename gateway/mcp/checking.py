"""What `tidegate doctor` says of each MCP server: whether it can be used, and what for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from msgspec.structs import replace

from gateway.auth.principal import Principal
from gateway.mcp.host import McpHost, ServerStatus
from gateway.mcp.settings import McpServerSettings

__all__ = ["Checked", "check_servers"]

_NOBODY = Principal(tenant="default", subject="doctor")
_LISTED = 5


class Checked(NamedTuple):
    server: str
    ok: bool
    words: str


async def check_servers(servers: Mapping[str, McpServerSettings]) -> list[Checked]:
    """Connect to all of them at once, as nobody in particular, and let go again."""
    reached = {name: replace(one, connect_seconds=one.start_seconds) for name, one in servers.items() if not one.oauth}
    host = McpHost(reached)
    running = asyncio.create_task(host.run())
    try:
        await asyncio.sleep(0)
        await host.offers(_NOBODY)
        found = {status.server: status for status in host.status()}
    finally:
        running.cancel()
        await asyncio.wait((running,))
    return [
        _checked(found[name]) if name in found else Checked(name, True, "each user connects an account of their own")
        for name in servers
    ]


def _checked(status: ServerStatus) -> Checked:
    if status.version is None:
        words = (status.trouble or "it did not start in time").removeprefix(f"the MCP server {status.server!r} ")
        said = f"; it wrote: {status.errors[-1]}" if status.errors else ""
        return Checked(status.server, False, f"{words}{said}")
    whose = "one connection for all" if status.shared else "a connection for each user"
    words = f"speaks MCP {status.version}, {len(status.tools)} tools, {whose}"
    if status.dropped:
        shown = "; ".join(f"{dropped.tool} ({dropped.reason})" for dropped in status.dropped[:_LISTED])
        more = f"; and {len(status.dropped) - _LISTED} more" if len(status.dropped) > _LISTED else ""
        words += f"; left out: {shown}{more}"
    return Checked(status.server, True, words)
