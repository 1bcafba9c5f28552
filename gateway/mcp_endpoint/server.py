"""The server of the official SDK that `/mcp` is: its handlers say in MCP what the gateway offers a principal."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final

from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    Tool,
)

from gateway.mcp_endpoint.asking import Context, principal_of
from gateway.mcp_endpoint.calls import CALLS_CONTEXT
from gateway.mcp_endpoint.endpoint import Offered
from gateway.mcp_endpoint.readings import Readings
from gateway.mcp_endpoint.results import failure, result_of
from protocol.errors import ProtocolError
from protocol.frames import CallTool
from protocol.ids import new_id

__all__ = ["make_manager"]

_MAX_BODY: Final = 1_048_576
_INSTRUCTIONS: Final = (
    "The tools, resources and prompts of a Tidegate gateway, as far as you may use them. A call that a person has to "
    f"allow waits until one of the user's devices decides it in the conversation {CALLS_CONTEXT!r}."
)


class _Tools:
    def __init__(self, offered: Offered) -> None:
        self._routes = offered.routes
        self._calls = offered.calls

    async def list_tools(self, ctx: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        tools = await self._routes.server_tools(principal_of(ctx))
        return ListToolsResult(
            tools=[Tool(name=tool.name, description=tool.description, input_schema=tool.parameters) for tool in tools],
            # Whose tools they are depends on who asks.
            cache_scope="private",
            ttl_ms=0,
        )

    async def call_tool(self, ctx: Context, params: CallToolRequestParams) -> CallToolResult:
        frame = CallTool(
            id=new_id("tool_"),
            tool=params.name,
            parameters=params.arguments or {},
            context_id=CALLS_CONTEXT,
        )
        try:
            answer = await self._calls.call(principal_of(ctx), frame, ctx.session.report_progress)
        except ProtocolError as error:
            if error.code == "not_found":
                raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name}") from error
            if error.code in ("rate_limited", "unavailable"):
                return failure(error.message)
            raise MCPError(INTERNAL_ERROR, error.message) from error
        return result_of(answer)


def make_manager(offered: Offered) -> StreamableHTTPSessionManager:
    """Without sessions: each request stands for itself, so any instance answers it."""
    tools, readings = _Tools(offered), Readings(offered)
    server: Server[Any] = Server(
        "tidegate",
        version=version("tidegate"),
        title="Tidegate",
        instructions=_INSTRUCTIONS,
        on_list_tools=tools.list_tools,
        on_call_tool=tools.call_tool,
        on_list_resources=readings.list_resources,
        on_list_resource_templates=readings.list_templates,
        on_read_resource=readings.read_resource,
        on_list_prompts=readings.list_prompts,
        on_get_prompt=readings.get_prompt,
    )
    return StreamableHTTPSessionManager(server, stateless=True, max_request_body_size=_MAX_BODY)
