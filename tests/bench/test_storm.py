"""A client that is cut and comes back, and a small storm."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec

from bench.client import Target
from bench.storm import Device, StormParameters, run_storm
from gateway.transport.port import Frames
from tests.gateway.transport.serving import App, serving, until

POINTS = {"p50", "p90", "p99", "p99.9", "max"}


async def _hello(app: App) -> dict[str, Any]:
    return json.loads((await app.next())["text"])


def _say(app: App, *frames: dict[str, object]) -> None:
    app.outlet.write(Frames([msgspec.json.encode(frame) for frame in frames]))


def _ready(instance: str) -> dict[str, object]:
    return {"type": "ready", "session_id": "s", "resumed": instance == "two", "instance": instance}


def _subscribed(seq: int) -> dict[str, object]:
    return {"type": "subscribed", "context_id": "c", "epoch": "1", "seq": seq}


async def test_a_client_that_comes_back_with_its_cursor() -> None:
    one, two = App(), App()
    async with asyncio.timeout(20), serving(one) as first, serving(two) as second, asyncio.TaskGroup() as group:
        device = Device(0, "c", 0, lambda: 5)
        opening = group.create_task(device.open(Target(url=f"ws://127.0.0.1:{first}/")))
        hello = await _hello(one)
        assert (hello["attempt"], hello["cursors"]) == (1, {"c": None})
        reached = device.follower.reaches(3, 0.0)
        _say(one, _ready("one"), _subscribed(3), {"type": "snapshot", "epoch": "1", "seq": 3})
        await opening
        await reached

        device.cut()
        coming = group.create_task(device.come_back(Target(url=f"ws://127.0.0.1:{second}/"), 0))
        hello = await _hello(two)
        assert (hello["session_id"], hello["attempt"], hello["cursors"]) == ("s", 2, {"c": "1:3"})
        _say(two, _ready("two"), {"type": "error", "code": "unavailable", "message": "", "path": "cursors.c"})
        again = await _hello(two)
        assert (again["type"], again["cursor"]) == ("subscribe", "1:3")
        _say(two, _subscribed(3), {"type": "delta", "message_id": "a", "text": "x", "seq": 4})
        await until(lambda: device.follower.seq == 4)
        assert not coming.done(), "event 5 is missing"
        _say(two, {"type": "delta", "message_id": "a", "text": "y", "seq": 5})
        await coming
        assert (device.resumed, device.moved, device.by_snapshot) == (True, True, False)
        assert (device.tries, device.refused, device.missed) == (2, 1, 2)
        assert device.caught_up >= device.ready > 0
        assert device.follower.faults == []
        device.cut()


async def test_a_client_whose_server_hangs_up() -> None:
    app = App()
    async with asyncio.timeout(20), serving(app) as port, asyncio.TaskGroup() as group:
        device = Device(7, "c", 0)
        opening = group.create_task(device.open(Target(url=f"ws://127.0.0.1:{port}/")))
        await _hello(app)
        _say(app, _ready("one"))
        await opening
        app.outlet.close(4408, "")
        await device.session.client.closed
        await asyncio.sleep(0)
        assert device.follower.faults == ["session 7: it was closed with 4408"]


async def test_a_storm_of_forty_sessions() -> None:
    shown: list[int] = []
    parameters = StormParameters(sessions=40, contexts=6, running=3, rate=20, seconds=3, lead=0.5)
    report: dict[str, Any] = msgspec.to_builtins(await run_storm(parameters, [], shown.append))
    results = report["results"]
    assert results["faults"] == []
    assert results["back"] == results["sessions_resumed"] == results["on_another_instance"] == 40
    assert results["by_cursor"] + results["by_snapshot"] == 40
    assert results["tries"] == 40 + sum(results["tries_failed"].values())
    assert results["ready_ms"].keys() == results["caught_up_ms"].keys() == POINTS
    assert results["server_cpu_per_second"].keys() == {"instance 1", "instance 2", "postgres", "redis"}
    assert shown[-1] == 40
    assert report["parameters"]["wait"] == 0
