"""Limits of tools that hold over all instances (docs/tools.md)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.servers.valkey import ValkeyServer
from tests.e2e.cluster import Cluster, running_cluster
from tests.e2e.held_tools import runs_of
from tests.e2e.wire import Frame, Wire

CONFIG = """
[models.demo]
provider = "demo"
[tools]
modules = ["tests.e2e.held_tools"]
[tools.limits.hold]
concurrent = 2
[tools.limits."hold_*"]
per_minute = 3
wait_seconds = 0
"""


@pytest.fixture
async def cluster(tmp_path: Path, valkey: ValkeyServer) -> AsyncGenerator[Cluster]:
    env = {"HELD_TOOLS": str(tmp_path)}
    async with running_cluster(tmp_path, redis=valkey.url, config=CONFIG, env=env) as cluster:
        yield cluster


async def _call(wire: Wire, id: str, tool: str) -> None:
    """In a context of its own; the tool ends by the call's id."""
    ack = await wire.ask("tool_call", id=id, tool=tool, parameters={"mark": id}, context_id=id)
    assert ack["type"] == "ack", ack


async def _answer(wire: Wire, call_id: str) -> Frame:
    return await wire.wait(lambda frame: frame["type"] == "tool_response" and frame["tool_call_id"] == call_id)


async def test_limits_hold_over_instances(cluster: Cluster) -> None:
    folder, key = Path(cluster.env["HELD_TOOLS"]), cluster.key()
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(Wire(member.ws, key)) for member in cluster.members]
        for wire in wires:
            await wire.hello()
        await _check_number(wires, folder)
        await _check_rate(wires, folder)


async def _check_number(wires: list[Wire], folder: Path) -> None:
    calls = {f"held{number}": wires[number % 2] for number in range(4)}
    for call_id, wire in calls.items():
        await _call(wire, call_id, "hold")

    def running() -> list[str]:
        return [call_id for call_id in calls if runs_of(folder, call_id)]

    # Whoever waits its turn says so.
    told = {frame["tool_call_id"] for frame in await _all_that_wait(calls, 2)}
    async with asyncio.timeout(20):
        while len(running()) < 2:
            await asyncio.sleep(0.02)
    assert set(running()) == calls.keys() - told
    while waiting := calls.keys() - running():
        first = next(call_id for call_id in running() if not (folder / call_id).exists())
        (folder / first).touch()
        assert (await _answer(calls[first], first))["status"] == "success"
        async with asyncio.timeout(20):
            while len(calls.keys() - running()) == len(waiting):
                await asyncio.sleep(0.02)
        assert sum(not (folder / call_id).exists() for call_id in running()) == 2
    for call_id, wire in calls.items():
        (folder / call_id).touch()
        assert (await _answer(wire, call_id))["status"] == "success"


async def _all_that_wait(calls: dict[str, Wire], count: int) -> list[Frame]:
    """What is told first of each call that waits."""
    told = asyncio.as_completed(
        [
            wire.wait(lambda frame, call=call_id: frame["type"] == "tool_progress" and frame["tool_call_id"] == call)
            for call_id, wire in calls.items()
        ]
    )
    return [await next(told) for _ in range(count)]


async def _check_rate(wires: list[Wire], folder: Path) -> None:
    calls = {f"rated{number}": wires[number % 2] for number in range(6)}
    for call_id, wire in calls.items():
        (folder / call_id).touch()
        await _call(wire, call_id, "hold_again")
    answers = [await _answer(wire, call_id) for call_id, wire in calls.items()]
    refused = [answer for answer in answers if answer["status"] == "error"]
    assert len(refused) == 3
    assert {answer["error"]["code"] for answer in refused} == {"rate_limited"}
    assert "3 times a minute" in refused[0]["result"]
