"""What the tools of the fake MCP server do, most of them wrongly."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol, cast

import mcp_types as types
from mcp.server import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from gateway.testing.mcp_http import CUT
from gateway.testing.mcp_script import IMAGE, tool

__all__ = ["Call", "Host", "run_tool"]

Answer = types.CallToolResult | types.InputRequiredResult


class Call(NamedTuple):
    """`answers` are what the user said to what the call asked before."""

    tool: str
    arguments: dict[str, Any]
    answers: Mapping[str, types.InputResponse] | None
    ctx: ServerRequestContext[Any, Any]


class Host(Protocol):
    """What the tools use of their server."""

    @property
    def tools(self) -> dict[str, types.Tool]: ...

    @property
    def counts(self) -> Counter[str]: ...

    @property
    def sessions(self) -> int: ...

    @property
    def released(self) -> asyncio.Event: ...

    async def add_tool(self, added: types.Tool) -> None: ...

    async def remove_tool(self, name: str) -> None: ...

    async def update_resource(self, uri: str, text: str) -> None: ...

    async def write_raw(self, line: str) -> None: ...


async def run_tool(host: Host, call: Call) -> Answer:
    """The answer of one call. Those that are only there to be listed say their name."""
    run = _RUNS.get(call.tool)
    return _text(f"{call.tool} ran.") if run is None else await run(host, call)


def _text(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text)])


def _structured(value: Any, text: str = "") -> types.CallToolResult:
    content: list[types.ContentBlock] = [types.TextContent(text=text)] if text else []
    return types.CallToolResult(content=content, structured_content=value)


async def _echo(host: Host, call: Call) -> Answer:
    return _text(str(call.arguments.get("text")))


async def _add(host: Host, call: Call) -> Answer:
    total = call.arguments["a"] + call.arguments["b"]
    return _structured({"sum": total}, str(total))


async def _return(host: Host, call: Call) -> Answer:
    return _structured(call.arguments.get("value"), call.arguments.get("text", ""))


async def _image(host: Host, call: Call) -> Answer:
    given = call.arguments
    block = types.ImageContent(data=given.get("data", IMAGE), mime_type=given.get("mime_type", "image/png"))
    return types.CallToolResult(content=[block])


async def _mixed(host: Host, call: Call) -> Answer:
    text = types.TextResourceContents(uri="memo://text", mime_type="text/plain", text="A memo.")
    blob = types.BlobResourceContents(uri="memo://binary", mime_type="application/zip", blob="UEsFBg==")
    picture = types.BlobResourceContents(uri="memo://pixel", mime_type="image/png", blob=IMAGE)
    return types.CallToolResult(
        content=[
            types.TextContent(text="Here:"),
            types.ImageContent(data=IMAGE, mime_type="image/png"),
            types.AudioContent(data="UklGRg==", mime_type="audio/wav"),
            types.EmbeddedResource(resource=text),
            types.EmbeddedResource(resource=blob),
            types.EmbeddedResource(resource=picture),
            types.ResourceLink(name="memo", uri="memo://text", description="The memo", mime_type="text/plain"),
        ]
    )


async def _fail(host: Host, call: Call) -> Answer:
    message = call.arguments.get("message", "It failed.")
    return types.CallToolResult(content=[types.TextContent(text=message)], is_error=True)


async def _refuse(host: Host, call: Call) -> Answer:
    raise MCPError(call.arguments.get("code", types.INTERNAL_ERROR), call.arguments.get("message", "Refused"))


async def _whoami(host: Host, call: Call) -> Answer:
    request = call.ctx.request
    headers: dict[str, str] = dict(request.headers) if request is not None else {}
    told: dict[str, Any] = {
        "headers": headers,
        "environment": {name: os.environ.get(name) for name in call.arguments.get("names", ())},
        "directory": os.getcwd(),
        "pid": os.getpid(),
        "session": headers.get("mcp-session-id"),
        "sessions": host.sessions,
        "calls": host.counts.total(),
        "version": call.ctx.protocol_version,
    }
    return _structured(told)


async def _count(host: Host, call: Call) -> Answer:
    steps: int = call.arguments.get("steps", 3)
    for step in range(1, steps + 1):
        await asyncio.sleep(call.arguments.get("seconds", 0))
        await call.ctx.session.report_progress(step, steps, f"step {step}")
    return _structured({"counted": steps})


async def _flood(host: Host, call: Call) -> Answer:
    times: int = call.arguments.get("times", 10_000)
    for step in range(1, times + 1):
        await call.ctx.session.report_progress(step, times)
    return _structured({"reported": times})


async def _hold(host: Host, call: Call) -> Answer:
    until = call.arguments.get("until")
    if until is None:
        await host.released.wait()
    else:
        # A file, because there is nothing else that processes of tests and servers share.
        while not await asyncio.to_thread(os.path.exists, until):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return _text("released")


async def _hang(host: Host, call: Call) -> Answer:
    await asyncio.Event().wait()
    raise AssertionError


async def _exit(host: Host, call: Call) -> Answer:
    os._exit(call.arguments.get("code", 1))


async def _cut(host: Host, call: Call) -> Answer:
    if call.ctx.request is None:
        raise MCPError(types.INTERNAL_ERROR, "there is no HTTP connection")
    call.ctx.request.scope[CUT]()
    return await _hang(host, call)


async def _big(host: Host, call: Call) -> Answer:
    return _text("x" * call.arguments["bytes"])


async def _stderr(host: Host, call: Call) -> Answer:
    sys.stderr.write("e" * call.arguments["bytes"] + "\n")
    sys.stderr.flush()
    return _text("written")


async def _raw(host: Host, call: Call) -> Answer:
    await host.write_raw(call.arguments["line"])
    return _text("written")


async def _grow(host: Host, call: Call) -> Answer:
    await host.add_tool(tool(call.arguments["name"], "A tool that came later."))
    return _text("added")


async def _shrink(host: Host, call: Call) -> Answer:
    await host.remove_tool(call.arguments["name"])
    return _text("removed")


async def _redefine(host: Host, call: Call) -> Answer:
    name, description = call.arguments["name"], call.arguments["description"]
    await host.add_tool(host.tools[name].model_copy(update={"description": description}))
    return _text("redefined")


async def _update(host: Host, call: Call) -> Answer:
    await host.update_resource(call.arguments["uri"], call.arguments["text"])
    return _text("updated")


_FORM: Final = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


async def _elicit(host: Host, call: Call) -> Answer:
    message, url = call.arguments.get("message", "Who are you?"), call.arguments.get("url")
    schema: Any = call.arguments.get("schema", _FORM)
    if call.ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        session, id = call.ctx.session, call.ctx.request_id
        if url is None:
            return _answered(await session.elicit_form(message, schema, related_request_id=id))
        return _answered(await session.elicit_url(message, url, f"elicitation-{id}", related_request_id=id))
    if call.answers is not None:
        return _answered(cast("types.ElicitResult", call.answers["question"]))
    asked = (
        types.ElicitRequestFormParams(message=message, requested_schema=schema)
        if url is None
        else types.ElicitRequestURLParams(message=message, url=url)
    )
    return types.InputRequiredResult(input_requests={"question": types.ElicitRequest(params=asked)})


def _answered(answer: types.ElicitResult) -> Answer:
    return _structured({"action": answer.action, "content": answer.content})


_RUNS: Final[dict[str, Callable[[Host, Call], Awaitable[Answer]]]] = {
    "echo": _echo,
    "add": _add,
    "structured": _return,
    "image": _image,
    "mixed": _mixed,
    "fail": _fail,
    "refuse": _refuse,
    "whoami": _whoami,
    "count": _count,
    "flood": _flood,
    "hold": _hold,
    "hang": _hang,
    "exit": _exit,
    "cut": _cut,
    "big": _big,
    "stderr": _stderr,
    "raw": _raw,
    "grow": _grow,
    "shrink": _shrink,
    "redefine": _redefine,
    "update": _update,
    "elicit": _elicit,
}
