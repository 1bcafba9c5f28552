"""The generator's client against a real server."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.types import Receive, Scope, Send

from bench.client import Client, Closed, Frame, Target, dial
from gateway.transport.port import Frames
from tests.gateway.transport.serving import App, serving, until


def _ignore(frame: Frame, now: float) -> None:
    pass


def _payload(size: int) -> bytes:
    return json.dumps({"type": "delta", "text": "x" * size}).encode()


async def test_frames_of_all_sizes_whole_and_in_pieces() -> None:
    app = App()
    sizes = [0, 90, 130, 65_000, 66_000, 300_000, 1]
    heard: list[Frame] = []
    async with serving(app) as port:
        client = await dial(Target(url=f"ws://127.0.0.1:{port}/"), lambda frame, now: heard.append(frame))
        await app.accepted.wait()
        app.outlet.write(Frames([_payload(size) for size in sizes]))
        await until(lambda: len(heard) == len(sizes))
        client.close()
        assert await client.closed == 1000
    assert [len(frame.text or "") for frame in heard] == sizes
    assert client.frames == len(sizes)
    assert client.bytes > sum(sizes)


async def test_bytes_one_by_one() -> None:
    heard: list[Frame] = []
    client = Client(b"", lambda frame, now: heard.append(frame))
    stream = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n" + Frames([_payload(3)] * 2).wire
    for place in range(len(stream)):
        client.data_received(stream[place : place + 1])
    assert client.connected.done()
    assert [frame.text for frame in heard] == ["xxx", "xxx"]


async def test_sending_pings_and_the_close_code() -> None:
    app = App()
    async with serving(app) as port:
        client = await dial(Target(url=f"ws://127.0.0.1:{port}/"), _ignore)
        for size in (1, 200, 70_000):
            client.send(type="message", content="x" * size, absent=None)
            assert json.loads((await app.next())["text"]) == {"type": "message", "content": "x" * size}
        before = app.outlet.last_seen
        app.outlet.ping()
        await until(lambda: app.outlet.last_seen > before)
        app.outlet.close(4408, "")
        assert await client.closed == 4408


async def test_credentials_and_the_subprotocol() -> None:
    app = App()
    async with serving(app) as port:
        client = await dial(Target(url=f"ws://127.0.0.1:{port}/v1/ws?a=1", key="secret", ticket="t/1"), _ignore)
        await app.accepted.wait()
        assert app.scope["path"] == "/v1/ws"
        assert app.scope["query_string"] == b"a=1&ticket=t%2F1"
        assert (b"x-api-key", b"secret") in app.scope["headers"]
        assert app.scope["subprotocols"] == ["tidegate.v1.json"]
        client.abort()


async def test_a_refused_upgrade() -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.close"})

    async with serving(refuse) as port:
        with pytest.raises(Closed, match="403"):
            await dial(Target(url=f"ws://127.0.0.1:{port}/"), _ignore)


async def test_nobody_listens_and_no_url() -> None:
    with pytest.raises(OSError, match="Connect"):
        await dial(Target(url="ws://127.0.0.1:1/"), _ignore)
    with pytest.raises(Closed, match="no WebSocket URL"):
        await dial(Target(url="http://127.0.0.1/"), _ignore)
    await asyncio.sleep(0)
