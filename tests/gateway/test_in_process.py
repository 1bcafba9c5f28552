"""The gateway called from within its process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from gateway import Client, Gateway, Principal, ToolContext, tool
from gateway.client import Disconnected, Refused
from gateway.client_port import Channel, Closed
from gateway.core.fold import Transcript
from gateway.in_process import InProcessChannel
from gateway.transport.port import HIGH_WATER
from protocol.codec import decode_server, encode
from protocol.frames import Ack, Event, Hello, Message, SendMessage, Snapshot, ToolCall, TurnEnd
from protocol.ids import Cursor
from tests.gateway.host_apps import ANN, gateway_in, sockets, until

BOB = Principal(tenant="host", subject="bob")


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    made = gateway_in(tmp_path)
    async with made.running():
        yield made
        await until(lambda: sockets(made) == 0)


def answers(client: Client, context_id: str) -> list[str]:
    events = client.transcript(context_id).events
    return [str(event.content) for event in events if isinstance(event, Message) and event.role == "assistant"]


async def finished(gateway: Gateway, context_id: str) -> list[str]:
    """The answers in a context once its last turn is over, as a client sees them that comes later."""
    async with gateway.connect(ANN) as client, asyncio.timeout(20):
        events = client.events_of(context_id)
        async for _ in events:
            if isinstance(client.transcript(context_id).events[-1], TurnEnd):
                return answers(client, context_id)
    raise AssertionError("the context was left")


async def test_it_is_a_client_like_any_other(gateway: Gateway) -> None:
    async with gateway.connect(ANN, name="job") as client, asyncio.timeout(20):
        text = "".join([piece async for piece in client.stream("count 2", "chat")])
        assert answers(client, "chat")[-1] in text
        assert client.ready.subject == "ann"
        assert sockets(gateway) == 1
        assert await client.ping() >= 0
        with pytest.raises(Refused, match="not_found"):
            await client.call_tool("nothing", {})
        async with gateway.connect(BOB) as other:
            with pytest.raises(Refused, match="not_found"):
                await other.subscribe("chat")
    assert sockets(gateway) == 0


async def test_tools_of_the_client_and_approval(tmp_path: Path) -> None:
    runs: list[str] = []

    @tool(approval="always")
    async def charge(ctx: ToolContext, amount: int) -> int:
        runs.append(f"{ctx.principal.subject} {amount}")
        return amount

    def locate(city: str) -> str:
        """Where it is."""
        return f"north of {city}"

    gateway = gateway_in(tmp_path, tools=[charge])
    async with gateway.running(), gateway.connect(ANN, tools=[locate]) as client, asyncio.timeout(20):
        text = "".join([piece async for piece in client.stream('call locate {"city": "Rome"}')])
        assert "north of Rome" in text
        async with await client.ask('call charge {"amount": 7}', "chat") as turn:
            async for frame in turn:
                if isinstance(frame, ToolCall):
                    await client.approve("chat", frame.id)
        assert runs == ["ann 7"]


async def test_whoever_is_cancelled_leaves_nothing_and_the_turn_goes_on(gateway: Gateway) -> None:
    heard = asyncio.Event()

    async def ask() -> None:
        async with gateway.connect(ANN) as client:
            async for _ in client.stream("long 100", "chat"):
                heard.set()

    task = asyncio.create_task(ask())
    await heard.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sockets(gateway) == 0
    (answer,) = await finished(gateway, "chat")
    assert len(answer.split()) >= 100


@pytest.mark.parametrize("steps", range(0, 40, 3))
async def test_cancelled_at_any_step_of_connecting(gateway: Gateway, steps: int) -> None:
    async def connect() -> None:
        async with gateway.connect(ANN):
            await asyncio.Event().wait()

    task = asyncio.create_task(connect())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: sockets(gateway) == 0)
    await until(lambda: gateway.stats.registry.get_sample_value("tidegate_sessions") == 0)


async def test_an_error_of_the_host_comes_out_as_it_is(tmp_path: Path) -> None:
    gateway = gateway_in(tmp_path)
    with pytest.raises(LookupError, match="the host's own"):
        async with gateway.running(), gateway.connect(ANN):
            raise LookupError("the host's own")
    assert sockets(gateway) == 0


async def test_a_close_is_followed_by_a_reconnect_that_loses_no_text(gateway: Gateway) -> None:
    async with gateway.connect(ANN) as client, asyncio.timeout(30):
        session, pieces = client.session_id, ""
        closed = False
        async for piece in client.stream("long 300", "chat"):
            pieces += piece
            if not closed:
                closed = True
                await gateway._parts._door.close(1012, 2.0)  # pyright: ignore[reportPrivateUsage]
        assert answers(client, "chat") == [pieces]
        assert client.session_id == session
        assert client.ready.resumed
        assert sockets(gateway) == 1


async def hello(channel: Channel) -> None:
    await channel.send(encode(Hello(attempt=1, cursors={})))
    await channel.receive()


async def test_a_client_that_takes_nothing_costs_itself_only(tmp_path: Path) -> None:
    gateway = gateway_in(tmp_path, delay=0)
    async with gateway.running(), asyncio.timeout(60):
        channel = gateway._parts.clients.open(ANN)  # pyright: ignore[reportPrivateUsage]
        assert isinstance(channel, InProcessChannel)
        await hello(channel)
        await channel.send(encode(SendMessage(id="m", content="long 20000", context_id="chat", role="user")))
        ack = decode_server(await channel.receive())
        assert isinstance(ack, Ack)
        assert ack.epoch is not None
        transcript = Transcript("chat")
        transcript.resume(Cursor(int(ack.epoch), 0))
        # Another one reads all of it meanwhile.
        (answer,) = await finished(gateway, "chat")
        assert len(answer.split()) >= 20_000
        assert channel.unread < 3 * HIGH_WATER
        while not transcript.events or not isinstance(transcript.events[-1], TurnEnd):
            frame = decode_server(await channel.receive())
            if isinstance(frame, Snapshot):
                transcript.snapshot(frame)
            elif not isinstance(frame, Ack):
                transcript.apply(cast("Event", frame))  # raises where anything is missing
        assert answer in [event.content for event in transcript.events if isinstance(event, Message)]
        await channel.close()
        with pytest.raises(Closed):
            await channel.receive()
        with pytest.raises(Closed):
            await channel.send(b"{}")
        assert sockets(gateway) == 0


async def test_frames_that_are_none_are_answered_as_on_a_socket(gateway: Gateway) -> None:
    channel = gateway._parts.clients.open(ANN)  # pyright: ignore[reportPrivateUsage]
    await hello(channel)
    await channel.send(b"[]")
    assert b"invalid_frame" in await channel.receive()
    await channel.send(b"x" * 1_048_577)
    with pytest.raises(Closed) as closed:
        await channel.receive()
    assert closed.value.code == 1009
    await channel.close()


async def test_a_drain_is_told_and_a_running_turn_goes_on_in_the_gateways_next_life(tmp_path: Path) -> None:
    gateway = gateway_in(tmp_path, delay=5)
    async with asyncio.timeout(30):
        async with gateway.running():
            left = gateway.connect(ANN)
            client = await left.__aenter__()
            await anext(client.stream("long 100", "chat"))
        # Over for this client, within the second in which it tries to come back.
        with pytest.raises(Disconnected, match="not running"):
            async for _ in client.events():
                pass
        with pytest.raises(Disconnected):
            await client.send("more")
        await left.__aexit__(None, None, None)
        with pytest.raises(RuntimeError, match="not running"):
            gateway.connect(ANN)
        async with gateway.running():
            (answer,) = await finished(gateway, "chat")
            assert len(answer.split()) >= 100


async def test_whose_time_is_over(gateway: Gateway) -> None:
    late = Principal(tenant="host", subject="ann", expires_at=time.time() - 1)
    async with gateway.connect(late) as client:
        with pytest.raises(Disconnected) as told:
            await anext(client.events())
    assert told.value.code == 4401


async def test_another_event_loop_is_refused(gateway: Gateway) -> None:
    async def connect() -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            gateway.connect(ANN)

    await asyncio.to_thread(asyncio.run, connect())


async def test_many_at_once(gateway: Gateway) -> None:
    async def ask(n: int) -> str:
        async with gateway.connect(Principal(tenant="host", subject=f"user{n}")) as client:
            return "".join([piece async for piece in client.stream(f"number {n}", "chat")])

    async with asyncio.timeout(60):
        said = await asyncio.gather(*(ask(n) for n in range(50)))
    assert all(f"number {n}" in text for n, text in enumerate(said))
    assert sockets(gateway) == 0
