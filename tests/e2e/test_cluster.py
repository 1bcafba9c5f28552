"""What several instances do together while all of them are well (docs/cluster.md)."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import WebSocketException

from gateway.servers.valkey import ValkeyServer
from tests.e2e.cluster import Cluster, running_cluster
from tests.e2e.conftest import FAST
from tests.e2e.gateways import GatewayProcess
from tests.e2e.sse import http_client
from tests.e2e.wire import DURABLE, Frame, Wire, check_contiguous, spoken

TOOLS = '[tools]\nmodules = ["tests.e2e.slow_tools"]\n'
WHERE = {"name": "where_am_i", "description": "The device's place.", "parameters": {"type": "object"}}
# Of the store's calls, those that read what is told of a conversation.
READS = {
    "get_context",
    "history",
    "thread",
    "older",
    "open_calls",
    "load_turn",
    "unsequenced",
    "find_event",
    "active_turn",
    "get_call",
}


async def _history(gateway: GatewayProcess, key: str, context_id: str = "chat") -> list[Frame]:
    async with http_client(gateway.url, key) as http:
        return (await http.get(f"/v1/contexts/{context_id}/events?limit=200")).json()["events"]


def _is_end(turn_id: str) -> Callable[[Frame], bool]:
    return lambda frame: frame["type"] == "turn_end" and frame["turn_id"] == turn_id


@pytest.mark.promise("1")
async def test_followers_on_all_instances_are_sent_the_same_bytes(cluster: Cluster) -> None:
    key = cluster.key()
    here, there = cluster.members
    async with Wire(here.ws, key) as sender, Wire(here.ws, key) as near, Wire(there.ws, key) as far:
        await sender.hello()
        await sender.turn("first", "chat")
        for wire in (near, far):
            await wire.hello(cursors={"chat": None})
            await wire.wait(lambda frame: frame["type"] == "snapshot")
        await sender.ask("message", id="m", content="both", context_id="chat")
        for wire in (sender, near, far):
            await wire.wait(_is_end("m"))
    for wire in (sender, near, far):
        events = wire.events("chat")
        check_contiguous(events)
        for said in (e for e in events if e["type"] == "message" and e["role"] == "assistant"):
            assert said["content"] == spoken(events, said["id"])
    # How much of the text a frame brings depends on who is how late; all else is the same bytes.
    durable = [[text for text in wire.texts if json.loads(text)["type"] in DURABLE] for wire in (sender, near, far)]
    assert durable[1] == durable[2] == durable[0][-len(durable[1]) :]
    assert near.texts[1:3] == far.texts[1:3], "the same is said of where the stream goes on, and of what was before"
    assert [json.loads(text) for text in durable[0]] == await _history(here, key) == await _history(there, key)


@pytest.mark.promise("1")
async def test_a_reader_that_goes_from_instance_to_instance_misses_nothing(cluster: Cluster) -> None:
    key = cluster.key()
    async with Wire(cluster.members[0].ws, key) as sender:
        await sender.hello()
        ack = await sender.ask("message", id="m", content="long 300", context_id="chat")
        events: list[Frame] = []
        session: dict[str, Any] = {"attempt": 0}
        moves = 0
        while not events or events[-1]["type"] != "turn_end":
            seq = events[-1]["seq"] if events else 0
            session["attempt"] += 1
            async with Wire(cluster.ws, key) as wire:
                ready = await wire.hello(**session, cursors={"chat": f"{ack['epoch']}:{seq}"})
                assert ready["resumed"] is (moves > 0)
                session["session_id"] = ready["session_id"]
                await wire.wait(
                    lambda frame, seq=seq: frame.get("seq", 0) > seq and frame["type"] in DURABLE | {"delta"}
                )
                wire.abort()
                await wire.wait_closed()
            events += wire.events("chat")
            assert not any(frame["type"] == "snapshot" for frame in wire.frames)
            moves += 1
        await sender.wait(_is_end("m"))
    assert moves > 3
    assert events[0]["seq"] == 1
    check_contiguous(events)
    assert [event for event in events if event["type"] in DURABLE] == await _history(cluster, key)
    assert events[-2]["content"] == spoken(events, events[-2]["id"])


async def test_the_latest_attempt_holds_a_session_on_whatever_instance(cluster: Cluster) -> None:
    key = cluster.key()
    here, there = cluster.members
    async with Wire(here.ws, key) as first, Wire(there.ws, key) as second, Wire(here.ws, key) as late:
        session = (await first.hello(attempt=1))["session_id"]
        assert (await second.hello(session_id=session, attempt=3))["resumed"] is True
        assert await first.wait_closed() == 4409
        await late.send({"type": "hello", "session_id": session, "attempt": 2})
        assert await late.wait_closed() == 4409
        assert (await second.ask("ping"))["type"] == "pong"
        async with Wire(here.ws, key) as third:
            await third.hello(session_id=session, attempt=4)
            assert await second.wait_closed() == 4409
            assert (await third.ask("ping"))["type"] == "pong"


async def test_of_two_attempts_at_once_the_higher_one_stays(cluster: Cluster) -> None:
    key = cluster.key()
    async with Wire(cluster.ws, key) as first:
        session = (await first.hello(attempt=1))["session_id"]
        first.abort()
    async with Wire(cluster.members[0].ws, key) as lower, Wire(cluster.members[1].ws, key) as higher:
        for wire, attempt in ((lower, 2), (higher, 3)):
            await wire.send({"type": "hello", "session_id": session, "attempt": attempt})
        assert await lower.wait_closed() == 4409
        assert (await higher.wait(lambda frame: frame["type"] == "ready"))["resumed"] is True
        assert (await higher.ask("ping"))["type"] == "pong"


async def test_a_ticket_that_is_used_on_all_at_once_is_good_once(cluster: Cluster) -> None:
    async with http_client(cluster.url, cluster.key()) as http:
        ticket = (await http.post("/v1/tickets")).json()["ticket"]

    async def enter(member: GatewayProcess) -> bool:
        async with Wire(f"{member.ws}?ticket={ticket}") as wire:
            try:
                return (await wire.hello())["subject"] == "ann"
            except (OSError, WebSocketException):
                assert await wire.wait_closed() == 4401
                return False

    entered = await asyncio.gather(*(enter(member) for member in cluster.members * 2))
    assert entered.count(True) == 1


async def test_what_is_stored_elsewhere_is_seen_at_once(cluster: Cluster) -> None:
    """A turn rereads what was stored for it each second. That is not what brings it here: ten cancels, one after
    another, all take effect before another turn has counted for three seconds."""
    key = cluster.key()
    here, there = cluster.members
    async with Wire(here.ws, key) as runner, Wire(there.ws, key) as other:
        await runner.hello()
        await other.hello()
        await runner.ask("message", id="counting", content="count 30", context_id="count")
        for number in range(10):
            turn_id = f"m{number}"
            await runner.ask("message", id=turn_id, content="long 5000", context_id="chat")
            await runner.wait(lambda f, turn_id=turn_id: f["type"] == "delta" and f["turn_id"] == turn_id)
            assert (await other.ask("cancel", context_id="chat"))["type"] == "ack"
            end = await runner.wait(_is_end(turn_id))
            assert end["status"] == "cancelled"
        assert not any(frame["type"] == "turn_end" and frame["turn_id"] == "counting" for frame in runner.frames)
        await other.ask("cancel", context_id="count")
        await runner.wait(_is_end("counting"))
    check_contiguous(runner.events("chat"))


async def test_a_client_tool_is_answered_through_another_instance(cluster: Cluster) -> None:
    """The device moves to another instance while its tool runs; somebody else sends the message on the first."""
    key = cluster.key()
    here, there = cluster.members
    async with Wire(here.ws, key) as device:
        ready = await device.hello(attempt=1, tools=[WHERE])
        await device.ask("message", id="m", content="call where_am_i {}", context_id="chat")
        call = await device.wait(lambda frame: frame["type"] == "tool_call")
        assert (call["runs_on"], call["session_id"]) == ("client", ready["session_id"])
        device.abort()
    async with Wire(there.ws, key) as device:
        again = await device.hello(session_id=ready["session_id"], attempt=2, cursors={"chat": None})
        assert again["resumed"] is True
        answer = {"tool_call_id": call["id"], "context_id": "chat", "result": {"city": "Ghent"}, "status": "success"}
        assert (await device.ask("tool_response", id="a1", **answer))["type"] == "ack"
        assert (await device.ask("tool_response", id="a2", **answer))["code"] == "conflict"
        end = await device.wait(_is_end("m"))
        assert end["status"] == "complete"
        # The tools came with the session: a turn on the first instance finds them here.
        async with Wire(here.ws, key) as sender:
            await sender.hello()
            await sender.ask("message", id="m2", content="call where_am_i {}", context_id="chat")
            second = await device.wait(lambda frame: frame["type"] == "tool_call" and frame["turn_id"] == "m2")
            await device.ask("tool_response", **{**answer, "tool_call_id": second["id"]})
            await sender.wait(_is_end("m2"))
    assert "Ghent" in (await _history(here, key))[-2]["content"]


async def test_a_deletion_elsewhere_ends_what_runs_and_who_follows(cluster: Cluster) -> None:
    key = cluster.key()
    here, there = cluster.members
    async with Wire(here.ws, key) as runner, Wire(there.ws, key) as follower, http_client(there.url, key) as http:
        await runner.hello()
        await runner.ask("message", id="m", content="long 5000", context_id="chat")
        await follower.hello(cursors={"chat": None})
        await follower.wait(lambda frame: frame["type"] == "delta")
        assert (await http.patch("/v1/contexts/chat", json={"title": "new"})).json()["title"] == "new"
        for wire in (runner, follower):
            assert (await wire.wait(lambda frame: frame["type"] == "context"))["title"] == "new"
        assert (await http.delete("/v1/contexts/chat")).status_code == 204
        for wire in (runner, follower):
            gone = await wire.wait(lambda frame: frame.get("deleted") is True)
            assert gone["context_id"] == "chat"
        # It is free for another, of which the turn that ran knows nothing.
        fresh = await runner.turn("afresh", "chat")
        assert [frame["type"] for frame in fresh if frame["type"] in DURABLE] == ["message", "message", "turn_end"]
    for wire in (runner, follower):
        assert sum(frame.get("deleted", False) for frame in wire.frames) == 1
    check_contiguous(follower.events("chat"))


async def test_a_warm_conversation_reads_nothing_from_the_store_on_another_instance(cluster: Cluster) -> None:
    """But which turn is next, where a message came before it was noted that the turn before has ended."""
    key = cluster.key()
    here, there = cluster.members
    async with Wire(here.ws, key) as sender:
        ready = await sender.hello(attempt=1)
        await sender.turn("the first", "chat")
        sender.abort()
    ack = next(frame for frame in sender.frames if frame["type"] == "ack")
    cursor = f"{ack['epoch']}:{sender.events('chat')[-1]['seq']}"
    before = await _reads(cluster)
    async with Wire(there.ws, key) as wire:
        again = await wire.hello(session_id=ready["session_id"], attempt=2, cursors={"chat": cursor})
        assert again["resumed"] is True
        await wire.wait(lambda frame: frame["type"] == "subscribed")
        assert await _reads(cluster) == before
        await wire.turn("the second", "chat", id="second")
        await wire.turn("the third", "chat", id="third")
        assert await _reads(cluster) == before
    check_contiguous(sender.events("chat") + wire.events("chat"))


async def _reads(cluster: Cluster) -> dict[str, float]:
    """How often the instances have read each kind of thing."""
    found = dict.fromkeys(sorted(READS), 0.0)
    for member in cluster.members:
        async with httpx.AsyncClient(trust_env=False) as http:
            metrics = (await http.get(f"{member.url}/metrics")).text
        for call, times in re.findall(r'^tidegate_store_seconds_count\{call="(\w+)"\} (\S+)$', metrics, re.MULTILINE):
            if call in found:
                found[call] += float(times)
    return found


async def test_sessions_outlive_all_instances_and_rates_count_on_all(tmp_path: Path, valkey: ValkeyServer) -> None:
    config = FAST + TOOLS + "[limits]\nmessages_per_minute = 60\n"
    env = {"TOOL_TRACE": str(tmp_path / "trace")}
    async with running_cluster(tmp_path, redis=valkey.url, config=config, env=env) as cluster:
        key = cluster.key()
        here, there = cluster.members
        async with Wire(here.ws, key) as device:
            ready = await device.hello(attempt=1, tools=[WHERE])
            began = time.monotonic()
            await device.ask("message", id="m", content='call wipe {"disk": "a"}', context_id="chat")
            call = await device.wait(lambda frame: frame["type"] == "tool_call")
            assert call["approval"] == "required"
        cluster.kill()
        await cluster.start()
        async with Wire(there.ws, key) as device, Wire(here.ws, key) as other:
            again = await device.hello(session_id=ready["session_id"], attempt=2)
            assert again["resumed"] is True
            await device.wait(lambda frame: frame["type"] == "snapshot" and frame["context_id"] == "chat")
            await other.hello()
            # A turn that waits for a person is nobody's; the answer wakes it where it comes in.
            await other.ask("tool_approval", tool_call_id=call["id"], context_id="chat", approved=True)
            assert (await device.wait(_is_end("m")))["status"] == "complete"
            await other.ask("message", id="m2", content="call where_am_i {}", context_id="chat")
            asked = await device.wait(lambda frame: frame["type"] == "tool_call" and frame["turn_id"] == "m2")
            assert asked["session_id"] == ready["session_id"]
            taken = 2
            for number in range(40):
                for wire in (device, other):
                    answer = await wire.ask("message", id=f"{number}{wire is other}", content="x", respond=False)
                    taken += answer["type"] == "ack"
                    assert answer["type"] == "ack" or answer["code"] == "rate_limited"
            assert 60 <= taken <= 61 + time.monotonic() - began
