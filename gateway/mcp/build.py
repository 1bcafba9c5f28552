"""The MCP host, where servers are configured; nothing else of the gateway needs the official SDK at its start."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from gateway.mcp.settings import McpServerSettings
from gateway.settings_layers import SettingsError

if TYPE_CHECKING:
    from gateway.mcp.host import McpHost
    from gateway.mcp.pool import AuthFactory

__all__ = ["build_host", "check_extra"]


def check_extra(servers: Mapping[str, McpServerSettings]) -> None:
    """Raises SettingsError where there are servers, and not the extra that connects to them."""
    if servers and not all(find_spec(name) for name in ("mcp", "httpx2")):
        raise SettingsError(f"mcp.{next(iter(servers))}: MCP servers need: pip install 'tidegate[mcp]'")


def build_host(servers: Mapping[str, McpServerSettings], auth: AuthFactory | None = None) -> McpHost | None:
    """None where there are no servers; `servers` are as `configured_servers` makes them. Raises SettingsError."""
    if not servers:
        return None
    check_extra(servers)
    from gateway.mcp.host import McpHost

    return McpHost(servers, auth=auth)
