"""The endpoint apart from what it serves: its life, and what it takes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.mcp_endpoint import server
from tests.gateway.mcp_endpoint.test_calls_over_mcp import client_of, serving


async def test_a_server_that_fails_is_made_again_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, failed, loop = server.make_manager, asyncio.Event(), asyncio.get_running_loop()

    def make(offered: Any) -> Any:
        if not failed.is_set():
            loop.call_soon_threadsafe(failed.set)
            raise ImportError("a part of the SDK is missing")
        return made(offered)

    monkeypatch.setattr(server, "make_manager", make)
    async with serving(tmp_path) as (url, _), httpx2.AsyncClient(base_url=url, timeout=20) as web:
        first = asyncio.create_task(web.post("/mcp?user=ann", json={}))
        async with asyncio.timeout(10):
            await failed.wait()
        assert (await web.get("/healthz")).status_code == 200
        async with client_of(url, "2026-07-28") as client:
            assert (await client.list_tools()).tools
        assert (await first).status_code < 500, "it waited for the other one"


async def test_no_stream_stays_open(tmp_path: Path) -> None:
    async with serving(tmp_path) as (url, _), httpx2.AsyncClient(base_url=url, timeout=5) as web:
        for method in ("GET", "DELETE"):
            answer = await web.request(method, "/mcp?user=ann", headers={"accept": "text/event-stream"})
            assert answer.status_code == 405
