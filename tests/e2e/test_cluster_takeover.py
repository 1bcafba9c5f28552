"""Instances that are killed, frozen or told to end under running turns: others go on with them (docs/cluster.md)."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import asyncpg
import httpx
import pytest
from websockets.exceptions import WebSocketException

from gateway.client import connect
from gateway.servers.valkey import ValkeyServer
from tests.e2e.cluster import Cluster, balanced
from tests.e2e.conftest import Kept
from tests.e2e.gateways import GatewayProcess
from tests.e2e.held_tools import runs_of
from tests.e2e.sse import http_client
from tests.e2e.wire import DURABLE, Frame, Wire, check_contiguous, spoken
from tests.servers.postgres import lasting_database
from tests.servers.valkey import command, keys_of

CONFIG = """
[models.demo]
provider = "demo"
delay = 5
[tools]
modules = ["tests.e2e.held_tools"]
[server]
drain_seconds = 0
"""
# The turns of a test: context and turn are called by what is said.
TURNS = {
    "text": "long 600",
    "once": 'call hold {"mark": "once"}',
    "again": 'call hold_again {"mark": "again"}',
    "both": "both",
}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, valkey: ValkeyServer) -> Generator[Kept[Cluster]]:
    async def make() -> Cluster:
        folder = tmp_path_factory.mktemp("three")
        store = await lasting_database()
        cluster = Cluster(folder, redis=valkey.url, store=store, config=CONFIG, instances=3)
        cluster.env["HELD_TOOLS"] = str(folder)
        return cluster

    with closing(Kept(make)) as kept:
        yield kept


@pytest.fixture
async def cluster(three: Kept[Cluster]) -> Cluster:
    """Three instances, started anew where a test before has ended them."""
    return await three.get()


class Turns:
    """Turns that run on the first instance, each followed from its first event to its end, whatever ends the sockets.

    `ids` are the names of their contexts, and of the turns, `calls` the ids of their calls.
    """

    def __init__(self, cluster: Cluster, url: str, key: str, sender: Wire) -> None:
        self.key = key
        self.sender = sender
        self.ids: dict[str, str] = {}
        self.calls: dict[str, str] = {}
        self.folder = Path(cluster.env["HELD_TOOLS"])
        self._instance = cluster.members[0]
        self._url = url
        self._marks = f"{cluster.tenant}-"
        self._followers: dict[str, asyncio.Task[list[Frame]]] = {}

    async def begin(self, *names: str) -> None:
        """Return when each of them is in the middle of what it does."""
        for name in names:
            for number in range(10):
                if await self._begin(name, f"{name}{number}"):
                    break
            else:
                raise AssertionError("others take all that is sent to the first instance")

    async def _begin(self, name: str, id: str) -> bool:
        """False where another instance was quicker to find the turn: it may run anywhere."""
        before = await _figure(self._instance, "tidegate_turns_running")
        content = TURNS[name].replace(f'"{name}"', f'"{self._marks}{name}"')
        ack = await self.sender.ask("message", id=id, content=content, context_id=id)
        middle = {"text": "delta", "both": "tool_progress"}.get(name, "tool_call")
        event = await self.sender.wait(lambda frame: frame["type"] == middle and frame["turn_id"] == id)
        if await _figure(self._instance, "tidegate_turns_running") <= before:
            await self.sender.ask("cancel", context_id=id)
            await self.sender.wait(_ends(id))
            return False
        self.ids[name] = id
        self._followers[name] = asyncio.create_task(self._follow(id, ack["epoch"]))
        if name in ("once", "again"):
            self.calls[name] = event["id"]
            await self.runs(name, 1)
        return True

    async def runs(self, name: str, count: int, seconds: float = 20) -> int:
        """Wait until the call's tool has begun so many times; the process that did so last."""
        async with asyncio.timeout(seconds):
            while len(runs := runs_of(self.folder, self.calls[name])) < count:
                await asyncio.sleep(0.02)
        return runs[count - 1].pid

    def release(self, name: str) -> None:
        """Let the tool end."""
        (self.folder / f"{self._marks}{name}").touch()

    async def ended(self) -> dict[str, list[Frame]]:
        """All events of each, whole and in order."""
        followers = self._followers
        return dict(zip(followers, await asyncio.gather(*followers.values()), strict=True))

    def leave(self) -> None:
        for follower in self._followers.values():
            follower.cancel()

    async def _follow(self, name: str, epoch: str) -> list[Frame]:
        events: list[Frame] = []
        deadline = asyncio.get_running_loop().time() + 40
        while not events or events[-1]["type"] != "turn_end":
            wire = Wire(self._url, self.key)
            try:
                async with asyncio.timeout_at(deadline), wire:
                    await wire.hello(cursors={name: f"{epoch}:{events[-1]['seq'] if events else 0}"})
                    await wire.wait(lambda frame: frame["type"] == "turn_end", seconds=60)
            except TimeoutError:
                raise AssertionError(f"{name} did not end: {(events + wire.frames)[-3:]}") from None
            except (OSError, WebSocketException):
                await asyncio.sleep(0.05)
            events += wire.events(name)
        check_contiguous(events)
        assert events[0]["seq"] == 1
        return events


@asynccontextmanager
async def turns_on(cluster: Cluster) -> AsyncGenerator[Turns]:
    """Followers connect to whatever instance takes them."""
    key = cluster.key()
    async with balanced(cluster) as url, Wire(cluster.members[0].ws, key) as sender:
        await sender.hello()
        turns = Turns(cluster, url.replace("http", "ws") + "/v1/ws", key, sender)
        try:
            yield turns
        finally:
            turns.leave()


@pytest.fixture
async def turns(cluster: Cluster) -> AsyncGenerator[Turns]:
    async with turns_on(cluster) as turns:
        yield turns


def _attempts(events: Sequence[Frame]) -> list[int]:
    return [event["attempt"] for event in events if event["type"] == "message_start"]


def _response(events: Sequence[Frame]) -> Frame:
    (response,) = [event for event in events if event["type"] == "tool_response"]
    return response


def _check(events: list[Frame]) -> None:
    """It ended once, said what its deltas said, and answered each call once."""
    kinds = [event["type"] for event in events]
    assert kinds.count("turn_end") == 1
    assert events[-1]["status"] == "complete"
    for said in (e for e in events if e["type"] == "message" and e["role"] == "assistant"):
        assert said["content"] == spoken(events, said["id"])
    calls = [event["id"] for event in events if event["type"] == "tool_call"]
    assert len(calls) == len(set(calls))
    assert sorted(e["tool_call_id"] for e in events if e["type"] == "tool_response") == sorted(calls)


async def _check_history(gateway: GatewayProcess, key: str, ended: dict[str, list[Frame]]) -> None:
    async with http_client(gateway.url, key) as http:
        for events in ended.values():
            history = (await http.get(f"/v1/contexts/{events[0]['context_id']}/events?limit=200")).json()["events"]
            assert history == [event for event in events if event["type"] in DURABLE]


def _begun_again(turn_id: str) -> Callable[[Frame], bool]:
    return lambda frame: frame["type"] == "message_start" and frame["turn_id"] == turn_id and frame["attempt"] > 1


@pytest.mark.promise("2")
@pytest.mark.promise("4")
async def test_a_kill_of_the_instance_that_runs_the_turns(cluster: Cluster, turns: Turns) -> None:
    running, other, _ = cluster.members
    async with Wire(other.ws, turns.key) as watcher:
        await turns.begin("once", "again", "text", "both")
        await watcher.hello(cursors={turns.ids["text"]: None})
        running.kill()
        await watcher.wait(_begun_again(turns.ids["text"]), seconds=10)
        turns.release("again")
        ended = await turns.ended()
    for events in ended.values():
        _check(events)
    assert _attempts(ended["text"]) == [1, 2]
    assert _response(ended["once"])["status"] == "interrupted"
    assert _response(ended["again"])["status"] == "success"
    assert len(runs_of(turns.folder, turns.calls["once"])) == 1
    assert len(runs_of(turns.folder, turns.calls["again"])) == 2
    statuses = {e["tool_call_id"]: e["status"] for e in ended["both"] if e["type"] == "tool_response"}
    assert list(statuses.values()) == ["success", "success"]
    await _check_history(other, turns.key, ended)


@pytest.mark.promise("4")
async def test_a_kill_of_the_instance_that_has_just_taken_over(cluster: Cluster, turns: Turns) -> None:
    await turns.begin("once", "again", "text", "both")
    cluster.members[0].kill()
    second = await turns.runs("again", 2)
    assert second != cluster.members[0].processes[0].pid
    os.kill(second, signal.SIGKILL)
    # What is stored while nobody runs the turn is not lost.
    (last,) = [member for member in cluster.members[1:] if member.processes[0].pid != second]
    async with Wire(last.ws, turns.key) as other:
        await other.hello()
        assert (await other.ask("cancel", context_id=turns.ids["text"], turn_id=turns.ids["text"]))["type"] == "ack"
    assert await turns.runs("again", 3) == last.processes[0].pid
    turns.release("again")
    ended = await turns.ended()
    assert ended["text"][-1]["status"] in ("cancelled", "complete"), "it may have ended before, on the last one"
    for name in ("once", "again", "both"):
        _check(ended[name])
    assert _response(ended["once"])["status"] == "interrupted"
    assert _response(ended["again"])["status"] == "success"
    assert len(runs_of(turns.folder, turns.calls["once"])) == 1
    await _check_history(last, turns.key, ended)


@pytest.mark.promise("1")
@pytest.mark.promise("4")
async def test_an_instance_that_wakes_up_after_others_have_ended_its_turns(cluster: Cluster, turns: Turns) -> None:
    frozen, other, _ = cluster.members
    fenced = await _figure(frozen, "tidegate_turns_fenced_total")
    await turns.begin("once", "again", "text")
    (process,) = frozen.processes
    process.send_signal(signal.SIGSTOP)
    try:
        async with Wire(other.ws, turns.key) as watcher:
            await watcher.hello(cursors=dict.fromkeys(turns.ids.values()))
            await turns.runs("again", 2)
            turns.release("again")
            for id in turns.ids.values():
                await watcher.wait(_ends(id), seconds=30)
        history = await _history(other, turns)
        before = await _state(cluster)
        turns.release("once")  # the tool that runs there still may end now, and answers too late
    finally:
        process.send_signal(signal.SIGCONT)
    async with asyncio.timeout(20):
        while await _figure(frozen, "tidegate_turns_fenced_total") < fenced + 3:
            await asyncio.sleep(0.05)
    ended = await turns.ended()
    for events in ended.values():
        _check(events)
    for name, id in turns.ids.items():
        await turns.sender.wait(_ends(id))
        mine = [event for event in turns.sender.events(id) if event["type"] in DURABLE]
        assert mine == [event for event in ended[name] if event["type"] in DURABLE]
        check_contiguous(turns.sender.events(id))
    assert await _history(frozen, turns) == history
    assert await _state(cluster) == before
    assert _response(ended["once"])["status"] == "interrupted"
    assert len(runs_of(turns.folder, turns.calls["once"])) == 1
    assert len(runs_of(turns.folder, turns.calls["again"])) == 2


def _ends(turn_id: str) -> Callable[[Frame], bool]:
    def ends(frame: Frame) -> bool:
        events = frame["events"] if frame["type"] == "snapshot" else [frame]
        return any(event["type"] == "turn_end" and event["turn_id"] == turn_id for event in events)

    return ends


async def _figure(member: GatewayProcess, name: str) -> float:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        metrics = (await http.get(f"{member.url}/metrics")).text
    found = re.search(rf"^{name} (\S+)$", metrics, re.MULTILINE)
    assert found is not None
    return float(found[1])


async def _history(gateway: GatewayProcess, turns: Turns) -> list[list[Frame]]:
    async with http_client(gateway.url, turns.key) as http:
        return [(await http.get(f"/v1/contexts/{id}/events?limit=200")).json()["events"] for id in turns.ids.values()]


async def _state(cluster: Cluster) -> object:
    """All that store and log have of conversations, once all that has a seq is recorded."""
    async with asyncio.timeout(20):
        while True:
            db = await asyncpg.connect(cluster.store)
            try:
                open_rows = await db.fetchval("SELECT count(*) FROM events WHERE seq IS NULL")
                rows = [
                    [str(row) for row in await db.fetch(f"SELECT * FROM {table} ORDER BY 1, 2, 3")]  # noqa: S608
                    for table in ("contexts", "events", "turns", "calls")
                ]
            finally:
                await db.close()
            if not open_rows:
                break
            await asyncio.sleep(0.05)
    logs = [key for key in keys_of(cluster.redis, cluster.prefix) if b"{" in key]
    return rows, {key: command(cluster.redis, "DUMP", key) for key in logs}


async def test_an_instance_that_is_told_to_end_hands_its_turns_over_at_once(cluster: Cluster, turns: Turns) -> None:
    ending, other, third = cluster.members
    # An instance looks after what others left once it has heard their heartbeats for five seconds.
    await asyncio.sleep(max(other.started, third.started) + 7 - time.monotonic())
    await turns.begin("once", "again", "text")
    async with Wire(other.ws, turns.key) as watcher:
        await watcher.hello(cursors={turns.ids["text"]: None})
        await watcher.wait(lambda frame: frame["type"] == "snapshot")
        ending.terminate()
        goaway = await turns.sender.wait(lambda frame: frame["type"] == "goaway")
        assert goaway["retry_after"] > 0
        # Sooner than its heartbeat would have been missed.
        await watcher.wait(_begun_again(turns.ids["text"]), seconds=4.5)
    assert await turns.sender.wait_closed() == 1012
    assert await ending.died() == 0
    turns.release("again")
    ended = await turns.ended()
    for events in ended.values():
        _check(events)
    assert _response(ended["once"])["status"] == "interrupted"
    assert len(runs_of(turns.folder, turns.calls["once"])) == 1
    assert _response(ended["again"])["status"] == "success"
    await _check_history(other, turns.key, ended)


@pytest.mark.promise("1")
@pytest.mark.promise("2")
async def test_a_rolling_restart_loses_and_repeats_nothing(cluster: Cluster) -> None:
    """Each client talks all the while; it checks itself that no frame is missing."""
    over = asyncio.Event()
    async with balanced(cluster) as url, asyncio.TaskGroup() as group:
        keys = [cluster.key(f"user{number}") for number in range(4)]
        talks = [group.create_task(_talk(url, key, over)) for key in keys]
        for member in cluster.members:
            member.terminate()
            assert await member.died() == 0
            await member.start()
        over.set()
        said = await asyncio.gather(*talks)
    for key, texts in zip(keys, said, strict=True):
        async with http_client(cluster.url, key) as http:
            page = (await http.get("/v1/contexts/chat/events?limit=200")).json()
        events: list[Frame] = page["events"]
        seqs = [event["seq"] for event in events]
        assert seqs == sorted(set(seqs))
        answers = [event for event in events if event["type"] == "message" and event["role"] == "assistant"]
        assert [answer["content"] for answer in answers] == texts[-len(answers) :]
        assert {answer["status"] for answer in answers} == {"complete"}
        if page["next"] is None:
            assert len(answers) == len(texts)


async def _talk(url: str, key: str, over: asyncio.Event) -> list[str]:
    """What was answered, turn after turn."""
    texts: list[str] = []
    async with connect(url, token=key, random=lambda: 0.05) as client, asyncio.timeout(90):
        while not over.is_set():
            texts.append("".join([piece async for piece in client.stream(f"long {40 + len(texts)}", "chat")]))
    return texts
