"""The gateway: sessions, turns, models and tools over the wire protocol."""

from gateway.tools.native import tool
from gateway.tools.port import ToolContext, ToolError

__all__ = ["ToolContext", "ToolError", "tool"]
