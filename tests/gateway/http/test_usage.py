"""`GET /v1/usage` over a real store: whose usage, of which days, in which pages, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from gateway.auth.api_keys import ApiKeys, create_key
from gateway.auth.authenticator import Authenticator
from gateway.auth.principal import Principal
from gateway.auth.tickets import Tickets
from gateway.budgets import Budgets
from gateway.core.budget import Budget
from gateway.core.policy import Policy
from gateway.http.replies import Guard
from gateway.http.usage import usage_routes
from stores.memory import MemoryCache
from stores.records import ContextKey, NewUsage
from stores.sqlite import SqliteStore

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC).timestamp()
ROLES = {"admin": ("*",), "member": ("context:*",)}
BUDGETS = [
    Budget(name="own", tokens_per_day=1000, cost_per_month=2_500_000),
    Budget(name="others", subject="bob", tokens_per_day=1),
]


class World:
    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        authenticator = Authenticator(ApiKeys(store), None, Tickets(MemoryCache()))
        budgets = Budgets(BUDGETS, store, lambda: NOW)
        app = Starlette(routes=usage_routes(Guard(authenticator), Policy(ROLES), store, budgets, lambda: NOW))
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")
        self._calls = 0

    async def use(self, subject: str, day: str, *, context: str = "chat", model: str = "m", tenant: str = "t") -> None:
        key = ContextKey(Principal(tenant=tenant, subject=subject).owner, context)
        await self._store.create_context(key, None, None)
        usage = NewUsage(
            tenant=tenant, subject=subject, day=day, model=model, input_tokens=10, output_tokens=2, cost=1_250
        )
        self._calls += 1
        assert await self._store.add_usage(key, f"call{self._calls}", usage)

    async def get(self, query: str = "", *, subject: str = "ann", role: str | None = None) -> tuple[int, Any]:
        key = await create_key(self._store, subject, "t", role)
        reply = await self._client.get(f"/v1/usage{query}", headers={"X-API-Key": key})
        return reply.status_code, reply.json()

    async def rows(self, query: str, name: str, **who: Any) -> list[tuple[Any, int]]:
        status, found = await self.get(query, **who)
        assert status == 200, found
        return [(row[name], row["steps"]) for row in found["usage"]]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    store = await SqliteStore.open(tmp_path / "store.db")
    yield World(store)
    await store.close()


async def test_this_month_of_ones_own_by_day(world: World) -> None:
    for day in ("2026-02-28", "2026-03-01", "2026-03-15", "2026-03-15"):
        await world.use("ann", day)
    await world.use("bob", "2026-03-15")
    figures = {
        "input_tokens": 10,
        "output_tokens": 2,
        "cached_tokens": 0,
        "reasoning_tokens": 0,
        "cached_responses": 0,
        "steps": 1,
        "estimated_steps": 0,
        "cost": "0.001250",
    }
    status, found = await world.get()
    assert status == 200
    assert found == {
        "from": "2026-03-01",
        "to": "2026-03-15",
        "usage": [
            {"day": "2026-03-01", **figures},
            {"day": "2026-03-15", **figures, "input_tokens": 20, "output_tokens": 4, "steps": 2, "cost": "0.002500"},
        ],
        "total": {**figures, "input_tokens": 30, "output_tokens": 6, "steps": 3, "cost": "0.003750"},
        "next": None,
        "budgets": [
            {
                "name": "own",
                "unit": "tokens",
                "period": "day",
                "limit": 1000,
                "used": 24,
                "renews_at": "2026-03-16T00:00:00.000Z",
            },
            {
                "name": "own",
                "unit": "cost",
                "period": "month",
                "limit": "2.500000",
                "used": "0.003750",
                "renews_at": "2026-04-01T00:00:00.000Z",
            },
        ],
    }


async def test_by_context_model_and_subject(world: World) -> None:
    await world.use("ann", "2026-03-02")
    await world.use("ann", "2026-03-03", model="large")
    await world.use("ann", "2026-03-03", context="other")
    assert await world.rows("?by=context", "context") == [("chat", 2), ("other", 1)]
    assert await world.rows("?by=model", "model") == [("large", 1), ("m", 2)]
    assert await world.rows("?by=subject", "subject") == [("ann", 3)]


async def test_any_days(world: World) -> None:
    for day in ("2025-12-31", "2026-01-01", "2026-03-02"):
        await world.use("ann", day)
    assert await world.rows("?from=2025-12-31&to=2026-01-01", "day") == [("2025-12-31", 1), ("2026-01-01", 1)]
    assert await world.rows("?to=2025-12-31", "day") == [("2025-12-31", 1)]
    assert await world.rows("?from=2025-03-15", "day") == [("2025-12-31", 1), ("2026-01-01", 1), ("2026-03-02", 1)]


async def test_pages(world: World) -> None:
    for day in range(1, 6):
        await world.use("ann", f"2026-03-0{day}")
    query, seen = "?limit=2", list[str]()
    while True:
        _, found = await world.get(query)
        assert found["total"]["steps"] == 5
        seen += [row["day"] for row in found["usage"]]
        if found["next"] is None:
            break
        query = f"?limit=2&after={found['next']}"
    assert seen == [f"2026-03-0{day}" for day in range(1, 6)]


async def test_a_tenants_usage_needs_the_permission(world: World) -> None:
    await world.use("ann", "2026-03-02")
    await world.use("bob", "2026-03-02")
    await world.use("cy", "2026-03-02", tenant="other")
    for role in (None, "member"):
        status, refused = await world.get("?scope=tenant", role=role)
        assert (status, refused["error"]["code"]) == (403, "forbidden")
    rows = await world.rows("?scope=tenant&by=subject", "subject", role="admin")
    assert rows == [("ann", 1), ("bob", 1)]
    # An administrator's own usage is still what is shown by default.
    assert await world.rows("", "day", role="admin") == [("2026-03-02", 1)]


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("?by=owner", "by"),
        ("?by=day%3B", "by"),
        ("?scope=all", "scope"),
        ("?scope=tenant&by=context", "by"),
        ("?from=2026-02-30", "from"),
        ("?from=20260201", "from"),
        ("?from=2026-02-01%0A", "from"),
        ("?to=tomorrow", "to"),
        ("?to=0000-01-01", "to"),
        ("?from=2026-03-02&to=2026-03-01", "from"),
        ("?from=2025-01-01&to=2026-03-01", "from"),
        ("?limit=0", "limit"),
        ("?limit=201", "limit"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_its_place(world: World, query: str, path: str) -> None:
    status, refused = await world.get(query, role="admin")
    assert status == 400
    assert (refused["error"]["code"], refused["error"]["path"]) == ("invalid_frame", path)


async def test_nothing_without_credentials(world: World) -> None:
    reply = await world._client.get("/v1/usage")  # pyright: ignore[reportPrivateUsage]
    assert reply.status_code == 401
