"""Resources and prompts of the gateway, read by the clients of the official SDK in both of its eras."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    BlobResourceContents,
    ImageContent,
    TextContent,
    TextResourceContents,
)
from starlette.requests import HTTPConnection

from gateway import Gateway, Principal, Settings
from gateway.testing.mcp_server import FakeMCP
from tests.gateway.host_apps import hosted

ERAS = pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
ROLES = {
    "reader": {"permissions": ["tool:*", "resource:*", "prompt:*", "!resource:file://docs/secret*"]},
    "auditor": {"permissions": ["audit:read"]},
}
DATA = bytes(range(256))


def reader(connection: HTTPConnection) -> Principal | None:
    """Whoever `?user=` names, with the role of readers, except for the one who may see who did what."""
    user = connection.query_params.get("user")
    if user is None:
        return None
    return Principal(tenant="host", subject=user, roles=("auditor",) if user == "auditor" else ("reader",))


@asynccontextmanager
async def serving(folder: Path, **sections: Any) -> AsyncGenerator[str]:
    docs = folder / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("the first")
    (docs / "b.bin").write_bytes(DATA)
    (docs / "secret.txt").write_text("not for readers")
    async with FakeMCP().http() as server:
        settings = Settings.of(
            store={"url": f"sqlite:///{folder / 'mcp.db'}"},
            resources={"docs": {"provider": "directory", "path": str(docs)}},
            mcp={"fake": {"url": server}},
            roles=ROLES,
            users={"host/bob": {"permissions": ["!prompt:fake__picture"]}},
            **sections,
        )
        async with hosted(Gateway(settings, authenticate=reader).app) as url:
            yield url


@asynccontextmanager
async def client_of(url: str, era: str, user: str = "ann") -> AsyncGenerator[Client]:
    async with Client(streamable_http_client(f"{url}/mcp?user={user}"), mode=era) as client:
        yield client


async def refused(asked: Any) -> tuple[int, str, Any]:
    with pytest.raises(MCPError) as error:
        await asked
    return error.value.code, error.value.message, error.value.data


async def records(url: str) -> list[dict[str, Any]]:
    async with httpx2.AsyncClient(base_url=url) as http:
        return (await http.get("/v1/audit", params={"user": "auditor", "subject": "ann"})).json()["records"]


async def audited(url: str) -> list[tuple[str, str, str]]:
    return [(row["uri"], row["outcome"], row["via"]) for row in await records(url) if row["kind"] == "read"]


@ERAS
async def test_resources_are_listed_read_and_recorded(tmp_path: Path, era: str) -> None:
    async with serving(tmp_path) as url, client_of(url, era) as client:
        listed = {resource.uri: resource for resource in (await client.list_resources()).resources}
        assert {"file://docs/a.txt", "file://docs/b.bin"} <= set(listed)
        assert "file://docs/secret.txt" not in listed
        assert any(uri.startswith("mcp://fake/") for uri in listed)
        assert listed["file://docs/a.txt"].size == 9
        (templates, *_) = (await client.list_resource_templates()).resource_templates
        assert templates.uri_template.startswith(("file://docs/", "mcp://fake/"))

        (text,) = (await client.read_resource("file://docs/a.txt")).contents
        assert text == TextResourceContents(uri="file://docs/a.txt", mime_type="text/plain", text="the first")
        (blob,) = (await client.read_resource("file://docs/b.bin")).contents
        assert isinstance(blob, BlobResourceContents)
        assert base64.b64decode(blob.blob) == DATA

        # What a principal may not read is not there.
        gone = INVALID_PARAMS if era != "legacy" else -32002
        for uri in ("file://docs/none.txt", "file://docs/secret.txt", "no uri"):
            assert await refused(client.read_resource(uri)) == (gone, "Resource not found", {"uri": uri})
        assert sorted(await audited(url)) == [
            ("file://docs/a.txt", "success", "mcp"),
            ("file://docs/b.bin", "success", "mcp"),
            ("file://docs/none.txt", "error", "mcp"),
            ("file://docs/secret.txt", "denied", "mcp"),
            ("no uri", "denied", "mcp"),
        ]


@ERAS
async def test_many_resources_come_in_pages(tmp_path: Path, era: str) -> None:
    async with serving(tmp_path) as url, client_of(url, era) as client:
        for number in range(150):
            (tmp_path / "docs" / f"n{number:03}.txt").write_text("")
        first = await client.list_resources()
        assert len(first.resources) == 100
        assert first.next_cursor is not None
        second = await client.list_resources(cursor=first.next_cursor)
        assert second.next_cursor is None
        uris = [resource.uri for resource in (*first.resources, *second.resources)]
        assert uris == sorted(set(uris))
        assert len([uri for uri in uris if uri.startswith("file://docs/n")]) == 150


@ERAS
async def test_prompts_are_listed_and_said(tmp_path: Path, era: str) -> None:
    async with serving(tmp_path) as url, client_of(url, era) as client:
        greet, picture = (await client.list_prompts()).prompts
        assert (greet.name, picture.name) == ("fake__greet", "fake__picture")
        assert [(one.name, one.required) for one in greet.arguments or []] == [("name", True)]
        (said,) = (await client.get_prompt("fake__greet", {"name": "Bo"})).messages
        assert (said.role, said.content) == ("user", TextContent(text="Greet Bo."))
        words, image = (await client.get_prompt("fake__picture")).messages
        assert isinstance(words.content, TextContent)
        assert isinstance(image.content, ImageContent)
        assert image.content.mime_type == "image/png"


@ERAS
async def test_a_prompt_that_is_refused_is_so_in_mcp_s_words(tmp_path: Path, era: str) -> None:
    async with serving(tmp_path) as url, client_of(url, era, "bob") as client:
        assert [prompt.name for prompt in (await client.list_prompts()).prompts] == ["fake__greet"]
        for name in ("fake__nothing", "fake__picture"):
            words = f"there is no prompt {name!r} for you"
            assert await refused(client.get_prompt(name)) == (INVALID_PARAMS, words, None)
        words = "the prompt needs the argument 'name'"
        assert await refused(client.get_prompt("fake__greet")) == (INVALID_PARAMS, words, None)


async def test_readings_and_prompts_count_as_messages(tmp_path: Path) -> None:
    limits = {"messages_per_minute": 1}
    async with serving(tmp_path, limits=limits) as url, client_of(url, "2026-07-28") as client:
        await client.read_resource("file://docs/a.txt")
        for ask in (client.read_resource, client.get_prompt):
            assert await refused(ask("file://docs/a.txt")) == (INTERNAL_ERROR, "too many messages a minute", None)


async def test_calls_are_recorded_as_those_of_mcp(tmp_path: Path) -> None:
    async with serving(tmp_path) as url, client_of(url, "2026-07-28") as client:
        await client.call_tool("clock", {})
        with pytest.raises(MCPError):
            await client.call_tool("nothing", {})
        found = {(row["kind"], row["tool"], row["outcome"], row["via"]) for row in await records(url)}
        assert found == {
            ("decision", "clock", "run", "mcp"),
            ("call", "clock", "success", "mcp"),
            ("decision", "nothing", "refused", "mcp"),
        }
