"""The doors without a socket: a turn as the answer to a POST, a context as Server-Sent Events, and what people and
tools say over HTTP (docs/http.md). Processes are killed, networks cut, proxies buffer, readers don't read."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import psutil
import pytest

from gateway.core.fold import Transcript
from protocol.codec import decode_server
from protocol.frames import Event, Snapshot
from protocol.ids import Cursor
from tests.e2e.conftest import EVERYWHERE, SHARED, Launch
from tests.e2e.gateways import GatewayProcess
from tests.e2e.sse import Sse, following, http_client, posting, raw_request
from tests.e2e.wire import DURABLE, Frame, Wire, check_contiguous, spoken
from tests.gateway.cutting_proxy import cutting

SECRET = "a-secret-of-more-than-thirty-two-bytes"
SLOW = """
[models.demo]
provider = "demo"
delay = 5
"""
TOOLS = """
[models.demo]
provider = "demo"
delay = 2
[tools]
modules = ["tests.e2e.slow_tools"]
"""
JSON = {"Accept": "application/json"}
WHERE = {"name": "where_am_i", "description": "The device's place.", "parameters": {"type": "object"}}


async def _history(http: httpx.AsyncClient, context_id: str = "chat") -> list[Frame]:
    return (await http.get(f"/v1/contexts/{context_id}/events?limit=200")).json()["events"]


def _durable(frames: list[Frame]) -> list[Frame]:
    return [frame for frame in frames if frame["type"] in DURABLE]


def _fold(streams: list[Sse], cursor: Cursor | None = None) -> Transcript:
    """As a client keeps a context: each frame must follow the one before, over all of the responses."""
    transcript = Transcript("chat")
    if cursor is not None:
        transcript.resume(cursor)
    for stream in streams:
        for event in stream.events:
            frame = decode_server(event.data.encode())
            if isinstance(frame, Snapshot):
                transcript.snapshot(frame)
            else:
                assert isinstance(frame, Event)
                transcript.apply(frame)
            assert event.id == str(transcript.cursor)
    return transcript


async def _until(http: httpx.AsyncClient, metric: str) -> None:
    async with asyncio.timeout(20):
        while metric not in (await http.get("/metrics")).text.splitlines():
            await asyncio.sleep(0.02)


# ---- one log


@pytest.mark.promise("1")
@EVERYWHERE
async def test_what_a_stream_a_turn_a_socket_and_history_say_is_the_same(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with http_client(gateway.url, key) as http, Wire(gateway.ws, key) as wire:
        await http.post("/v1/contexts", json={"id": "chat"})
        await wire.hello(cursors={"chat": None})
        async with following(http, "chat") as stream:
            posted: list[Frame] = []
            for content in ("hello there", "calc 5 * 3", "count 2", "both"):
                async with posting(http, "chat", content=content) as turn:
                    frames = await turn.rest()
                    assert frames[-1]["type"] == "turn_end"
                    assert len({frame["turn_id"] for frame in frames}) == 1
                    posted += frames
            last = posted[-1]["seq"]
            await stream.wait(lambda frame: frame["seq"] == last)
            await wire.wait(lambda frame: frame["type"] == "turn_end" and frame["seq"] == last)
        history = await _history(http)
        whole = await http.post("/v1/contexts/chat/messages", json={"content": "again"}, headers=JSON)
        assert whole.status_code == 200
        assert whole.json()["events"] == (await _history(http))[len(history) :]
    on_the_socket = [frame for frame in _durable(wire.events("chat")) if frame["seq"] <= last]
    assert _durable(posted) == _durable(stream.frames) == on_the_socket == history
    assert [event.type for event in stream.events] == [frame["type"] for frame in stream.frames]
    assert _fold([stream]).events == [
        decode_server(event.data.encode()) for event in stream.events if event.type in DURABLE
    ]
    check_contiguous(stream.frames[1:])


@EVERYWHERE
async def test_the_bytes_are_those_of_the_socket(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with http_client(gateway.url, key) as http:
        async with posting(http, "chat", id="m1", content="calc 5 * 3") as turn:
            await turn.rest()
        page = await http.get("/v1/contexts/chat/events")
        for event in turn.events:
            if event.type in DURABLE:
                assert event.data in page.text


async def test_the_head_of_a_response_is_there_before_anything_happens(tmp_path: Path) -> None:
    config = SLOW + "[limits]\nheartbeat = 1\n"
    async with GatewayProcess(tmp_path, config=config) as gateway, http_client(gateway.url, gateway.key()) as http:
        await http.post("/v1/contexts", json={"id": "chat"})
        async with following(http, "chat") as stream:
            assert stream.response.headers["content-type"].startswith("text/event-stream")
            assert stream.response.headers["cache-control"] == "no-cache, no-transform"
            assert stream.response.headers["x-accel-buffering"] == "no"
            await stream.wait_comment("tidegate")
            await stream.wait_comment("keep-alive")
        head = await http.head("/v1/contexts/chat/stream")
        assert (head.status_code, head.content) == (200, b"")


@SHARED
async def test_a_proxy_that_buffers_lets_it_through(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with _buffering(gateway.port) as url, http_client(url, key) as http:
        assert (await http.post("/v1/contexts", json={"id": "chat"})).status_code == 201
        async with following(http, "chat") as stream:
            await stream.wait(lambda frame: frame["type"] == "snapshot")
            async with posting(http, "chat", content="hello") as turn:
                await turn.wait(lambda frame: frame["type"] == "delta")
                assert not any(frame["type"] == "turn_end" for frame in turn.frames)
                await turn.rest()
            await stream.wait(lambda frame: frame["type"] == "turn_end")


@asynccontextmanager
async def _buffering(port: int) -> AsyncGenerator[str]:
    """A proxy that collects every response to its end, unless its head says that it must not."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, out = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(_copy(reader, out))
                head = await upstream.readuntil(b"\r\n\r\n")
                rest = b"" if b"x-accel-buffering: no" in head.lower() else await _body(upstream, head)
                writer.write(head + rest)
                await _copy(upstream, writer)
                asking.cancel()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
            out.transport.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b": ")
        if name == b"content-length":
            return await reader.readexactly(int(value))
    return await reader.read()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(4096):
        writer.write(data)
        await writer.drain()


# ---- cuts and kills


@pytest.mark.promise("1")
async def test_a_stream_that_is_cut_again_and_again_goes_on_from_its_last_event(launch: Launch) -> None:
    async with launch(SLOW) as gateway, cutting(gateway.port, 3000) as proxy:
        key = gateway.key()
        async with http_client(gateway.url, key) as http, http_client(proxy.url, key) as bad:
            await http.post("/v1/contexts", json={"id": "chat"})
            async with following(http, "chat") as first:
                await first.wait(lambda frame: frame["type"] == "snapshot")
            streams, last = [first], first.last_id
            sent = asyncio.create_task(http.post("/v1/contexts/chat/messages", json={"content": "long 300"}))
            while not any(frame["type"] == "turn_end" for stream in streams for frame in stream.frames):
                async with following(bad, "chat", last) as stream:
                    streams.append(stream)
                    await _read_to_the_end_of_the_turn(stream)
                last = stream.last_id or last
            await sent
            history = await _history(http)
        assert len(streams) > 2
        assert [event.seq for event in _fold(streams).events] == [frame["seq"] for frame in history]
        # A cursor that is held takes no snapshot.
        assert sum(event.type == "snapshot" for stream in streams for event in stream.events) == 1
        events = [frame for stream in streams for frame in stream.frames if frame["type"] != "snapshot"]
        assert history[-2]["content"] == spoken(events, history[-2]["id"])


async def _read_to_the_end_of_the_turn(stream: Sse) -> None:
    try:
        await stream.wait(lambda frame: frame["type"] == "turn_end", seconds=30)
    except ConnectionError:
        assert stream.ended


@pytest.mark.promise("1")
async def test_a_turn_that_is_cut_again_and_again_goes_on_with_the_same_message(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path, config=SLOW) as gateway, cutting(gateway.port, 3000) as proxy:
        key = gateway.key()
        frames: list[Frame] = []
        async with http_client(proxy.url, key) as bad, http_client(gateway.url, key) as http:
            last, responses = None, 0
            while not frames or frames[-1]["type"] != "turn_end":
                async with posting(bad, "chat", last, id="m1", content="long 300") as turn:
                    frames += await turn.rest()
                    last, responses = turn.last_id or last, responses + 1
            history = await _history(http)
        assert responses > 2
        assert _durable(frames) == history
        assert history[-2]["content"] == spoken(frames, history[-2]["id"])
        seqs = [frame["seq"] for frame in frames]
        assert seqs == sorted(set(seqs))


@pytest.mark.promise("2")
@pytest.mark.promise("4")
async def test_a_kill_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path, config=SLOW) as gateway:
        key = gateway.key()
        async with http_client(gateway.url, key) as http:
            await http.post("/v1/contexts", json={"id": "chat"})
            async with following(http, "chat") as stream, posting(http, "chat", id="m1", content="long 300") as turn:
                for one in (stream, turn):
                    await one.wait(lambda frame: frame["type"] == "delta")
                gateway.kill()
                await asyncio.gather(stream.rest(), turn.rest())
                assert (stream.cut, turn.cut) == (True, True)
        await gateway.start()
        async with http_client(gateway.url, key) as http:
            async with (
                following(http, "chat", stream.last_id) as second,
                posting(http, "chat", turn.last_id, id="m1", content="long 300") as again,
            ):
                rest = await again.rest()
                await second.wait(lambda frame: frame["type"] == "turn_end")
            assert again.response.headers["tidegate-duplicate"] == "true"
            history = await _history(http)
        assert [event.seq for event in _fold([stream, second]).events] == [frame["seq"] for frame in history]
        assert rest[-1] == history[-1]
        assert _client_of([turn, again]) == [frame["id"] for frame in history if "id" in frame]
        answer = history[-2]
        assert len(answer["content"].split()) == 300
        snapshot = next(frame for frame in second.frames if frame["type"] == "snapshot")
        before = "".join(partial["text"] for partial in snapshot["partial"])
        said = spoken(second.frames, answer["id"])
        assert answer["content"] in (said, before + said)


def _client_of(turns: list[Sse]) -> list[str]:
    """The ids of what a client knows of a turn that folds its responses: a snapshot replaces, an event adds."""
    known: list[str] = []
    for frame in (frame for turn in turns for frame in turn.frames):
        if frame["type"] == "snapshot":
            known = [event["id"] for event in frame["events"] if "id" in event]
        elif frame["type"] in DURABLE and "id" in frame:
            known.append(frame["id"])
    return known


async def test_a_turn_comes_back_whole_after_the_log_is_gone(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path, config=SLOW) as gateway:
        key = gateway.key()
        async with http_client(gateway.url, key) as http:
            async with posting(http, "chat", id="m1", content="calc 5 * 3") as turn:
                first = await turn.rest()
            for number in range(40):
                await http.post("/v1/contexts/chat/messages", json={"content": f"{number}"}, headers=JSON)
        gateway.kill()
        await gateway.start()
        async with http_client(gateway.url, key) as http:
            async with posting(http, "chat", id="m1", content="calc 5 * 3") as turn:
                again = await turn.rest()
            whole = await http.post("/v1/contexts/chat/messages", json={"id": "m1", "content": "x"}, headers=JSON)
        assert again == _durable(first) == whole.json()["events"]


@pytest.mark.promise("5")
async def test_readers_that_read_nothing_cost_little_and_end_with_everything(tmp_path: Path) -> None:
    readers, words = 20, 80_000
    config = '[models.demo]\nprovider = "demo"\ndelay = 0.05\n[limits]\nheartbeat = 60\n'
    async with GatewayProcess(tmp_path, config=config) as gateway:
        key = gateway.key()
        assert gateway.process is not None
        process = psutil.Process(gateway.process.pid)
        async with http_client(gateway.url, key) as http:
            await http.post("/v1/contexts/chat/messages", json={"content": "hello"}, headers=JSON)
            slow = [await _reads_nothing(gateway, "/v1/contexts/chat/stream", key) for _ in range(readers)]
            await _until(http, f"tidegate_streams {readers}.0")
            before = process.memory_full_info().uss
            message = {"id": "m1", "content": f"long {words}"}
            whole = await http.post("/v1/contexts/chat/messages", json=message, headers=JSON, timeout=120)
            grown = process.memory_full_info().uss - before
            answer = whole.json()["events"][-2]
            assert len(answer["content"].split()) == words
            assert grown < readers * 1_000_000 + 4_000_000, f"{grown:,} bytes for {readers} readers"
            await asyncio.gather(*(_reads_all(reader, writer, answer["id"]) for reader, writer in slow))
            await _until(http, "tidegate_streams 0.0")


async def _reads_nothing(
    gateway: GatewayProcess, path: str, key: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1 << 24)
    writer.write(raw_request(path, key))
    await reader.readuntil(b"event: snapshot")
    transport: Any = writer.transport
    transport.pause_reading()
    return reader, writer


async def _reads_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: str) -> None:
    transport: Any = writer.transport
    transport.resume_reading()
    async with asyncio.timeout(60):
        # What ended the turn is the last thing that there is, as an event or in a snapshot.
        await reader.readuntil(b'"id":"%b","content":' % answer.encode())
        await reader.readuntil(b'"type":"turn_end"')
    writer.transport.abort()


async def test_a_client_that_goes_away_stops_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path, config=SLOW) as gateway:
        key = gateway.key()
        async with http_client(gateway.url, key) as http:
            async with posting(http, "chat", id="m1", content="long 200") as turn, following(http, "chat") as stream:
                await turn.wait(lambda frame: frame["type"] == "delta")
                await stream.wait(lambda frame: frame["type"] == "snapshot")
                await _until(http, "tidegate_streams 2.0")
            with pytest.raises(httpx.ReadTimeout):
                await http.post(
                    "/v1/contexts/chat/messages", json={"id": "m1", "content": "x"}, headers=JSON, timeout=0.2
                )
            await _until(http, "tidegate_streams 0.0")
            await _until(http, "tidegate_live_contexts 0.0")
            whole = await http.post("/v1/contexts/chat/messages", json={"id": "m1", "content": "x"}, headers=JSON)
            assert whole.json()["events"][-1]["status"] == "complete"
            assert len(whole.json()["events"][-2]["content"].split()) == 200
        assert "Traceback" not in gateway.log()


# ---- messages


@EVERYWHERE
async def test_the_same_message_twice_at_once_is_one_turn(gateway: GatewayProcess) -> None:
    async with http_client(gateway.url, gateway.key()) as http:
        path, message = "/v1/contexts/chat/messages", {"id": "m1", "content": "calc 5 * 3"}
        one, other, whole = await asyncio.gather(
            http.post(path, json=message), http.post(path, json=message), http.post(path, json=message, headers=JSON)
        )
        events = whole.json()["events"]
        assert [event["type"] for event in events].count("turn_end") == 1
        for answer in (one, other):
            lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
            assert [line for line in lines if '"turn_end"' in line]
        duplicates = [answer.headers.get("tidegate-duplicate") for answer in (one, other, whole)]
        assert sorted(duplicates, key=str) == [None, "true", "true"]
        assert await _history(http) == events


@SHARED
async def test_a_message_without_an_answer_is_its_one_event(gateway: GatewayProcess) -> None:
    async with http_client(gateway.url, gateway.key()) as http:
        frame: Frame = {}
        for _ in range(2):
            async with posting(http, "chat", id="note", content="a note", respond=False) as turn:
                (frame,) = await turn.rest()
            assert (frame["id"], frame.get("turn_id")) == ("note", None)
            assert "tidegate-turn-id" not in turn.response.headers
        whole = await http.post(
            "/v1/contexts/chat/messages", json={"id": "note", "content": "a", "respond": False}, headers=JSON
        )
        assert (whole.status_code, whole.json()["events"]) == (200, [frame])


async def test_a_message_that_steers_is_answered_by_the_turn_that_it_joins(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path, config=SLOW) as gateway, http_client(gateway.url, gateway.key()) as http:
        async with posting(http, "chat", id="m1", content="long 60") as turn:
            await turn.wait(lambda frame: frame["type"] == "delta")
            async with posting(http, "chat", id="m2", content="and now this", when_busy="steer") as steering:
                assert steering.response.headers["tidegate-turn-id"] == "m1"
                frames = await steering.rest()
            own = await turn.rest()
        assert _durable(frames) == _durable(own) == await _history(http)
        assert [frame["id"] for frame in own if frame["type"] == "message" and frame["role"] == "user"] == ["m1", "m2"]


async def test_a_turn_that_waits_its_place_says_nothing_of_the_others(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path, config=SLOW) as gateway, http_client(gateway.url, gateway.key()) as http:
        async with posting(http, "chat", id="m1", content="long 40") as first:
            await first.wait(lambda frame: frame["type"] == "delta")
            async with posting(http, "chat", id="m2", content="hello") as second:
                rejected = await http.post("/v1/contexts/chat/messages", json={"content": "now", "when_busy": "reject"})
                frames = await second.rest()
            await first.rest()
        assert (rejected.status_code, rejected.json()["error"]["code"]) == (409, "busy")
        assert {frame["turn_id"] for frame in frames} == {"m2"}
        assert spoken(frames, frames[-2]["id"]) == frames[-2]["content"]


async def test_a_cancel_over_http(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path, config=SLOW) as gateway, http_client(gateway.url, gateway.key()) as http:
        async with posting(http, "chat", id="m1", content="long 2000") as turn:
            await turn.wait(lambda frame: frame["type"] == "delta")
            acks = [
                (await http.post("/v1/contexts/chat/cancel", json={"id": "c1", "turn_id": "m1"})).json()
                for _ in range(2)
            ]
            frames = await turn.rest()
        assert acks[0] == {"type": "ack", "id": "c1", "context_id": "chat"}
        assert acks[1] == {**acks[0], "duplicate": True}
        assert frames[-1]["status"] == "cancelled"
        unknown = await http.post("/v1/contexts/chat/cancel", json={"turn_id": "nope"})
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("approved", [True, False])
async def test_an_approval_over_http(tmp_path: Path, approved: bool) -> None:
    gateway = GatewayProcess(tmp_path, config=TOOLS)
    await gateway.start(TOOL_TRACE=str(tmp_path / "trace"))
    try:
        async with http_client(gateway.url, gateway.key()) as http:
            path, message = "/v1/contexts/chat/messages", {"id": "m1", "content": 'call wipe {"disk": "a"}'}
            call: Frame = {}
            for _ in range(2):
                # Sooner than any heartbeat: it is the last event that lets it answer.
                waiting = await http.post(path, json=message, headers=JSON, timeout=15)
                assert waiting.status_code == 202
                call = next(event for event in waiting.json()["events"] if event["type"] == "tool_call")
                assert call["approval"] == "required"
            async with posting(http, "chat", **message) as turn:
                decision = {"id": "d1", "tool_call_id": call["id"], "approved": approved, "reason": "because"}
                acks = [await http.post("/v1/contexts/chat/approvals", json=decision) for _ in range(2)]
                frames = await turn.rest()
            late = await http.post("/v1/contexts/chat/approvals", json={**decision, "id": "d2"})
            done = await http.post(path, json=message, headers=JSON)
            assert [ack.json().get("duplicate") for ack in acks] == [None, True]
            assert (late.status_code, late.json()["error"]["code"]) == (409, "conflict")
            assert (done.status_code, done.json()["events"]) == (200, await _history(http))
            assert _durable(frames) == done.json()["events"]
            response = next(event for event in done.json()["events"] if event["type"] == "tool_response")
            assert response["status"] == ("success" if approved else "denied")
    finally:
        gateway.kill()


@EVERYWHERE
async def test_a_tool_of_a_client_that_is_away_is_answered_over_http(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with http_client(gateway.url, key) as http, http_client(gateway.url, gateway.key("bob")) as other:
        async with Wire(gateway.ws, key) as wire:
            await wire.hello(tools=[WHERE])
        path, message = "/v1/contexts/chat/messages", {"id": "m1", "content": "call where_am_i {}"}
        waiting = await http.post(path, json=message, headers=JSON)
        assert waiting.status_code == 202
        call = waiting.json()["events"][-2]
        assert (call["type"], call["runs_on"]) == ("tool_call", "client")
        answer = {"id": "a1", "tool_call_id": call["id"], "result": {"city": "Ghent"}, "status": "success"}
        assert (await other.post("/v1/contexts/chat/tool_responses", json=answer)).status_code == 404
        whole = asyncio.create_task(http.post(path, json={**message}, headers=JSON))
        acks = [await http.post("/v1/contexts/chat/tool_responses", json=answer) for _ in range(2)]
        assert [ack.json().get("duplicate") for ack in acks] == [None, True]
        await whole
        async with posting(http, "chat", **message) as turn:
            frames = await turn.rest()
        done = await http.post(path, json=message, headers=JSON)
        assert done.status_code == 200
        assert "Ghent" in frames[-2]["content"]
        assert _durable(frames) == done.json()["events"]


# ---- refusals and ends


@SHARED
async def test_refusals_name_what_is_wrong(gateway: GatewayProcess) -> None:
    async with http_client(gateway.url, gateway.key()) as http:
        path = "/v1/contexts/chat/messages"
        for fields, named in (
            ({"content": 7}, "content"),
            ({"content": "x", "context_id": "other"}, "context_id"),
            ({"content": "x", "type": "cancel"}, "type"),
            ({"content": "x", "id": "a b"}, "id"),
        ):
            refused = await http.post(path, json=fields)
            assert (refused.status_code, refused.json()["error"]["path"]) == (400, named)
        assert (await http.post(path, content=b'{"content":"' + b"x" * 1_100_000)).status_code == 413
        assert (await http.post(f"{path}?format=xml", json={"content": "x"})).json()["error"]["path"] == "format"
        assert (await http.get("/v1/contexts/chat")).status_code == 404, "what was refused was not stored"
        assert (await http.get("/v1/contexts/chat/stream")).status_code == 404
        await http.post("/v1/contexts", json={"id": "chat"})
        for url, headers, named in (
            ("/v1/contexts/chat/stream?cursor=7", {}, "cursor"),
            ("/v1/contexts/chat/stream", {"Last-Event-ID": "x"}, "headers.last-event-id"),
        ):
            refused = await http.get(url, headers=headers)
            assert (refused.status_code, refused.json()["error"]["path"]) == (400, named)
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as nobody:
        assert (await nobody.get("/v1/contexts/chat/stream")).status_code == 401
        assert (await nobody.post(path, json={"content": "x"})).status_code == 401
        ticketed = await nobody.post("/v1/contexts/chat/cancel?token=abc", json={})
        assert ticketed.status_code == 401


@pytest.mark.promise("6")
@EVERYWHERE
async def test_principals_never_meet(gateway: GatewayProcess) -> None:
    async with (
        http_client(gateway.url, gateway.key("ann")) as ann,
        http_client(gateway.url, gateway.key("bob")) as bob,
    ):
        async with posting(ann, "chat", id="m1", content="secret of ann") as turn:
            await turn.rest()
        assert (await bob.get("/v1/contexts/chat/stream")).status_code == 404
        assert (await bob.post("/v1/contexts/chat/cancel", json={"turn_id": "m1"})).status_code == 404
        async with posting(bob, "chat", id="m1", content="secret of bob") as turn:
            frames = await turn.rest()
        assert "tidegate-duplicate" not in turn.response.headers
        assert "ann" not in str(frames)


async def test_streams_and_sockets_are_counted_together(tmp_path: Path) -> None:
    config = SLOW + "[limits]\nconnections_per_principal = 2\n"
    async with GatewayProcess(tmp_path, config=config) as gateway:
        key = gateway.key()
        async with http_client(gateway.url, key) as http:
            await http.post("/v1/contexts", json={"id": "chat"})
            async with Wire(gateway.ws, key) as wire:
                await wire.hello()
                async with following(http, "chat"):
                    for refused in (
                        await http.get("/v1/contexts/chat/stream"),
                        await http.post("/v1/contexts/chat/messages", json={"content": "x"}),
                    ):
                        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
                        assert int(refused.headers["retry-after"]) > 0
                await _until(http, "tidegate_streams 0.0")
                async with following(http, "chat"):
                    pass
            assert await _history(http) == []


async def test_a_context_that_is_deleted_ends_its_streams(gateway: GatewayProcess) -> None:
    async with http_client(gateway.url, gateway.key()) as http:
        async with posting(http, "chat", content="hello") as turn:
            await turn.rest()
        async with following(http, "chat") as stream:
            await stream.wait(lambda frame: frame["type"] == "snapshot")
            assert (await http.delete("/v1/contexts/chat")).status_code == 204
            frames = await stream.rest()
        assert frames[-1].get("deleted") is True
        assert not stream.cut
        assert (await http.get("/v1/contexts/chat/stream")).status_code == 404


async def test_credentials_that_end_end_the_stream(tmp_path: Path) -> None:
    config = SLOW + f'[auth.jwt]\nkey = "{SECRET}"\nalgorithms = ["HS256"]\n'
    async with GatewayProcess(tmp_path, config=config) as gateway:
        token = jwt.encode({"sub": "ann", "exp": time.time() + 3}, SECRET, "HS256")
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=gateway.url, headers=headers, trust_env=False, timeout=30) as http:
            await http.post("/v1/contexts", json={"id": "chat"})
            async with following(http, "chat") as stream:
                await stream.rest()
            assert not stream.cut
            assert stream.comments[-1] == "the credentials have expired"


async def test_draining_lets_turns_end_and_then_ends_the_streams(tmp_path: Path) -> None:
    config = SLOW + "[server]\ndrain_seconds = 20\n"
    async with GatewayProcess(tmp_path, config=config) as gateway, http_client(gateway.url, gateway.key()) as http:
        await http.post("/v1/contexts", json={"id": "chat"})
        async with following(http, "chat") as stream, posting(http, "chat", id="m1", content="long 2000") as turn:
            await turn.wait(lambda frame: frame["type"] == "delta")
            # A connection that is there before: nobody else gets in any more.
            assert (await http.get("/readyz")).status_code == 200
            gateway.terminate()
            async with asyncio.timeout(15):
                while (await http.get("/readyz")).status_code == 200:
                    await asyncio.sleep(0.02)
            refused = await http.post("/v1/contexts/chat/messages", json={"content": "too late"})
            # What ends a turn is still taken.
            assert (await http.post("/v1/contexts/chat/cancel", json={"turn_id": "m1"})).status_code == 200
            frames, _ = await asyncio.gather(turn.rest(), stream.rest())
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
        assert frames[-1]["type"] == "turn_end"
        assert (turn.cut, stream.cut) == (False, False)
        assert stream.frames[-1]["type"] == "turn_end"
        assert stream.comments[-1] == "the instance restarts"
        assert await gateway.died() == 0


async def test_a_turn_that_is_too_long_for_the_drain_goes_on_after_the_restart(tmp_path: Path) -> None:
    config = SLOW + "[server]\ndrain_seconds = 0.1\n"
    async with GatewayProcess(tmp_path, config=config) as gateway:
        key = gateway.key()
        async with http_client(gateway.url, key) as http:
            async with posting(http, "chat", id="m1", content="long 300") as turn:
                await turn.wait(lambda frame: frame["type"] == "delta")
                whole = asyncio.create_task(
                    http.post("/v1/contexts/chat/messages", json={"id": "m1", "content": "x"}, headers=JSON)
                )
                await _until(http, "tidegate_streams 2.0")
                gateway.terminate()
                frames = await turn.rest()
            assert (await whole).status_code == 503
        assert not turn.cut
        assert frames[-1]["type"] != "turn_end"
        assert await gateway.died() == 0
        await gateway.start()
        async with http_client(gateway.url, key) as http:
            done = await http.post("/v1/contexts/chat/messages", json={"id": "m1", "content": "x"}, headers=JSON)
        assert (done.status_code, done.json()["events"][-1]["status"]) == (200, "complete")


# ---- formats


@pytest.mark.parametrize("format", ["ag-ui", "ai-sdk"])
async def test_a_turn_in_the_words_of_a_front_end(gateway: GatewayProcess, format: str) -> None:
    message = {"id": "m1", "role": "user", "content": "calc 5 * 3", "parts": [{"type": "text", "text": "calc 5 * 3"}]}
    async with http_client(gateway.url, gateway.key()) as http:
        body = {"id": "chat", "threadId": "chat", "runId": "r1", "messages": [message]}
        answers = [await http.post(f"/v1/contexts/chat/messages?format={format}", json=body) for _ in range(2)]
        assert [event["type"] for event in await _history(http)].count("turn_end") == 1
    for answer in answers:
        assert answer.status_code == 200
        assert "15" in answer.text
    last = {"ag-ui": '"type":"RUN_FINISHED"', "ai-sdk": "data: [DONE]"}[format]
    assert last in answers[0].text.strip().splitlines()[-1]


async def test_the_loop_of_the_documentation(gateway: GatewayProcess) -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "http.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert "http://127.0.0.1:8000" in code
    code = code.replace("http://127.0.0.1:8000", gateway.url)
    env = os.environ | {"TIDEGATE_KEY": gateway.key(), "NO_PROXY": "127.0.0.1"}
    said: list[bytes] = []
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, env=env
        )
        said.append((await process.communicate())[0])
        assert process.returncode == 0
    assert said[0] == said[1] != b""
