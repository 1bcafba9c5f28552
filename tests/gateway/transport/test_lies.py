"""Peers that break RFC 6455, or send without end."""

from __future__ import annotations

import asyncio
import struct

import pytest
from websockets.asyncio.client import connect

from tests.gateway.transport.serving import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    App,
    RawClient,
    frame,
    serving,
    until,
)

LIMIT = 10_000


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"hello", masked=False), 1002),
        (frame(TEXT, b"hello", rsv=0x40), 1002),
        (frame(3, b"hello"), 1002),
        (frame(CONT, b"nothing was begun"), 1002),
        (frame(TEXT, b"one", fin=False) + frame(TEXT, b"other"), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(PING, b"in parts", fin=False), 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (frame(TEXT, b"\xff\xfe"), 1007),
        (frame(TEXT, "ä".encode()[:1], fin=False) + frame(CONT, b"x"), 1007),
        (frame(TEXT, b"x" * (LIMIT + 1)), 1009),
        (struct.pack("!BBQ", 0x81, 0x80 | 127, 64 << 20) + b"mask" + b"x" * 100_000, 1009),
        (frame(BINARY, b"x" * 6000, fin=False) + frame(CONT, b"x" * 6000), 1009),
    ],
)
async def test_a_broken_rule_is_told_in_the_close_frame(data: bytes, code: int) -> None:
    app = App()
    async with serving(app, ws_max_size=LIMIT) as port, RawClient(port) as client:
        await client.upgrade()
        client.writer.write(data)
        assert await client.close_code() == code
        message = await app.next()
        assert (message["type"], message["code"]) == ("websocket.disconnect", code)


async def test_nothing_is_delivered_after_invalid_text() -> None:
    app = App()
    async with serving(app) as port, RawClient(port) as client:
        await client.upgrade()
        client.writer.write(frame(TEXT, b"good") + frame(TEXT, b"\xff") + frame(TEXT, b"late"))
        assert await app.next() == {"type": "websocket.receive", "text": "good"}
        assert (await app.next())["code"] == 1007


async def test_fragments_byte_by_byte_with_pings_between() -> None:
    app = App()
    async with serving(app) as port, RawClient(port) as client:
        await client.upgrade()
        data = frame(TEXT, "wö".encode()[:2], fin=False) + frame(PING, b"p") + frame(CONT, "ö".encode()[1:] + b"rd")
        for place in range(len(data)):
            client.writer.write(data[place : place + 1])
            await client.writer.drain()
        assert await app.next() == {"type": "websocket.receive", "text": "wörd"}
        assert await client.frame() == (PONG, b"p")


async def test_half_a_frame_and_then_the_end() -> None:
    app = App()
    async with serving(app) as port, RawClient(port) as client:
        await client.upgrade()
        client.writer.write(frame(TEXT, b"hello")[:-1])
        client.writer.write_eof()
        assert await app.next() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}


async def test_an_endless_message_of_empty_fragments_costs_nothing() -> None:
    app = App()
    async with serving(app) as port, RawClient(port) as client:
        await client.upgrade()
        client.writer.write(frame(TEXT, b"a", fin=False))
        client.writer.write(frame(CONT, b"", fin=False) * 50_000)
        client.writer.write(frame(CONT, b"b"))
        assert await app.next() == {"type": "websocket.receive", "text": "ab"}


async def test_what_is_not_consumed_is_bounded_and_complete() -> None:
    app = App()
    app.gate.clear()
    async with serving(app) as port, RawClient(port) as client:
        await client.upgrade()
        flood = frame(TEXT, b"x" * 1000) * 20_000
        client.writer.write(flood)
        unsent: list[int] = []

        def stands_still() -> bool:
            unsent.append(client.writer.transport.get_write_buffer_size())
            return len(set(unsent[-40:])) == 1 and len(unsent) > 40

        await until(stands_still)
        assert unsent[-1] > 0
        app.gate.set()
        for _ in range(20_000):
            assert len((await app.next())["text"]) == 1000
        client.writer.write(frame(CLOSE, b""))
        assert (await app.next())["code"] == 1005


async def test_a_flood_of_tiny_messages_loses_none() -> None:
    app = App()
    async with serving(app) as port, connect(f"ws://127.0.0.1:{port}", compression=None) as client:
        for number in range(5000):
            await client.send(str(number))
        await client.close()
        assert [(await app.next())["text"] for _ in range(5000)] == [str(number) for number in range(5000)]
        assert (await app.next())["code"] == 1000


async def test_pings_of_a_peer_that_does_not_read_do_not_pile_up() -> None:
    app = App()
    async with serving(app) as port, RawClient(port) as client:
        await client.upgrade()
        while app.outlet.writable:
            app.outlet.write_one(b"x" * 10_000)
            await asyncio.sleep(0)
        for number in range(20_000):
            client.writer.write(frame(PING, b"%05d" % number + b"p" * 100))
        client.writer.write(frame(TEXT, b"after the pings"))
        assert (await app.next())["text"] == "after the pings"
        pongs: list[bytes] = []
        while not pongs or pongs[-1][:5] != b"19999":
            opcode, payload = await client.frame()
            if opcode == PONG:
                pongs.append(payload)
        assert len(pongs) == 1


async def test_data_before_the_upgrade_is_accepted_waits_within_a_bound() -> None:
    accept = asyncio.Event()
    app = App()

    async def late(scope: object, receive: object, send: object) -> None:
        await accept.wait()
        await app(scope, receive, send)  # type: ignore[arg-type]

    async with serving(late) as port:
        async with RawClient(port) as client:
            response = asyncio.ensure_future(client.upgrade())
            await asyncio.sleep(0.1)
            client.writer.write(frame(TEXT, b"early"))
            await client.writer.drain()
            accept.set()
            assert (await response).startswith(b"HTTP/1.1 101")
            assert (await app.next())["text"] == "early"
        accept.clear()
        async with RawClient(port) as client:
            response = asyncio.ensure_future(client.upgrade())
            await asyncio.sleep(0.1)
            client.writer.write(b"x" * 100_000)
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await response
        accept.set()
