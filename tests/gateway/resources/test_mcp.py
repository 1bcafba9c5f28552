"""Resources of real MCP servers: a process, and servers over HTTP of both eras."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import mcp_types as types
import pytest

from gateway.auth.principal import Principal
from gateway.core.policy import Policy
from gateway.mcp.host import McpHost
from gateway.mcp.settings import McpServerSettings
from gateway.resources.mcp import content_of_server, mcp_providers
from gateway.resources.port import NotFound, ResourceContent, ResourceError, TooLarge, Unavailable
from gateway.resources.reader import ReaderLimits, ResourceReader
from gateway.testing.mcp_server import FakeMCP
from tests.gateway.resources.shelf import ANN, BOB, Shelf

TEXT = "mcp://memos/memo://text"


class World:
    def __init__(self, host: McpHost, reader: ResourceReader) -> None:
        self.host = host
        self.reader = reader

    async def read(self, uri: str = TEXT, who: Principal = ANN) -> ResourceContent:
        return await self.reader.read(who, uri)

    async def until(self, done: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(10):
            while not await done():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def world(
    *natives: Any,
    auth: Callable[[str, str], httpx2.Auth | None] | None = None,
    roles: dict[str, tuple[str, ...]] | None = None,
    most: int = 100_000,
    **servers: McpServerSettings,
) -> AsyncGenerator[World]:
    host = McpHost(servers, auth=auth)
    reader = ResourceReader([*natives, *mcp_providers(host)], Policy(roles or {}).may_use, ReaderLimits(max_bytes=most))
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        tasks = [group.create_task(host.run()), group.create_task(reader.run())]
        await asyncio.sleep(0)
        yield World(host, reader)
        for task in tasks:
            task.cancel()


def over_http(url: str, **options: Any) -> McpServerSettings:
    return McpServerSettings(url=url, **options)


async def raised(asked: Awaitable[object], kind: type[ResourceError]) -> str:
    with pytest.raises(kind) as caught:
        await asked
    assert type(caught.value) is kind
    return str(caught.value)


async def test_a_process_is_listed_and_read() -> None:
    command, args = FakeMCP.command()
    async with world(memos=McpServerSettings(command=command, args=tuple(args))) as here:
        listed = (await here.reader.list(ANN)).resources
        assert [(info.uri, info.mime_type) for info in listed] == [
            ("mcp://memos/memo://binary", "application/zip"),
            ("mcp://memos/memo://mine", "text/plain"),
            ("mcp://memos/memo://pixel", "image/png"),
            ("mcp://memos/memo://text", "text/plain"),
        ]
        (template,) = await here.reader.templates(ANN)
        assert (template.uri_template, template.name) == ("mcp://memos/memo://notes/{name}", "note")
        assert (await here.read()).text == "A memo."
        pixel = await here.read("mcp://memos/memo://pixel")
        assert pixel.blob is not None
        assert pixel.blob.startswith(b"\x89PNG")
        assert (await here.read("MCP://Memos/memo://notes/a%2Db")).text == "The note a-b."
        await raised(here.read("mcp://memos/memo://absent"), NotFound)
        await raised(here.read("mcp://other/memo://text"), NotFound)
        await raised(here.read("memo://text"), NotFound)


async def test_no_server_stands_for_another_or_for_a_native_provider() -> None:
    """A server may list whatever URI it likes: here it begins with the server's name."""
    evil, good = FakeMCP(), FakeMCP()
    lie = types.TextResourceContents(uri="shelf://a", mime_type="text/plain", text="lie")
    evil.resources |= {"shelf://a": lie, "mcp://good/memo://text": lie, "memo://text": lie}
    roles = {"r": ("resource:shelf://*", "resource:mcp://good/*")}
    who = Principal(tenant="t", subject="ann", roles=("r",))
    async with (
        evil.http() as first,
        good.http() as second,
        world(Shelf(), roles=roles, evil=over_http(first), good=over_http(second)) as here,
    ):
        assert (await here.read("shelf://a", who)).text == "text of a"
        assert (await here.read("mcp://good/memo://text", who)).text == "A memo."
        assert not [info for info in (await here.reader.list(who)).resources if "evil" in info.uri]
        await raised(here.read("mcp://evil/shelf://a", who), NotFound)
        assert (await here.read("mcp://evil/mcp://good/memo://text")).text == "lie"


async def test_a_server_is_asked_in_the_spelling_of_its_list() -> None:
    server = FakeMCP()
    for uri in ("memo://A B/ü", "memo:///x/../y", "not a uri"):
        server.resources[uri] = types.TextResourceContents(uri=uri, text=f"text of {uri}")
    async with server.http() as url, world(memos=over_http(url)) as here:
        uris = {info.name: info.uri for info in (await here.reader.list(ANN)).resources}
        assert uris["memo://A B/ü"] == "mcp://memos/memo://a%20b/%C3%BC"
        assert "not a uri" not in uris
        for name in ("memo://A B/ü", "memo:///x/../y"):
            content = await here.read(uris[name])
            assert (content.text, content.mime_type) == (f"text of {name}", "text/plain")


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_what_is_kept_is_forgotten_when_the_server_says_so(era: Any) -> None:
    server = FakeMCP(era=era)
    async with server.http() as url, world(memos=over_http(url)) as here:
        await here.reader.list(ANN)
        first = await here.read()
        assert first.text == "A memo."
        await here.read()
        # Only the newer protocol says for how long.
        assert (first.ttl, server.counts["memo://text"]) == ((60, 1) if era == "modern" else (0, 2))

        async def said() -> bool:
            # Again and again, as the server hears of the reading's subscription a little later.
            await server.update_resource("memo://text", "Another memo.")
            return (await here.read()).text == "Another memo."

        await here.until(said)


class Bearer(httpx2.Auth):
    def __init__(self, token: str) -> None:
        self.token = token

    def auth_flow(self, request: httpx2.Request) -> Any:
        request.headers["Authorization"] = f"Bearer {self.token}"
        yield request


@pytest.mark.parametrize("shared", [None, False, True])
async def test_what_is_private_is_never_anothers(shared: bool | None) -> None:
    """By the server's word on a connection of all, and by the connection whatever the server says."""
    server = FakeMCP(era="modern")

    def auth(server: str, owner: str) -> httpx2.Auth:
        return Bearer(owner)

    async with (
        server.http() as url,
        world(auth=auth if shared is False else None, memos=over_http(url, shared=shared)) as here,
    ):
        for who in (ANN, BOB):
            # What is read while a connection begins is not kept: it tells of its lists then.
            await here.reader.list(who)
        await here.read()
        await here.read(who=BOB)
        alone = shared is False
        assert server.counts["memo://text"] == (2 if alone else 1)
        mine = "mcp://memos/memo://mine"
        texts = await asyncio.gather(*(here.read(mine, who) for who in (ANN, BOB) * 5))
        if alone:
            assert [content.text for content in texts] == ["Bearer t/ann", "Bearer t/bob"] * 5
        assert server.counts["memo://mine"] == 2
        assert all(content.private for content in texts)


async def test_a_server_that_is_away_costs_its_own_resources_only() -> None:
    server = FakeMCP()
    gone = over_http("http://127.0.0.1:1/mcp")
    async with server.http() as url, world(Shelf(), gone=gone, memos=over_http(url)) as here:
        assert len((await here.reader.list(ANN)).resources) == 5
        assert (await here.read("shelf://a")).text == "text of a"
        assert (await here.read()).text == "A memo."
        assert "MCP server 'gone'" in await raised(here.read("mcp://gone/memo://text"), Unavailable)


async def test_odd_contents() -> None:
    server = FakeMCP()
    server.resources = {
        "memo://broken": types.BlobResourceContents(uri="memo://broken", blob="%%%"),
        "memo://bare": types.BlobResourceContents(uri="memo://bare", blob="AAE="),
        "memo://large": types.TextResourceContents(uri="memo://large", text="x" * 2000),
        "memo://wide": types.BlobResourceContents(uri="memo://wide", blob="A" * 2000),
    }
    async with server.http() as url, world(memos=over_http(url), most=1000) as here:
        await raised(here.read("mcp://memos/memo://broken"), Unavailable)
        assert (await here.read("mcp://memos/memo://bare")).mime_type == "application/octet-stream"
        for name in ("large", "wide"):
            await raised(here.read(f"mcp://memos/memo://{name}"), TooLarge)


async def test_a_restricted_server_restricts_its_resources() -> None:
    roles = {"user": ("resource:*",), "staff": ("resource:*", "staff")}
    server = FakeMCP()
    async with server.http() as url, world(roles=roles, memos=over_http(url, permission="staff")) as here:
        user, staff = (Principal(tenant="t", subject="ann", roles=(role,)) for role in roles)
        await raised(here.read(who=user), NotFound)
        assert (await here.reader.list(user)).resources == []
        assert (await here.read(who=staff)).text == "A memo."


def test_several_contents_are_one_text() -> None:
    several = [
        types.TextResourceContents(uri="memo://a", text="text of a\ud800"),
        types.BlobResourceContents(uri="memo://b", blob="AAE="),
        types.TextResourceContents(uri="memo://c", text="text of c"),
    ]
    content = content_of_server("mcp://memos/memo://all", several, "inode/directory", 1000)
    assert content.text == "memo://a:\ntext of a?\n\nmemo://b:\n(Binary data.)\n\nmemo://c:\ntext of c"
    assert content.mime_type == "text/plain"
    with pytest.raises(NotFound):
        content_of_server("mcp://memos/memo://none", [], None, 1000)
    with pytest.raises(TooLarge):
        content_of_server("mcp://memos/memo://all", several * 100, None, 1000)


def test_of_names_that_differ_in_capitals_the_first_counts() -> None:
    settings = McpServerSettings(command="x")
    providers = mcp_providers(McpHost({"Files": settings, "files": settings, "other": settings}))
    assert [provider.name for provider in providers] == ["mcp://files", "mcp://other"]
