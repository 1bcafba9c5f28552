"""Sockets that are cut, lie, flood, say nothing, or come twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.e2e.conftest import EVERYWHERE, SHARED
from tests.e2e.gateways import GatewayProcess
from tests.e2e.wire import Frame, Wire, check_contiguous, spoken

STRICT = """
[models.demo]
provider = "demo"
delay = 5
[limits]
hello_seconds = 1
heartbeat = 1
messages_per_minute = 60
connections_per_principal = 3
max_frame_bytes = 65536
"""


@pytest.fixture
async def strict(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    """A gateway with limits that a test can meet."""
    async with GatewayProcess(tmp_path, config=STRICT) as process:
        yield process


@pytest.mark.promise("1")
@pytest.mark.promise("3")
@pytest.mark.parametrize(
    "cut_at", ["ack", "message", "message_start", "delta", "tool_call", "tool_progress", "tool_response", "turn_end"]
)
@EVERYWHERE
async def test_a_socket_cut_at_every_kind_of_frame(gateway: GatewayProcess, cut_at: str) -> None:
    key = gateway.key()
    async with Wire(gateway.ws, key) as wire:
        ready = await wire.hello(attempt=1)
        ack = await wire.ask("message", id="m", content="count 3", context_id="chat")
        await wire.wait(lambda frame: frame["type"] == cut_at)
        wire.abort()
        await wire.wait_closed()
        before = wire.events("chat")
    cursor = f"{ack['epoch']}:{before[-1]['seq'] if before else 0}"
    async with Wire(gateway.ws, key) as wire:
        again = await wire.hello(session_id=ready["session_id"], attempt=2, cursors={"chat": cursor})
        assert again["resumed"] is True
        resend = await wire.ask("message", id="m", content="count 3", context_id="chat")
        assert resend["duplicate"] is True
        if not any(event["type"] == "turn_end" for event in before):
            await wire.wait(lambda frame: frame["type"] == "turn_end")
        events = before + wire.events("chat")
    check_contiguous(events)
    assert events[0]["seq"] == 1
    for message in (e for e in events if e["type"] == "message" and e["role"] == "assistant"):
        assert message["content"] == spoken(events, message["id"])
    assert [event["type"] for event in events].count("tool_call") == 1
    assert events[-1]["type"] == "turn_end"


@EVERYWHERE
async def test_the_same_frame_twice_at_once_on_two_sockets(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with Wire(gateway.ws, key) as one, Wire(gateway.ws, key) as other:
        await one.hello()
        await other.hello()
        fields = {"id": "same", "content": "hello", "context_id": "chat"}
        acks = await asyncio.gather(one.ask("message", **fields), other.ask("message", **fields))
        # Who comes late to a turn that is over finds its end in the snapshot.
        await one.wait(
            lambda frame: "turn_end" in (frame["type"], *(event["type"] for event in frame.get("events", ())))
        )
    assert sorted(ack.get("duplicate", False) for ack in acks) == [False, True]
    assert [event["type"] for event in one.events("chat")].count("turn_end") <= 1


@EVERYWHERE
async def test_two_devices_write_at_once(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with Wire(gateway.ws, key) as one, Wire(gateway.ws, key) as other:
        await one.hello()
        await other.hello()
        sends = [
            wire.ask("message", id=f"{name}{n}", content=f"{name} {n}", context_id="chat")
            for n in range(5)
            for name, wire in (("a", one), ("b", other))
        ]
        acks = await asyncio.gather(*sends)
        last = {f"{name}{n}" for name in "ab" for n in range(5)}
        for turn_id in last:
            await one.wait(lambda frame, turn_id=turn_id: frame["type"] == "turn_end" and frame["turn_id"] == turn_id)
    async with httpx.AsyncClient(headers={"X-API-Key": key}) as client:
        history = (await client.get(f"{gateway.url}/v1/contexts/chat/events?limit=200")).json()["events"]
    assert all(ack["type"] == "ack" for ack in acks)
    ends = [event for event in history if event["type"] == "turn_end"]
    assert {end["turn_id"] for end in ends} == last
    answers = [event for event in history if event["type"] == "message" and event["role"] == "assistant"]
    assert len(answers) == 10
    order = [event["turn_id"] for event in history if event["type"] == "turn_end"]
    begun = [event["turn_id"] for event in answers]
    assert order == begun, "one turn runs at a time"


@EVERYWHERE
async def test_an_old_connection_whose_hello_comes_late(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with Wire(gateway.ws, key) as first:
        session = (await first.hello(attempt=1))["session_id"]
        first.abort()
        async with Wire(gateway.ws, key) as old, Wire(gateway.ws, key) as new:
            await new.hello(session_id=session, attempt=3)
            await old.send({"type": "hello", "session_id": session, "attempt": 2})
            assert await old.wait_closed() == 4409
            assert (await new.ask("ping"))["type"] == "pong"
            async with Wire(gateway.ws, key) as newest:
                await newest.hello(session_id=session, attempt=4)
                assert await new.wait_closed() == 4409


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("{", None),
        ("[]", None),
        ('{"id":"x"}', "type"),
        ('{"type":"nonsense","id":"x"}', "type"),
        ('{"type":"message","id":"x"}', "content"),
        ('{"type":"message","id":"bad id","content":"x"}', "id"),
        ('{"type":"message","id":"x","content":[{"type":"text","text":1}]}', "content[0].text"),
        ('{"type":"subscribe","id":"x","context_id":"c","cursor":"abc"}', "cursor"),
        ('{"type":"message","id":"x","content":"y","when_busy":"never"}', "when_busy"),
    ],
)
@SHARED
async def test_an_invalid_frame_names_its_path(gateway: GatewayProcess, text: str, path: str | None) -> None:
    async with Wire(gateway.ws, gateway.key()) as wire:
        await wire.hello()
        await wire.send_raw(text)
        error = await wire.wait(lambda frame: frame["type"] == "error")
        assert error["code"] == "invalid_frame"
        assert error.get("path") == path
        assert (await wire.ask("ping"))["type"] == "pong"


@SHARED
async def test_unknown_fields_are_ignored(gateway: GatewayProcess) -> None:
    async with Wire(gateway.ws, gateway.key()) as wire:
        await wire.hello(future={"a": 1})
        assert (await wire.ask("ping", more=True))["type"] == "pong"


@SHARED
async def test_too_many_invalid_frames_close(gateway: GatewayProcess) -> None:
    async with Wire(gateway.ws, gateway.key()) as wire:
        await wire.hello()
        for _ in range(21):
            await wire.send_raw("{")
        assert await wire.wait_closed() == 4400
    assert [frame["type"] for frame in wire.frames].count("error") == 21


@SHARED
async def test_a_binary_message_closes(gateway: GatewayProcess) -> None:
    async with Wire(gateway.ws, gateway.key()) as wire:
        await wire.hello()
        await wire.send_raw(b"\x00")
        assert await wire.wait_closed() == 1003


async def test_a_frame_that_is_too_large_closes(strict: GatewayProcess) -> None:
    async with Wire(strict.ws, strict.key()) as wire:
        await wire.hello()
        await wire.send_raw(json.dumps({"type": "ping", "id": "p", "pad": "x" * 70_000}))
        assert await wire.wait_closed() == 1009


async def test_no_hello_closes(strict: GatewayProcess) -> None:
    async with Wire(strict.ws, strict.key()) as wire:
        assert await wire.wait_closed() == 4408


async def test_a_client_without_a_sign_of_life_is_closed(strict: GatewayProcess) -> None:
    async with Wire(strict.ws, strict.key()) as wire:
        await wire.hello()
        wire.pause_reading()
        async with httpx.AsyncClient() as client, asyncio.timeout(20):
            while "tidegate_sockets 0.0" not in (await client.get(f"{strict.url}/metrics")).text:
                await asyncio.sleep(0.1)
        wire.resume_reading()
        assert await wire.wait_closed() == 4408


@SHARED
async def test_the_first_frame_is_hello(gateway: GatewayProcess) -> None:
    async with Wire(gateway.ws, gateway.key()) as wire:
        assert (await wire.ask("ping"))["code"] == "invalid_frame"
        await wire.hello()
        await wire.send({"type": "hello"})
        error = await wire.wait(lambda frame: frame["type"] == "error" and "id" not in frame)
        assert error["path"] == "type"


@pytest.mark.parametrize("headers", [{"X-API-Key": "tg_wrong"}, {"Authorization": "Bearer nonsense"}])
@SHARED
async def test_wrong_headers_refuse_the_upgrade(gateway: GatewayProcess, headers: dict[str, str]) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with Wire(gateway.ws, additional_headers=headers):
            pass
    assert refused.value.response.status_code == 401


@SHARED
async def test_a_foreign_origin_is_refused(gateway: GatewayProcess) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with Wire(gateway.ws, gateway.key(), origin="https://evil.example"):
            pass
    assert refused.value.response.status_code == 403
    async with Wire(gateway.ws, gateway.key(), origin=gateway.url) as wire:
        await wire.hello()


@SHARED
async def test_bad_tokens_and_tickets_are_told_after_the_upgrade(gateway: GatewayProcess) -> None:
    async with Wire(gateway.ws) as wire:
        await wire.send({"type": "hello", "token": "nonsense"})
        assert await wire.wait_closed() == 4401
    async with Wire(gateway.ws) as wire:
        await wire.send({"type": "hello"})
        assert await wire.wait_closed() == 4401
    async with Wire(gateway.ws + "?ticket=nonsense") as wire:
        assert await wire.wait_closed() == 4401
    async with Wire(gateway.ws + f"?token={gateway.key()}") as wire:
        assert await wire.wait_closed() == 4401, "a long-lived secret is never taken from a URL"


@EVERYWHERE
async def test_a_ticket_is_good_once(gateway: GatewayProcess) -> None:
    async with httpx.AsyncClient(headers={"X-API-Key": gateway.key("ann")}) as client:
        ticket = (await client.post(f"{gateway.url}/v1/tickets")).json()
    assert ticket["expires_in"] == 30
    async with Wire(gateway.ws + f"?ticket={ticket['ticket']}") as wire:
        assert (await wire.hello())["subject"] == "ann"
    async with Wire(gateway.ws + f"?ticket={ticket['ticket']}") as wire:
        assert await wire.wait_closed() == 4401


async def test_too_many_sockets_of_one_principal(strict: GatewayProcess) -> None:
    key = strict.key()
    async with Wire(strict.ws, key) as one, Wire(strict.ws, key) as two, Wire(strict.ws, key) as three:
        for wire in (one, two, three):
            await wire.hello()
        async with Wire(strict.ws, key) as four:
            assert await four.wait_closed() == 4429
            assert four.frames[-1]["code"] == "rate_limited"
            assert four.frames[-1]["retry_after"] > 0
        async with Wire(strict.ws, strict.key("bob")) as other:
            await other.hello()


async def test_too_many_messages_a_minute_are_refused_and_not_stored(strict: GatewayProcess) -> None:
    async with Wire(strict.ws, strict.key()) as wire:
        await wire.hello()
        answers: list[Frame] = [
            await wire.ask("message", content="x", context_id="chat", respond=False) for _ in range(62)
        ]
        assert {answer["type"] for answer in answers[:60]} == {"ack"}
        assert answers[-1]["code"] == "rate_limited"
        assert answers[-1]["retryable"] is True
        assert answers[-1]["retry_after"] > 0
        async with httpx.AsyncClient(headers={"X-API-Key": strict.key()}) as client:
            page = (await client.get(f"{strict.url}/v1/contexts/chat/events?limit=200")).json()
    assert len(page["events"]) == sum(answer["type"] == "ack" for answer in answers)


@SHARED
async def test_half_a_frame_and_invalid_utf8(gateway: GatewayProcess) -> None:
    async with Wire(gateway.ws, gateway.key()) as wire:
        await wire.hello()
        wire.write_bytes(b"\x81\x82\x00\x00\x00\x00\xff\xff")  # a masked text frame of two wrong bytes
        assert await wire.wait_closed() in (1007, 1006)
    async with Wire(gateway.ws, gateway.key()) as wire:
        await wire.hello()
        wire.write_bytes(b"\x81\xfe")  # the beginning of a header
        wire.abort()
        await wire.wait_closed()
    async with Wire(gateway.ws, gateway.key()) as wire:
        assert (await wire.hello())["type"] == "ready"
