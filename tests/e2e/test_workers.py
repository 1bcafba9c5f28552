"""`tidegate serve --workers N`: several processes behind one port, and a Redis of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import FAST
from tests.e2e.gateways import GatewayProcess
from tests.e2e.wire import Wire, check_contiguous, spoken

WORKERS = "[server]\nworkers = 2\ndrain_seconds = 1\n"


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    async with GatewayProcess(tmp_path, config=FAST.replace("delay = 2", "delay = 20") + WORKERS) as process:
        yield process


def _workers(gateway: GatewayProcess) -> list[psutil.Process]:
    assert gateway.process is not None
    children = psutil.Process(gateway.process.pid).children()
    return [child for child in children if "--worker" in child.cmdline()]


def _worker_of(gateway: GatewayProcess, wire: Wire) -> psutil.Process:
    for worker in _workers(gateway):
        if any(end.raddr and end.raddr.port == wire.port for end in worker.net_connections()):
            return worker
    raise AssertionError("no worker has this connection")


@pytest.mark.promise("4")
async def test_an_answer_goes_on_when_its_worker_is_killed(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with Wire(gateway.ws, key) as sender:
        await sender.hello()
        await sender.send({"type": "message", "id": "m1", "context_id": "c", "content": "long 100"})
        await sender.wait(lambda frame: frame["type"] == "delta")
        killed = _worker_of(gateway, sender)  # the turn runs where it came in
        killed.kill()
        killed.wait()
    async with Wire(gateway.ws, key) as follower:
        await follower.hello(cursors={"c": None})
        again = await follower.wait(lambda frame: frame["type"] == "message_start", seconds=30)
        await follower.wait(lambda frame: frame["type"] == "turn_end" and frame["status"] == "complete", seconds=30)
        said = await follower.wait(lambda frame: frame["type"] == "message" and frame["role"] == "assistant")
        assert again["attempt"] == 2
        assert spoken(follower.events("c"), said["id"]) == said["content"]
        check_contiguous(follower.events("c"))
    async with asyncio.timeout(20):
        while len(_workers(gateway)) < 2:
            await asyncio.sleep(0.05)
    assert killed.pid not in [worker.pid for worker in _workers(gateway)]


async def test_they_end_together(gateway: GatewayProcess) -> None:
    workers = _workers(gateway)
    assert len(workers) == 2
    gateway.terminate()
    assert await gateway.died() == 0
    assert not any(worker.is_running() for worker in workers)


async def test_a_supervisor_that_is_killed_leaves_nobody(gateway: GatewayProcess) -> None:
    assert gateway.process is not None
    family = psutil.Process(gateway.process.pid).children(recursive=True)
    assert len(family) >= 3  # the workers and their Redis
    gateway.kill()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []
