"""The client over real sockets, against a server that closes, refuses and holds up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from gateway.client import Client, Disconnected, Refused, connect
from protocol.frames import (
    Ack,
    Auth,
    ClientFrame,
    Error,
    Expiring,
    GoAway,
    Hello,
    Limits,
    SendMessage,
    ServerFrame,
)
from tests.gateway.client_rig import ready
from tests.gateway.client_server import FaultyServer, running


def _connect(server: FaultyServer, **options: Any) -> AbstractAsyncContextManager[Client]:
    credentials: dict[str, Any] = {} if "credentials" in options else {"token": "t"}
    return connect(server.url, random=lambda: 0.0, **{**credentials, **options})


def _closing(code: int, times: int = 1) -> Callable[[ClientFrame, ServerConnection], list[ServerFrame] | None]:
    async def close(socket: ServerConnection) -> None:
        await socket.close(code)

    left = times
    tasks: set[asyncio.Task[None]] = set()

    def script(frame: ClientFrame, socket: ServerConnection) -> list[ServerFrame] | None:
        nonlocal left
        if isinstance(frame, Hello) or not left:
            return None
        left -= 1
        tasks.add(asyncio.ensure_future(close(socket)))
        return []

    return script


@pytest.mark.parametrize("code", [1003, 1009, 4400, 4401, 4403, 4409])
async def test_a_close_that_says_stop_is_raised_to_all_who_wait(code: int) -> None:
    async with running(FaultyServer(script=_closing(code))) as server, _connect(server) as client:
        events = client.events()
        async with asyncio.timeout(10):
            with pytest.raises(Disconnected) as told:
                await client.send("hi")
            with pytest.raises(Disconnected):
                await anext(events)
            with pytest.raises(Disconnected):
                await client.ping()
    assert told.value.code == code
    assert len(server.hellos) == 1


@pytest.mark.parametrize("code", [1001, 1011, 1012, 4408, 4429])
async def test_any_other_close_is_followed_by_another_try(code: int) -> None:
    async with running(FaultyServer(script=_closing(code))) as server, _connect(server) as client:
        await client.send("hi", id="m")
        assert server.gateway.order == ["m"]
    assert [hello.attempt for hello in server.hellos] == [1, 2]
    assert server.hellos[1].session_id == "sess_1"


async def test_new_credentials_after_4401_and_before_they_expire() -> None:
    tokens = iter(["first", "second", "third"])

    async def credentials() -> str:
        return next(tokens)

    script = _closing(4401)
    async with running(FaultyServer(script=script)) as server, _connect(server, credentials=credentials) as client:
        await client.send("hi")
        assert [hello.token for hello in server.hellos] == ["first", "second"]
        await server.write(Expiring(expires_in=60))
        await server.wait(lambda: any(isinstance(frame, Auth) for frame in server.received))
        assert [frame.token for frame in server.received if isinstance(frame, Auth)] == ["third"]


async def test_goaway_holds_frames_back_for_the_next_instance() -> None:
    def script(frame: ClientFrame, socket: ServerConnection) -> list[ServerFrame] | None:
        if isinstance(frame, SendMessage) and len(server.sockets) == 1:
            return [GoAway(reason="draining", retry_after=0.0), Error("unavailable", "draining", True, id=frame.id)]
        return None

    async with running(FaultyServer(script=script)) as server, _connect(server, retries=0) as client:
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            sending = group.create_task(client.send("hi", id="m"))
            await server.wait(lambda: len(server.received) == 2)
            await server.sockets[0].close(1012)
        assert sending.result().id == "m"
    assert server.gateway.order == ["m"]


@pytest.mark.parametrize(("times", "retryable"), [(2, True), (9, True), (1, False)])
async def test_refusals_are_retried_a_few_times_if_they_may_be(times: int, retryable: bool) -> None:
    left = times

    def script(frame: ClientFrame, socket: ServerConnection) -> list[ServerFrame] | None:
        nonlocal left
        if not isinstance(frame, SendMessage) or not left:
            return None
        left -= 1
        return [Error(code="rate_limited", message="slow down", retryable=retryable, id=frame.id, retry_after=0.001)]

    async with running(FaultyServer(script=script)) as server, _connect(server, retries=3) as client:
        if times == 2:
            assert not (await client.send("hi")).duplicate
        else:
            with pytest.raises(Refused, match="slow down") as refused:
                await client.send("hi")
            assert refused.value.retryable is retryable
    tries = [frame.id for frame in server.received if isinstance(frame, SendMessage)]
    assert len(tries) == {2: 3, 9: 4, 1: 1}[times]
    assert len(set(tries)) == 1


async def test_sends_wait_while_too_many_are_unanswered() -> None:
    held: list[SendMessage] = []

    def script(frame: ClientFrame, socket: ServerConnection) -> list[ServerFrame] | None:
        if isinstance(frame, Hello):
            return [ready(limits=Limits(max_frame_bytes=500, max_unacked=2, messages_per_minute=1))]
        if isinstance(frame, SendMessage):
            held.append(frame)
            return []
        return None

    async with running(FaultyServer(script=script)) as server, _connect(server) as client:
        with pytest.raises(Refused, match="larger than 500 bytes"):
            await client.send("x" * 500)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            sending = [group.create_task(client.send("hi", id=f"m{n}")) for n in range(5)]
            for answered in range(5):
                await server.wait(lambda wanted=answered + 2: len(held) == min(wanted, 5))
                await server.write(Ack(id=f"m{answered}", context_id="c"))
                await sending[answered]


async def test_a_cancelled_send_that_was_not_written_is_withdrawn() -> None:
    def script(frame: ClientFrame, socket: ServerConnection) -> list[ServerFrame] | None:
        return [ready(), GoAway(reason="r", retry_after=0.0)] if len(server.sockets) == 1 else None

    async with running(FaultyServer(script=script)) as server, _connect(server) as client:
        await server.wait(lambda: len(server.received) == 1)
        sending = asyncio.create_task(client.send("never", id="never"))
        await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await server.sockets[0].close(1012)
        await client.send("hi", id="m")
    assert server.gateway.order == ["m"]


async def test_what_is_no_frame_ends_the_client() -> None:
    async with running(FaultyServer()) as server, _connect(server) as client, asyncio.timeout(10):
        events = client.events()
        await server.sockets[0].send('{"type":"nonsense"}')
        with pytest.raises(Disconnected, match="does not speak this protocol"):
            await anext(events)
        assert await server.closed() == 1002


@pytest.mark.parametrize("status", [HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND])
async def test_a_refused_upgrade_is_raised(status: HTTPStatus) -> None:
    async with running(FaultyServer(status=status)) as server:
        with pytest.raises(Disconnected) as told:
            async with _connect(server):
                raise AssertionError("it connected")
    assert told.value.code == status


async def test_a_gateway_that_is_not_there_is_waited_for_so_long() -> None:
    async with running(FaultyServer()) as server:
        url = server.url
    with pytest.raises(Disconnected, match="not reached") as told:
        async with connect(url, open_timeout=0.05, random=lambda: 0.01):
            raise AssertionError("it connected")
    assert isinstance(told.value.__cause__, OSError)
