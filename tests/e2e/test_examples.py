"""The examples of docs/examples run as their first lines say."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect as connect_socket
from websockets.exceptions import InvalidStatus

from gateway.auth.api_keys import create_key
from gateway.client import connect
from protocol.frames import Message, TurnEnd
from stores.connect import open_store
from tests.e2e.gateways import free_port
from tests.e2e.wire import Wire

EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "examples"


@asynccontextmanager
async def uvicorn_of(example: str, folder: Path, *options: str, **env: str) -> AsyncGenerator[str]:
    """uvicorn's own command with the example; its URL. At the end it must stop when it is told to."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), f"{example}:app", "--port", str(port)]
    with (folder / "uvicorn.log").open("ab") as log:
        process = subprocess.Popen([*command, *options], cwd=folder, env=os.environ | env, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient() as client, asyncio.timeout(30):
            while True:
                try:
                    await client.get(url)
                    break
                except httpx.TransportError:
                    assert process.poll() is None, (folder / "uvicorn.log").read_text()
                    await asyncio.sleep(0.03)
        yield url
        process.terminate()
        async with asyncio.timeout(20):
            while process.poll() is None:
                await asyncio.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in (folder / "uvicorn.log").read_text()


@pytest.mark.parametrize("ws", ["auto", "gateway.transport.websocket:SocketProtocol"])
async def test_the_shop(tmp_path: Path, ws: str) -> None:
    async with (
        uvicorn_of("fastapi_app", tmp_path, "--ws", ws) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as browser,
        httpx.AsyncClient(base_url=url, timeout=30) as stranger,
    ):
        # The shop's sign-in opens the chat page, which needs no token.
        page = await browser.get("/sign-in?name=ann", follow_redirects=True)
        assert page.url.path == "/assistant/"
        facts = re.search(r'id="facts"[^>]*>(.*?)</script>', page.text)
        assert facts is not None
        assert json.loads(facts[1])["known"]

        # The shop's own endpoint, and the same conversation over the socket of the page.
        answer = (await browser.post("/ask", json={"text": "call orders {}"})).json()
        assert "kettle" in answer["text"]
        cookies = {"Cookie": f"shop_session={browser.cookies['shop_session']}"}
        socket = url.replace("http", "ws") + "/assistant/v1/ws"
        async with Wire(socket, additional_headers=cookies, origin=url) as wire:
            assert (await wire.hello(cursors={"page": None}))["subject"] == "ann"
            snapshot = await wire.wait(lambda frame: frame["type"] == "snapshot")
            assert any("kettle" in str(event.get("content")) for event in snapshot["events"])
            events = await wire.turn("good morning", "page")
            assert any("good morning" in str(event.get("content")) for event in events)
        listed = (await browser.get("/assistant/v1/contexts")).json()["contexts"]
        assert [context["id"] for context in listed] == ["page"]

        # Whoever is not signed in, or was sent by another page, gets nothing.
        assert (await stranger.post("/ask", json={"text": "hi"})).status_code == 401
        assert (await stranger.get("/assistant/v1/contexts")).status_code == 401
        stranger.cookies.set("shop_session", "forged")
        assert (await stranger.get("/assistant/v1/contexts")).status_code == 401
        forged = await browser.post("/assistant/v1/contexts", json={}, headers={"Origin": "http://evil.example"})
        assert forged.status_code == 403
        for headers, status in [({"Cookie": "shop_session=forged"}, 401), (cookies | {"Origin": "http://evil"}, 403)]:
            with pytest.raises(InvalidStatus) as refused:
                await connect_socket(socket, additional_headers=headers)
            assert refused.value.response.status_code == status


async def test_the_shop_with_an_api_key_and_a_turn_that_outlives_a_restart(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path / 'shop.db'}")
    key = await create_key(store, "carol")
    await store.close()
    async with (
        uvicorn_of("fastapi_app", tmp_path) as url,
        connect(f"{url}/assistant", token=key) as client,
        asyncio.timeout(20),
    ):
        await anext(client.stream("long 300", "chat"))
    async with (
        uvicorn_of("fastapi_app", tmp_path) as url,
        connect(f"{url}/assistant", token=key) as client,
        asyncio.timeout(30),
    ):
        async for _ in client.events_of("chat"):
            if isinstance(client.transcript("chat").events[-1], TurnEnd):
                break
        answer = client.transcript("chat").events[-2]
    assert isinstance(answer, Message)
    assert len(str(answer.content).split()) >= 300


async def test_the_script(tmp_path: Path) -> None:
    async def run(*words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(EXAMPLES / "in_process.py"), *words, cwd=tmp_path, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        return output.decode()

    assert '{"pieces":12}' in await run()
    # What the first run began, the second one goes on with.
    assert "9 events" in await run("good evening")
