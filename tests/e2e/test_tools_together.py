"""One turn that uses every kind of tool, watched by a second device, through the death of who runs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway import tool
from gateway.client import connect
from gateway.servers.valkey import ValkeyServer
from tests.e2e.cluster import Cluster, running_cluster
from tests.e2e.wire import Frame, Wire, check_contiguous
from tests.gateway.mcp.real_servers import everything_http, npm_server

LONG = "everything__trigger-long-running-operation"
ECHO = "remote__echo"
MESSAGE = f"""call countdown {{"count": 8}}
call {LONG} {{"duration": 2, "steps": 10}}
call {ECHO} {{"message": "from far away"}}
call whereabouts {{"of": "phone"}}
call clock {{"timezone": "UTC"}}"""


def config(remote: str) -> str:
    stdio = npm_server("everything")
    arguments = ", ".join(f'"{argument}"' for argument in stdio.args)
    return f"""
[models.demo]
provider = "demo"
delay = 1
[tools]
approval = {{ clock = "always" }}
[mcp.everything]
command = "{stdio.command}"
args = [{arguments}]
[mcp.remote]
url = "{remote}"
[server]
drain_seconds = 0.1
"""


@asynccontextmanager
async def two(folder: Path, valkey: ValkeyServer) -> AsyncGenerator[Cluster]:
    """Two instances with a server of their own machine and one that is far away."""
    async with (
        everything_http() as remote,
        running_cluster(folder, redis=valkey.url, config=config(remote)) as cluster,
    ):
        yield cluster


class Phone:
    """A device with a tool that takes as long as it is told to."""

    def __init__(self) -> None:
        self.runs = 0
        self.found = asyncio.Event()

    async def whereabouts(self, of: str) -> dict[str, str]:
        """Where something is."""
        self.runs += 1
        await self.found.wait()
        return {of: "on the pier"}


def call_of(name: str, frames: list[Frame]) -> str:
    (call,) = {frame["id"] for frame in frames if frame["type"] == "tool_call" and frame["tool"] == name}
    return call


def answers(frames: list[Frame]) -> dict[str, Frame]:
    tools = {frame["id"]: frame["tool"] for frame in frames if frame["type"] == "tool_call"}
    return {tools[frame["tool_call_id"]]: frame for frame in frames if frame["type"] == "tool_response"}


async def until_called(watcher: Wire, name: str) -> str:
    call = await watcher.wait(lambda frame: frame["type"] == "tool_call" and frame["tool"] == name)
    return call["id"]


async def progress_of(watcher: Wire, call_id: str) -> Frame:
    return await watcher.wait(lambda frame: frame["type"] == "tool_progress" and frame["tool_call_id"] == call_id)


@pytest.mark.parametrize("kill", [False, True], ids=["whole", "killed"])
async def test_all_kinds_of_tools_in_one_turn(tmp_path: Path, valkey: ValkeyServer, kill: bool) -> None:
    phone = Phone()
    async with two(tmp_path, valkey) as cluster, asyncio.timeout(90):
        key = cluster.key()
        runs_it, watches_it = cluster.members
        async with (
            Wire(watches_it.ws, key) as watcher,
            connect(runs_it.url, token=key, tools=[tool(phone.whereabouts)]) as client,
        ):
            await watcher.hello()
            # The context is there, so that the second device is there from the first event on.
            await client.send("hello", "chat", respond=False)
            await watcher.ask("subscribe", context_id="chat")
            sent = await client.send(MESSAGE, "chat")
            calls = {name: await until_called(watcher, name) for name in ("countdown", LONG, ECHO, "clock")}
            assert (await progress_of(watcher, calls["countdown"]))["total"] == 8
            assert (await progress_of(watcher, calls[LONG]))["total"] == 10
            await watcher.wait(lambda f: f["type"] == "tool_response" and f["tool_call_id"] == calls[ECHO])
            if kill:
                runs_it.kill()
            phone.found.set()
            approved = await watcher.ask("tool_approval", context_id="chat", tool_call_id=calls["clock"], approved=True)
            assert approved["type"] == "ack"
            if kill:
                await runs_it.start(**cluster.env)
            end = await watcher.wait(lambda f: f["type"] == "turn_end" and f["turn_id"] == sent.id, 60)
            assert (end["status"], end["steps"]) == ("complete", 2)
            frames = watcher.events("chat")
            check_contiguous(frames)
            found = answers(frames)
            assert found[ECHO]["result"] == "Echo: from far away"
            assert found["countdown"]["result"] == {"counted": 8}
            assert found["whereabouts"]["result"] == {"phone": "on the pier"}
            assert found["clock"]["result"]["timezone"] == "UTC"
            # Of a tool that nobody says may be repeated, nobody knows how far it came.
            assert found[LONG]["status"] == ("interrupted" if kill else "success")
            assert len(found) == len([frame for frame in frames if frame["type"] == "tool_response"]) == 5
            assert phone.runs == 1
            said = await watcher.wait(lambda f: f["type"] == "message" and "on the pier" in str(f["content"]))
            assert "from far away" in said["content"]
