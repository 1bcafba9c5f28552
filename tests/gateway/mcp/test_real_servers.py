"""The servers that people use, as their authors ship them."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from gateway.mcp.settings import McpServerSettings
from gateway.tools.port import ToolError
from tests.gateway.mcp.mcp_world import ANN, BOB, World, running, running_all
from tests.gateway.mcp.real_servers import everything_http, npm_server, pypi_server


def text_of(result: Any) -> str:
    return result if isinstance(result, str) else " ".join(part.get("text", "") for part in result["content"])


def make_repository(folder: Path) -> None:
    git = shutil.which("git")
    assert git is not None
    subprocess.run([git, "init", "--quiet", str(folder)], check=True)


@pytest.fixture(params=["stdio", "http"])
async def everything(request: pytest.FixtureRequest) -> AsyncGenerator[World]:
    if request.param == "stdio":
        async with running(npm_server("everything"), name="everything") as world:
            yield world
    else:
        async with everything_http() as url, running(McpServerSettings(url=url), name="everything") as world:
            yield world


async def test_everything(everything: World) -> None:
    world = everything
    assert await world.result("everything__echo", message="hi") == "Echo: hi"
    assert "42" in text_of(await world.result("everything__get-sum", a=40, b=2))
    image = await world.result("everything__get-tiny-image")
    assert "image" in [part["type"] for part in image["content"]]
    structured = await world.result("everything__get-structured-content", location="Chicago")
    assert structured["conditions"]
    long = await world.result("everything__trigger-long-running-operation", duration=0.3, steps=3)
    assert "completed" in text_of(long).lower()
    assert [report[:2] for report in world.reports] == [(1, 3), (2, 3), (3, 3)]
    status = world.status()
    assert (status.version, status.shared, status.dropped) == ("2025-11-25", False, ())

    (offer,) = await world.host.offers(ANN)
    assert offer.listing.resources
    read = await world.host.read_resource(ANN, "everything", offer.listing.resources[0].uri)
    assert read.contents
    assert offer.listing.templates
    assert {"simple-prompt", "args-prompt"} <= {prompt.name for prompt in offer.listing.prompts}
    prompt = await world.host.get_prompt(ANN, "everything", "args-prompt", {"city": "Chicago"})
    assert "Chicago" in str(prompt.messages)
    with pytest.raises(ToolError, match="refused the call"):
        await world.host.get_prompt(ANN, "everything", "args-prompt", {})

    # A tool that the server adds once it knows that questions are answered, and its question.
    async with asyncio.timeout(10):
        while await world.host.find(ANN, "everything__trigger-elicitation-request") is None:
            await asyncio.sleep(0.02)
    outcome = await world.run("everything__trigger-elicitation-request")
    assert outcome.status == "success"
    assert [who for who, _ in world.asked] == ["ann"]

    # Another principal is another connection.
    await world.result("everything__echo", BOB, message="hi")
    assert world.status().connections == 2


async def test_the_others(tmp_path: Path) -> None:
    """One of each, all in one host, as in a gateway's settings."""
    (tmp_path / "a.txt").write_text("What is in it.")
    make_repository(tmp_path)
    memory = npm_server("memory")
    servers = {
        "files": npm_server("filesystem", str(tmp_path)),
        "memory": McpServerSettings(
            command=memory.command, args=memory.args, env={"MEMORY_FILE_PATH": str(tmp_path / "memory.json")}
        ),
        "time": pypi_server("time", "--local-timezone", "UTC"),
        "git": pypi_server("git", "--repository", str(tmp_path)),
    }
    async with running_all(servers) as world:
        names = {tool.name.partition("__")[0] for tool in await world.host.tools(ANN)}
        assert names == set(servers)
        assert [status.dropped for status in world.host.status()] == [(), (), (), ()]
        read, now, git, made = await asyncio.gather(
            world.result("files__read_text_file", path=str(tmp_path / "a.txt")),
            world.result("time__get_current_time", timezone="Europe/Berlin"),
            world.result("git__git_status", repo_path=str(tmp_path)),
            world.result(
                "memory__create_entities", entities=[{"name": "Ann", "entityType": "person", "observations": ["x"]}]
            ),
        )
        assert "What is in it." in str(read)
        assert "Europe/Berlin" in str(now)
        assert "a.txt" in str(git)
        assert "Ann" in str(made)
        outside = await world.run("files__read_text_file", path="/etc/passwd")
        assert outside.status == "error"
        assert "Access denied" in outside.result
