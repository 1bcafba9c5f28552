"""Any ASGI application's WebSockets, over real connections."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.gateway.transport.serving import App, RawClient, accepting, serving, until


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_messages_both_ways(http: str) -> None:
    async with serving(accepting, http=http) as port, connect(f"ws://127.0.0.1:{port}") as client:
        for message in ("", "wörd", "x" * 200, "y" * 70_000, b"", b"\xff\x00"):
            await client.send(message)
            assert await client.recv() == message


async def test_the_scope() -> None:
    app = App()
    url = "/caf%C3%A9/x%2Fy?a=1&b=%20"
    async with serving(app, root_path="/root") as port, RawClient(port) as client:
        head = await client.upgrade(url, "X-Test: one", "Sec-WebSocket-Protocol: a, b")
        assert head.startswith(b"HTTP/1.1 101")
        scope = app.scope
        assert scope["type"] == "websocket"
        assert (scope["scheme"], scope["http_version"]) == ("ws", "1.1")
        assert (scope["path"], scope["root_path"]) == ("/root/café/x/y", "/root")
        assert scope["raw_path"] == b"/root/caf%C3%A9/x%2Fy"
        assert scope["query_string"] == b"a=1&b=%20"
        assert (b"x-test", b"one") in scope["headers"]
        assert scope["subprotocols"] == ["a", "b"]
        assert scope["server"] == ("127.0.0.1", port)
        assert scope["client"] == client.writer.get_extra_info("sockname")
        assert scope["state"] == {}


async def test_subprotocol_and_headers() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "two", "headers": [(b"x-made", b"here")]})
        await send({"type": "websocket.close", "code": 4001, "reason": "seen"})

    offered = [Subprotocol("one"), Subprotocol("two")]
    async with serving(app) as port, connect(f"ws://127.0.0.1:{port}", subprotocols=offered) as client:
        assert client.subprotocol == "two"
        assert client.response is not None
        assert client.response.headers["x-made"] == "here"
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert (client.close_code, client.close_reason) == (4001, "seen")


async def test_a_refusal_with_a_body() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        head = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": head})
        await send({"type": "websocket.http.response.body", "body": b'{"error"', "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b":1}"})
        assert await receive() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}

    async with serving(app) as port:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://127.0.0.1:{port}")
    response = refused.value.response
    assert (response.status_code, json.loads(response.body)) == (401, {"error": 1})
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("answer", "status"),
    [([{"type": "websocket.close"}], 403), ([], 500), ([{"type": "websocket.send", "text": "too soon"}], 500)],
)
async def test_other_refusals(answer: list[Message], status: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        for message in answer:
            await send(message)

    async with serving(app) as port:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://127.0.0.1:{port}")
    assert refused.value.response.status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [(["Sec-WebSocket-Version: 12"], b"400"), (["Sec-WebSocket-Key: twice"], b"400"), (["X: y"] * 200, b"431")],
)
async def test_what_is_no_handshake(headers: list[str], status: bytes) -> None:
    async with serving(accepting) as port, RawClient(port) as client:
        head = await client.upgrade("/", *headers)
        assert head.split()[1] == status
        await client.reader.read()


async def test_the_client_closes() -> None:
    app = App()
    async with serving(app) as port:
        async with connect(f"ws://127.0.0.1:{port}") as client:
            await client.send("last words")
            await client.close(4123, "enough")
        assert await app.next() == {"type": "websocket.receive", "text": "last words"}
        assert await app.next() == {"type": "websocket.disconnect", "code": 4123, "reason": "enough"}
        assert client.close_code == 4123


async def test_the_client_is_cut_off() -> None:
    app = App()
    async with serving(app) as port:
        client = await connect(f"ws://127.0.0.1:{port}")
        client.transport.abort()
        assert (await app.next())["code"] == 1006
        await client.wait_closed()


async def test_an_application_that_fails_closes_1011() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        raise ValueError

    async with serving(app) as port, connect(f"ws://127.0.0.1:{port}") as client:
        await client.wait_closed()
        assert client.close_code == 1011


async def test_sending_to_a_client_that_is_gone_raises() -> None:
    raised: asyncio.Future[OSError] = asyncio.get_running_loop().create_future()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        assert (await receive())["type"] == "websocket.disconnect"
        assert (await receive())["type"] == "websocket.disconnect"
        try:
            await send({"type": "websocket.send", "text": "anyone?"})
        except OSError as error:
            raised.set_result(error)

    async with serving(app) as port:
        async with connect(f"ws://127.0.0.1:{port}"):
            pass
        async with asyncio.timeout(20):
            assert isinstance(await raised, OSError)


async def test_shutdown_closes_1012() -> None:
    app = App()
    async with serving(app) as port:
        client = await connect(f"ws://127.0.0.1:{port}")
        await app.accepted.wait()
    await client.wait_closed()
    assert client.close_code == 1012


async def test_shutdown_refuses_who_is_not_yet_accepted() -> None:
    asked = asyncio.Event()
    cancelled = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with RawClient(0) as client:
        async with serving(app, timeout_graceful_shutdown=1) as port:
            await client.dial(port)
            response = asyncio.ensure_future(client.upgrade())
            await asked.wait()
        assert (await response).startswith(b"HTTP/1.1 503")
    assert cancelled.is_set()


@pytest.mark.parametrize("first", ["websocket.accept", "websocket.http.response.start"])
async def test_a_message_that_has_no_place_is_the_applications_fault(first: str) -> None:
    raised: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": first, "status": 401})
        try:
            await send({"type": "http.response.start", "status": 200})
        except RuntimeError as error:
            raised.set_result(error)

    async with serving(app) as port, RawClient(port) as client:
        head = await client.upgrade()
        assert "http.response.start" in str(await raised)
        assert head.split()[1] == (b"101" if first == "websocket.accept" else b"500")


async def test_a_client_that_is_cut_off_ends_the_wait_for_it_to_read() -> None:
    raised: asyncio.Future[OSError] = asyncio.get_running_loop().create_future()
    sent: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "bytes": bytes(10_000)})
                sent.append(len(sent))
                await asyncio.sleep(0)
        except OSError as error:
            raised.set_result(error)

    async with serving(app) as port, RawClient(port) as client:
        await client.upgrade()
        seen: list[int] = []

        def stands_still() -> bool:
            seen.append(len(sent))
            return len(seen) > 40 and len(set(seen[-40:])) == 1

        await until(stands_still)
        client.writer.transport.abort()
        async with asyncio.timeout(20):
            assert isinstance(await raised, OSError)


async def test_a_starlette_application() -> None:
    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_json({"path": websocket.url.path, "text": text})

    app = Starlette(routes=[WebSocketRoute("/here", endpoint)])
    async with serving(app) as port:
        async with connect(f"ws://127.0.0.1:{port}/here") as client:
            await client.send("hello")
            assert json.loads(await client.recv()) == {"path": "/here", "text": "hello"}
        with pytest.raises(InvalidStatus):
            await connect(f"ws://127.0.0.1:{port}/elsewhere")


async def test_permessage_deflate() -> None:
    async with serving(accepting, ws_per_message_deflate=True) as port, connect(f"ws://127.0.0.1:{port}") as client:
        assert client.response is not None
        assert "permessage-deflate" in client.response.headers["Sec-WebSocket-Extensions"]
        for message in ("word " * 10_000, "", b"\x00" * 5000):
            await client.send(message)
            assert await client.recv() == message
