"""The client against a real gateway process with the demo model, over networks that fail."""

from __future__ import annotations

import asyncio

import pytest

from gateway import tool
from gateway.client import Client, Refused, connect
from gateway.core.fold import Transcript
from protocol.frames import Delta, Message, Snapshot, ToolProgress, TurnEnd
from tests.e2e.conftest import EVERYWHERE, FAST, SHARED, Launch
from tests.e2e.gateways import GatewayProcess
from tests.gateway.cutting_proxy import cutting


def _answers(transcript: Transcript) -> list[str]:
    return [
        event.content
        for event in transcript.events
        if isinstance(event, Message) and event.role == "assistant" and isinstance(event.content, str)
    ]


async def _stream(client: Client, text: str, context_id: str) -> str:
    async with asyncio.timeout(60):
        return "".join([piece async for piece in client.stream(text, context_id)])


@SHARED
async def test_text_streams_and_folds_to_the_transcript(gateway: GatewayProcess) -> None:
    async with connect(gateway.url, token=gateway.key()) as client:
        text = await _stream(client, "good morning", "chat")
        assert "good morning" in text
        assert _answers(client.transcript("chat")) == [text]
        assert client.ready.models == ["demo"]
        assert await client.ping() > 0


@EVERYWHERE
async def test_two_devices_end_with_the_same(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with connect(gateway.url, token=key) as one, connect(gateway.url, token=key) as other:
        await _stream(one, "first", "chat")
        async with asyncio.timeout(20):
            events = other.context("chat").events()
            assert isinstance(await anext(events), Snapshot)
            await _stream(one, "count 2", "chat")
            while not isinstance(await anext(events), TurnEnd):
                pass
        assert other.transcript("chat").events == one.transcript("chat").events


@pytest.mark.parametrize("budget", [1500, 2500, 4000])
@SHARED
async def test_a_network_that_cuts_again_and_again_loses_and_repeats_no_text(
    gateway: GatewayProcess, budget: int
) -> None:
    async with (
        cutting(gateway.port, budget) as proxy,
        connect(proxy.url, token=gateway.key(), random=lambda: 0.0) as client,
    ):
        turn = await client.ask("long 300", "chat")
        pieces = ""
        async with asyncio.timeout(60):
            async for update in turn.updates():
                pieces += getattr(update, "text", "")
        assert turn.end is not None
        assert turn.end.status == "complete"
        assert proxy.connections > 3
        # The transcript itself is too large for such a connection: read it over a better one.
        proxy.budget = None
    async with connect(gateway.url, token=gateway.key()) as client:
        chat = await client.subscribe("chat")
        events = chat.events()
        async with asyncio.timeout(20):
            while not chat.transcript.events:
                await anext(events)
        assert _answers(chat.transcript) == [pieces]


@EVERYWHERE
async def test_a_client_tool_is_called_by_the_model_and_directly(gateway: GatewayProcess) -> None:
    runs: list[str] = []

    @tool
    async def locate(city: str) -> dict[str, str]:
        """Where the city is."""
        runs.append(city)
        return {"found": city}

    async with connect(gateway.url, token=gateway.key(), tools=[locate]) as client:
        assert "Rome" in await _stream(client, 'call locate {"city": "Rome"}', "chat")
        async with asyncio.timeout(20):
            response = await client.call_tool("locate", {"city": "Oslo"}, "chat")
            wrong = await client.call_tool("locate", {"town": "Oslo"}, "chat")
    assert response.result == {"found": "Oslo"}
    assert wrong.status == "error"
    assert runs == ["Rome", "Oslo"]


@SHARED
async def test_refusals_and_cancels(gateway: GatewayProcess) -> None:
    async with connect(gateway.url, token=gateway.key()) as client, asyncio.timeout(20):
        with pytest.raises(Refused) as refused:
            await client.call_tool("nothing", {})
        assert (refused.value.code, refused.value.path) == ("not_found", "tool")
        turn = await client.ask("long 5000", "chat")
        async for frame in turn:
            if isinstance(frame, Delta):
                break
        await client.cancel("chat", turn_id=turn.id)
        async for _ in turn:
            pass
        assert turn.end is not None
        assert turn.end.status == "cancelled"


@SHARED
async def test_progress_is_seen(gateway: GatewayProcess) -> None:
    async with connect(gateway.url, token=gateway.key()) as client, asyncio.timeout(20):
        turn = await client.ask("count 2")
        frames = [frame async for frame in turn]
    assert any(isinstance(frame, ToolProgress) for frame in frames)
    assert isinstance(frames[-1], TurnEnd)


@pytest.mark.promise("4")
async def test_a_stream_goes_on_after_the_gateway_was_killed_and_started_again(launch: Launch) -> None:
    async with (
        launch(FAST) as gateway,
        connect(gateway.url, token=gateway.key(), random=lambda: 0.05) as client,
    ):
        text = ""
        killed = False
        async with asyncio.timeout(90):
            async for piece in client.stream("long 200", "chat"):
                text += piece
                if not killed:
                    killed = True
                    gateway.kill()
                    await gateway.start()
        assert _answers(client.transcript("chat")) == [text]
        assert killed
