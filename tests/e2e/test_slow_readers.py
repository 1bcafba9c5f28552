"""Readers that read nothing while a long answer streams: they cost little, and delay nobody."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import psutil
import pytest

from tests.e2e.conftest import Launch
from tests.e2e.gateways import GatewayProcess
from tests.e2e.wire import Wire, check_contiguous, spoken

READERS = 50
WORDS = 80_000
CONFIG = """
[models.demo]
provider = "demo"
delay = 0.05
[limits]
heartbeat = 60
"""


def _private_bytes(gateway: GatewayProcess) -> int:
    return sum(psutil.Process(process.pid).memory_full_info().uss for process in gateway.processes)


@pytest.mark.promise("5")
async def test_fifty_readers_that_read_nothing(launch: Launch) -> None:
    async with launch(CONFIG) as gateway, AsyncExitStack() as stack:
        key = gateway.key()
        fast = await stack.enter_async_context(Wire(gateway.ws, key))
        await fast.hello()
        await fast.turn("hello", "chat")
        slow = [await stack.enter_async_context(Wire(gateway.ws, key)) for _ in range(READERS)]
        for wire in slow:
            await wire.hello(cursors={"chat": None})
            await wire.wait(lambda frame: frame["type"] == "snapshot")
            wire.pause_reading()
        before = _private_bytes(gateway)
        await fast.ask("message", id="m", content=f"long {WORDS}", context_id="chat")
        await fast.wait(lambda frame: frame["type"] == "turn_end" and frame["turn_id"] == "m", seconds=120)
        grown = _private_bytes(gateway) - before
        events = fast.events("chat")
        answer = next(e for e in events if e["type"] == "message" and e["turn_id"] == "m" and e["role"] == "assistant")
        check_contiguous(events)
        assert answer["content"] == spoken(events, answer["id"])
        assert len(answer["content"].split()) == WORDS
        assert grown < READERS * 1_000_000, f"{grown:,} bytes for {READERS} readers"
        for wire in slow:
            wire.resume_reading()
        await asyncio.gather(*(_reads_all(wire, answer["content"]) for wire in slow))


async def _reads_all(wire: Wire, content: str) -> None:
    """What it ends with is the whole text, by merged frames or by a snapshot."""
    last = await wire.wait(
        lambda frame: (
            (frame["type"] == "turn_end" and frame["turn_id"] == "m")
            or (frame["type"] == "snapshot" and any(e.get("turn_id") == "m" for e in frame["events"][-1:]))
        ),
        seconds=60,
    )
    assert last
    texts = [frame["content"] for frame in wire.frames if frame["type"] == "message" and frame["role"] == "assistant"]
    for frame in wire.frames:
        if frame["type"] == "snapshot":
            texts += [event["content"] for event in frame["events"] if event["type"] == "message"]
    assert content in texts
