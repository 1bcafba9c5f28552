"""Resources over a real gateway: listed, read, denied, put before a model, and read by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.testing.openai_script import Reply
from gateway.testing.openai_server import FakeOpenAI
from tests.e2e.gateways import GatewayProcess
from tests.e2e.wire import Frame, Wire
from tests.gateway.resources.web import Page, serving

CONFIG = """
[models.demo]
provider = "demo"
delay = 1
[models.fake]
provider = "openai"
model = "m"
base_url = "{base_url}"
attempts = 1
[roles.reader]
permissions = ["context:*", "tool:*", "resource:file://docs/**", "!resource:file://docs/secret/*"]
[roles.bare]
permissions = ["context:*", "resource:*"]
[resources.docs]
provider = "directory"
path = "{docs}"
[resources.web]
provider = "http"
allow = ["{web}"]
allow_private = true
"""
GUIDE = "file://docs/guide.md"
SECRET = "file://docs/secret/plan.md"


def docs(folder: Path) -> Path:
    made = folder / "docs"
    (made / "secret").mkdir(parents=True)
    (made / "guide.md").write_text("The tide comes at noon.")
    (made / "secret" / "plan.md").write_text("the plan")
    return made


def calls(events: list[Frame]) -> list[tuple[str, str]]:
    """The URIs that were read, and how each reading ended."""
    ends = {event["tool_call_id"]: event["status"] for event in events if event["type"] == "tool_response"}
    return [
        (event["parameters"]["uri"], ends[event["id"]])
        for event in events
        if event["type"] == "tool_call" and event["tool"] == "read_resource"
    ]


async def test_what_is_listed_read_and_put_before_a_model(tmp_path: Path) -> None:
    async with FakeOpenAI(default=lambda _: Reply.text("At noon.")) as model, serving() as web:
        web.pages["/page"] = Page(body=b"a page", headers={"Content-Type": "text/plain", "Cache-Control": "max-age=60"})
        config = CONFIG.format(base_url=model.base_url, docs=docs(tmp_path), web=web.url("/"))
        async with GatewayProcess(tmp_path, config=config) as gateway:
            await over_http(gateway, web.url("/page"))
            assert len(web.requests) == 1
            key = gateway.key("ann", "--role", "reader")
            async with Wire(gateway.ws, key) as wire:
                await wire.hello()
                parts: Any = [{"type": "text", "text": "When?"}, {"type": "resource", "uri": GUIDE}]
                events = await wire.turn(parts, "chat", model="fake", resources=["FILE://docs/./guide.md"])
                assert calls(events) == [("FILE://docs/./guide.md", "success"), (GUIDE, "success")]
                asked = json.dumps(model.requests[-1].body["messages"])
                assert asked.count("The tide comes at noon.") == 2
                assert asked.index("The tide comes at noon.") < asked.index("When?")
                await refused(wire)
                read = await wire.turn(f'call read_resource {{"uri": "{GUIDE}"}}', "chat", model="demo")
                assert calls(read) == [(GUIDE, "success")]
                listed = await wire.turn("call list_resources {}", "chat", model="demo")
                (response,) = [event for event in listed if event["type"] == "tool_response"]
                assert [info["uri"] for info in response["result"]["resources"]] == [GUIDE]
                denied = await wire.turn(f'call read_resource {{"uri": "{SECRET}"}}', "chat", model="demo")
                assert calls(denied) == [(SECRET, "error")]
            async with Wire(gateway.ws, gateway.key("eve", "--role", "bare")) as wire:
                # Whoever may not call the tool that reads finds nothing to be read.
                await wire.hello()
                error = await wire.ask("message", content="a", context_id="chat", resources=[GUIDE])
                assert (error["code"], error["path"]) == ("not_found", "resources[0]")


async def over_http(gateway: GatewayProcess, page: str) -> None:
    ann, bob = gateway.key("ann"), gateway.key("bob", "--role", "reader")
    async with httpx.AsyncClient(base_url=gateway.url) as client:

        async def get(path: str, key: str, **params: str) -> httpx.Response:
            return await client.get(path, params=params, headers={"X-API-Key": key})

        every = (await get("/v1/resources", ann)).json()["resources"]
        assert [info["uri"] for info in every] == [GUIDE, SECRET]
        some = (await get("/v1/resources", bob)).json()
        assert [info["uri"] for info in some["resources"]] == [GUIDE]
        assert [template["uri_template"] for template in some["templates"]] == ["file://docs/{+path}"]
        read = await get("/v1/resources/read", bob, uri=GUIDE)
        assert (read.text, read.headers["content-type"]) == ("The tide comes at noon.", "text/markdown; charset=utf-8")
        for uri in (SECRET, "file://docs/%73ecret/plan.md", "file://docs//secret/plan.md", "file://docs/absent", page):
            assert (await get("/v1/resources/read", bob, uri=uri)).status_code == 404
        for _ in range(3):
            assert (await get("/v1/resources/read", ann, uri=page)).text == "a page"


async def refused(wire: Wire) -> None:
    """What may not be read, or is nobody's, is not there to be put into a message."""
    for extra, path in (
        ({"resources": [GUIDE, SECRET]}, "resources[1]"),
        ({"resources": ["file://docs/%73ecret/plan.md"]}, "resources[0]"),
        ({"resources": ["file:///etc/passwd"]}, "resources[0]"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "resource", "uri": SECRET}]}, "content[1].uri"),
    ):
        error = await wire.ask("message", **{"content": "a", "context_id": "chat", **extra})
        assert (error["type"], error["code"], error["path"]) == ("error", "not_found", path)
    error = await wire.ask("message", content="a", context_id="chat", resources=[GUIDE] * 33)
    assert (error["code"], error["path"]) == ("invalid_frame", "resources[32]")


async def test_without_providers_there_is_no_such_resource_and_no_tool(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path) as gateway, Wire(gateway.ws, key := gateway.key()) as wire:
        await wire.hello()
        error = await wire.ask("message", content="a", context_id="chat", resources=[GUIDE])
        assert (error["code"], error["path"]) == ("not_found", "resources[0]")
        async with httpx.AsyncClient(base_url=gateway.url, headers={"X-API-Key": key}) as client:
            assert (await client.get("/v1/resources")).json() == {"resources": [], "templates": [], "next": None}
            tools = (await client.get("/v1/tools")).json()["tools"]
            assert not [tool for tool in tools if "resource" in tool["name"]]


@pytest.mark.parametrize("line", ['path = "absent"', 'paht = "."'])
async def test_settings_that_can_not_be_used_stop_the_start(tmp_path: Path, line: str) -> None:
    gateway = GatewayProcess(tmp_path, config=f'[resources.docs]\nprovider = "directory"\n{line}\n')
    with pytest.raises(RuntimeError, match=r"resources\.docs\.pa"):
        await gateway.start()
