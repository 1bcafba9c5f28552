"""A disk that is full, a database that somebody else has locked: frames are refused, turns wait, nothing is lost.

These are faults of a file. Those of servers, under several instances, are test_cluster_faults'.
"""

from __future__ import annotations

import asyncio
import resource
import sqlite3
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

import httpx
import pytest

from tests.e2e.gateways import GatewayProcess
from tests.e2e.wire import Frame, Wire, check_contiguous, spoken

Fault = Callable[[GatewayProcess], AbstractContextManager[None]]


@contextmanager
def locked(gateway: GatewayProcess) -> Generator[None]:
    """Another process in the middle of a write."""
    other = sqlite3.connect(gateway.folder / "tidegate.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@contextmanager
def full(gateway: GatewayProcess) -> Generator[None]:
    """No file of the process can grow any more: a write fails as it does on a full disk."""
    assert gateway.process is not None
    pid = gateway.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


FAULTS = pytest.mark.parametrize("fault", [locked, full], ids=["locked", "full"])


async def _history(gateway: GatewayProcess, key: str) -> list[Frame]:
    async with httpx.AsyncClient(headers={"X-API-Key": key}) as client:
        return (await client.get(f"{gateway.url}/v1/contexts/chat/events?limit=200")).json()["events"]


@pytest.mark.promise("2")
@FAULTS
async def test_what_cannot_be_stored_is_refused_and_taken_when_it_comes_again(
    gateway: GatewayProcess, fault: Fault
) -> None:
    key = gateway.key()
    async with Wire(gateway.ws, key) as wire:
        await wire.hello()
        await wire.turn("first", "chat")
        with fault(gateway):
            refused = await wire.ask("message", id="m", content="second", context_id="chat")
        assert refused["code"] == "unavailable"
        assert refused["retryable"] is True
        assert "m" not in {event.get("id") for event in await _history(gateway, key)}
        taken = await wire.ask("message", id="m", content="second", context_id="chat")
        assert taken["type"] == "ack"
        assert "duplicate" not in taken
        await wire.wait(lambda frame: frame["type"] == "turn_end" and frame["turn_id"] == "m")
        check_contiguous(wire.events("chat"))


@pytest.mark.promise("3")
@FAULTS
async def test_a_turn_waits_for_its_store_and_goes_on(gateway: GatewayProcess, fault: Fault) -> None:
    key = gateway.key()
    async with Wire(gateway.ws, key) as wire:
        await wire.hello()
        await wire.ask("message", id="m", content="long 300", context_id="chat")
        await wire.wait(lambda frame: frame["type"] == "delta")
        with fault(gateway):
            # The text goes on: it is live, and is stored with the whole message.
            await wire.wait(lambda frame: frame["type"] == "delta" and "300" in frame["text"])
            await asyncio.sleep(0.3)
            assert not any(frame["type"] == "turn_end" for frame in wire.frames)
        end = await wire.wait(lambda frame: frame["type"] == "turn_end")
        events = wire.events("chat")
    check_contiguous(events)
    assert end["status"] == "complete"
    answer = next(event for event in events if event["type"] == "message" and event["role"] == "assistant")
    assert answer["content"] == spoken(events, answer["id"])
    durable = [e for e in events if e["type"] not in ("message_start", "delta", "tool_progress")]
    assert await _history(gateway, key) == durable


async def test_readiness_says_that_the_store_is_away_and_sockets_stay(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with Wire(gateway.ws, key) as wire:
        await wire.hello()
        with locked(gateway):
            assert (await wire.ask("ping"))["type"] == "pong"
        assert (await wire.ask("ping"))["type"] == "pong"
