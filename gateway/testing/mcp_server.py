"""An MCP server that misbehaves on request, over the real wire, for tests of whoever connects to servers.

```python
async with FakeMCP().http() as url:  # Streamable HTTP; era="legacy" with sessions, "modern" without
    ...
command, args = FakeMCP.command("--faults", "schemas")  # stdio, in a process of its own
```

`python -m gateway.testing.mcp_server [--http PORT] [--era both|modern|legacy] [--faults NAME,…] [--many N]
[--journal FILE]` runs it; without `--http` it speaks on standard input and output. What its tools do is said by their
descriptions (mcp_script.py); most faults are switched on by calling one. It is the official SDK's server, so that it
speaks as most servers do; what that would not send is put into its answers afterwards, or written to the wire as it is.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import anyio
import mcp_types as types
import msgspec
from mcp.server import NotificationOptions, Server, ServerRequestContext
from mcp.server.context import CallNext, HandlerResult
from mcp.server.runner import serve_dual_era_loop, serve_loop
from mcp.server.session import ServerSession
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from gateway.testing.mcp_http import Front, Refusal, serving
from gateway.testing.mcp_script import PROMPTS, RESOURCES, TEMPLATES, TOOLS, added_tools, raw_tools
from gateway.testing.mcp_tools import Call, run_tool

__all__ = ["FakeMCP", "ReceivedCall"]

Era = Literal["both", "modern", "legacy"]
Fault = Literal["schemas", "malice", "names", "unlistable", "endless", "hang_listing", "hang_start"]

_PAGE: Final = 50


class ReceivedCall(msgspec.Struct, frozen=True):
    """A tool call as it came; `session` is the id of the HTTP session, where there is one."""

    tool: str
    arguments: dict[str, Any]
    headers: dict[str, str]
    session: str | None


class FakeMCP:
    """`calls` holds every call that came, `sessions` counts handshakes and `listings` requests for the tools;
    `cancelled` counts calls that the client gave up.

    `faults`: "schemas" adds tools whose schemas nobody should accept, "malice" tools with hostile descriptions,
    "names" tools with illegal names, "unlistable" a tool that makes the SDK's client refuse the whole list, "endless"
    makes the list's pages never end, "hang_listing" never answers a request for it, "hang_start" no handshake. `many`
    adds so many harmless tools. With `page` a page of the list has so many. `refuse` may answer an HTTP request in its
    place, by its headers. `journal` is a file to which every start, handshake and call appends a line of JSON.
    """

    def __init__(
        self,
        *,
        era: Era = "both",
        faults: Sequence[Fault] = (),
        many: int = 0,
        page: int = _PAGE,
        instructions: str | None = None,
        refuse: Callable[[dict[str, str]], Refusal | None] | None = None,
        journal: Path | None = None,
    ) -> None:
        self.era: Era = era
        self.faults = frozenset[str](faults)
        self.page = page
        self.refuse = refuse
        self.calls: list[ReceivedCall] = []
        self.counts: Counter[str] = Counter()
        self.sessions = 0
        self.listings = 0
        self.cancelled = 0
        self.released = asyncio.Event()
        self.tools = {made.name: made for made in [*TOOLS, *added_tools(self.faults, many)]}
        self.resources = dict(RESOURCES)
        self.private_reads = 0
        self._raw_tools = raw_tools(self.faults)
        self._journal = journal
        self._changed = asyncio.Condition()
        self._bus = InMemorySubscriptionBus()
        self._legacy: dict[str, ServerSession] = {}
        self._write_raw: Callable[[str], Any] | None = None
        self._server = self._build(instructions)

    @staticmethod
    def command(*arguments: str) -> tuple[str, list[str]]:
        """The command that runs the server in a process of its own, and its arguments."""
        return sys.executable, ["-m", "gateway.testing.mcp_server", *arguments]

    @contextlib.asynccontextmanager
    async def http(self, port: int = 0, *, json_response: bool = False) -> AsyncGenerator[str]:
        """Serve on 127.0.0.1, and yield the URL. In the era "both" and "legacy" there are sessions for clients of that
        era."""
        app = self._server.streamable_http_app(json_response=json_response)
        front = Front(app, self.era, lambda headers: self.refuse(headers) if self.refuse else None)
        async with serving(front, port) as origin:
            try:
                yield f"{origin}/mcp"
            finally:
                self.released.set()
                front.close()

    async def stdio(self) -> None:
        """Serve on standard input and output until the client goes away."""
        self._note("start")
        stdout = anyio.wrap_file(os.fdopen(os.dup(1), "w", encoding="utf-8"))
        self._write_raw = stdout.write
        async with stdio_server(stdout=stdout) as (reading, writing), self._server.lifespan(self._server) as state:
            options = self._server.create_initialization_options(NotificationOptions(True, True, True))
            serve = serve_loop if self.era == "legacy" else serve_dual_era_loop
            await serve(self._server, reading, writing, lifespan_state=state, init_options=options)

    async def wait_for(self, done: Callable[[], bool]) -> None:
        """Returns when what came, such as `calls`, is so; TimeoutError after 10 seconds."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(done)

    async def add_tool(self, added: types.Tool) -> None:
        """Add it or put it in the place of another, and say that the list changed."""
        self.tools[added.name] = added
        await self._tell(ToolsListChanged())

    async def remove_tool(self, name: str) -> None:
        """Remove it, if it is there, and say that the list changed."""
        self.tools.pop(name, None)
        await self._tell(ToolsListChanged())

    async def update_resource(self, uri: str, text: str) -> None:
        """Change the text of a resource, and say so."""
        self.resources[uri] = types.TextResourceContents(uri=uri, mime_type="text/plain", text=text)
        await self._tell(ResourceUpdated(uri=uri))

    async def write_raw(self, line: str) -> None:
        """A line to standard output as it is."""
        if self._write_raw is None:
            raise MCPError(types.INTERNAL_ERROR, "there is no standard output")
        await self._write_raw(f"{line}\n")

    async def _tell(self, event: ServerEvent) -> None:
        await self._bus.publish(event)
        for session in self._legacy.values():
            if isinstance(event, ResourceUpdated):
                await session.send_resource_updated(event.uri)
            else:
                await session.send_tool_list_changed()

    def _build(self, instructions: str | None) -> Server[Any]:
        server = Server[Any](
            "fake",
            version="1",
            instructions=instructions,
            # Else the SDK lists the tools before each call, for itself.
            get_tool_input_schema=lambda name: self.tools[name].input_schema if name in self.tools else None,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
            on_subscribe_resource=self._subscribe,
            on_unsubscribe_resource=self._subscribe,
            on_subscriptions_listen=ListenHandler(self._bus),
            on_list_prompts=self._list_prompts,
            on_get_prompt=self._get_prompt,
        )
        server.middleware.append(self._around)
        return server

    async def _around(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Sees every message, and puts into the answers what the SDK would not send."""
        if ctx.method == "initialize" or ctx.method == "server/discover":
            if "hang_start" in self.faults:
                await asyncio.Event().wait()
            self.sessions += ctx.method == "initialize"
            self._note(ctx.method)
        elif ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            self._legacy[session_of(ctx) or ""] = ctx.session
        result = await call_next(ctx)
        if ctx.method == "tools/list" and isinstance(result, dict):
            result["tools"] += self._raw_tools
            if "endless" in self.faults:
                result["nextCursor"] = str(self.listings)
        return result

    async def _list_tools(
        self, ctx: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        self.listings += 1
        await self._notify()
        if "hang_listing" in self.faults:
            await asyncio.Event().wait()
        tools = list(self.tools.values())
        start = int(params.cursor) if params and params.cursor and "endless" not in self.faults else 0
        end = start + self.page
        return types.ListToolsResult(tools=tools[start:end], next_cursor=str(end) if end < len(tools) else None)

    async def _call_tool(
        self, ctx: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        arguments = params.arguments or {}
        # A call that goes on with the user's answer is the same one.
        if params.input_responses is None:
            self.counts[params.name] += 1
            self.calls.append(ReceivedCall(params.name, arguments, headers_of(ctx), session_of(ctx)))
            self._note("call", tool=params.name, arguments=arguments)
            await self._notify()
        if params.name not in self.tools:
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
        try:
            return await run_tool(self, Call(params.name, arguments, params.input_responses, ctx))
        except asyncio.CancelledError:
            self.cancelled += 1
            self._note("cancelled", tool=params.name)
            await asyncio.shield(self._notify())
            raise

    async def _list_resources(
        self, ctx: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        listed = [types.Resource(name=uri, uri=uri, mime_type=found.mime_type) for uri, found in self.resources.items()]
        listed.append(types.Resource(name="mine", uri="memo://mine", mime_type="text/plain"))
        return types.ListResourcesResult(resources=listed)

    async def _list_templates(
        self, ctx: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        return types.ListResourceTemplatesResult(resource_templates=list(TEMPLATES))

    async def _read_resource(
        self, ctx: ServerRequestContext[Any, Any], params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        self.counts[params.uri] += 1
        self._note("read", uri=params.uri)
        await self._notify()
        if params.uri == "memo://mine":
            text = headers_of(ctx).get("authorization", "nobody")
            mine = types.TextResourceContents(uri=params.uri, mime_type="text/plain", text=text)
            return types.ReadResourceResult(contents=[mine], ttl_ms=60_000, cache_scope="private")
        if params.uri.startswith("memo://notes/"):
            text = f"The note {params.uri.removeprefix('memo://notes/')}."
            note = types.TextResourceContents(uri=params.uri, mime_type="text/plain", text=text)
            return types.ReadResourceResult(contents=[note])
        if params.uri not in self.resources:
            raise MCPError(types.INVALID_PARAMS, f"Unknown resource: {params.uri}")
        return types.ReadResourceResult(contents=[self.resources[params.uri]], ttl_ms=60_000, cache_scope="public")

    async def _subscribe(self, ctx: ServerRequestContext[Any, Any], params: Any) -> types.EmptyResult:
        self._note("subscribe", uri=params.uri)
        return types.EmptyResult()

    async def _list_prompts(
        self, ctx: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
    ) -> types.ListPromptsResult:
        return types.ListPromptsResult(prompts=list(PROMPTS))

    async def _get_prompt(
        self, ctx: ServerRequestContext[Any, Any], params: types.GetPromptRequestParams
    ) -> types.GetPromptResult:
        if params.name == "greet":
            name = (params.arguments or {}).get("name")
            if not name:
                raise MCPError(types.INVALID_PARAMS, "name is missing")
            said = types.TextContent(text=f"Greet {name}.")
            return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=said)])
        if params.name == "picture":
            blocks = [types.TextContent(text="What is this?"), types.ImageContent(data=_pixel(), mime_type="image/png")]
            return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=b) for b in blocks])
        raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {params.name}")

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _note(self, event: str, **details: Any) -> None:
        if self._journal is not None:
            with self._journal.open("ab") as file:
                file.write(msgspec.json.encode({"event": event, "pid": os.getpid(), **details}) + b"\n")


def headers_of(ctx: ServerRequestContext[Any, Any]) -> dict[str, str]:
    """The HTTP headers of the request, if it has any."""
    return dict(ctx.request.headers) if ctx.request is not None else {}


def session_of(ctx: ServerRequestContext[Any, Any]) -> str | None:
    return headers_of(ctx).get("mcp-session-id")


def _pixel() -> str:
    found = RESOURCES["memo://pixel"]
    return found.blob if isinstance(found, types.BlobResourceContents) else ""


def _main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m gateway.testing.mcp_server", description="A fake MCP server.")
    parser.add_argument("--http", type=int, metavar="PORT", help="serve Streamable HTTP; 0 is a free port")
    parser.add_argument("--era", choices=("both", "modern", "legacy"), default="both")
    parser.add_argument("--faults", default="", help="separated by commas")
    parser.add_argument("--many", type=int, default=0)
    parser.add_argument("--page", type=int, default=_PAGE)
    parser.add_argument("--journal", type=Path)
    given = parser.parse_args(arguments)
    faults: Any = [name for name in given.faults.split(",") if name]

    async def serve() -> None:
        server = FakeMCP(era=given.era, faults=faults, many=given.many, page=given.page, journal=given.journal)
        if given.http is None:
            await server.stdio()
            return
        async with server.http(given.http) as url:
            sys.stdout.write(f"url = {url}\n")
            sys.stdout.flush()
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


if __name__ == "__main__":
    _main(sys.argv[1:])
