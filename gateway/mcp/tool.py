"""One tool of an MCP server as a tool of the gateway."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, Protocol

import mcp_types as types
from mcp.client import ClientSession, InputRequiredRoundsExceededError
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError
from msgspec.structs import replace
from pydantic import ValidationError

from gateway.mcp.arguments import Arguments
from gateway.mcp.descriptions import clean
from gateway.mcp.names import Dropped, NameRules, name_tools
from gateway.mcp.progress import Progress
from gateway.mcp.results import failure, result_of
from gateway.mcp.schemas import MAX_SIZE, UnsafeSchema, check_schema, measure, offered
from gateway.tools.port import Answer, ToolContext, ToolError, ToolSettings

__all__ = ["Ask", "CallTool", "Defined", "Definition", "McpTool", "define", "leave_results_unchecked"]


# Of all schemas of a server together, as each is measured: to check them holds everybody up.
_ROOM: Final = 64 * MAX_SIZE


class Ask(Protocol):
    """`ToolContext.ask`."""

    async def __call__(self, message: str, schema: dict[str, Any] | None = None, url: str | None = None) -> Answer: ...


class CallTool(Protocol):
    """A connection that calls a tool by the server's name for it, for one principal.

    Raises ToolError where there is no connection, and what the SDK raises. Cancelled, it tells the server so."""

    async def __call__(
        self,
        tool: str,
        arguments: dict[str, Any],
        *,
        progress: ProgressFnT,
        ask: Ask,
    ) -> types.CallToolResult: ...


class Definition(NamedTuple):
    """A tool as a server describes it, and as far as it may be offered. `tool` is the server's name for it."""

    server: str
    tool: str
    name: str
    description: str
    parameters: dict[str, Any]
    arguments: Arguments
    settings: ToolSettings


class Defined(NamedTuple):
    """What a server's list comes to: tools in its order, and what is left out of it."""

    tools: list[Definition]
    dropped: list[Dropped]


class McpTool:
    """A `Tool` (gateway/tools/port.py) over a connection. Cheap, so that there can be one for every principal."""

    def __init__(self, definition: Definition, call: CallTool) -> None:
        self._definition = definition
        self._call = call

    def __repr__(self) -> str:
        return f"<MCP tool {self.name}>"

    @property
    def name(self) -> str:
        return self._definition.name

    @property
    def description(self) -> str:
        return self._definition.description

    @property
    def parameters(self) -> dict[str, Any]:
        return self._definition.parameters

    @property
    def settings(self) -> ToolSettings:
        return self._definition.settings

    def validate(self, parameters: dict[str, Any]) -> None:
        problem = self._definition.arguments.problem(parameters)
        if problem is not None:
            raise ToolError(problem)

    async def run(self, context: ToolContext, parameters: dict[str, Any]) -> Any:
        progress = Progress(context.report)
        try:
            result = await self._call(self._definition.tool, parameters, progress=progress, ask=context.ask)
        except (MCPError, ValidationError, InputRequiredRoundsExceededError) as error:
            raise failure(error, self._definition.server) from error
        finally:
            progress.close()
        return result_of(result)


def define(
    server: str,
    listed: Iterable[types.Tool],
    *,
    rules: NameRules | None = None,
    settings: ToolSettings | None = None,
    trust_annotations: bool = False,
) -> Defined:
    """The tools of a list that may be offered; one that may not does no harm to the others.

    `settings` are those of the server's section. Of a tool's own annotations none counts but that it may be repeated
    (`readOnlyHint`, `idempotentHint`), and that only from a server whose annotations are trusted.
    """
    tools: dict[str, types.Tool] = {}
    for tool in listed:
        tools.setdefault(tool.name, tool)
    named = name_tools(server, tools, rules)
    dropped = list(named.dropped)
    definitions: list[Definition] = []
    room = _ROOM
    for name, own in named.tools.items():
        tool = tools[own]
        size = MAX_SIZE
        try:
            if room <= 0:
                raise UnsafeSchema("those before it are too large together")
            size = measure(tool.input_schema)
            schema = check_schema(tool.input_schema)
        except UnsafeSchema as error:
            dropped.append(Dropped(own, f"its input schema can't be used: {error}"))
            continue
        finally:
            room -= size
        definitions.append(
            Definition(
                server=server,
                tool=own,
                name=name,
                description=clean(tool.description or tool.title or ""),
                parameters=offered(schema),
                arguments=Arguments(schema),
                settings=_settings(settings or ToolSettings(), tool.annotations if trust_annotations else None),
            )
        )
    return Defined(definitions, dropped)


def leave_results_unchecked(session: ClientSession) -> None:
    """Keep the SDK from comparing results with the output schemas of the server.

    It would run the server's own patterns in the event loop, where a hostile one never ends, and ask for the whole list
    before the result of a tool that it has not seen. A model reads a result that does not fit its schema as well.
    """

    async def accept(name: str, result: types.CallToolResult) -> None:
        del name, result

    session.validate_tool_result = accept


def _settings(settings: ToolSettings, annotations: types.ToolAnnotations | None) -> ToolSettings:
    if annotations is None or not (annotations.read_only_hint or annotations.idempotent_hint):
        return settings
    return replace(settings, idempotent=True)
