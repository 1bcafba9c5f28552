"""A user authorizes the gateway at a provider, over real sockets, and nobody else's account gets in between."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from starlette.responses import JSONResponse, Response

from gateway.mcp.oauth_settings import OAuthSettings
from gateway.mcp.transports import ServerAway
from tests.gateway.mcp.oauth_rig import ANN, BOB, Browser, Instance, World, sqlite_world


@pytest.fixture
async def around(tmp_path: Path) -> AsyncGenerator[World]:
    async with sqlite_world(tmp_path) as made:
        yield made


@pytest.fixture
async def instance(around: World) -> Instance:
    return await around.instance()


def changed(location: str, **parameters: str | None) -> str:
    """The address with other parameters; None: without."""
    parts = urlsplit(location)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    kept = {name: value for name, value in {**query, **parameters}.items() if value is not None}
    return parts._replace(query=urlencode(kept)).geturl()


# ---- the whole way


async def test_a_user_connects_uses_and_disconnects(around: World, instance: Instance, tmp_path: Path) -> None:
    assert await instance.state(ANN) == {
        "name": "notes",
        "connected": False,
        "scopes": [],
        "missing_scopes": [],
        "expires_at": None,
        "problem": None,
    }
    with pytest.raises(ServerAway, match=r"'notes' needs your authorization.*POST /v1/connections/notes"):
        await instance.account(ANN)
    await instance.connect(ANN, "ann@provider")
    assert await instance.account(ANN) == "ann@provider"
    state = await instance.state(ANN)
    assert (state["connected"], state["scopes"]) == (True, ["read"])
    (grant,) = around.provider.oauth.grants
    for path in tmp_path.iterdir():
        assert grant.access.encode() not in path.read_bytes()
        assert grant.refresh.encode() not in path.read_bytes()
    gone = await instance.request("DELETE", "/v1/connections/notes", ANN)
    assert gone.json() == {"revoked": True}
    assert grant.revoked
    assert not (await instance.state(ANN))["connected"]
    with pytest.raises(ServerAway, match="needs your authorization"):
        await instance.account(ANN)
    assert (await instance.request("DELETE", "/v1/connections/notes", ANN)).json() == {"revoked": False}


async def test_one_registration_serves_all_users_and_instances(around: World, instance: Instance) -> None:
    other = await around.instance()
    for one, who in ((instance, ANN), (other, BOB), (other, ANN)):
        await one.connect(who)
    assert around.provider.oauth.requests["register"] == 1
    assert len(around.provider.oauth.clients) == 1


async def test_users_have_their_own_accounts(around: World, instance: Instance) -> None:
    await instance.connect(ANN, "ann@provider")
    with pytest.raises(ServerAway, match="needs your authorization"):
        await instance.account(BOB)
    await instance.connect(BOB, "bob@provider")
    assert [await instance.account(who) for who in (ANN, BOB, ANN)] == ["ann@provider", "bob@provider", "ann@provider"]


async def test_a_grant_that_is_moved_to_another_row_does_not_open(
    around: World, instance: Instance, tmp_path: Path
) -> None:
    await instance.connect(ANN)
    with sqlite3.connect(tmp_path / "store.db") as db:
        db.execute(
            "INSERT INTO secrets SELECT ?, name, value, version FROM secrets WHERE owner = ?", (BOB.owner, ANN.owner)
        )
    db.close()
    with pytest.raises(ServerAway, match="needs your authorization"):
        await instance.account(BOB)
    assert not (await instance.state(BOB))["connected"]
    # It is in nobody's way.
    await instance.connect(BOB)
    assert await instance.account(BOB) == "bob"


async def test_another_account_of_the_same_user_takes_the_place_of_the_first(around: World, instance: Instance) -> None:
    other = await around.instance()
    await instance.connect(ANN, "first")
    assert [await one.account(ANN) for one in (instance, other)] == ["first", "first"]
    await instance.connect(ANN, "second")
    # The other instance hears of it, and begins another session.
    assert [await one.account(ANN) for one in (instance, other)] == ["second", "second"]
    sessions = {call.headers.get("mcp-session-id") for call in around.provider.mcp.calls}
    assert None not in sessions or len(sessions) == 1


async def test_the_callback_may_come_to_any_instance(around: World, instance: Instance) -> None:
    other = await around.instance()
    browser = Browser(instance)
    location = await browser.consent(await browser.begin(ANN), account="ann")
    assert "Connected" in (await browser.come_back(location, other)).text
    assert await instance.account(ANN) == "ann"


async def test_what_is_asked_for(around: World) -> None:
    instance = await around.instance(OAuthSettings(scopes=("write", "offline_access")))
    asked = parse_qs(urlsplit(await Browser(instance).begin(ANN)).query)
    assert asked["scope"] == ["write offline_access"]
    assert asked["prompt"] == ["consent"]
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["resource"] == [around.provider.url]
    assert asked["redirect_uri"] == [around.redirect_uri]


# ---- whose browser it is


async def test_a_browser_that_did_not_begin_is_shown_a_code_that_connects(around: World, instance: Instance) -> None:
    url = (await instance.request("POST", "/v1/connections/notes", ANN)).json()["authorization_url"]
    page = await Browser(instance).authorize(url, account="ann")
    code = page.text.partition("<strong>")[2].partition("</strong>")[0]
    assert len(code) == 9
    assert not (await instance.state(ANN))["connected"]

    async def confirm(who: object, text: str) -> int:
        path = "/v1/connections/notes/confirm"
        return (await instance.request("POST", path, BOB if who is BOB else ANN, json={"code": text})).status_code

    assert await confirm(ANN, "BBBB-BBBB") == 404
    assert await confirm(BOB, code) == 404
    assert not (await instance.state(BOB))["connected"]
    assert await confirm(ANN, f" {code.lower().replace('-', '')} ") == 200
    assert await confirm(ANN, code) == 404
    assert await instance.account(ANN) == "ann"


async def test_a_victims_browser_brings_its_account_to_nobody(around: World, instance: Instance) -> None:
    """Mallory, who is bob here, begins, and lures ann's browser to the provider."""
    lure = await Browser(instance).begin(BOB)
    victim = Browser(instance)
    await victim.begin(ANN)
    page = await victim.authorize(lure, account="ann@provider")
    assert "One more step" in page.text
    assert "for bob" in page.text
    assert not (await instance.state(BOB))["connected"]
    assert not (await instance.state(ANN))["connected"]


async def test_a_browser_in_which_the_host_knows_another_user_is_refused(around: World, instance: Instance) -> None:
    url = await Browser(instance).begin(BOB)
    victim = Browser(instance)
    victim.headers = {"x-signed-in": "ann"}
    page = await victim.authorize(url, account="ann@provider")
    assert page.status_code == 400
    assert "another user" in page.text
    assert around.provider.oauth.requests["token"] == 0


async def test_a_browser_in_which_the_host_knows_the_user_needs_nothing_more(instance: Instance) -> None:
    url = await Browser(instance).begin(ANN)
    browser = Browser(instance)
    browser.headers = {"x-signed-in": "ann"}
    assert "Connected" in (await browser.authorize(url, account="ann")).text
    assert await instance.account(ANN) == "ann"


async def test_the_cookie_is_for_one_flow_and_ends_with_it(instance: Instance) -> None:
    browser = Browser(instance)
    first, second = await browser.begin(ANN), await browser.begin(ANN)
    assert len(browser.cookies) == 2
    reply = await instance.request("POST", "/v1/connections/notes", ANN)
    (cookie,) = reply.headers.get_list("set-cookie")
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Connected" in (await browser.authorize(first)).text
    assert "Connected" in (await browser.authorize(second)).text


# ---- what comes back


async def test_a_state_is_good_once(around: World, instance: Instance) -> None:
    browser = Browser(instance)
    location = await browser.consent(await browser.begin(ANN))
    assert (await browser.come_back(location, method="HEAD")).status_code == 405
    assert "Connected" in (await browser.come_back(location)).text
    again = await browser.come_back(location)
    assert (again.status_code, "used before, or is too old" in again.text) == (400, True)
    assert around.provider.oauth.requests["token"] == 1


async def test_a_state_ends_after_ten_minutes(around: World, instance: Instance) -> None:
    browser = Browser(instance)
    location = await browser.consent(await browser.begin(ANN))
    around.clock.ahead = 601
    assert "too old" in (await browser.come_back(location)).text
    assert around.provider.oauth.requests["token"] == 0


async def test_an_answer_that_is_wrong_connects_nothing(around: World, instance: Instance) -> None:
    cases: list[tuple[dict[str, str | None], str]] = [
        ({"state": "x" * 43}, "too old"),
        ({"state": None}, "too old"),
        ({"state": "x" * 5000}, "not what an authorization server sends"),
        ({"iss": "https://other.example"}, "another authorization server"),
        ({"iss": None}, "another authorization server"),
        ({"code": None}, "no code"),
        ({"code": "guessed"}, "invalid_grant"),
        ({"code": None, "error": "access_denied"}, "You did not allow it"),
        ({"error": "<script>"}, "refused: &lt;script&gt;"),
        ({"error": "access_denied", "iss": "https://other.example"}, "another authorization server"),
    ]
    for number, (parameters, words) in enumerate(cases):
        who = await around.user(f"user{number}")
        browser = Browser(instance)
        location = await browser.consent(await browser.begin(who))
        page = await browser.come_back(changed(location, **parameters))
        assert (page.status_code, words in page.text) == (400, True), (parameters, page.text)
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert page.headers["referrer-policy"] == "no-referrer"
        assert not (await instance.state(who))["connected"]
    odd = await Browser(instance).come_back("/v1/oauth/callback?state=%FF%00&code=%FF")
    assert (odd.status_code, "too old" in odd.text) == (400, True)


async def test_a_parameter_that_comes_twice_is_refused(instance: Instance) -> None:
    browser = Browser(instance)
    location = await browser.consent(await browser.begin(ANN))
    assert "not what an authorization server sends" in (await browser.come_back(f"{location}&code=other")).text


async def test_a_user_may_refuse(instance: Instance) -> None:
    browser = Browser(instance)
    assert "You did not allow it" in (await browser.authorize(await browser.begin(ANN), deny="1")).text


async def test_a_token_endpoint_that_is_away_or_lies_is_told(around: World, instance: Instance) -> None:
    answers = [
        Response("<h1>oops", 502),
        Response("{}", 200),
        Response("x" * 100_000, 200),
        JSONResponse({"access_token": "a", "token_type": "mac"}),
    ]

    async def fault(form: object) -> Response | None:
        return answers.pop()

    around.provider.oauth.before["token"] = fault
    while answers:
        browser = Browser(instance)
        page = await browser.authorize(await browser.begin(ANN))
        assert (page.status_code, "Begin again" in page.text) == (503, True)
    assert not (await instance.state(ANN))["connected"]
