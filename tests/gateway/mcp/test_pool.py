"""Which connection a principal gets, how many there are, and when they end."""

from __future__ import annotations

import asyncio
import json
import threading
import time

from gateway.auth.principal import Principal
from gateway.mcp.host import McpHost
from gateway.mcp.settings import McpServerSettings
from tests.gateway.mcp.mcp_world import ANN, BOB, World, alive, eventually, plain, running

EVE = Principal(tenant="t", subject="eve")


async def pid(world: World, principal: Principal = ANN) -> int:
    return json.loads(await world.result("pid", principal))["pid"]


async def test_those_who_come_at_once_share_one_attempt() -> None:
    async with running(plain()) as world:
        found = await asyncio.gather(*(pid(world) for _ in range(20)))
        assert len(set(found)) == 1
        assert world.status().connections == 1


async def test_the_connection_that_was_used_last_stays() -> None:
    async with running(plain(max_connections=2)) as world:
        ann, bob = await pid(world), await pid(world, BOB)
        assert await pid(world) == ann
        await pid(world, EVE)
        await eventually(lambda: world.status().connections == 2)
        assert await pid(world) == ann
        assert await pid(world, BOB) != bob


async def test_what_is_in_use_is_not_closed_for_others() -> None:
    async with running(plain(max_connections=1)) as world:
        call = asyncio.create_task(world.run("hang"))
        await eventually(lambda: world.status().calls == 1)
        outcome = await world.host.find(BOB, "fake__echo")
        assert outcome is None, "nothing is known of what there is for them"
        assert await world.names(BOB) == []
        call.cancel()
        await asyncio.wait((call,))
        assert await world.result("echo", BOB, text="x") == "x"
        assert "all 1 connections" not in await world.result("echo", text="x")


async def test_a_call_says_that_all_are_in_use() -> None:
    async with running(plain(max_connections=1)) as world:
        await pid(world)
        call = asyncio.create_task(world.run("hang", BOB))
        await eventually(lambda: world.status().calls == 1)
        words = "all 1 connections to the MCP server 'fake' are in use"
        assert await world.result("echo", text="x") == words
        call.cancel()
        await asyncio.wait((call,))


async def test_what_nobody_uses_is_closed_and_stays_listed() -> None:
    async with running(plain(idle_seconds=0.2), sweep_seconds=0.02) as world:
        before = await pid(world)
        call = asyncio.create_task(world.run("hang"))
        await asyncio.wait((call,), timeout=0.5)
        assert world.status().ready == 1, "it is in use"
        call.cancel()
        await asyncio.wait((call,))
        world.changes.clear()
        await eventually(lambda: world.status().connections == 0)
        assert world.changes == [("fake", ANN.owner, "resources", None)]
        assert "echo" in await world.names()
        assert world.status().connections == 0, "to list them connects to nobody"
        assert await pid(world) != before
        assert world.status().trouble is None


async def test_nothing_is_kept_of_a_principal_that_is_forgotten() -> None:
    async with running(plain()) as world:
        ann, bob = await pid(world), await pid(world, BOB)
        call = asyncio.create_task(world.run("hang"))
        await eventually(lambda: world.status().calls == 1)
        world.changes.clear()
        world.host.forget("fake", ANN.owner)
        assert ("fake", ANN.owner, "resources", None) in world.changes, "what readers keep is another account's"
        assert "credentials have changed" in (await call).result
        assert await pid(world) != ann
        assert await pid(world, BOB) == bob
        world.host.forget("fake", "t/nobody")
        world.host.forget("elsewhere", ANN.owner)
        world.host.forget_owner(BOB.owner)
        assert await pid(world, BOB) != bob


async def test_a_host_that_is_closed_connects_to_nobody() -> None:
    async with running(plain()) as world:
        await pid(world)
        call = asyncio.create_task(world.run("hang"))
        await eventually(lambda: world.status().calls == 1)
        world.host.close()
        assert (await call).result == "the MCP server 'fake' was closed, as the gateway is stopping"
        assert await world.result("echo", text="x") == (
            "the MCP server 'fake' is not called any more: the gateway is stopping"
        )
        assert await world.names(BOB) == []


async def test_a_host_that_does_not_run_lists_nothing() -> None:
    host = McpHost({"fake": plain()})
    assert await host.tools(ANN) == []
    task = asyncio.create_task(host.run())
    await asyncio.sleep(0)
    assert await host.tools(ANN) != [], "nothing of the attempt before is left"
    task.cancel()
    await asyncio.wait((task,))


async def test_a_host_that_is_cancelled_twice_leaves_no_process() -> None:
    host = McpHost({"fake": plain("--deaf")})
    task = asyncio.create_task(host.run())
    await asyncio.sleep(0)
    world = World(host)
    number = await pid(world)
    task.cancel()
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait((task,))
    await eventually(lambda: not alive(number), 2)
    # The loop is told of its end by a thread, which must not outlive it.
    await eventually(lambda: not any(thread.name.startswith("waitpid") for thread in threading.enumerate()))


async def test_what_a_slow_server_shows_is_not_waited_for_by_each() -> None:
    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(hear, "127.0.0.1", 0)
    async with silent:
        url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/mcp"
        async with running(McpServerSettings(url=url, connect_seconds=0.3, start_seconds=5)) as world:
            began = time.monotonic()
            assert await world.names() == []
            middle = time.monotonic()
            assert await world.names(BOB) == await world.names(EVE) == []
            assert middle - began > 0.25 > time.monotonic() - middle
            assert world.status().connections == 1
