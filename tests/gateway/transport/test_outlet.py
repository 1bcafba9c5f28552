"""The outlet of our transport: prebuilt frames, back-pressure, closing."""

from __future__ import annotations

import asyncio

import pytest
from websockets.asyncio.client import connect

from gateway.transport.port import CLOSE_SECONDS, HIGH_WATER, Frames, Outlet
from gateway.transport.websocket import SocketProtocol
from tests.gateway.transport.serving import CLOSE, PING, PONG, TEXT, App, RawClient, frame, serving, until

SIZES = [0, 1, 125, 126, 127, 65535, 65536, 200_000]


@pytest.mark.parametrize("deflate", [False, True])
async def test_frames_of_all_sizes_arrive_in_order(deflate: bool) -> None:
    app = App()
    payloads = [b"x" * size for size in SIZES]
    async with (
        serving(app, ws_per_message_deflate=deflate) as port,
        connect(f"ws://127.0.0.1:{port}", compression="deflate" if deflate else None) as client,
    ):
        await app.accepted.wait()
        app.outlet.write(Frames(payloads))
        app.outlet.write_one(b"one more")
        app.outlet.close(4408, "done")
        assert [await client.recv(decode=False) for _ in payloads] == payloads
        assert await client.recv() == "one more"
        await client.wait_closed()
        assert (client.close_code, client.close_reason) == (4408, "done")


async def test_the_protocol_is_an_outlet() -> None:
    app = App()
    async with serving(app) as port, connect(f"ws://127.0.0.1:{port}"):
        await app.accepted.wait()
        outlet: Outlet = app.outlet
        assert isinstance(outlet, SocketProtocol)


async def test_a_slow_reader_is_felt_and_then_heard_of_again() -> None:
    app = App()
    drained = asyncio.Event()
    async with serving(app) as port, RawClient(port) as client:
        await client.upgrade()
        outlet = app.outlet
        outlet.on_drain(drained.set)
        assert outlet.writable
        written = 0
        while outlet.writable:
            outlet.write_one(b"x" * 8000)
            written += 1
            await asyncio.sleep(0)
        assert isinstance(outlet, SocketProtocol)
        since = outlet.unsent_since
        assert since is not None
        assert since <= asyncio.get_running_loop().time()
        assert not drained.is_set()
        for _ in range(written):
            assert await client.frame() == (TEXT, b"x" * 8000)
        async with asyncio.timeout(20):
            await drained.wait()
        await until(lambda: outlet.unsent_since is None)
        assert outlet.writable
        # What can wait unread is what the kernels hold, and the high-water mark.
        assert written * 8000 < 4_000_000 + HIGH_WATER


async def test_sending_over_asgi_waits_for_a_slow_reader() -> None:
    stuck = asyncio.Event()

    async def app(scope: object, receive: object, send: object) -> None:
        await receive()  # type: ignore[operator]
        await send({"type": "websocket.accept"})  # type: ignore[operator]
        for _ in range(2000):
            try:
                async with asyncio.timeout(0.2):
                    await send({"type": "websocket.send", "text": "x" * 8000})  # type: ignore[operator]
            except TimeoutError:
                stuck.set()
                await send({"type": "websocket.send", "text": "end"})  # type: ignore[operator]
                return

    async with serving(app) as port, RawClient(port) as client:
        await client.upgrade()
        async with asyncio.timeout(20):
            await stuck.wait()
        while (await client.frame())[1] != b"end":
            pass
        assert (await client.frame())[0] == CLOSE


async def test_signs_of_life() -> None:
    app = App()
    async with serving(app) as port, RawClient(port) as client:
        await client.upgrade()
        before = app.outlet.last_seen
        app.outlet.ping()
        assert await client.frame() == (PING, b"")
        await asyncio.sleep(0.01)  # uvloop's clock counts milliseconds
        client.writer.write(frame(PONG, b""))
        await until(lambda: app.outlet.last_seen > before)


async def test_closing_tells_the_application_at_once_and_forgets_what_it_had_not_read() -> None:
    app = App()
    async with serving(app) as port, RawClient(port) as client:
        await client.upgrade()
        app.gate.clear()
        client.writer.write(frame(TEXT, b"first") * 3)
        assert (await app.next())["text"] == "first"
        app.outlet.close(4401, "é" * 100)
        app.gate.set()
        assert (await app.next())["code"] == 4401
        opcode, payload = await client.frame()
        assert opcode == CLOSE
        assert payload[2:].decode() == "é" * 61
        # Data that was on its way is read and dropped, until the peer's close frame comes.
        client.writer.write(frame(TEXT, b"on its way") * 100 + frame(CLOSE, payload[:2]))
        async with asyncio.timeout(CLOSE_SECONDS - 1):
            assert await client.reader.read() == b""
        assert app.received.empty()
        app.outlet.write_one(b"nobody hears this")
        app.outlet.close(4000, "again")
        app.outlet.ping()
        assert not app.outlet.writable


async def test_closing_while_reading_is_paused_still_hears_the_peers_close_frame() -> None:
    app = App()
    app.gate.clear()
    async with serving(app) as port, RawClient(port) as client:
        await client.upgrade()
        client.writer.write(frame(TEXT, b"x" * 1000) * 20_000 + frame(CLOSE, b"\x03\xe8"))
        seen: list[int] = []

        def stands_still() -> bool:
            seen.append(client.writer.transport.get_write_buffer_size())
            return len(seen) > 40 and len(set(seen[-40:])) == 1

        await until(stands_still)
        app.outlet.close(4429, "")
        opcode, payload = await client.frame()
        assert (opcode, payload) == (CLOSE, b"\x11\x4d")
        async with asyncio.timeout(CLOSE_SECONDS - 1):
            assert await client.reader.read() == b""
        app.gate.set()
        assert (await app.next())["code"] == 4429


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_peer_that_does_not_end_the_closing_handshake_is_cut_off() -> None:
    app = App()
    async with serving(app) as port, RawClient(port) as deaf, RawClient(port) as silent:
        await deaf.upgrade()
        outlet = app.outlet
        while outlet.writable:
            outlet.write_one(b"x" * 8000)
            await asyncio.sleep(0)
        outlet.close(4408, "")
        await silent.upgrade()
        app.outlet.close(1012, "")
        assert (await silent.frame())[0] == CLOSE
        await silent.cut_off()
        await until(lambda: outlet.unsent_since is None)
