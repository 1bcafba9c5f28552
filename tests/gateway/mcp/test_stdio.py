"""Servers that are processes: what they do wrong, and how they end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.mcp.settings import McpServerSettings
from tests.gateway.mcp.mcp_world import ANN, BOB, World, alive, eventually, fake, journal, plain, running


async def process(world: World, *names: str) -> dict[str, Any]:
    return json.loads(await world.result("pid", names=list(names)))


async def test_a_server_that_exits_in_the_middle_is_an_error_and_started_again() -> None:
    async with running(plain()) as world:
        other = asyncio.create_task(world.run("hang"))
        await eventually(lambda: world.status().calls == 1)
        assert await world.result("exit", code=3) == "the MCP server 'fake' ended with exit code 3"
        assert (await other).result == "the MCP server 'fake' ended with exit code 3"
        assert await world.result("echo", text="x") == "the MCP server 'fake' ended with exit code 3", "it backs off"
        assert "echo" in await world.names(), "what it had stays listed"
        async with asyncio.timeout(10):
            while await world.result("echo", text="again") != "again":
                await asyncio.sleep(0.05)
        assert world.status().trouble is None


async def test_a_server_that_is_killed_is_noticed_at_once_and_started_without_a_call() -> None:
    async with running(plain()) as world:
        pid = (await process(world))["pid"]
        call = asyncio.create_task(world.run("hang"))
        await eventually(lambda: world.status().calls == 1)
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        assert (await call).result == "the MCP server 'fake' was ended by SIGKILL"
        assert time.monotonic() - killed < 2
        async with asyncio.timeout(10):
            while world.status().ready == 0:
                assert "echo" in await world.names()
                await asyncio.sleep(0.02)


async def test_a_message_that_is_too_large_ends_the_connection_and_blocks_nobody() -> None:
    async with running(plain()) as world:
        await process(world)
        longest = 0.0
        over = asyncio.Event()

        async def watch() -> None:
            nonlocal longest
            while not over.is_set():
                before = time.monotonic()
                await asyncio.sleep(0.001)
                longest = max(longest, time.monotonic() - before)

        watching = asyncio.create_task(watch())
        words = "the MCP server 'fake' sent a message of more than 8,388,608 bytes"
        assert await world.result("big", bytes=50_000_000) == words
        over.set()
        await watching
        assert longest < 0.5


async def test_a_message_that_is_just_small_enough() -> None:
    async with running(plain(max_message_bytes=65_536)) as world:
        assert len(await world.result("big", bytes=65_400)) == 65_400
        assert (await world.run("big", bytes=65_536)).status == "error"


async def test_lines_that_are_no_messages_are_passed_over() -> None:
    async with running(plain()) as world:
        for line in ("hello", '{"jsonrpc":"2.0"}', "[]", "\x00", '{"jsonrpc":"2.0","id":99,"result":{}}'):
            assert await world.result("raw", line=line) == "written"
        assert await world.result("echo", text="x") == "x"


async def test_a_flood_of_what_nobody_asked_for_holds_nobody_up() -> None:
    async with running(plain()) as world:
        assert await world.result("raw", line="x\n" * 3_000) == "written"
        ping = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"})
        flood = "\n".join([ping] * 20_000)
        assert (
            await world.result("raw", line=flood) == "the MCP server 'fake' does not read the answers to what it asks"
        )
        assert len(asyncio.all_tasks()) < 2_000


async def test_a_cancelled_call_is_cancelled_at_the_server() -> None:
    async with running(plain()) as world:
        await process(world)
        call = asyncio.create_task(world.run("hang"))
        await eventually(lambda: world.status().calls == 1)
        # The request is written before the next one is.
        assert await world.result("cancelled") == "0"
        call.cancel()
        await asyncio.wait((call,))
        assert await world.result("cancelled") == "1"


async def test_a_server_that_closes_its_output_is_gone() -> None:
    async with running(plain()) as world:
        pid = (await process(world))["pid"]
        assert await world.result("close") == "the MCP server 'fake' closed its output"
        await eventually(lambda: not alive(pid))


async def test_a_server_that_never_gets_ready_is_given_up_and_not_waited_for_twice() -> None:
    async with running(plain("--silent", connect_seconds=0.2, start_seconds=1.0)) as world:
        began = time.monotonic()
        assert await world.names() == []
        assert 0.15 < time.monotonic() - began < 0.9
        again = time.monotonic()
        assert await world.names() == []
        assert (await world.host.find(ANN, "fake__echo")) is None
        assert time.monotonic() - again < 0.15, "the same attempt is not waited for anew"
        await eventually(lambda: world.status().trouble == "the MCP server 'fake' did not start within 1 s")
        await eventually(lambda: world.status().connections == 0)


async def test_a_command_that_is_not_there() -> None:
    async with running(McpServerSettings(command="no-such-command-at-all")) as world:
        assert await world.names() == []
        assert world.status().trouble == "the MCP server 'fake' can't be started: No such file or directory"
    async with running(plain(cwd="/no/such/folder")) as world:
        assert await world.names() == []
        assert world.status().trouble == "the MCP server 'fake' can't be started: No such file or directory"


@pytest.mark.parametrize("by", ["itself", "the host"])
async def test_what_it_has_started_ends_with_it(by: str) -> None:
    async with running(plain()) as world:
        # It holds the server's output open, so that nothing tells of the end but the exit itself.
        child = int(await world.result("child"))
        assert alive(child)
        if by == "itself":
            assert await world.result("exit", code=0) == "the MCP server 'fake' ended with exit code 0"
            await eventually(lambda: not alive(child))
    await eventually(lambda: not alive(child))


async def test_a_server_that_ignores_its_end_is_killed() -> None:
    async with running(plain("--deaf")) as world:
        pid = (await process(world))["pid"]
        began = time.monotonic()
    assert not alive(pid)
    assert time.monotonic() - began < 5


async def test_it_gets_little_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_SECRET_KEY", "secret")
    async with running(plain(env={"MINE": "1"}, cwd="/")) as world:
        told = await process(world, "MINE", "TIDEGATE_SECRET_KEY", "PATH")
        assert told["environment"] == {"MINE": "1", "TIDEGATE_SECRET_KEY": None, "PATH": os.environ["PATH"]}
        assert told["directory"] == "/"


async def test_standard_error_is_bounded_and_without_secrets() -> None:
    with capture_logs() as logs:
        async with running(plain("--noise", "300", env={"TOKEN": "a-secret-token"})) as world:
            assert await world.result("stderr", bytes=3_000_000) == "written"
            assert "exit code 2" in await world.result("exit", code=2)
            await eventually(lambda: world.status().errors)
            assert world.status().errors[0].startswith("with … ")
            assert "a-secret-token" not in str(world.status())
    said = [line["line"] for line in logs if line["event"] == "mcp_server_said"]
    assert len(said) == 100
    assert max(map(len, said)) <= 500
    assert "a-secret-token" not in str(logs)
    assert "\x1b" not in str(said)


async def test_each_principal_has_a_process_of_their_own(tmp_path: Path) -> None:
    noted = tmp_path / "journal"
    async with running(fake("--journal", str(noted), "--faults", "endless")) as world:
        ann, again, bob = await asyncio.gather(
            world.result("whoami"), world.result("whoami"), world.result("whoami", BOB)
        )
        assert ann["pid"] == again["pid"] != bob["pid"]
        assert len(journal(noted, "start")) == 2
        assert len(await world.names()) < 100, "its pages have no end"
        world.changes.clear()
        await world.result("grow", name="mine")
        await eventually(lambda: world.changes == [("fake", ANN.owner, "tools", None)])
        assert "mine" in await world.names()
        assert "mine" not in await world.names(BOB)
        assert await world.host.find(BOB, "fake__mine") is None
        assert await world.result("flood", times=1000) == {"reported": 1000}
        assert 1 <= len(world.reports) < 100
        call = asyncio.create_task(world.run("hang"))
        await eventually(lambda: len(journal(noted, "call")) == 6)
        call.cancel()
        await asyncio.wait((call,))
        await eventually(lambda: journal(noted, "cancelled"))
