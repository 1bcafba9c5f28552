"""The gateway within a host's application: mounts, lifespans, who asks, and what is closed by default."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import structlog
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import Mount
from websockets.asyncio.client import connect as connect_socket
from websockets.exceptions import InvalidStatus

from gateway import Gateway, Principal, Settings, SettingsError
from gateway.app import create_app
from gateway.client import connect
from gateway.serve import serve
from gateway.settings import ServerSettings
from gateway.transport.websocket import SocketProtocol
from protocol.frames import TurnEnd
from stores.ports import StoreError
from tests.e2e.wire import Wire
from tests.gateway.host_apps import ANN, by_query, gateway_in, hosted, sockets, until
from tests.gateway.transport.serving import RawClient, frame


def mounted(gateway: Gateway, *paths: str) -> FastAPI:
    app = FastAPI(lifespan=gateway.lifespan)
    for path in paths or ("/chat",):
        app.mount(path, gateway.app)
    return app


async def status_of_upgrade(url: str, **headers: str) -> int:
    with pytest.raises(InvalidStatus) as refused:
        await connect_socket(url.replace("http", "ws", 1), additional_headers=headers)
    return refused.value.response.status_code


async def facts_of(client: httpx.AsyncClient, path: str) -> dict[str, Any]:
    found = re.search(r'id="facts"[^>]*>(.*?)</script>', (await client.get(path, follow_redirects=True)).text)
    assert found is not None
    return json.loads(found[1])


# ---- mounts


@pytest.mark.parametrize("ws", ["websockets-sansio", SocketProtocol], ids=["plain", "ours"])
async def test_everything_works_under_the_path_of_a_mount(tmp_path: Path, ws: Any) -> None:
    gateway = gateway_in(tmp_path, authenticate=by_query)
    inner = Starlette(routes=[Mount("/deep/chat", gateway.app)])
    app = FastAPI(lifespan=gateway.lifespan)
    app.mount("/host", inner)
    async with hosted(app, ws) as url, asyncio.timeout(60):
        base = f"{url}/host/deep/chat"
        async with connect(f"{base}?user=ann") as client:
            text = "".join([piece async for piece in client.stream("count 2", "chat")])
            assert "counted" in text
            assert sockets(gateway) == 1
        async with httpx.AsyncClient(base_url=base) as http:
            assert (await http.get("/v1/contexts?user=ann")).json()["contexts"][0]["id"] == "chat"
            assert (await http.get("/v1/contexts?user=bob")).json()["contexts"] == []
            assert (await http.get("/readyz")).status_code == 200
            assert (await facts_of(http, "/?user=ann"))["known"]
            stranger = await facts_of(http, "/")
            assert not stranger["known"]
            assert stranger["token"] is None
            ticket = (await http.post("/v1/tickets?user=ann")).json()["ticket"]
        async with Wire(f"{base.replace('http', 'ws')}/v1/ws?ticket={ticket}") as wire:
            assert (await wire.hello())["subject"] == "ann"
        await until(lambda: sockets(gateway) == 0)


async def test_the_pages_own_addresses_are_relative_to_where_it_is() -> None:
    page = (Path(__file__).parent.parent.parent / "gateway" / "http" / "page.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:href|src|action)=["']/|["'`]/v1""", page)


async def test_the_hosts_own_origin_and_those_of_the_settings(tmp_path: Path) -> None:
    gateway = gateway_in(tmp_path, authenticate=by_query)
    async with hosted(mounted(gateway)) as url:
        ws = f"{url.replace('http', 'ws')}/chat/v1/ws?user=ann"
        async with Wire(ws, origin=url) as wire:
            await wire.hello()
        assert await status_of_upgrade(ws, Origin="http://evil.example") == 403
        async with httpx.AsyncClient() as http:
            asked = f"{url}/chat/v1/contexts?user=ann"
            assert (await http.post(asked, json={}, headers={"Origin": "http://evil.example"})).status_code == 403
            assert (await http.post(asked, json={}, headers={"Origin": url})).status_code == 201


async def test_two_mounts_are_one_gateway(tmp_path: Path) -> None:
    gateway = gateway_in(tmp_path, authenticate=by_query)
    async with (
        hosted(mounted(gateway, "/one", "/two")) as url,
        connect(f"{url}/one?user=ann") as one,
        connect(f"{url}/two?user=ann") as two,
        asyncio.timeout(20),
    ):
        async for _ in one.stream("hello", "chat"):
            pass
        async for _ in two.events_of("chat"):
            if isinstance(two.transcript("chat").events[-1], TurnEnd):
                break
        assert two.transcript("chat").events == one.transcript("chat").events
        assert sockets(gateway) == 2


# ---- lifespans


async def test_a_mount_that_does_not_run_refuses(tmp_path: Path) -> None:
    gateway = gateway_in(tmp_path, authenticate=by_query)
    app = FastAPI()
    app.mount("/chat", gateway.app)
    for ws in ("websockets-sansio", SocketProtocol):
        async with hosted(app, ws) as url, httpx.AsyncClient() as http:
            for path in ("/", "/v1/contexts?user=ann", "/readyz", "/nothing"):
                reply = await http.get(f"{url}/chat{path}")
                assert reply.status_code == 503
                assert reply.json()["error"]["message"] == "the gateway is not running"
                assert reply.headers["retry-after"] == "5"
            assert await status_of_upgrade(f"{url}/chat/v1/ws?user=ann") == 503
            async with gateway.running():
                assert (await http.get(f"{url}/chat/readyz")).status_code == 200
            assert (await http.get(f"{url}/chat/readyz")).status_code == 503


async def test_within_the_hosts_own_lifespan_and_once_at_a_time(tmp_path: Path) -> None:
    gateway = gateway_in(tmp_path)
    steps: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[dict[str, Any]]:
        steps.append("begin")
        async with gateway.running():
            with pytest.raises(RuntimeError, match="running already"):
                async with gateway.running():
                    pass
            yield {"database": "open"}
        steps.append("end")

    seats: list[str] = []

    def who(connection: HTTPConnection) -> Principal:
        seats.append(connection.state.database)
        seats.append(connection.app.state.name)
        return ANN

    gateway = gateway_in(tmp_path, authenticate=who)
    app = Starlette(lifespan=lifespan, routes=[Mount("/chat", gateway.app)])
    app.state.name = "host"
    for _ in range(2):
        async with hosted(app) as url, connect(f"{url}/chat") as client:
            assert client.ready.subject == "ann"
    assert steps == ["begin", "end"] * 2
    assert seats == ["open", "host"] * 2


async def test_a_start_that_fails_can_be_tried_again(tmp_path: Path) -> None:
    gateway = gateway_in(tmp_path)
    in_the_way = tmp_path / "host.db"
    in_the_way.mkdir()
    with pytest.raises(StoreError):
        async with gateway.running():
            pass
    in_the_way.rmdir()
    async with gateway.running(), gateway.connect(ANN) as client:
        assert await client.ping() >= 0


@pytest.mark.parametrize("steps", range(0, 24, 2))
async def test_cancelled_while_it_starts(tmp_path: Path, steps: int) -> None:
    gateway = gateway_in(tmp_path)

    async def live() -> None:
        async with gateway.running():
            await asyncio.Event().wait()

    task = asyncio.create_task(live())
    for _ in range(steps):
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with gateway.running(), gateway.connect(ANN) as client:
        assert await client.ping() >= 0
    assert {other for other in asyncio.all_tasks() if other is not asyncio.current_task()} == set()


async def test_a_server_that_stops_tells_its_clients_and_the_turn_goes_on_in_the_next(tmp_path: Path) -> None:
    gateway = gateway_in(tmp_path, delay=5, authenticate=by_query)
    app = mounted(gateway)
    async with AsyncExitStack() as clients:
        async with hosted(app) as url:
            wire = await clients.enter_async_context(Wire(f"{url.replace('http', 'ws')}/chat/v1/ws?user=ann"))
            await wire.hello()
            await wire.ask("message", id="m", content="long 200", context_id="chat")
            await wire.wait(lambda frame: frame["type"] == "delta")
        assert await wire.wait_closed() in (1001, 1012)
    assert sockets(gateway) == 0
    async with hosted(app) as url, connect(f"{url}/chat?user=ann") as client, asyncio.timeout(30):
        async for _ in client.events_of("chat"):
            if isinstance(client.transcript("chat").events[-1], TurnEnd):
                break


# ---- who asks


async def test_closed_by_default(tmp_path: Path) -> None:
    gateway = gateway_in(tmp_path)
    assert gateway.settings.local
    async with hosted(mounted(gateway)) as url, httpx.AsyncClient(base_url=f"{url}/chat") as http:
        async with Wire(f"{url.replace('http', 'ws')}/chat/v1/ws") as wire:
            await wire.send({"type": "hello"})
            assert await wire.wait_closed() == 4401
        assert (await http.get("/v1/contexts")).status_code == 401
        facts = await facts_of(http, "/")
        assert (facts["token"], facts["local"], facts["known"]) == (None, False, False)
        with pytest.raises(RuntimeError, match="no user 'local'"):
            await gateway.local_ticket()


async def test_what_listens_by_itself_is_checked_for_exposure() -> None:
    with pytest.raises(SettingsError, match="no authentication is configured"):
        serve(Settings(server=ServerSettings(host="0.0.0.0")))  # noqa: S104 - it must refuse


async def _fails(connection: HTTPConnection) -> Principal | None:
    raise RuntimeError(f"the secret of {connection.query_params['user']}")


async def _rubbish(connection: HTTPConnection) -> Principal | None:
    return cast("Principal", {"subject": "ann"})


@pytest.fixture
def host_without_structlog() -> Iterator[None]:
    """Whatever tests before have configured."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("host_without_structlog")
@pytest.mark.parametrize("authenticate", [_fails, _rubbish])
async def test_a_hosts_bug_lets_nobody_in(tmp_path: Path, authenticate: Any, caplog: pytest.LogCaptureFixture) -> None:
    gateway = gateway_in(tmp_path, authenticate=authenticate)
    async with hosted(mounted(gateway)) as url, httpx.AsyncClient() as http:
        reply = await http.get(f"{url}/chat/v1/contexts?user=ann")
        assert reply.status_code == 500
        assert reply.json()["error"]["code"] == "internal"
        assert await status_of_upgrade(f"{url}/chat/v1/ws?user=ann") == 500
        assert not (await facts_of(http, f"{url}/chat/?user=ann"))["known"]
        assert sockets(gateway) == 0
    assert "authenticate" in caplog.text
    assert "of ann" not in caplog.text


async def test_a_client_that_leaves_while_the_host_thinks(tmp_path: Path) -> None:
    thinking, think_on = asyncio.Event(), asyncio.Event()

    async def slow(connection: HTTPConnection) -> Principal:
        thinking.set()
        await think_on.wait()
        return ANN

    gateway = gateway_in(tmp_path, authenticate=slow)
    for ws in ("websockets-sansio", SocketProtocol):
        async with hosted(mounted(gateway), ws) as url:
            thinking.clear()
            think_on.clear()
            leaving = asyncio.create_task(status_of_upgrade(f"{url}/chat/v1/ws"))
            await thinking.wait()
            leaving.cancel()
            await asyncio.wait({leaving})
            think_on.set()
            async with connect(f"{url}/chat") as client:
                assert await client.ping() >= 0
            await until(lambda: sockets(gateway) == 0)


# ---- peers that vanish


def frames_in(gateway: Gateway) -> int:
    return round(gateway.stats.registry.get_sample_value("tidegate_frames_in_total") or 0)


@pytest.mark.parametrize("ws", ["websockets-sansio", SocketProtocol], ids=["plain", "ours"])
async def test_a_peer_that_reads_nothing_and_vanishes_leaves_nothing(tmp_path: Path, ws: Any) -> None:
    gateway = gateway_in(tmp_path, authenticate=by_query)
    async with hosted(mounted(gateway), ws) as url:
        async with gateway.connect(ANN) as client:
            await client.send("x" * 400_000, "chat", respond=False)
        port = int(url.rsplit(":", 1)[1])
        before = frames_in(gateway)
        async with RawClient(port) as peer:
            await peer.upgrade("/chat/v1/ws?user=ann")
            cast("asyncio.Transport", peer.writer.transport).pause_reading()
            subscribe = frame(1, b'{"type":"subscribe","id":"s","context_id":"chat"}')
            peer.writer.write(frame(1, b'{"type":"hello"}') + subscribe * 200)
            # Its answers fill whatever buffers there are, until nothing more is taken from it.
            seen: list[int] = []

            def stands_still() -> bool:
                seen.append(frames_in(gateway))
                return len(seen) > 60 and len(set(seen[-60:])) == 1

            await until(stands_still)
            assert frames_in(gateway) - before < 200
            assert sockets(gateway) == 1
            peer.writer.transport.abort()
        await until(lambda: sockets(gateway) == 0)


async def test_a_frame_that_is_too_large_for_the_gateway_but_not_for_the_hosts_server(tmp_path: Path) -> None:
    gateway = gateway_in(tmp_path, authenticate=by_query)
    async with (
        hosted(mounted(gateway)) as url,
        Wire(f"{url.replace('http', 'ws')}/chat/v1/ws?user=ann") as wire,
    ):
        await wire.hello()
        await wire.send_raw("x" * (gateway.settings.limits.max_frame_bytes + 1))
        assert await wire.wait_closed() == 1009


async def test_create_app_runs_by_its_own_lifespan(tmp_path: Path) -> None:
    app = create_app(Settings.of(store={"url": f"sqlite:///{tmp_path / 'x.db'}"}))
    async with hosted(app) as url, httpx.AsyncClient() as http:
        assert (await http.get(f"{url}/readyz")).status_code == 200
