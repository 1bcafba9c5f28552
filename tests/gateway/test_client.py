"""The client over real sockets, against a server that cuts, repeats, forgets and refuses."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from gateway import tool
from gateway.client import Client, Disconnected, Refused, TurnFailed, connect
from gateway.client_websocket import socket_url
from protocol.frames import (
    Ack,
    AnswerTool,
    CallTool,
    ClientFrame,
    Delta,
    ErrorBody,
    Event,
    ServerFrame,
    Snapshot,
    Subscribe,
    ToolCall,
    ToolResponse,
    TurnEnd,
    Usage,
)
from tests.gateway.client_server import FaultyServer, running

_ANSWER = "0 1 2 3 "
_FRAMES = 11  # ready, ack, message, message_start, 4 deltas, message, turn_end, and none to cut


def _connect(server: FaultyServer, **options: Any) -> AbstractAsyncContextManager[Client]:
    credentials: dict[str, Any] = {} if "credentials" in options else {"token": "t"}
    return connect(server.url, random=lambda: 0.0, **{**credentials, **options})


async def _text(client: Client, *arguments: Any) -> str:
    async with asyncio.timeout(10):
        return "".join([text async for text in client.stream(*arguments)])


@pytest.mark.parametrize("forget", [False, True])
@pytest.mark.parametrize("frames", range(_FRAMES))
async def test_a_cut_at_any_frame_loses_and_repeats_nothing(frames: int, forget: bool) -> None:
    async with running(FaultyServer(cuts=[frames, 1, frames], forget=forget)) as server, _connect(server) as client:
        assert await _text(client, "hi", "c") == _ANSWER
        assert await _text(client, "again", "c") == _ANSWER
        transcript = client.transcript("c")
        assert transcript.events == server.gateway.fold("c").events
        assert len(server.gateway.order) == 2
        attempts = [hello.attempt for hello in server.hellos]
    assert attempts == sorted(set(attempts), key=lambda attempt: attempt or 0)


async def test_events_are_contiguous_through_cuts() -> None:
    async with running(FaultyServer(cuts=[5, 4, 3])) as server, _connect(server) as client:
        seen: list[int] = []
        async with asyncio.TaskGroup() as group:
            events = client.events()

            async def consume() -> None:
                async for event in events:
                    assert not isinstance(event, Snapshot)
                    seen.append(event.seq)
                    if isinstance(event, TurnEnd):
                        return

            group.create_task(consume())
            sent = await client.send("hi", "c")
        assert sent.context_id == "c"
        assert seen == list(range(1, 9))


async def test_messages_are_stored_once_and_in_order_whatever_is_cut() -> None:
    async with running(FaultyServer(cuts=[2, 1, 3, 0, 5])) as server, _connect(server) as client:
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(client.send(f"text {number}", id=f"m{number}", respond=False))
        assert server.gateway.order == [f"m{number}" for number in range(20)]


async def test_duplicates_are_told() -> None:
    async with running(FaultyServer()) as server, _connect(server) as client:
        first = await client.send("hi", id="m")
        again = await client.send("hi", id="m")
    assert (first.duplicate, again.duplicate) == (False, True)
    assert first.context_id == again.context_id == "conv_m"


@pytest.mark.parametrize("fault", ["lose", "repeat"])
async def test_a_gap_or_a_repeated_event_is_mended(fault: str) -> None:
    left = 1

    def mangle(frames: list[ServerFrame]) -> list[ServerFrame]:
        nonlocal left
        place = next((at for at, frame in enumerate(frames) if isinstance(frame, Delta)), None)
        if place is None or not left:
            return frames
        left -= 1
        return [*frames[:place], *([frames[place]] * 2 if fault == "repeat" else []), *frames[place + 1 :]]

    async with running(FaultyServer(mangle=mangle)) as server, _connect(server) as client:
        assert await _text(client, "hi", "c") == _ANSWER
        assert any(isinstance(frame, Subscribe) for frame in server.received)


async def test_a_context_is_subscribed_when_its_events_are_asked_for() -> None:
    async with running(FaultyServer()) as server:
        async with _connect(server) as writer:
            await _text(writer, "hi", "c")
        server.gateway.attempt = 0
        async with _connect(server) as client, asyncio.timeout(10):
            chat = client.context("c")
            events = chat.events()
            assert isinstance(await anext(events), Snapshot)
            assert len(chat.transcript.events) == 3
            await chat.unsubscribe()
            with pytest.raises(StopAsyncIteration):
                await anext(events)
            with pytest.raises(Refused) as refused:
                await anext(client.context("unknown").events())
        assert refused.value.code == "not_found"


async def test_a_consumer_that_takes_nothing_gets_all_of_it_later() -> None:
    async with running(FaultyServer()) as server, _connect(server, bound=3) as client, asyncio.timeout(10):
        events = client.events()
        await client.send("hi", "c")
        seqs: list[int] = []
        async for event in events:
            assert isinstance(event, Event)
            seqs.append(event.seq)
            if isinstance(event, TurnEnd):
                break
    assert seqs == list(range(1, 9))


async def test_a_consumer_that_sends_while_it_is_behind_gets_a_snapshot_and_no_deadlock() -> None:
    async with running(FaultyServer()) as server, _connect(server, bound=3) as client, asyncio.timeout(10):
        events = client.events()
        for _ in range(5):
            await client.send("hi", "c")
        frame = await anext(events)
        while not isinstance(frame, Snapshot):
            frame = await anext(events)
        while frame.seq < 40:
            frame = await anext(events)
    assert len(server.gateway.order) == 5


async def test_a_client_tool_runs_once_through_cuts() -> None:
    runs: list[int] = []
    call = ToolCall(
        context_id="c",
        turn_id="k",
        id="k",
        tool="double",
        parameters={"n": 4},
        timestamp="t",
        runs_on="client",
        session_id="sess_1",
        seq=1,
    )

    @tool
    async def double(n: int) -> int:
        """Twice as much."""
        runs.append(n)
        return 2 * n

    def script(frame: ClientFrame, socket: ServerConnection) -> list[ServerFrame] | None:
        if isinstance(frame, CallTool):
            server.gateway.logs["c"] = [call]
            server.gateway.readers["c"] = 1
            return [Ack(id=frame.id, context_id="c", epoch="1", seq=1), call]
        if isinstance(frame, AnswerTool):
            if len(server.sockets) == 1:
                socket.transport.abort()
                return []
            response = ToolResponse(
                context_id="c",
                turn_id="k",
                id=frame.id,
                tool_call_id="k",
                result=frame.result,
                status="success",
                timestamp="t",
                seq=2,
            )
            return [Ack(id=frame.id), *server.gateway.append("c", response)]
        return None

    async with running(FaultyServer(script=script, forget=True)) as server, asyncio.timeout(10):
        async with _connect(server, tools=[double]) as client:
            response = await client.call_tool("double", {"n": 4}, "c", id="k")
        assert server.hellos[0].tools is not None
        assert [spec.name for spec in server.hellos[0].tools] == ["double"]
    assert response.result == 8
    assert runs == [4]
    assert len(server.sockets) == 2


async def test_a_failed_turn_is_raised() -> None:
    body = ErrorBody(code="provider_error", message="the provider failed", retryable=False)

    def mangle(frames: list[ServerFrame]) -> list[ServerFrame]:
        usage = Usage(input_tokens=0, output_tokens=0)
        return [
            TurnEnd("c", f.turn_id, f.seq, status="failed", steps=1, usage=usage, error=body)
            if isinstance(f, TurnEnd)
            else f
            for f in frames
        ]

    async with running(FaultyServer(mangle=mangle)) as server, _connect(server) as client:
        with pytest.raises(TurnFailed, match="the provider failed"):
            await _text(client, "hi", "c")


async def test_leaving_closes_the_socket_and_lets_errors_through_as_they_are() -> None:
    async with running(FaultyServer()) as server:
        async with _connect(server) as client:
            events = client.events()
        assert await server.closed() == 1000
        with pytest.raises(StopAsyncIteration):
            await anext(events)
        with pytest.raises(Disconnected, match="left"):
            await client.ping()

        async def fail() -> None:
            async with _connect(server):
                raise KeyError("mine")

        server.gateway.attempt = 0
        with pytest.raises(KeyError, match="mine"):
            await fail()


async def test_ping() -> None:
    async with running(FaultyServer()) as server, _connect(server) as client:
        assert await client.ping() >= 0
        assert client.ready.subject == "ann"
        assert client.session_id == "sess_1"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://127.0.0.1:8000", "ws://127.0.0.1:8000/v1/ws"),
        ("https://chat.example.org/base/", "wss://chat.example.org/base/v1/ws"),
        ("ws://[::1]:80/v1/ws", "ws://[::1]:80/v1/ws"),
    ],
)
def test_urls(given: str, url: str) -> None:
    assert socket_url(given) == url


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:8000", "http://"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ValueError, match="is no http"):
        socket_url(url)
