"""The page: who is given the local secret, and what a browser is told to refuse."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from gateway.auth.api_keys import ApiKeys
from gateway.auth.authenticator import LOCAL, Authenticator
from gateway.auth.principal import Principal
from gateway.auth.tickets import Tickets
from gateway.http.page import page_routes
from gateway.models.settings import ModelSettings
from gateway.settings import Settings
from stores.memory import MemoryCache
from stores.records import KeyRecord


class NoKeys:
    async def add_key(self, key: KeyRecord) -> None: ...

    async def find_key(self, digest: bytes) -> KeyRecord | None: ...

    async def list_keys(self) -> list[KeyRecord]:
        return []

    async def revoke_key(self, id: str, now: float) -> bool:
        return False


class Page:
    def __init__(self, *, local: bool, settings: Settings | None = None) -> None:
        self.tickets = Tickets(MemoryCache())
        self.authenticator = Authenticator(ApiKeys(NoKeys()), None, self.tickets, local)
        self.app = Starlette(routes=page_routes(self.tickets, self.authenticator, settings or Settings()))

    async def get(self, query: str = "") -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://x") as client:
            return await client.get(f"/{query}")

    async def token(self, query: str) -> str | None:
        return (await self.facts(query))["token"]

    async def facts(self, query: str = "") -> dict[str, Any]:
        found = re.search(r'id="facts"[^>]*>(.*?)</script>', (await self.get(query)).text)
        assert found is not None
        return json.loads(found[1])


async def test_the_local_ticket_opens_it_once() -> None:
    page = Page(local=True)
    ticket = await page.tickets.issue(LOCAL)
    assert await page.token(f"?ticket={ticket}") == page.authenticator.local_token
    assert await page.token(f"?ticket={ticket}") is None
    assert await page.token("") is None


@pytest.mark.parametrize("local", [True, False])
async def test_the_ticket_of_somebody_else_gives_no_secret(local: bool) -> None:
    page = Page(local=local)
    ticket = await page.tickets.issue(Principal(tenant="t", subject="ann"))
    assert await page.token(f"?ticket={ticket}") is None


async def test_looking_at_the_headers_does_not_use_the_ticket_up() -> None:
    page = Page(local=True)
    ticket = await page.tickets.issue(LOCAL)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(page.app), base_url="http://x") as client:
        assert (await client.head(f"/?ticket={ticket}")).status_code == 200
    assert await page.token(f"?ticket={ticket}") == page.authenticator.local_token


async def test_the_name_of_a_model_cannot_end_the_script() -> None:
    name = "</script><script>alert(1)</script>{{nonce}}"
    page = Page(local=True, settings=Settings(models={name: ModelSettings(provider="demo")}))
    text = (await page.get()).text
    assert "<script>alert" not in text
    assert (await page.facts())["models"] == {name: "demo"}


async def test_no_text_is_taken_for_markup() -> None:
    text = (await Page(local=True).get()).text
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert sink not in text


async def test_nothing_but_its_own_script_runs() -> None:
    page = Page(local=True)
    one, other = await page.get(), await page.get()
    policy = one.headers["content-security-policy"]
    (nonce,) = re.findall(r"script-src 'nonce-([^']+)'", policy)
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert f'<script nonce="{nonce}">' in one.text
    assert policy != other.headers["content-security-policy"]
    assert one.headers["x-content-type-options"] == "nosniff"
    assert one.headers["cache-control"] == "no-store"
    assert one.headers["referrer-policy"] == "no-referrer"
    assert "{{" not in one.text
