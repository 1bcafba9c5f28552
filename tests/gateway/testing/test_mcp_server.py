from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import mcp_types as types
import msgspec
import pytest
from mcp import Client
from mcp.client.session import IncomingMessage
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourceUpdated, ToolsListChanged
from pydantic import ValidationError

from gateway.testing.mcp_http import Refusal
from gateway.testing.mcp_script import BAD_NAMES, IMAGE, MALICE
from gateway.testing.mcp_server import Era, FakeMCP, Fault

FORM = {"type": "object", "properties": {"city": {"type": "string"}}}


class Heard:
    """A client's ears: what it was asked and told."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.told: list[Any] = []
        self.arrived = asyncio.Event()

    async def ask(self, context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        self.asked.append(params)
        form = isinstance(params, types.ElicitRequestFormParams)
        return types.ElicitResult(action="accept", content={"city": "Oslo"} if form else None)

    async def hear(self, message: IncomingMessage) -> None:
        self.told.append(message)
        self.arrived.set()

    async def wait_for(self, kind: type[Any]) -> None:
        async with asyncio.timeout(10):
            while not any(isinstance(message, kind) for message in self.told):
                self.arrived.clear()
                await self.arrived.wait()


@asynccontextmanager
async def connected(server: Any, heard: Heard | None = None) -> AsyncGenerator[Client]:
    heard = heard or Heard()
    async with Client(server, elicitation_callback=heard.ask, message_handler=heard.hear, cache=None) as client:
        yield client


@asynccontextmanager
async def over(transport: str, heard: Heard | None = None) -> AsyncGenerator[Client]:
    """A client of a server of that era, over HTTP in this process or standard input and output of another."""
    kind, _, era = transport.partition(" ")
    if kind == "stdio":
        command, args = FakeMCP.command("--era", era)
        async with connected(StdioServerParameters(command=command, args=args), heard) as client:
            yield client
    else:
        server = FakeMCP(era=era if era in ("modern", "legacy") else "both")
        async with server.http() as url, connected(url, heard) as client:
            yield client


def structured(result: types.CallToolResult) -> Any:
    assert not result.is_error
    return result.structured_content


def text(result: types.CallToolResult) -> str:
    (block,) = result.content
    assert isinstance(block, types.TextContent)
    return block.text


@pytest.mark.parametrize("transport", ["http modern", "http legacy", "stdio modern", "stdio legacy"])
async def test_it_speaks_every_wire(transport: str) -> None:
    heard = Heard()
    async with over(transport, heard) as client:
        assert (client.protocol_version == "2026-07-28") == ("modern" in transport)
        assert len((await client.list_tools()).tools) == 22
        assert text(await client.call_tool("echo", {"text": "hi"})) == "hi"
        assert structured(await client.call_tool("add", {"a": 1, "b": 2})) == {"sum": 3}
        who = structured(await client.call_tool("whoami", {"names": ["HOME", "SECRET"]}))
        assert (who["session"] is not None) == (transport == "http legacy")
        assert who["environment"].keys() == {"HOME", "SECRET"}
        assert who["calls"] == 3
        kinds = [block.type for block in (await client.call_tool("mixed")).content]
        assert kinds == ["text", "image", "audio", "resource", "resource", "resource", "resource_link"]
        assert structured(await client.call_tool("elicit", {"message": "Where?", "schema": FORM})) == {
            "action": "accept",
            "content": {"city": "Oslo"},
        }
        asked = structured(await client.call_tool("elicit", {"url": "https://example.org/pay"}))
        assert (asked["action"], heard.asked[1].url) == ("accept", "https://example.org/pay")
        steps: list[float] = []

        async def report(progress: float, total: float | None, message: str | None) -> None:
            steps.append(progress)

        await client.call_tool("count", {"steps": 3}, progress_callback=report)
        assert structured(await client.call_tool("flood", {"times": 50}, progress_callback=report)) == {"reported": 50}
        assert steps == [*range(1, 4), *range(1, 51)]
        (memo,) = (await client.read_resource("memo://text")).contents
        assert isinstance(memo, types.TextResourceContents)
        assert memo.text == "A memo."
        greeting = (await client.get_prompt("greet", {"name": "Ann"})).messages[0].content
        assert isinstance(greeting, types.TextContent)
        assert greeting.text == "Greet Ann."


@pytest.mark.parametrize("transport", ["http legacy", "stdio legacy"])
async def test_changes_are_told_to_old_clients(transport: str) -> None:
    heard = Heard()
    async with over(transport, heard) as client:
        await client.call_tool("grow", {"name": "later"})
        await heard.wait_for(types.ToolListChangedNotification)
        assert "later" in [made.name for made in (await client.list_tools()).tools]
        await client.call_tool("redefine", {"name": "later", "description": "Another one."})
        assert (await client.list_tools()).tools[-1].description == "Another one."
        await client.call_tool("shrink", {"name": "later"})
        assert "later" not in [made.name for made in (await client.list_tools()).tools]
        await client.call_tool("update", {"uri": "memo://text", "text": "New."})
        await heard.wait_for(types.ResourceUpdatedNotification)
        assert getattr((await client.read_resource("memo://text")).contents[0], "text", None) == "New."


async def test_changes_are_told_to_new_clients_that_listen() -> None:
    async with (
        over("http modern") as client,
        asyncio.timeout(10),
        client.listen(tools_list_changed=True, resource_subscriptions=["memo://text"]) as events,
    ):
        await client.call_tool("grow", {"name": "later"})
        assert isinstance(await anext(events), ToolsListChanged)
        await client.call_tool("update", {"uri": "memo://text", "text": "New."})
        assert isinstance(await anext(events), ResourceUpdated)


async def test_answers_that_fail_or_are_large() -> None:
    async with over("http both") as client:
        failed = await client.call_tool("fail", {"message": "no"})
        assert failed.is_error
        with pytest.raises(MCPError) as raised:
            await client.call_tool("refuse", {"code": -32050, "message": "never"})
        assert (raised.value.code, raised.value.message) == (-32050, "never")
        with pytest.raises(MCPError, match="Unknown tool"):
            await client.call_tool("nothing")
        assert len(text(await client.call_tool("big", {"bytes": 200_000}))) == 200_000
        (image,) = (await client.call_tool("image", {"mime_type": "image/bmp"})).content
        assert isinstance(image, types.ImageContent)
        assert (image.data, image.mime_type) == (IMAGE, "image/bmp")
        assert structured(await client.call_tool("structured", {"value": [1], "text": "one"})) == [1]
        with pytest.raises(MCPError, match="no standard output"):
            await client.call_tool("raw", {"line": "x"})


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_connection_that_breaks_in_the_middle_of_a_call(era: Era) -> None:
    server = FakeMCP(era=era)
    async with server.http() as url, connected(url) as client, asyncio.timeout(10):
        with pytest.raises(MCPError):
            await client.call_tool("cut")
        assert text(await client.call_tool("echo", {"text": "still there"})) == "still there"


async def test_a_process_that_ends_in_the_middle_of_a_call(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    command, args = FakeMCP.command("--journal", str(journal))
    async with connected(StdioServerParameters(command=command, args=args)) as client, asyncio.timeout(10):
        assert text(await client.call_tool("stderr", {"bytes": 10})) == "written"
        assert text(await client.call_tool("raw", {"line": '{"jsonrpc": "2.0", "method": "hello"}'})) == "written"
        with pytest.raises(MCPError, match="Connection closed"):
            await client.call_tool("exit", {"code": 3})
    events = [msgspec.json.decode(line) for line in journal.read_text().splitlines()]
    assert [event.get("tool", event["event"]) for event in events] == [
        "start",
        "server/discover",
        "stderr",
        "raw",
        "exit",
    ]
    assert len({event["pid"] for event in events}) == 1


async def test_calls_that_are_held_or_given_up(tmp_path: Path) -> None:
    server = FakeMCP()
    async with server.http() as url, connected(url) as client, asyncio.timeout(10):
        held = asyncio.create_task(client.call_tool("hold"))
        hung = asyncio.create_task(client.call_tool("hang"))
        await server.wait_for(lambda: server.counts.total() == 2)
        hung.cancel()
        await asyncio.wait([hung])
        await server.wait_for(lambda: server.cancelled == 1)
        server.released.set()
        assert text(await held) == "released"
        (tmp_path / "go").touch()
        assert text(await client.call_tool("hold", {"until": str(tmp_path / "go")})) == "released"
    assert [call.tool for call in server.calls] == ["hold", "hang", "hold"]


async def listed(*faults: Fault, **more: Any) -> list[types.Tool]:
    """Ten pages at most."""
    async with FakeMCP(faults=faults, **more).http() as url, connected(url) as client:
        page = await client.list_tools()
        tools = page.tools
        while page.next_cursor is not None and len(tools) < 10 * 22:
            page = await client.list_tools(cursor=page.next_cursor)
            tools += page.tools
        return tools


async def test_lists_that_nobody_should_send() -> None:
    tools = await listed("malice", "names", "schemas", many=60, page=50)
    assert len([made for made in tools if made.name.startswith("tool_")]) == 60
    assert {made.name: made.description for made in tools}.items() >= MALICE.items()
    assert {made.name for made in tools} >= {*BAD_NAMES, "bad_remote"}
    assert len(await listed("endless")) == 10 * 22
    async with FakeMCP(faults=["unlistable"]).http() as url, connected(url) as client:
        with pytest.raises(ValidationError):
            await client.list_tools()


@pytest.mark.parametrize(("fault", "listings"), [("hang_listing", 1), ("hang_start", 0)])
async def test_a_server_that_does_not_answer(fault: Fault, listings: int) -> None:
    server = FakeMCP(faults=[fault])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3), server.http() as url, connected(url) as client:
            await client.list_tools()
    assert server.listings == listings


async def test_an_http_response_in_the_servers_place() -> None:
    server = FakeMCP(
        refuse=lambda headers: None if headers.get("authorization") == "Bearer a" else Refusal(401, {"x": "y"})
    )
    async with server.http() as url, httpx.AsyncClient(trust_env=False) as client:
        refused = await client.post(url, json={})
        assert (refused.status_code, refused.headers["x"]) == (401, "y")
        taken = await client.post(url, json={}, headers={"authorization": "Bearer a"})
        assert taken.status_code != 401
    assert server.sessions == 0


async def test_what_is_private_names_its_reader() -> None:
    async with over("http both") as client:
        listing = [found.uri for found in (await client.list_resources()).resources]
        assert listing == ["memo://text", "memo://pixel", "memo://binary", "memo://mine"]
        assert [made.uri_template for made in (await client.list_resource_templates()).resource_templates] == [
            "memo://notes/{name}"
        ]
        mine = await client.read_resource("memo://mine")
        assert (mine.cache_scope, getattr(mine.contents[0], "text", None)) == ("private", "nobody")
        note = await client.read_resource("memo://notes/one")
        assert getattr(note.contents[0], "text", None) == "The note one."
        with pytest.raises(MCPError, match="Unknown resource"):
            await client.read_resource("memo://nothing")
        assert [made.name for made in (await client.list_prompts()).prompts] == ["greet", "picture"]
        assert len((await client.get_prompt("picture")).messages) == 2
        for name in ("greet", "nothing"):
            with pytest.raises(MCPError):
                await client.get_prompt(name)


async def test_the_command_serves_http() -> None:
    command, args = FakeMCP.command("--http", "0", "--many", "1")
    assert command == sys.executable
    process = await asyncio.create_subprocess_exec(command, *args, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            line = (await process.stdout.readline()).decode()
            async with connected(line.removeprefix("url = ").strip()) as client:
                assert text(await client.call_tool("tool_0000")) == "tool_0000 ran."
    finally:
        process.terminate()
        await process.wait()
