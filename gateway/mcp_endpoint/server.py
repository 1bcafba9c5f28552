"""The server of the official SDK that `/mcp` is: its handlers say in MCP what the gateway offers a principal."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final, cast

from mcp.server.context import ServerRequestContext
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
from starlette.requests import Request

from gateway.auth.principal import Principal
from gateway.mcp_endpoint.calls import CALLS_CONTEXT, AwaitedCalls
from gateway.mcp_endpoint.endpoint import PRINCIPAL
from gateway.mcp_endpoint.results import failure, result_of
from gateway.routing import Routes
from protocol.errors import ProtocolError
from protocol.frames import CallTool
from protocol.ids import new_id

__all__ = ["make_manager"]

_MAX_BODY: Final = 1_048_576
_INSTRUCTIONS: Final = (
    "The tools of a Tidegate gateway, as far as you may use them. A call that a person has to allow waits until one of "
    f"the user's devices decides it in the conversation {CALLS_CONTEXT!r}."
)

Context = ServerRequestContext[Any, Any]


class _Handlers:
    def __init__(self, routes: Routes, calls: AwaitedCalls) -> None:
        self._routes = routes
        self._calls = calls

    async def list_tools(self, ctx: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        tools = await self._routes.server_tools(_principal(ctx))
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
            answer = await self._calls.call(_principal(ctx), frame, ctx.session.report_progress)
        except ProtocolError as error:
            if error.code == "not_found":
                raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name}") from error
            if error.code in ("rate_limited", "unavailable"):
                return failure(error.message)
            raise MCPError(INTERNAL_ERROR, error.message) from error
        return result_of(answer)


def _principal(ctx: Context) -> Principal:
    return cast("Principal", cast("Request", ctx.request).scope[PRINCIPAL])


def make_manager(routes: Routes, calls: AwaitedCalls) -> StreamableHTTPSessionManager:
    """Without sessions: each request stands for itself, so any instance answers it."""
    handlers = _Handlers(routes, calls)
    server: Server[Any] = Server(
        "tidegate",
        version=version("tidegate"),
        title="Tidegate",
        instructions=_INSTRUCTIONS,
        on_list_tools=handlers.list_tools,
        on_call_tool=handlers.call_tool,
    )
    return StreamableHTTPSessionManager(server, stateless=True, max_request_body_size=_MAX_BODY)
