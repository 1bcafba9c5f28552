"""A Redis or a Postgres that goes away and comes back under several instances (docs/cluster.md)."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx
import pytest

from gateway.core.fold import Transcript
from gateway.servers.valkey import ValkeyServer, run_valkey
from protocol.codec import decode_server
from protocol.frames import Event, Message, Snapshot, TurnEnd
from protocol.ids import Cursor
from tests.e2e.cluster import Cluster, running_cluster
from tests.e2e.conftest import FAST, Kept
from tests.e2e.gateways import GatewayProcess
from tests.e2e.sse import http_client
from tests.e2e.wire import DURABLE, Frame, Wire, check_contiguous
from tests.servers.postgres import lasting_database, postgres_server
from tests.servers.proxy import faulty_proxy

CONFIG = FAST.replace("delay = 2", "delay = 5")


@pytest.fixture(scope="module")
def lasting_valkey(tmp_path_factory: pytest.TempPathFactory) -> Generator[ValkeyServer]:
    """One that keeps its data when it is told to end: it is stopped and started here, under nobody else."""
    with run_valkey(tmp_path_factory.mktemp("valkey"), appendonly=True) as server:
        yield server


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, lasting_valkey: ValkeyServer) -> Generator[Kept[Cluster]]:
    async def make() -> Cluster:
        store = await lasting_database()
        return Cluster(tmp_path_factory.mktemp("two"), redis=lasting_valkey.url, store=store, config=CONFIG)

    with closing(Kept(make)) as kept:
        yield kept


@pytest.fixture
async def cluster(kept: Kept[Cluster]) -> Cluster:
    return await kept.get()


async def _history(gateway: GatewayProcess, key: str) -> list[Frame]:
    async with http_client(gateway.url, key) as http:
        return (await http.get("/v1/contexts/chat/events?limit=200")).json()["events"]


async def _until_ready_says(cluster: Cluster, status: str) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http, asyncio.timeout(30):
        for member in cluster.members:
            while (answer := await http.get(f"{member.url}/readyz")).json()["status"] != status:
                await asyncio.sleep(0.02)
            assert answer.status_code == (200 if status == "ok" else 503)


def _fold(wire: Wire) -> Transcript:
    """As a client keeps a context: each frame follows the one before, or is a snapshot."""
    transcript = Transcript("chat")
    for ack in wire.frames:
        if ack["type"] == "ack" and ack.get("seq") == 1 and ack["context_id"] == "chat":
            transcript.resume(Cursor(int(ack["epoch"]), 0))  # it made the context: its events come from the first on
    for text in wire.texts:
        frame = decode_server(text.encode() if isinstance(text, str) else text)
        if isinstance(frame, Snapshot):
            transcript.snapshot(frame)
        elif isinstance(frame, Event) and frame.context_id == "chat":
            transcript.apply(frame)
    return transcript


@asynccontextmanager
async def _long_turn(cluster: Cluster) -> AsyncGenerator[tuple[str, Wire, Wire]]:
    """A turn in the middle of its answer, with a follower on its instance and one on the other; at the end of the
    block it must go on to its end, for both."""
    key = cluster.key()
    here, there = cluster.members
    async with Wire(here.ws, key) as near, Wire(there.ws, key) as far:
        await near.hello()
        await near.ask("message", id="m", content="long 600", context_id="chat")
        await far.hello(cursors={"chat": None})
        for wire in (near, far):
            await wire.wait(lambda frame: frame["type"] == "delta")
        yield key, near, far
        for wire in (near, far):
            await wire.wait(_has_end, seconds=40)
        history = await _history(there, key)
        assert [event["type"] for event in history] == ["message", "message", "turn_end"]
        assert history[-1]["status"] == "complete"
        assert len(history[1]["content"].split()) == 600
        for wire in (near, far):
            events = _fold(wire).events
            assert [getattr(event, "id", None) for event in events] == [event.get("id") for event in history]
            assert isinstance(events[1], Message)
            assert events[1].content == history[1]["content"]
            assert isinstance(events[-1], TurnEnd)


def _has_end(frame: Frame) -> bool:
    events = frame["events"] if frame["type"] == "snapshot" else [frame]
    return any(event["type"] == "turn_end" for event in events)


async def _check_refused(wire: Wire, key: str, gateway: GatewayProcess, *, stored_is_read: bool) -> None:
    """A new frame is refused now, and not stored."""
    assert (await wire.ask("ping"))["type"] == "pong"
    refused = await wire.ask("message", id="new", content="hello", context_id="other")
    assert (refused["type"], refused["code"], refused["retryable"]) == ("error", "unavailable", True)
    if stored_is_read:
        async with http_client(gateway.url, key) as http:
            assert (await http.get("/v1/contexts/other")).status_code == 404


async def _check_taken(wire: Wire) -> None:
    """And is taken when it comes again."""
    ack = await wire.ask("message", id="new", content="hello", context_id="other")
    assert ack["type"] == "ack"
    assert "duplicate" not in ack
    await wire.wait(lambda frame: frame["type"] == "turn_end" and frame["turn_id"] == "new")
    check_contiguous(wire.events("other"))


@pytest.mark.promise("2")
@pytest.mark.promise("3")
@pytest.mark.parametrize("data", ["kept", "lost"])
async def test_a_redis_that_starts_again(cluster: Cluster, lasting_valkey: ValkeyServer, data: str) -> None:
    async with _long_turn(cluster) as (key, near, far):
        lasting_valkey.stop()
        try:
            await _until_ready_says(cluster, "the log is away")
            for wire, member in zip((near, far), cluster.members, strict=True):
                await _check_refused(wire, key, member, stored_is_read=True)
            if data == "lost":
                shutil.rmtree(lasting_valkey.folder / "appendonlydir")
        finally:
            lasting_valkey.start()
        await _until_ready_says(cluster, "ok")
        for wire in (near, far):
            await wire.wait(_has_end, seconds=40)
        await _check_taken(far)
        # What it has may be old, whether or not it kept it: its log is over, and another begins.
        assert sum(frame["type"] == "snapshot" and frame["context_id"] == "chat" for frame in far.frames) > 1


@pytest.mark.promise("2")
@pytest.mark.promise("3")
async def test_a_postgres_that_starts_again(cluster: Cluster) -> None:
    async with _long_turn(cluster) as (key, near, far):
        postgres_server().stop()
        try:
            await _until_ready_says(cluster, "the store is away")
            for wire, member in zip((near, far), cluster.members, strict=True):
                await _check_refused(wire, key, member, stored_is_read=False)
            # The text goes on: it is live, and is stored with the whole message.
            for wire in (near, far):
                await wire.wait(lambda frame: frame["type"] == "delta" and "600" in frame["text"])
                assert not any(_has_end(frame) for frame in wire.frames)
        finally:
            postgres_server().start()
        await _until_ready_says(cluster, "ok")
        for wire in (near, far):
            await wire.wait(_has_end, seconds=40)
        assert "new" not in {event.get("id") for event in await _history(cluster, key)}
        await _check_taken(far)
        check_contiguous(near.events("chat"))
        check_contiguous(far.events("chat"))


async def test_a_connection_to_redis_that_says_nothing_any_more(tmp_path: Path, valkey: ValkeyServer) -> None:
    """No connection is cut: that nothing comes is all there is to notice."""
    upstream = str(valkey.socket) if valkey.url.startswith("unix") else ("127.0.0.1", valkey.port)
    async with (
        faulty_proxy(upstream) as proxy,
        running_cluster(tmp_path, redis=proxy.url, config=CONFIG, instances=1) as cluster,
    ):
        key = cluster.key()
        async with Wire(cluster.ws, key) as wire:
            await wire.hello()
            await wire.turn("first", "chat", id="first")
            proxy.silent = True
            await _until_ready_says(cluster, "the log is away")
            assert (await wire.ask("ping"))["type"] == "pong"
            assert (await wire.ask("message", id="m", content="x", context_id="chat"))["code"] == "unavailable"
            proxy.silent = False
            await _until_ready_says(cluster, "ok")
            await wire.turn("second", "chat", id="m")
            check_contiguous(wire.events("chat"))
        history = await _history(cluster, key)
        assert [event for event in wire.events("chat") if event["type"] in DURABLE] == history
