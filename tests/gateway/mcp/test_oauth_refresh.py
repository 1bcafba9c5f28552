"""Tokens are renewed by one instance at a time, and a rotated one is not lost: over real sockets and stores."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.responses import JSONResponse, Response
from structlog.testing import capture_logs

from gateway.mcp import oauth_grants
from gateway.mcp.transports import ServerAway
from gateway.servers.valkey import ValkeyServer
from gateway.testing.mcp_http import Refusal
from stores.connect import open_hot
from stores.hot import Hot
from stores.postgres import PostgresStore
from stores.sqlite import SqliteStore
from stores.store import Store
from tests.gateway.mcp.oauth_rig import ANN, BOB, PASSED, Gate, Watched, World, memory, sqlite_world, until, world
from tests.servers.postgres import database
from tests.servers.valkey import fresh_prefix


@pytest.fixture
async def around(tmp_path: Path) -> AsyncGenerator[World]:
    async with sqlite_world(tmp_path) as made:
        yield made


# ---- one at a time


@asynccontextmanager
async def sqlite_of_two(folder: Path, valkey: ValkeyServer) -> AsyncGenerator[tuple[Store, Hot, Store, Hot]]:
    """Two processes over one file share nothing that is hot."""
    first, second = [await SqliteStore.open(folder / "store.db") for _ in range(2)]
    yield first, memory(), second, memory()
    await first.close()
    await second.close()


@asynccontextmanager
async def postgres_of_two(folder: Path, valkey: ValkeyServer) -> AsyncGenerator[tuple[Store, Hot, Store, Hot]]:
    prefix = fresh_prefix()
    async with database() as url:
        first, second = [await PostgresStore.open(url) for _ in range(2)]
        hots = [open_hot(valkey.url, prefix=prefix, max_bytes=1 << 20, ttl=60) for _ in range(2)]
        tasks = [asyncio.create_task(run()) for hot in hots for run in hot.tasks]
        try:
            yield first, hots[0], second, hots[1]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for hot in hots:
                await hot.close()
            await first.close()
            await second.close()


@pytest.mark.parametrize("two", [sqlite_of_two, postgres_of_two], ids=["sqlite", "postgres"])
async def test_of_two_instances_one_refreshes(two: Any, tmp_path: Path, valkey: ValkeyServer) -> None:
    with capture_logs():
        async with two(tmp_path, valkey) as (store, hot, other_store, other_hot), world(store, hot) as around:
            instances = [await around.instance(), await around.instance(store=other_store, hot=other_hot)]
            await instances[0].connect(ANN)
            knockers = [instance.knocker(ANN) for instance in (*instances, *instances)]
            for number in range(1, 6):
                if number % 2:
                    around.clock.ahead += 3600
                else:
                    around.clock.ahead += 60
                    around.provider.oauth.expire()
                answers = await asyncio.gather(*(knock(10) for knock in knockers))
                assert answers == [[PASSED] * 10] * 4
                assert around.provider.oauth.refreshes == number
            assert around.provider.oauth.requests["token"] == 1 + 5
            assert around.provider.oauth.reuses == 0
            assert (await around.grant()).rotation == 5


async def test_nobody_waits_for_a_refresh_while_the_token_is_good(around: World) -> None:
    here, there = await around.instance(), await around.instance()
    await here.connect(ANN)
    gate = around.provider.oauth.before["token"] = Gate()
    around.clock.ahead = 3550
    refreshing = asyncio.create_task(here.knocker(ANN)())
    await gate.asked.wait()
    assert await there.knocker(ANN)(5) == [PASSED] * 5
    assert not refreshing.done()
    gate.go.set()
    assert await refreshing == [PASSED]
    assert around.provider.oauth.refreshes == 1


async def test_the_others_wait_where_the_token_is_over(around: World) -> None:
    watched = Watched(around.store)
    here, there = await around.instance(), await around.instance(store=cast("Store", watched))
    await here.connect(ANN)
    gate = around.provider.oauth.before["token"] = Gate()
    around.clock.ahead = 3600
    waiting = [asyncio.create_task(here.knocker(ANN)(3))]
    await gate.asked.wait()
    waiting.append(asyncio.create_task(there.knocker(ANN)(3)))
    await until(lambda: watched.reads >= 2)
    assert not [task for task in waiting if task.done()]
    gate.go.set()
    assert await asyncio.gather(*waiting) == [[PASSED] * 3] * 2
    assert around.provider.oauth.requests["token"] == 2


async def test_a_caller_that_is_cancelled_leaves_the_refresh_to_its_end(around: World) -> None:
    instance = await around.instance()
    await instance.connect(ANN)
    gate = around.provider.oauth.after["token"] = Gate()
    around.clock.ahead = 3600
    caller = asyncio.create_task(instance.knocker(ANN)())
    await gate.asked.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.go.set()
    await instance.oauth._grants.close()  # pyright: ignore[reportPrivateUsage]
    assert (await around.grant()).rotation == 1
    assert await instance.knocker(ANN)() == [PASSED]
    assert (around.provider.oauth.refreshes, around.provider.oauth.reuses) == (1, 0)


async def test_an_instance_that_died_is_waited_for_and_then_replaced(around: World) -> None:
    watched = Watched(around.store)
    instance = await around.instance(store=cast("Store", watched))
    await instance.connect(ANN)
    around.clock.ahead = 3600
    tokens = oauth_grants.Tokens(instance.oauth._grants, instance.oauth.servers["notes"], ANN.owner)  # pyright: ignore[reportPrivateUsage]
    kept = await tokens._read()  # pyright: ignore[reportPrivateUsage]
    assert kept.value is not None
    # It claims, and that is the last that is heard of it.
    assert await tokens._claim(kept, kept.value, around.clock()) is not None  # pyright: ignore[reportPrivateUsage]
    knocking, read = asyncio.create_task(instance.knocker(ANN)()), watched.reads
    await until(lambda: watched.reads >= read + 2)
    assert not knocking.done()
    around.clock.ahead += 31
    assert await knocking == [PASSED]
    assert around.provider.oauth.refreshes == 1


async def test_a_process_that_stood_still_does_not_use_the_token_again(around: World) -> None:
    instance = await around.instance()
    await instance.connect(ANN)
    around.clock.ahead = 3600
    tokens = oauth_grants.Tokens(instance.oauth._grants, instance.oauth.servers["notes"], ANN.owner)  # pyright: ignore[reportPrivateUsage]
    kept = await tokens._read()  # pyright: ignore[reportPrivateUsage]
    assert kept.value is not None
    claimed = await tokens._claim(kept, kept.value, around.clock())  # pyright: ignore[reportPrivateUsage]
    assert claimed is not None
    around.clock.ahead += 31
    assert await instance.knocker(ANN)() == [PASSED]
    await tokens._refresh(claimed)  # pyright: ignore[reportPrivateUsage]
    assert (around.provider.oauth.refreshes, around.provider.oauth.reuses) == (1, 0)


# ---- what goes wrong


async def test_a_provider_that_is_away_costs_nothing_but_time(around: World) -> None:
    instance = await around.instance()
    await instance.connect(ANN)

    async def away(form: object) -> Response | None:
        return Response("", 503)

    around.provider.oauth.before["token"] = away
    knock = instance.knocker(ANN)
    around.clock.ahead = 3550
    assert await knock() == [PASSED], "the old token is good for a while"
    around.clock.ahead = 3600
    (words,) = await knock()
    assert "the authorization server of notes answers 503" in str(words)
    asked = around.provider.oauth.requests["token"]
    assert await knock(5) == [words] * 5
    assert around.provider.oauth.requests["token"] == asked, "it is left alone for some seconds"
    assert (await instance.state(ANN))["connected"]
    del around.provider.oauth.before["token"]
    around.clock.ahead += 6
    assert await knock() == [PASSED]


async def test_a_provider_that_never_answers_is_given_up(around: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oauth_grants, "_REQUEST", 0.2)
    instance = await around.instance()
    await instance.connect(ANN)
    gate = around.provider.oauth.before["token"] = Gate()
    around.clock.ahead = 3600
    begun = time.monotonic()
    (words,) = await instance.knocker(ANN)()
    assert "did not answer in time" in str(words)
    assert time.monotonic() - begun < 5
    gate.go.set()


async def test_a_grant_that_was_taken_back_has_to_be_given_again(around: World) -> None:
    instance = await around.instance()
    await instance.connect(ANN)
    await instance.connect(BOB)
    around.provider.oauth.grants[0].revoked = True
    around.clock.ahead = 60
    with pytest.raises(ServerAway, match=r"needs your authorization anew.*invalid_grant.*POST /v1/connections/notes"):
        await instance.account(ANN)
    state = await instance.state(ANN)
    assert not state["connected"]
    assert "invalid_grant" in state["problem"]
    assert await instance.account(BOB) == "bob"
    asked = around.provider.oauth.requests["token"]
    assert "needs your authorization anew" in str(await instance.knocker(ANN)())
    assert around.provider.oauth.requests["token"] == asked
    await instance.connect(ANN)
    assert await instance.account(ANN) == "ann"


async def test_a_rotation_whose_answer_is_lost_is_the_one_that_costs_the_grant(around: World) -> None:
    instance = await around.instance()
    await instance.connect(ANN)

    async def lost(form: object) -> Response | None:
        return Response("", 502)

    around.provider.oauth.after["token"] = lost
    around.clock.ahead = 3600
    assert "502" in str(await instance.knocker(ANN)())
    del around.provider.oauth.after["token"]
    around.clock.ahead += 6
    assert "needs your authorization anew" in str(await instance.knocker(ANN)())


async def test_a_server_that_refuses_what_was_just_given_is_no_reason_to_refresh(around: World) -> None:
    instance = await around.instance()
    await instance.connect(ANN)
    around.provider.oauth.expire()
    assert "refuses the access that was just given" in str(await instance.knocker(ANN)())
    assert around.provider.oauth.refreshes == 0


async def test_a_server_that_refuses_the_renewed_token_too(around: World) -> None:
    instance = await around.instance()
    await instance.connect(ANN)
    around.clock.ahead = 60

    def refuse(headers: dict[str, str]) -> Refusal:
        return Refusal(401)

    around.provider.mcp.refuse = refuse
    assert "refuses your authorization" in str(await instance.knocker(ANN)())
    assert around.provider.oauth.refreshes == 1


async def test_a_client_that_the_provider_forgot_is_registered_anew(around: World) -> None:
    instance = await around.instance()
    await instance.connect(ANN)
    around.provider.oauth.clients.clear()
    around.clock.ahead = 3600
    assert "invalid_client" in str(await instance.knocker(ANN)())
    await instance.connect(ANN)
    assert around.provider.oauth.requests["register"] == 2


async def test_without_a_refresh_token_the_end_is_the_end(tmp_path: Path) -> None:
    async with sqlite_world(tmp_path, refresh=False) as around:
        instance = await around.instance()
        await instance.connect(ANN)
        around.clock.ahead = 3590
        assert await instance.knocker(ANN)() == [PASSED]
        assert (await instance.state(ANN))["expires_at"] is not None
        around.clock.ahead = 3600
        assert not (await instance.state(ANN))["connected"]
        assert "needs your authorization anew (its access is over)" in str(await instance.knocker(ANN)())


async def test_a_token_without_an_end_is_used_until_it_is_refused(tmp_path: Path) -> None:
    async with sqlite_world(tmp_path, access_seconds=None) as around:
        instance = await around.instance()
        await instance.connect(ANN)
        around.clock.ahead = 1e6
        assert await instance.knocker(ANN)() == [PASSED]
        around.provider.oauth.expire()
        assert await instance.knocker(ANN)(5) == [PASSED] * 5
        assert around.provider.oauth.refreshes == 1


async def test_tokens_that_have_ended_when_they_come_are_not_renewed_without_end(tmp_path: Path) -> None:
    async with sqlite_world(tmp_path, access_seconds=0) as around:
        instance = await around.instance()
        await instance.connect(ANN)
        assert await instance.knocker(ANN)(5) == [PASSED] * 5
        around.clock.ahead = 5
        assert await instance.knocker(ANN)(5) == [PASSED] * 5
        assert around.provider.oauth.refreshes == 1


async def test_a_provider_that_leaves_out_what_stays(around: World) -> None:
    """RFC 6749, section 6: neither a scope nor another refresh token."""
    instance = await around.instance()
    await instance.connect(ANN)
    grant = around.provider.oauth.grants[0]

    async def sparing(form: object) -> Response | None:
        return JSONResponse({"access_token": grant.access, "token_type": "Bearer"})

    around.provider.oauth.before["token"] = sparing
    around.clock.ahead = 3600
    assert await instance.knocker(ANN)() == [PASSED]
    kept = await around.grant()
    assert (kept.refresh_token, kept.scope, kept.expires_at) == (grant.refresh, "read", None)


async def test_a_server_that_wants_more_is_told_to_the_user(around: World) -> None:
    instance = await around.instance()
    await instance.connect(ANN)
    around.provider.oauth.wants = "write"
    with pytest.raises(ServerAway, match=r"wants more rights than you gave it \(scope: write\).*POST /v1/connections"):
        await instance.account(ANN)
    state = await instance.state(ANN)
    assert (state["connected"], state["missing_scopes"]) == (True, ["write"])
    await instance.connect(ANN)
    state = await instance.state(ANN)
    assert (state["scopes"], state["missing_scopes"]) == (["read", "write"], [])
    assert await instance.account(ANN) == "ann"
