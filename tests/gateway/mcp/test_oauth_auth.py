"""Where tokens go: to the server's own origin, in the session of one account, and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.mcp.transports import SessionOver
from gateway.testing.mcp_http import Refusal, serving
from tests.gateway.mcp.oauth_rig import ANN, World, sqlite_world


@pytest.fixture
async def around(tmp_path: Path) -> AsyncGenerator[World]:
    async with sqlite_world(tmp_path) as made:
        yield made


async def test_no_redirect_takes_a_token_to_another_origin(around: World) -> None:
    instance = await around.instance()
    await instance.connect(ANN)
    auth = instance.oauth.auth("notes", ANN.owner)
    seen: list[dict[str, str]] = []

    async def elsewhere(request: Request) -> Response:
        seen.append(dict(request.headers))
        return Response("{}")

    authorized: list[str] = []
    async with serving(Starlette(routes=[Route("/", elsewhere, methods=["POST"])]), 0) as other:

        def refuse(headers: dict[str, str]) -> Refusal:
            authorized.append(headers["authorization"])
            return Refusal(307, {"location": f"{other}/"})

        around.provider.mcp.refuse = refuse
        async with httpx2.AsyncClient(auth=auth, follow_redirects=True) as client:
            assert (await client.post(around.provider.url)).status_code == 200
        async with httpx2.AsyncClient(auth=auth, follow_redirects=False) as client:
            response = await client.post(around.provider.url)
            assert response.next_request is not None
            response.next_request.headers["authorization"] = authorized[0]
            assert (await client.send(response.next_request)).status_code == 200
    assert authorized[0].startswith("Bearer ")
    assert len(seen) == 2
    assert not [headers for headers in seen if "authorization" in headers]


async def test_a_session_does_not_go_on_with_another_account(around: World) -> None:
    instance = await around.instance()
    await instance.connect(ANN, "first")
    auth = instance.oauth.auth("notes", ANN.owner)
    async with httpx2.AsyncClient(auth=auth) as client:
        first = await client.post(around.provider.url, headers={"mcp-session-id": "s"})
        assert first.status_code < 500
        await instance.connect(ANN, "second")
        passed = around.provider.oauth.requests["mcp"]
        around.clock.ahead = 3600
        with pytest.raises(SessionOver):
            await client.post(around.provider.url, headers={"mcp-session-id": "s"})
    assert around.provider.oauth.requests["mcp"] == passed


async def test_a_server_that_needs_no_authorization_gets_none(around: World) -> None:
    instance = await around.instance()
    assert instance.oauth.auth("other", ANN.owner) is None
