"""Servers over HTTP: sessions, failures of requests, what must not be sent or kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Container
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import pytest

from gateway.mcp.pool import AuthFactory
from gateway.mcp.settings import McpServerSettings
from gateway.mcp.transports import ServerAway
from gateway.testing.mcp_http import Refusal
from gateway.testing.mcp_server import FakeMCP
from tests.gateway.mcp.mcp_world import ANN, BOB, World, eventually, running

Refuse = Callable[[dict[str, str]], Refusal | None]


def refusing(refusal: Refusal, sessions: Container[str | None] | None = None) -> Refuse:
    """In place of the server: every request, or those of these sessions."""

    def refuse(headers: dict[str, str]) -> Refusal | None:
        return refusal if sessions is None or headers.get("mcp-session-id") in sessions else None

    return refuse


class Anything(Container[str | None]):
    def __contains__(self, item: object) -> bool:
        return item is not None


@asynccontextmanager
async def over_http(server: FakeMCP, auth: AuthFactory | None = None, **settings: Any) -> AsyncGenerator[World]:
    async with server.http() as url, running(McpServerSettings(url=url, **settings), auth=auth) as world:
        yield world


async def test_a_stateless_server_is_shared_by_all() -> None:
    server = FakeMCP(era="modern")
    async with over_http(server) as world:
        assert world.status().shared is None
        assert await world.result("echo", text="x") == await world.result("echo", BOB, text="x") == "x"
        assert (world.status().shared, world.status().connections) == (True, 1)
        assert (world.status().version, server.listings) == ("2026-07-28", 1)
        world.changes.clear()
        await world.result("grow", name="later")
        await eventually(lambda: ("fake", None, "tools", None) in world.changes)
        assert "later" in await world.names(BOB)


async def test_a_server_with_sessions_is_shared_by_nobody() -> None:
    server = FakeMCP(era="legacy")
    async with over_http(server) as world:
        # Both come first, at once: what one of them learns about the server must not be the other's connection.
        ann, bob = await asyncio.gather(world.result("whoami"), world.result("whoami", BOB))
        assert ann["session"] != bob["session"]
        assert (world.status().shared, world.status().connections, server.sessions) == (False, 2, 2)
        for _ in range(5):
            assert (await world.result("whoami"))["session"] == ann["session"]
        assert server.sessions == 2, "nothing is connected anew for a call"


@pytest.mark.parametrize("settings", [{"headers": {"Authorization": "Bearer t"}}, {"shared": False}])
async def test_a_server_that_is_told_credentials_is_shared_by_nobody(settings: dict[str, Any]) -> None:
    async with over_http(FakeMCP(era="modern"), **settings) as world:
        told = await world.result("whoami")
        await world.result("echo", BOB, text="x")
        assert told["headers"].get("authorization") == settings.get("headers", {}).get("Authorization")
        assert (world.status().shared, world.status().connections) == (False, 2)


async def test_a_server_may_be_shared_in_spite_of_its_sessions() -> None:
    server = FakeMCP(era="legacy")
    async with over_http(server, shared=True, headers={"X-Key": "k"}) as world:
        ann, bob = await asyncio.gather(world.result("whoami"), world.result("whoami", BOB))
        assert (ann["session"], server.sessions) == (bob["session"], 1)


async def test_each_owner_has_an_authentication_of_their_own() -> None:
    class Token(httpx2.Auth):
        def __init__(self, owner: str) -> None:
            self._owner = owner

        async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
            if self._owner == BOB.owner:
                raise ServerAway("the MCP server 'fake' needs you to connect an account")
            request.headers["Authorization"] = f"Bearer of {self._owner}"
            yield request

    made: list[tuple[str, str]] = []

    def auth(server: str, owner: str) -> httpx2.Auth:
        made.append((server, owner))
        return Token(owner)

    async with (
        FakeMCP(era="modern").http() as url,
        running(McpServerSettings(url=url, shared=False), auth=auth) as world,
    ):
        told = await world.result("whoami")
        assert told["headers"]["authorization"] == f"Bearer of {ANN.owner}"
        assert await world.names(BOB) == []
        assert world.status().trouble == "the MCP server 'fake' needs you to connect an account"
        assert made == [("fake", ANN.owner), ("fake", BOB.owner)]
        world.host.forget("fake", BOB.owner)
        assert world.status().trouble is None
        await world.names(BOB)
        assert made[2:] == [("fake", BOB.owner)], "it is not waited for what failed before"


async def test_a_session_that_the_server_forgot_is_begun_anew() -> None:
    server = FakeMCP(era="legacy")
    async with over_http(server) as world:
        before = (await world.result("whoami"))["session"]
        server.refuse = refusing(Refusal(404), {before})
        after = await world.result("whoami")
        assert after["session"] not in (None, before)
        assert (server.sessions, after["calls"]) == (2, 2), "the call ran once"


async def test_what_a_forgotten_session_was_at_is_not_done_twice() -> None:
    server = FakeMCP(era="legacy")
    async with over_http(server) as world:
        before = (await world.result("whoami"))["session"]
        held = asyncio.create_task(world.run("hold"))
        await server.wait_for(lambda: server.counts["hold"] == 1)
        server.refuse = refusing(Refusal(404), {before})
        assert await world.result("echo", text="x") == "x"
        assert (await held).result == "the MCP server 'fake' has ended the session"
        assert server.counts["hold"] == 1


async def test_a_server_that_forgets_every_session_is_an_error() -> None:
    server = FakeMCP(era="legacy")
    async with over_http(server) as world:
        await world.names()
        server.refuse = refusing(Refusal(404), Anything())
        assert "the MCP server 'fake' has ended the session" in await world.result("echo", text="x")


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_what_fails_costs_its_own_call_only(era: Any) -> None:
    server = FakeMCP(era=era)
    async with over_http(server) as world:
        held = asyncio.create_task(world.run("hold"))
        await server.wait_for(lambda: any(call.tool == "hold" for call in server.calls))
        assert "went away before it answered" in await world.result("cut")
        assert "8,388,608" in (await world.result("big", bytes=9_000_000)).replace("8388608", "8,388,608")
        for status, words in ((401, "401 Unauthorized"), (503, "503 Service Unavailable"), (429, "429 Too Many")):
            server.refuse = refusing(Refusal(status))
            assert (await world.result("echo", text="x")).startswith(f"the MCP server 'fake' answered {words}")
        server.refuse = None
        assert await world.result("echo", text="x") == "x"
        server.released.set()
        assert (await held).result == "released"
        assert world.status().connections == 1


async def test_a_compressed_answer_is_refused() -> None:
    server = FakeMCP(era="modern")
    async with over_http(server) as world:
        await world.names()
        server.refuse = refusing(Refusal(200, {"content-type": "application/json", "content-encoding": "gzip"}))
        assert await world.result("echo", text="x") == "the MCP server 'fake' broke the connection"


async def test_credentials_follow_no_redirect_to_another_origin_and_cookies_are_not_kept() -> None:
    server, other = FakeMCP(era="modern"), FakeMCP(era="modern")
    async with over_http(server, headers={"Authorization": "Bearer t"}) as world, other.http() as elsewhere:
        await world.names()
        server.refuse = refusing(Refusal(307, {"location": elsewhere, "set-cookie": "who=ann"}))
        assert "not followed" in await world.result("echo", text="x")
        server.refuse = None
        told = await world.result("whoami")
        assert "cookie" not in told["headers"]
        assert (other.calls, other.listings) == ([], 0)


async def test_a_server_that_is_away_comes_back() -> None:
    server = FakeMCP(era="modern")
    async with server.http() as url:
        port = int(url.split(":")[2].split("/")[0])
    async with running(McpServerSettings(url=url)) as world:
        assert await world.names() == []
        assert world.status().trouble == "the MCP server 'fake' can't be reached"
        async with FakeMCP(era="modern").http(port) as again:
            assert again == url
            async with asyncio.timeout(10):
                while not await world.names():
                    await asyncio.sleep(0.05)
            assert await world.result("echo", text="x") == "x"


async def test_a_server_that_comes_back_with_sessions_is_shared_no_more() -> None:
    async with AsyncExitStack() as first:
        url = await first.enter_async_context(FakeMCP(era="modern").http())
        async with running(McpServerSettings(url=url)) as world:
            assert await world.result("echo", text="x") == await world.result("echo", BOB, text="x") == "x"
            assert world.status().shared is True
            await first.aclose()
            assert "the MCP server 'fake' can't be reached" in await world.result("echo", text="x")
            world.changes.clear()
            async with FakeMCP(era="legacy").http(int(url.split(":")[2].split("/")[0])):
                async with asyncio.timeout(10):
                    while world.status().shared is not False:
                        await world.result("echo", text="x")
                        await asyncio.sleep(0.02)
                ann, bob = await asyncio.gather(world.result("whoami"), world.result("whoami", BOB))
                assert ann["session"] != bob["session"]
                assert ("fake", None, "resources", None) in world.changes, "what was kept for all is not kept on"


async def test_a_cancelled_call_is_cancelled_at_the_server() -> None:
    for era in ("modern", "legacy"):
        server = FakeMCP(era=era)
        async with over_http(server) as world:
            call = asyncio.create_task(world.run("hang"))
            await server.wait_for(lambda server=server: server.counts["hang"] == 1)
            call.cancel()
            await asyncio.wait((call,))
            await server.wait_for(lambda server=server: server.cancelled == 1)
