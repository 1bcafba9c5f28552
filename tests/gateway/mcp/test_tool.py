from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import mcp_types as types
import pytest
from mcp import Client
from mcp.shared.dispatcher import ProgressFnT
from msgspec.structs import asdict

from gateway.auth.principal import Principal
from gateway.mcp.names import NameRules
from gateway.mcp.tool import Ask, McpTool, define, leave_results_unchecked
from gateway.testing.mcp_script import TOOLS
from gateway.testing.mcp_server import FakeMCP
from gateway.tools.port import Answer, Question, ToolContext, ToolError, ToolSettings
from gateway.tools.runner import ToolRunner

ANN = Principal(tenant="t", subject="ann")


class Direct:
    """The SDK's client as a connection: one principal, no pool."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def __call__(
        self,
        tool: str,
        arguments: dict[str, Any],
        *,
        progress: ProgressFnT,
        ask: Ask,
    ) -> types.CallToolResult:
        del ask
        return await self._client.call_tool(tool, arguments, progress_callback=progress)


@asynccontextmanager
async def tools_of(server: FakeMCP) -> AsyncGenerator[dict[str, McpTool]]:
    async with server.http() as url, Client(url) as client:
        leave_results_unchecked(client.session)
        listed = (await client.list_tools()).tools
        yield {made.tool: McpTool(made, Direct(client)) for made in define("fake", listed).tools}


def context(report: Callable[..., None] = lambda *_: None, ask: Any = None) -> ToolContext:
    return ToolContext(ANN, "ctx_1", "call_1", report, ask)


async def outcome(tool: McpTool, **arguments: Any) -> dict[str, Any]:
    return asdict(await ToolRunner().run(tool, context(), arguments))


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_calls_of_a_real_server(era: Any) -> None:
    async with tools_of(FakeMCP(era=era)) as tools:
        assert await outcome(tools["echo"], text="hi") == {"status": "success", "result": "hi", "code": None}
        assert (await outcome(tools["add"], a=1, b=2))["result"] == {"sum": 3}
        assert len((await outcome(tools["mixed"]))["result"]["content"]) == 8
        assert await outcome(tools["fail"], message="no") == {"status": "error", "result": "no", "code": None}
        refused = await outcome(tools["refuse"], code=-32050, message="not today")
        assert refused["result"] == "the MCP server 'fake' refused the call: not today"
        cut = await outcome(tools["cut"])
        assert cut["result"].startswith("the MCP server 'fake' went away before it answered")


async def test_arguments_are_checked_before_the_server_sees_them() -> None:
    server = FakeMCP()
    async with tools_of(server) as tools:
        wrong = await outcome(tools["echo"], text=1)
        assert (wrong["code"], wrong["result"]) == (
            "invalid_frame",
            "parameter 'text': expected `string`, got `integer`",
        )
        assert (await outcome(tools["echo"]))["result"] == "parameter 'text' is missing"
        assert (await outcome(tools["echo"], text="a", more=1))["result"] == "unknown parameter 'more'"
    assert server.calls == []


async def test_progress_is_passed_on_until_the_end() -> None:
    seen: list[Any] = []
    async with tools_of(FakeMCP()) as tools:
        await tools["count"].run(context(lambda *given: seen.append(given)), {"steps": 3, "seconds": 0.06})
        assert seen == [(1, 3, "step 1"), (2, 3, "step 2"), (3, 3, "step 3")]
        seen.clear()
        begin = time.monotonic()
        await tools["flood"].run(context(lambda *given: seen.append(given)), {"times": 2_000})
        assert len(seen) <= 3 + 20 * (time.monotonic() - begin)
        assert seen[-1] == (2_000, 2_000, None)


async def test_a_cancelled_call_ends_at_the_server() -> None:
    server = FakeMCP()
    async with tools_of(server) as tools:
        call = asyncio.create_task(tools["hang"].run(context(), {}))
        await server.wait_for(lambda: bool(server.calls))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await server.wait_for(lambda: server.cancelled == 1)


async def test_a_tool_asks_through_its_context() -> None:
    asked: list[Question] = []

    async def answer(question: Question) -> Answer:
        asked.append(question)
        return Answer("accept", {"name": "Ann"})

    async def call(tool: str, arguments: dict[str, Any], *, progress: Any, ask: Ask) -> types.CallToolResult:
        answered = await ask("Who?", {"type": "object"})
        return types.CallToolResult(content=[], structured_content=answered.content)

    tool = McpTool(define("s", [TOOLS[0]]).tools[0], call)
    assert await tool.run(context(ask=answer), {"text": ""}) == {"name": "Ann"}
    assert asked == [Question("Who?", {"type": "object"})]


async def test_a_connection_says_itself_that_it_is_not_there() -> None:
    async def call(tool: str, arguments: dict[str, Any], *, progress: Any, ask: Ask) -> types.CallToolResult:
        raise ToolError("the MCP server 's' is away")

    tool = McpTool(define("s", [TOOLS[0]]).tools[0], call)
    with pytest.raises(ToolError, match="is away"):
        await tool.run(context(), {"text": ""})


HOSTILE = {"type": "object", "properties": {"text": {"type": "string", "pattern": "^(a+)+$"}}}


async def test_a_hostile_output_schema_does_not_stop_the_loop() -> None:
    server = FakeMCP()
    server.tools["structured"] = server.tools["structured"].model_copy(update={"output_schema": HOSTILE})
    async with tools_of(server) as tools, asyncio.timeout(5):
        assert await tools["structured"].run(context(), {"value": {"text": "a" * 40 + "b"}}) == {"text": "a" * 40 + "b"}
        assert await tools["structured"].run(context(), {"value": {"text": 7}}) == {"text": 7}
    assert server.listings == 1


def listed(name: str, **more: Any) -> types.Tool:
    return types.Tool.model_validate({"name": name, "input_schema": {"type": "object"}, **more}, by_name=True)


def test_one_bad_tool_does_no_harm_to_the_others() -> None:
    broken = listed("broken", input_schema={"type": "object", "properties": {"a": {"type": "strin"}}})
    defined = define("s", [listed("one"), broken, listed("two"), listed("one", description="again"), listed("t wo")])
    assert [made.name for made in defined.tools] == ["s__one", "s__two", "s__t_wo"]
    assert [(dropped.tool, dropped.reason) for dropped in defined.dropped] == [
        ("broken", "its input schema can't be used: properties.a.type: 'strin' is not what this keyword takes")
    ]
    assert defined.tools[0].description == ""


def test_the_schemas_of_a_server_have_a_limit_together() -> None:
    large: dict[str, Any] = {"type": "object", "allOf": [{}] * 7_000}
    found = define("s", [types.Tool(name=f"t{number}", input_schema=large) for number in range(200)])
    assert [tool.name for tool in found.tools] == [f"s__t{number}" for number in range(len(found.tools))]
    assert 60 < len(found.tools) < 80
    assert found.dropped[-1].reason == "its input schema can't be used: those before it are too large together"


def test_what_is_said_of_a_tool_is_clean() -> None:
    (made,) = define("s", [listed("a", description="Do\u202e it.\x00")]).tools
    assert made.description == "Do it."
    (titled,) = define("s", [listed("a", title="A \u200btitle")], rules=NameRules(rename={"a": "b"})).tools
    assert (titled.name, titled.description) == ("b", "A title")
    assert repr(McpTool(titled, Direct(Client("http://127.0.0.1:9")))) == "<MCP tool b>"


def test_a_server_s_word_counts_where_it_is_trusted() -> None:
    tools = [
        listed("reads", annotations=types.ToolAnnotations(read_only_hint=True)),
        listed("repeats", annotations=types.ToolAnnotations(idempotent_hint=True)),
        listed("writes", annotations=types.ToolAnnotations(read_only_hint=False)),
        listed("says nothing"),
    ]
    given = ToolSettings(timeout=7, approval="always", permission="x")
    trusted = define("s", tools, settings=given, trust_annotations=True).tools
    assert [made.settings.idempotent for made in trusted] == [True, True, False, False]
    assert {(made.settings.timeout, made.settings.approval, made.settings.permission) for made in trusted} == {
        (7, "always", "x")
    }
    assert not any(made.settings.idempotent for made in define("s", tools, settings=given).tools)
