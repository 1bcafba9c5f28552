"""Tools of the gateway, called by the clients of the official SDK over Streamable HTTP, in both of its eras."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, ImageContent, ResourceLink, TextContent

from gateway import Gateway, Settings, ToolContext, tool
from gateway.mcp_endpoint.calls import CALLS_CONTEXT
from tests.gateway.host_apps import by_query, hosted, until

PIXEL = "iVBORw0KGgo="
ERAS = pytest.mark.parametrize("era", ["legacy", "2026-07-28"])


@tool
async def picture() -> dict[str, Any]:
    """A picture of it."""
    return {
        "content": [
            {"type": "text", "text": "here"},
            {"type": "image", "mime_type": "image/png", "data": PIXEL},
            {"type": "resource", "uri": "file://docs/more.txt"},
        ]
    }


@tool(approval="always")
async def launch(code: int) -> str:
    """Do what can't be undone."""
    return f"launched {code}"


@tool(permission="tool:closed")
async def closed() -> str:
    """Not for everybody."""
    return "no"


class Slow:
    """A tool that goes on until somebody lets it."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.stopped = asyncio.Event()

    async def slow(self, ctx: ToolContext) -> str:
        """Take long."""
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped.set()
        return "never"


@asynccontextmanager
async def serving(folder: Path, *tools: Any, **sections: Any) -> AsyncGenerator[tuple[str, Gateway]]:
    settings = Settings.of(store={"url": f"sqlite:///{folder / 'mcp.db'}"}, **sections)
    gateway = Gateway(settings, authenticate=by_query, tools=[picture, launch, closed, *tools])
    async with hosted(gateway.app) as url:
        yield url, gateway


@asynccontextmanager
async def client_of(url: str, era: str, user: str = "ann") -> AsyncGenerator[Client]:
    async with Client(streamable_http_client(f"{url}/mcp?user={user}"), mode=era) as client:
        yield client


async def events_of(device: httpx2.AsyncClient, user: str = "ann") -> list[dict[str, Any]]:
    page = (await device.get(f"/v1/contexts/{CALLS_CONTEXT}/events", params={"user": user})).json()
    return [event for event in page["events"] if event["type"] in ("tool_call", "tool_response")]


def words(content: Any) -> list[str]:
    return [block.text for block in content if isinstance(block, TextContent)]


@ERAS
async def test_a_client_lists_and_calls_what_its_principal_may_use(tmp_path: Path, era: str) -> None:
    async with serving(tmp_path) as (url, _), client_of(url, era) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {"calculator", "countdown", "clock", "picture", "launch"} == set(tools)
        assert tools["picture"].description == "A picture of it."
        assert tools["launch"].input_schema["required"] == ["code"]
        found = await client.call_tool("calculator", {"operation": "multiply", "a": 6, "b": 7})
        assert found.structured_content == {"result": 42}
        assert words(found.content) == ['{"result":42}']
        assert not found.is_error


@ERAS
async def test_progress_and_images_come_as_mcp_says_them(tmp_path: Path, era: str) -> None:
    told: list[tuple[float, float | None]] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total))

    async with serving(tmp_path) as (url, _), client_of(url, era) as client:
        counted = await client.call_tool("countdown", {"count": 3}, progress_callback=heard)
        assert counted.structured_content == {"counted": 3}
        assert told
        assert told == sorted(told)
        assert {total for _, total in told} == {3}
        seen = await client.call_tool("picture", {})
        assert words(seen.content) == ["here"]
        assert [(b.data, b.mime_type) for b in seen.content if isinstance(b, ImageContent)] == [(PIXEL, "image/png")]
        assert [b.uri for b in seen.content if isinstance(b, ResourceLink)] == ["file://docs/more.txt"]


@ERAS
async def test_what_goes_wrong_is_said_where_a_client_looks_for_it(tmp_path: Path, era: str) -> None:
    async with serving(tmp_path) as (url, _), client_of(url, era) as client:
        # The tool's failures are its results: a model may read them and do better.
        failed = await client.call_tool("calculator", {"operation": "divide", "a": 1, "b": 0})
        assert (failed.is_error, words(failed.content)) == (True, ["division by zero"])
        unfit = await client.call_tool("calculator", {"operation": "divide"})
        assert unfit.is_error
        assert "parameter 'a' is missing" in words(unfit.content)[0]
        # A tool that is not there, and one that this principal may not use, are the same.
        for name in ("nothing", "closed"):
            with pytest.raises(MCPError) as refused:
                await client.call_tool(name, {})
            assert (refused.value.code, str(refused.value)) == (INVALID_PARAMS, f"Unknown tool: {name}")


@ERAS
async def test_a_call_that_needs_a_person_waits_for_another_device_of_its_user(tmp_path: Path, era: str) -> None:
    waits = asyncio.Event()

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        if message is not None and "waits for its user" in message:
            waits.set()

    async with serving(tmp_path) as (url, _), client_of(url, era) as client:
        calling = asyncio.create_task(client.call_tool("launch", {"code": 7}, progress_callback=heard))
        async with asyncio.timeout(20), httpx2.AsyncClient(base_url=url) as device:
            await waits.wait()
            (call,) = await events_of(device)
            decision = {"id": "d1", "tool_call_id": call["id"], "approved": True, "parameters": {"code": 8}}
            decided = await device.post(f"/v1/contexts/{CALLS_CONTEXT}/approvals?user=ann", json=decision)
            assert decided.status_code == 200
            assert words((await calling).content) == ["launched 8"]


async def test_a_client_that_goes_away_has_cancelled_its_call(tmp_path: Path) -> None:
    slow = Slow()
    async with serving(tmp_path, slow.slow) as (url, _), client_of(url, "2026-07-28") as client:
        calling = asyncio.create_task(client.call_tool("slow", {}))
        async with asyncio.timeout(20):
            await slow.begun.wait()
            calling.cancel()
            await slow.stopped.wait()
            async with httpx2.AsyncClient(base_url=url) as device:
                while len(events := await events_of(device)) < 2:
                    await asyncio.sleep(0.01)
        assert events[1]["status"] == "cancelled"


async def test_two_users_see_nothing_of_each_other(tmp_path: Path) -> None:
    async with serving(tmp_path) as (url, _):
        async with client_of(url, "2026-07-28", "ann") as ann, client_of(url, "2026-07-28", "bob") as bob:
            await ann.call_tool("calculator", {"operation": "add", "a": 1, "b": 1})
            await bob.call_tool("clock", {})
        async with httpx2.AsyncClient(base_url=url) as http:
            for user, name in (("ann", "calculator"), ("bob", "clock")):
                assert [event["tool"] for event in await events_of(http, user) if "tool" in event] == [name]


async def test_who_shows_nothing_or_comes_from_another_page_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as (url, _), httpx2.AsyncClient(base_url=url) as http:
        nobody = await http.post("/mcp", json={})
        assert (nobody.status_code, nobody.json()["error"]["code"]) == (401, "unauthenticated")
        assert nobody.headers["www-authenticate"] == "Bearer"
        foreign = await http.post("/mcp?user=ann", json={}, headers={"origin": "https://elsewhere.example"})
        assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "forbidden")
        # A page whose name was made to lead here is of the origin that it speaks to.
        headers = {"host": "elsewhere.example", "origin": "http://elsewhere.example"}
        rebound = await http.post("/mcp?user=ann", json={}, headers=headers)
        assert (rebound.status_code, rebound.json()["error"]["code"]) == (403, "forbidden")
        own = await http.post("/mcp?user=ann", json={}, headers={"origin": url})
        assert own.status_code not in (401, 403)
    allowed = {"origins": ["https://chat.example"]}
    other = tmp_path / "other"
    other.mkdir()
    async with serving(other, server=allowed) as (url, _), httpx2.AsyncClient(base_url=url) as http:
        named = await http.post("/mcp?user=ann", json={}, headers={"origin": "https://chat.example"})
        assert named.status_code not in (401, 403)


async def test_limits_hold_over_mcp_too(tmp_path: Path) -> None:
    limits = {"messages_per_minute": 1}
    async with serving(tmp_path, limits=limits) as (url, _), client_of(url, "2026-07-28") as client:
        assert not (await client.call_tool("clock", {})).is_error
        refused = await client.call_tool("clock", {})
        assert (refused.is_error, words(refused.content)) == (True, ["too many messages a minute"])


async def test_a_gateway_that_stops_ends_its_calls_in_words(tmp_path: Path) -> None:
    slow = Slow()
    async with serving(tmp_path, slow.slow) as (url, gateway), client_of(url, "2026-07-28") as client:
        calling = asyncio.create_task(client.call_tool("slow", {}))
        async with asyncio.timeout(20):
            await slow.begun.wait()
            await gateway.drain(0)
            ended = await calling
        assert (ended.is_error, words(ended.content)) == (True, ["the instance restarts"])
        await until(slow.stopped.is_set)
