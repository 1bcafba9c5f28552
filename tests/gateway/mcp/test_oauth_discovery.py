"""Which provider is asked, and who the gateway is for it (gateway/mcp/oauth_discovery.py, oauth_clients.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.auth.api_keys import ApiKeys
from gateway.auth.authenticator import Authenticator
from gateway.auth.tickets import Tickets
from gateway.http.connections import connection_routes
from gateway.http.replies import Guard
from gateway.mcp.oauth_settings import OAuthSettings
from gateway.mcp.oauth_wire import Wire
from gateway.testing.mcp_http import serving
from tests.gateway.mcp.oauth_rig import ANN, BOB, Browser, Instance, World, sqlite_world


@pytest.fixture
async def around(tmp_path: Path) -> AsyncGenerator[World]:
    async with sqlite_world(tmp_path) as made:
        yield made


@pytest.fixture
async def instance(around: World) -> Instance:
    return await around.instance()


# ---- clients


async def test_a_configured_client_shows_its_secret_in_the_way_that_is_wanted(around: World) -> None:
    settings = OAuthSettings(client_id="by:hand", client_secret_env="NOTES_SECRET")
    for method, who in (("client_secret_basic", ANN), ("client_secret_post", BOB)):
        around.provider.oauth.metadata = {
            "token_endpoint_auth_methods_supported": [method],
            "registration_endpoint": None,
        }
        instance = await around.instance(settings, environ={"NOTES_SECRET": "s%cret &"})
        around.provider.oauth.add_client("by:hand", "s%cret &", around.redirect_uri)
        await instance.connect(who)
        around.clock.ahead += 3600
        assert await instance.account(who) == who.subject
        assert (await around.grant(who.owner)).rotation == 1


async def test_a_metadata_document_is_the_client_where_the_provider_reads_them(around: World) -> None:
    around.provider.oauth.metadata = {"client_id_metadata_document_supported": True, "registration_endpoint": None}
    url = "https://gateway.example/v1/oauth/client.json"
    instance = await around.instance(OAuthSettings(client_metadata_url=url))
    around.provider.oauth.add_client(url, None, around.redirect_uri)
    await instance.connect(ANN)
    assert await instance.account(ANN) == "ann"
    document = (await instance.request("GET", "/v1/oauth/client.json", ANN)).json()
    assert document["client_id"] == around.redirect_uri.replace("callback", "client.json")
    assert document["redirect_uris"] == [around.redirect_uri]
    assert document["token_endpoint_auth_method"] == "none"


async def test_a_provider_that_registers_nobody_is_told_how(around: World, instance: Instance) -> None:
    around.provider.oauth.metadata = {"registration_endpoint": None}
    reply = await instance.request("POST", "/v1/connections/notes", ANN)
    assert reply.status_code == 502
    assert around.redirect_uri in reply.json()["error"]["message"]


async def test_a_registration_that_the_provider_forgot_is_made_anew(around: World, instance: Instance) -> None:
    browser = Browser(instance)
    location = await browser.consent(await browser.begin(ANN))
    around.provider.oauth.clients.clear()
    page = await browser.come_back(location)
    assert (page.status_code, "invalid_client" in page.text) == (400, True)
    await instance.connect(ANN)
    assert around.provider.oauth.requests["register"] == 2


async def test_instances_that_register_at_once_agree_on_one_client(around: World, instance: Instance) -> None:
    other = await around.instance()
    both = asyncio.Event()

    async def together(form: object) -> Response | None:
        if around.provider.oauth.requests["register"] == 2:
            both.set()
        await both.wait()
        return None

    around.provider.oauth.before["register"] = together
    urls = await asyncio.gather(Browser(instance).begin(ANN), Browser(other).begin(BOB))
    assert around.provider.oauth.requests["register"] == 2
    assert len({parse_qs(urlsplit(url).query)["client_id"][0] for url in urls}) == 1


async def test_a_registration_that_can_not_be_used_is_refused(around: World, instance: Instance) -> None:
    answers = [
        (Response("", 503), 503),
        (JSONResponse({"error": "invalid_redirect_uri"}, 400), 502),
        (JSONResponse({"client_id": "c", "token_endpoint_auth_method": "private_key_jwt"}, 201), 502),
        (JSONResponse({"client_id": "c", "token_endpoint_auth_method": "client_secret_basic"}, 201), 502),
        (Response("no JSON", 201), 502),
    ]
    for answer, status in answers:

        async def fault(form: object, answer: Response = answer) -> Response | None:
            return answer

        around.provider.oauth.before["register"] = fault
        assert (await instance.request("POST", "/v1/connections/notes", ANN)).status_code == status
    around.provider.oauth.before["register"] = registered
    url = await Browser(instance).begin(ANN)
    assert parse_qs(urlsplit(url).query)["client_id"] == ["c"]


async def registered(form: object) -> Response | None:
    return JSONResponse({"client_id": "c", "client_secret": "s", "client_secret_expires_at": 0}, 201)


# ---- discovery


async def test_a_provider_that_can_not_be_trusted_is_not_asked(around: World, instance: Instance) -> None:
    cases: list[tuple[dict[str, object], dict[str, object], str]] = [
        ({"issuer": "https://other.example"}, {}, "calls itself by another name"),
        ({"code_challenge_methods_supported": None}, {}, "PKCE"),
        ({"code_challenge_methods_supported": ["plain"]}, {}, "PKCE"),
        ({"token_endpoint": "http://other.example/token"}, {}, "no https"),
        ({"revocation_endpoint": "http://other.example/revoke"}, {}, "no https"),
        ({"authorization_endpoint": "javascript:alert(1)"}, {}, "no metadata"),
        ({}, {"resource": "https://other.example/mcp"}, "metadata of another server"),
        ({}, {"authorization_servers": ["http://other.example"]}, "without https"),
    ]
    for metadata, resource, words in cases:
        around.provider.oauth.metadata = metadata
        around.provider.oauth.resource_metadata = resource
        reply = await instance.request("POST", "/v1/connections/notes", ANN)
        assert (reply.status_code, words in reply.json()["error"]["message"]) == (502, True), words
    assert around.provider.oauth.requests["register"] == 0


async def test_a_server_that_looks_at_who_asks_only_where_there_is_a_message() -> None:
    async def served(request: Request) -> Response:
        if request.method == "GET":
            return Response(status_code=405)
        assert (await request.json())["method"] == "tools/list"
        return Response(status_code=401, headers={"www-authenticate": 'Bearer scope="notes:read"'})

    wire = Wire()
    async with serving(Starlette(routes=[Route("/mcp", served, methods=["GET", "POST"])]), 0) as origin:
        answer = await wire.challenge(f"{origin}/mcp")
    await wire.close()
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer scope="notes:read"')


async def test_who_connects_again_finds_a_provider_that_has_changed(around: World, instance: Instance) -> None:
    await instance.connect(ANN)
    around.provider.oauth.metadata = {"code_challenge_methods_supported": ["plain"]}
    # What was found is kept for those who were not connected, for some minutes.
    assert (await instance.request("POST", "/v1/connections/notes", BOB)).status_code == 200
    assert (await instance.request("POST", "/v1/connections/notes", ANN)).status_code == 502


async def test_only_the_issuer_of_the_settings_is_accepted(around: World) -> None:
    issuer = around.provider.oauth.issuer
    for given, status in (("https://other.example", 502), (issuer, 200), (f"{issuer}/", 200)):
        instance = await around.instance(OAuthSettings(issuer=given))
        assert (await instance.request("POST", "/v1/connections/notes", ANN)).status_code == status


@pytest.mark.parametrize("endpoint", ["resource", "metadata"])
async def test_a_provider_that_is_away_is_asked_again_later(around: World, instance: Instance, endpoint: str) -> None:
    async def away(form: object) -> Response | None:
        return Response("", 503)

    around.provider.oauth.before[endpoint] = away
    assert (await instance.request("POST", "/v1/connections/notes", ANN)).status_code == 503
    del around.provider.oauth.before[endpoint]
    await instance.connect(ANN)


async def test_authorizations_are_counted(instance: Instance) -> None:
    statuses = [(await instance.request("POST", "/v1/connections/notes", ANN)).status_code for _ in range(11)]
    assert statuses == [200] * 10 + [429]
    assert (await instance.request("POST", "/v1/connections/notes", BOB)).status_code == 200


async def test_a_server_that_needs_no_authorization_is_none_of_these(instance: Instance) -> None:
    for method in ("POST", "DELETE"):
        assert (await instance.request(method, "/v1/connections/other", ANN)).status_code == 404


async def test_a_gateway_without_such_servers_says_so(around: World) -> None:
    authenticator = Authenticator(ApiKeys(around.store), None, Tickets(around.hot.tickets))
    app = Starlette(routes=connection_routes(Guard(authenticator), authenticator, None))
    headers = {"x-api-key": around.keys[ANN.owner]}
    async with serving(app, 0) as origin, httpx.AsyncClient(base_url=origin, headers=headers) as client:
        assert (await client.get("/v1/connections")).json() == {"connections": []}
        assert (await client.post("/v1/connections/notes")).status_code == 404
        assert (await client.get("/v1/oauth/client.json")).status_code == 404
        assert "no server that needs" in (await client.get("/v1/oauth/callback?state=x")).text
        assert (await client.get("/v1/connections", headers={"x-api-key": "wrong"})).status_code == 401
