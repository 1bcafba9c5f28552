"""What a store, a disconnection or another key does to a grant that is being renewed, or is kept."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.responses import Response

from gateway.mcp.oauth_settings import OAuthSettings, protected
from stores.ports import Unavailable
from stores.store import Store
from tests.gateway.mcp.oauth_rig import ANN, BOB, KEY, PASSED, Gate, World, sqlite_world


@pytest.fixture
async def around(tmp_path: Path) -> AsyncGenerator[World]:
    async with sqlite_world(tmp_path) as made:
        yield made


# ---- the store


class Flaky:
    """A store whose puts fail so many times, before they do anything or after."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.failures = 0
        self.after = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def put_secret(self, owner: str, name: str, value: bytes, expected: int | None) -> int | None:
        fails, self.failures = self.failures > 0, max(0, self.failures - 1)
        if fails and not self.after:
            raise Unavailable("away")
        version = await self._store.put_secret(owner, name, value, expected)
        if fails:
            raise Unavailable("the answer is lost")
        return version


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_store_that_is_away_does_not_lose_a_rotation(around: World, after: bool) -> None:
    flaky = Flaky(around.store)
    instance = await around.instance(store=cast("Store", flaky))
    await instance.connect(ANN)
    gate = around.provider.oauth.before["token"] = Gate()
    around.clock.ahead = 3600
    knocking = asyncio.create_task(instance.knocker(ANN)())
    await gate.asked.wait()
    flaky.failures, flaky.after = 3, after
    gate.go.set()
    assert await knocking == [PASSED]
    assert (await around.grant()).rotation == 1
    assert (around.provider.oauth.refreshes, around.provider.oauth.reuses) == (1, 0)


async def test_who_disconnects_during_a_refresh_stays_disconnected(around: World) -> None:
    instance = await around.instance()
    await instance.connect(ANN)
    gate = around.provider.oauth.after["token"] = Gate()
    around.clock.ahead = 3600
    knocking = asyncio.create_task(instance.knocker(ANN)())
    await gate.asked.wait()
    away = around.provider.oauth.before["revoke"] = Gate(Response("", 503))
    away.go.set()
    await instance.request("DELETE", "/v1/connections/notes", ANN)
    del around.provider.oauth.before["revoke"]
    gate.go.set()
    assert "needs your authorization" in str(await knocking)
    assert around.provider.oauth.grants[0].revoked, "what came after all was given back"
    assert await around.store.secrets_of(ANN.owner) == []


async def test_what_is_connected_anew_during_a_refresh_stays(around: World) -> None:
    instance = await around.instance()
    await instance.connect(ANN, "first")
    gate = around.provider.oauth.after["token"] = Gate()
    around.clock.ahead = 3600
    knocking = asyncio.create_task(instance.knocker(ANN)())
    await gate.asked.wait()
    del around.provider.oauth.after["token"]
    await instance.connect(ANN, "second")
    gate.go.set()
    assert await knocking == [PASSED]
    assert await instance.account(ANN) == "second"


async def test_keys_are_changed_without_anybody_noticing(around: World) -> None:
    new = base64.b64encode(secrets.token_bytes(32)).decode()
    before = await around.instance()
    await before.connect(ANN)
    await before.connect(BOB)
    between = await around.instance(keys=(new, KEY))
    assert await between.knocker(ANN)() == [PASSED]
    after = await around.instance(keys=(new,))
    assert await after.knocker(ANN)() == [PASSED], "it was sealed anew when it was read"
    assert "needs your authorization" in str(await after.knocker(BOB)())
    await after.connect(BOB)
    assert await after.knocker(BOB)() == [PASSED]


async def test_a_grant_is_for_the_server_that_it_was_given_for(around: World) -> None:
    instance = await around.instance()
    await instance.connect(ANN)
    elsewhere = around.provider.url.replace("/mcp", "/other")
    instance.oauth.servers = {"notes": protected("notes", elsewhere, OAuthSettings())}
    assert "needs your authorization" in str(await instance.knocker(ANN)())
    assert not (await instance.state(ANN))["connected"]
