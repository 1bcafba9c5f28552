"""`GET /v1/audit` over a real store: who may, of whom, which records, in which pages, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from starlette.applications import Starlette

from gateway.auth.api_keys import ApiKeys, create_key
from gateway.auth.authenticator import Authenticator
from gateway.auth.tickets import Tickets
from gateway.core.policy import Policy
from gateway.http.audit import audit_routes
from gateway.http.replies import Guard
from stores.audit_records import AuditRecord
from stores.memory import MemoryCache
from stores.sqlite import SqliteStore

NOON = datetime(2026, 3, 15, 12, tzinfo=UTC).timestamp()
ROLES = {"auditor": ("audit:read",), "admin": ("*",), "member": ("context:*", "tool:*")}


class World:
    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        authenticator = Authenticator(ApiKeys(store), None, Tickets(MemoryCache()))
        app = Starlette(routes=audit_routes(Guard(authenticator), Policy(ROLES), store))
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")

    async def add(self, id: str, at: float = NOON, **fields: Any) -> None:
        bare = AuditRecord(id=id, at=at, tenant="t", subject="ann", kind="decision", outcome="run", via="model")
        record = replace(bare, **fields)
        await self._store.audit(f"{record.tenant}/{record.subject}", [record])

    async def get(self, query: str = "", *, role: str | None = "auditor", tenant: str = "t") -> tuple[int, Any]:
        key = await create_key(self._store, "oz", tenant, role)
        reply = await self.client.get(f"/v1/audit{query}", headers={"X-API-Key": key})
        return reply.status_code, reply.json()

    async def ids(self, query: str = "", **who: Any) -> list[str]:
        status, found = await self.get(query, **who)
        assert status == 200, found
        return [record["id"] for record in found["records"]]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    store = await SqliteStore.open(tmp_path / "store.db")
    yield World(store)
    await store.close()


async def test_a_record_is_shown_with_what_it_has(world: World) -> None:
    await world.add("bare", NOON + 1)
    await world.add(
        "whole",
        kind="call",
        outcome="success",
        by="ses_1",
        tool="weather",
        uri="docs://a",
        context_id="chat",
        turn_id="m1",
        call_id="c1",
        parameters_hash="00ff",
        parameters=b'{"city":"Ystad"}',
        seconds=0.12345,
    )
    assert await world.get() == (
        200,
        {
            "records": [
                {
                    "id": "bare",
                    "at": "2026-03-15T12:00:01.000Z",
                    "subject": "ann",
                    "kind": "decision",
                    "outcome": "run",
                    "via": "model",
                },
                {
                    "id": "whole",
                    "at": "2026-03-15T12:00:00.000Z",
                    "subject": "ann",
                    "kind": "call",
                    "outcome": "success",
                    "via": "model",
                    "by": "ses_1",
                    "tool": "weather",
                    "uri": "docs://a",
                    "context_id": "chat",
                    "turn_id": "m1",
                    "call_id": "c1",
                    "parameters_hash": "00ff",
                    "parameters": {"city": "Ystad"},
                    "seconds": 0.123,
                },
            ],
            "next": None,
        },
    )


async def test_only_whoever_may_reads_it_and_only_of_the_own_tenant(world: World) -> None:
    await world.add("ours")
    await world.add("theirs", tenant="u")
    for role in (None, "member"):
        status, refused = await world.get(role=role)
        assert (status, refused["error"]["code"]) == (403, "forbidden")
    assert await world.ids() == await world.ids(role="admin") == ["ours"]
    assert await world.ids(tenant="u") == ["theirs"]
    assert await world.ids("?tenant=u") == ["ours"]


async def test_records_are_filtered(world: World) -> None:
    await world.add("a", NOON, tool="x", context_id="chat", call_id="c1")
    await world.add("b", NOON + 60, subject="bob", kind="read", outcome="denied")
    await world.add("c", NOON + 86_400, tool="y", outcome="denied")
    for query, expected in {
        "?subject=bob": ["b"],
        "?tool=x": ["a"],
        "?outcome=denied": ["c", "b"],
        "?kind=read": ["b"],
        "?context_id=chat&call_id=c1": ["a"],
        "?from=2026-03-16": ["c"],
        "?from=2026-03-15T12:01:00Z&to=2026-03-16T12:00:00": ["b"],
        "?from=2026-03-15T13:00:00%2B01:00&to=2026-03-15T12:00:30Z": ["a"],
        "?tool=x%00": [],
    }.items():
        assert await world.ids(query) == expected, query


async def test_pages(world: World) -> None:
    for number in range(5):
        await world.add(f"r{number}", NOON + number // 2)
    seen: list[str] = []
    query = "?limit=2"
    while True:
        _, found = await world.get(query)
        seen += [record["id"] for record in found["records"]]
        if found["next"] is None:
            break
        query = f"?limit=2&after={found['next']}"
    assert seen == ["r4", "r3", "r2", "r1", "r0"]


async def test_what_makes_no_sense_is_refused_with_its_place(world: World) -> None:
    for query, path in {
        "?kind=all": "kind",
        "?kind=": "kind",
        "?from=yesterday": "from",
        "?to=2026-02-30": "to",
        "?after=x": "after",
        "?limit=0": "limit",
    }.items():
        status, refused = await world.get(query)
        assert (status, refused["error"]["code"], refused["error"]["path"]) == (400, "invalid_frame", path), query


async def test_nothing_without_credentials(world: World) -> None:
    assert (await world.client.get("/v1/audit")).status_code == 401
