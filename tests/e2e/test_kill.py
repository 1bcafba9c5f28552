"""kill -9 between any two durable steps of a turn: the turn goes on, and nothing is lost, repeated or left hanging.

Kills in the middle of a step, of instances that share their stores, are test_cluster_takeover's.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import WebSocketException

from gateway.servers.valkey import ValkeyServer
from tests.e2e.audits import AUDITOR, audit_of, check_calls
from tests.e2e.cluster import Cluster
from tests.e2e.gateways import GatewayProcess
from tests.e2e.wire import Frame, Wire
from tests.servers.postgres import database

CONFIG = (
    """
[models.demo]
provider = "demo"
delay = 1
[server]
drain_seconds = 0.1
"""
    + AUDITOR
)
SCRIPT = [sys.executable, "-m", "tests.e2e.crashing_gateway"]
TURNS = {
    "a tool that must not run twice": 'call charge {"amount": 5}',
    "a tool that may": 'call lookup {"word": "tide"}',
    "plain text": "hello over there",
    "two calls beside text": "both",
}


async def _transcript(gateway: GatewayProcess, key: str, context_id: str = "chat") -> list[Frame]:
    async with httpx.AsyncClient(headers={"X-API-Key": key}) as client:
        page = await client.get(f"{gateway.url}/v1/contexts/{context_id}/events?limit=200")
        return page.json()["events"]


async def _restart(gateway: GatewayProcess) -> None:
    await gateway.start(TOOL_TRACE=str(gateway.folder / "trace"), CRASH_AT="1000000")


async def _finish(gateway: GatewayProcess, key: str, content: str) -> list[Frame]:
    """Send the message, again and again until it is acknowledged, and wait for the end of its turn."""
    for _ in range(20):
        try:
            async with Wire(gateway.ws, key) as wire:
                await wire.hello()
                ack = await wire.ask("message", id="m1", content=content, context_id="chat")
                assert ack["type"] == "ack", ack
                snapshot_or_event = await wire.wait(
                    lambda f: (
                        f["type"] == "turn_end"
                        or (f["type"] == "snapshot" and any(e["type"] == "turn_end" for e in f["events"]))
                    )
                )
                assert snapshot_or_event
                return wire.frames
        except (OSError, TimeoutError, WebSocketException):
            # Its sockets are gone before the process itself is.
            await asyncio.sleep(0.1)
            if gateway.process is not None and gateway.process.poll() is not None:
                await _restart(gateway)
    raise AssertionError("the turn never ended")


def _check(events: list[Frame], trace: Path) -> None:
    seqs = [event["seq"] for event in events]
    assert seqs == sorted(set(seqs)), seqs
    kinds = Counter(event["type"] for event in events)
    assert kinds["turn_end"] == 1
    assert events[-1]["type"] == "turn_end"
    assert events[-1]["status"] == "complete"
    calls = [event for event in events if event["type"] == "tool_call"]
    answers = [event["tool_call_id"] for event in events if event["type"] == "tool_response"]
    assert sorted(answers) == sorted(call["id"] for call in calls)
    emitted = Counter((call["message_id"], call["tool"]) for call in calls)
    assert all(count == 1 for count in emitted.values()), "a call was emitted twice"
    ran = Counter(line.split()[1] for line in trace.read_text().splitlines() if line.startswith("charge"))
    assert all(count == 1 for count in ran.values()), "a tool that is not idempotent ran twice"
    messages = [event["id"] for event in events if event["type"] == "message"]
    assert len(messages) == len(set(messages))


@pytest.mark.promise("2")
@pytest.mark.promise("4")
@pytest.mark.parametrize("content", TURNS.values(), ids=TURNS.keys())
async def test_a_kill_between_any_two_durable_steps(tmp_path: Path, content: str) -> None:
    count = await _count_checkpoints(tmp_path / "count", content)
    assert count > 4
    # Two processes at a time: there are that many cores, and each spends its time starting up.
    limit = asyncio.Semaphore(2)

    async def crash_at(place: int) -> None:
        async with limit:
            folder = tmp_path / f"at{place}"
            folder.mkdir()
            await _crash_once(folder, content, place)

    await asyncio.gather(*(crash_at(place) for place in range(count)))


@pytest.mark.promise("2")
@pytest.mark.promise("4")
async def test_another_instance_goes_on_after_a_kill_between_any_two_durable_steps(
    tmp_path: Path, valkey: ValkeyServer
) -> None:
    """An instance for each step dies there under a turn of its own; one that lives takes all of these over."""
    content = TURNS["a tool that must not run twice"]
    count = await _count_checkpoints(tmp_path / "count", content)
    trace = tmp_path / "trace"
    trace.touch()
    async with database() as store:
        cluster = Cluster(tmp_path, redis=valkey.url, store=store, config=CONFIG, script=SCRIPT, instances=count + 1)
        *dying, living = cluster.members
        key = cluster.key()
        limit = asyncio.Semaphore(2)

        async def crash_at(place: int) -> None:
            async with limit:
                await dying[place].start(TOOL_TRACE=str(trace), CRASH_AT=str(place))
                try:
                    async with Wire(dying[place].ws, key) as wire:
                        await wire.hello()
                        await wire.ask("message", id="m1", content=content, context_id=f"chat{place}")
                        await wire.wait_closed()
                except (OSError, WebSocketException):
                    pass
                await dying[place].died()

        try:
            await living.start(TOOL_TRACE=str(trace), CRASH_AT="1000000")
            await asyncio.gather(*(crash_at(place) for place in range(count)))
            async with Wire(living.ws, key) as wire:
                await wire.hello()
                for place in range(count):
                    # Whoever heard no acknowledgement sends it again.
                    await wire.ask("message", id="m1", content=content, context_id=f"chat{place}")
                for place in range(count):
                    await wire.wait(lambda frame, name=f"chat{place}": _ends(frame, name))
            for place in range(count):
                events = await _transcript(living, key, f"chat{place}")
                _check(events, trace)
                check_calls(await audit_of(living, context_id=f"chat{place}"), events)
        finally:
            cluster.kill()


def _ends(frame: Frame, context_id: str) -> bool:
    if frame.get("context_id") != context_id:
        return False
    events = frame["events"] if frame["type"] == "snapshot" else [frame]
    return any(event["type"] == "turn_end" for event in events)


async def _count_checkpoints(folder: Path, content: str) -> int:
    folder.mkdir()
    gateway = GatewayProcess(folder, config=CONFIG, script=SCRIPT)
    key = gateway.key()
    (folder / "trace").touch()
    await gateway.start(TOOL_TRACE=str(folder / "trace"))
    try:
        await _finish(gateway, key, content)
        # The last step comes after the end was told.
        async with asyncio.timeout(10):
            while "record" not in (folder / "checkpoints").read_text():
                await asyncio.sleep(0.02)
        _check(await _transcript(gateway, key), folder / "trace")
    finally:
        gateway.kill()
    return len((folder / "checkpoints").read_text().splitlines())


async def _crash_once(folder: Path, content: str, place: int) -> None:
    gateway = GatewayProcess(folder, config=CONFIG, script=SCRIPT)
    key = gateway.key()
    trace = folder / "trace"
    trace.touch()
    await gateway.start(TOOL_TRACE=str(trace), CRASH_AT=str(place))
    try:
        await _finish(gateway, key, content)
        if len((folder / "checkpoints").read_text().splitlines()) <= place:
            await gateway.died(10)
        if gateway.process is not None and gateway.process.poll() is not None:
            await _restart(gateway)
        frames = await _finish(gateway, key, content)
        assert frames
        events = await _transcript(gateway, key)
        _check(events, trace)
        check_calls(await audit_of(gateway), events)
    finally:
        gateway.kill()
