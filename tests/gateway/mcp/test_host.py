"""What principals get of servers through the host: tools that change, questions, resources, prompts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import mcp_types as types
import pytest

from gateway.auth.principal import Principal
from gateway.core.policy import Policy
from gateway.mcp.checking import check_servers
from gateway.mcp.oauth_settings import OAuthSettings
from gateway.mcp.prompts import McpPrompts
from gateway.mcp.settings import McpServerSettings
from gateway.prompts import PromptLine
from gateway.testing.mcp_server import FakeMCP
from gateway.tools.port import Answer, ToolError
from protocol.errors import ProtocolError
from protocol.frames import ImagePart, TextPart
from tests.gateway.mcp.mcp_world import ANN, BOB, World, eventually, fake, plain, running, running_all

ERAS = pytest.mark.parametrize("era", ["modern", "legacy"])


@asynccontextmanager
async def over_http(server: FakeMCP, **settings: Any) -> AsyncGenerator[World]:
    async with server.http() as url, running(McpServerSettings(url=url, **settings)) as world:
        yield world


@ERAS
async def test_tools_that_change_in_the_middle(era: Any) -> None:
    server = FakeMCP(era=era)
    async with over_http(server) as world:
        held = asyncio.create_task(world.run("hold"))
        await server.wait_for(lambda: server.counts["hold"] == 1)
        for tool in ("grow", "redefine", "shrink"):
            world.changes.clear()
            await world.result(tool, name="echo" if tool == "redefine" else "new", **_described(tool))
            await eventually(lambda: any(kind == "tools" for _, _, kind, _ in world.changes))
            found = await world.host.find(ANN, "fake__new")
            assert (found is not None) == (tool != "shrink")
        echo = await world.host.find(ANN, "fake__echo")
        assert echo is not None
        assert echo.description == "Another one."
        server.released.set()
        assert (await held).result == "released"


def _described(tool: str) -> dict[str, str]:
    return {"description": "Another one."} if tool == "redefine" else {}


@ERAS
async def test_a_question_reaches_the_user_of_its_call(era: Any) -> None:
    server = FakeMCP(era=era)
    async with over_http(server, shared=True) as world:
        asked = await asyncio.gather(
            world.result("elicit", message="Ann?"), world.result("elicit", BOB, message="Bob?")
        )
        assert asked == [{"action": "accept", "content": {"name": "Ann"}}] * 2
        assert sorted((who, question.message) for who, question in world.asked) == [("ann", "Ann?"), ("bob", "Bob?")]
        schema = world.asked[0][1].schema
        assert schema is not None
        assert schema["required"] == ["name"]


@ERAS
async def test_a_question_by_url_and_other_answers(era: Any) -> None:
    async with over_http(FakeMCP(era=era)) as world:
        assert await world.result("elicit", url="https://pay.example/1") == {"action": "accept", "content": None}
        assert (world.asked[0][1].url, world.asked[0][1].schema) == ("https://pay.example/1", None)
        for url in ("javascript:alert(1)", "file:///etc/passwd", "https://h/\u202egpj"):
            assert (await world.result("elicit", url=url))["action"] == "decline"
        assert len(world.asked) == 1

        async def decline() -> Answer:
            return Answer("decline")

        async def nested() -> Answer:
            return Answer("accept", {"name": {"a": "b"}})

        async def fail() -> Answer:
            raise ToolError("nobody is there")

        for answer, action in ((decline, "decline"), (nested, "cancel"), (fail, "cancel")):
            world.answer = answer
            assert (await world.result("elicit"))["action"] == action


async def test_where_it_is_not_known_whose_question_it_is_nobody_is_asked() -> None:
    # On standard output nothing tells which call a question of the older protocol belongs to.
    async with running(fake("--era", "legacy", shared=True)) as world:
        assert (await world.result("elicit"))["action"] == "accept"
        other = asyncio.create_task(world.run("hang", BOB))
        await eventually(lambda: world.status().calls == 1)
        assert (await world.result("elicit"))["action"] == "decline"
        assert [who for who, _ in world.asked] == ["ann"]
        other.cancel()
        await asyncio.wait((other,))
        # The server may be at it all the same, and ask for it now.
        assert (await world.result("elicit"))["action"] == "decline"
        assert (await world.result("elicit", BOB))["action"] == "accept"


async def test_prompts_are_for_those_who_may_use_their_server() -> None:
    guest = Principal(tenant="t", subject="eve", roles=("guest",))
    staff = Principal(tenant="t", subject="sue", roles=("staff",))
    policy = Policy({"guest": ["prompt:*"], "staff": ["prompt:*", "tool:closed"]})
    async with over_http(FakeMCP(), permission="tool:closed") as world:
        prompts = McpPrompts(world.host, policy.may_use)
        assert await prompts.prompts(guest) == await prompts.prompts(ANN) == []
        assert [prompt.name for prompt in await prompts.prompts(staff)] == ["fake__greet", "fake__picture"]


@ERAS
async def test_a_question_ends_with_its_call(era: Any) -> None:
    ended = asyncio.Event()

    async def never() -> Answer:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with over_http(FakeMCP(era=era)) as world:
        world.answer = never
        call = asyncio.create_task(world.run("elicit"))
        await eventually(lambda: world.asked)
        call.cancel()
        await asyncio.wait((call,))
        async with asyncio.timeout(5):
            await ended.wait()
        assert await world.result("echo", text="x") == "x"


@ERAS
async def test_resources_and_that_they_change(era: Any) -> None:
    server = FakeMCP(era=era)
    async with over_http(server) as world:
        (offer,) = await world.host.offers(ANN)
        assert {"memo://text", "memo://mine"} <= {resource.uri for resource in offer.listing.resources}
        assert [template.uri_template for template in offer.listing.templates] == ["memo://notes/{name}"]
        read = await world.host.read_resource(ANN, "fake", "memo://text")
        assert isinstance(read.contents[0], types.TextResourceContents)
        assert read.contents[0].text == "A memo."
        with pytest.raises(ToolError, match="Unknown resource"):
            await world.host.read_resource(ANN, "fake", "memo://none")

        def told(uri: str) -> bool:
            return any(kind == "resource" and changed == uri for _, _, kind, changed in world.changes)

        async with asyncio.timeout(10):
            # The server learns what is followed a moment after the reading.
            while not told("memo://text"):
                await world.result("update", uri="memo://text", text="Another.")
                await asyncio.sleep(0.05)
        await world.host.read_resource(ANN, "fake", "memo://pixel")
        async with asyncio.timeout(10):
            while not told("memo://pixel"):
                await world.result("update", uri="memo://pixel", text="Another.")
                await asyncio.sleep(0.05)
        world.changes.clear()
        await world.result("update", uri="memo://text", text="A third.")
        await eventually(lambda: told("memo://text"))


async def test_what_is_read_is_the_principals_own() -> None:
    server = FakeMCP(era="legacy")
    async with server.http() as url:

        def auth(name: str, owner: str) -> httpx2.Auth:
            return httpx2.BasicAuth(owner, "x")

        async with running(McpServerSettings(url=url), auth=auth) as world:
            ann = await world.host.read_resource(ANN, "fake", "memo://mine")
            bob = await world.host.read_resource(BOB, "fake", "memo://mine")
            assert ann.contents != bob.contents


async def test_prompts() -> None:
    async with over_http(FakeMCP()) as world:
        prompts = McpPrompts(world.host, Policy({}).may_use)
        greet, picture = await prompts.prompts(ANN)
        assert (greet.name, picture.name) == ("fake__greet", "fake__picture")
        assert [(argument.name, argument.required) for argument in greet.arguments] == [("name", True)]
        said = await prompts.prompt(ANN, "fake__greet", {"name": "Bob"})
        assert said == [PromptLine("user", TextPart(text="Greet Bob."))]
        shown = await prompts.prompt(ANN, "fake__picture", {})
        assert [type(line.part) for line in shown] == [TextPart, ImagePart]
        for name, code in (("fake__greet", "invalid_frame"), ("fake__no", "not_found")):
            with pytest.raises(ProtocolError) as caught:
                await prompts.prompt(ANN, name, {})
            assert caught.value.code == code
        world.host.close()
        with pytest.raises(ProtocolError) as caught:
            await prompts.prompt(ANN, "fake__greet", {"name": "Bob"})
        assert caught.value.code == "unavailable"


async def test_one_server_does_not_wait_for_another() -> None:
    servers = {"slow": plain("--silent", connect_seconds=0.3), "fake": plain(rename={"echo": "say"}, exclude=("hang",))}
    async with running_all(servers) as world:
        names = await world.names()
        assert "say" in names
        assert "hang" not in names
        found = await world.host.find(ANN, "say")
        assert found is not None
        assert await world.host.find(ANN, "fake__echo") is None
        assert await world.host.find(ANN, "slow__echo") is None
        assert [status.server for status in world.host.status()] == ["slow", "fake"]


async def test_what_doctor_says() -> None:
    command, args = FakeMCP.command("--faults", "schemas,unlistable")
    found = await check_servers(
        {
            "good": plain(),
            "odd": McpServerSettings(command=command, args=tuple(args)),
            "gone": plain("--noise", "1", "--silent", start_seconds=0.3, env={"TOKEN": "a-secret-token"}),
            "far": McpServerSettings(url="http://127.0.0.1:9/mcp"),
            "yours": McpServerSettings(url="https://mcp.example/mcp", oauth=OAuthSettings()),
        }
    )
    said = {one.server: (one.ok, one.words) for one in found}
    assert said["good"] == (True, "speaks MCP 2025-11-25, 10 tools, a connection for each user")
    assert said["odd"][0]
    assert "22 tools" in said["odd"][1]
    assert "left out: bad_keyword (its input schema can't be used" in said["odd"][1]
    assert not said["gone"][0]
    assert said["gone"][1].startswith("did not start within 0.3 s; it wrote: ")
    assert "a-secret-token" not in str(found)
    assert said["far"] == (False, "can't be reached")
    assert said["yours"] == (True, "each user connects an account of their own")
