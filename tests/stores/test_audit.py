"""The contract of AuditStore, and of records that come with events, over every adapter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import pytest
from msgspec.structs import replace

from stores.audit_records import AuditQuery, AuditRecord
from stores.ports import AlreadyAnswered, AuditStore, ContextStore, Fenced
from stores.postgres import PostgresStore
from stores.postgres_database import PostgresDatabase
from stores.records import ContextKey, NewEvent
from stores.sqlite import SqliteStore
from tests.servers.postgres import database
from tests.stores.context_stores import (
    ALL,
    NEWEST,
    Clock,
    approval,
    direct_call,
    end,
    open_mixed,
    open_postgres,
    open_reference,
    open_sqlite,
    response,
    running,
    tool_call,
)

OWNER = "t/ann"
KEY = ContextKey(OWNER, "chat")
WHOLE = AuditRecord(
    id="whole",
    at=1000.25,
    tenant="t",
    subject="ann",
    kind="call",
    outcome="success",
    via="model",
    by="ses_1",
    tool="weather",
    uri="docs://a/é",
    context_id="chat",
    turn_id="a",
    call_id="c1",
    parameters_hash="00ff",
    parameters=b'{"a":"\xc3\xa9"}',
    seconds=0.5,
)


class Audited(ContextStore, AuditStore, Protocol):
    pass


@pytest.fixture(
    params=[open_sqlite, open_mixed, open_postgres, open_reference], ids=["sqlite", "sharded", "postgres", "reference"]
)
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncGenerator[Audited]:
    open_store: Callable[[Path, Clock], AbstractAsyncContextManager[Audited]] = request.param
    async with open_store(tmp_path, clock) as opened:
        yield opened


def record(id: str, at: float = 1000.0, **fields: Any) -> AuditRecord:
    """One that has only what each has."""
    bare = AuditRecord(id=id, at=at, tenant="t", subject="ann", kind="decision", outcome="run", via="client")
    return replace(bare, **fields)


def with_record(event: NewEvent, id: str) -> NewEvent:
    return replace(event, audit=record(id))


async def found(store: AuditStore, tenant: str = "t", **query: Any) -> list[str]:
    return [one.id for one in (await store.audits(tenant, AuditQuery(**query), None, ALL)).records]


async def test_a_record_is_kept_as_it_is(store: Audited) -> None:
    await store.audit(OWNER, [WHOLE, record("bare", 1000.5)])
    page = await store.audits("t", AuditQuery(), None, ALL)
    assert page.records == [record("bare", 1000.5), WHOLE]
    assert page.next is None


async def test_nothing_is_stored_of_nothing(store: Audited) -> None:
    await store.audit(OWNER, [])
    assert await found(store) == []


async def test_what_is_stored_again_is_stored_once(store: Audited) -> None:
    await asyncio.gather(*(store.audit(OWNER, [record("one"), record("two")]) for _ in range(5)))
    await store.audit(OWNER, [record("two", outcome="denied"), record("three")])
    assert await found(store) == ["two", "three", "one"]
    assert await found(store, outcome="denied") == []


# ---- with events


async def test_a_record_comes_with_its_event_once(store: Audited) -> None:
    turn = await running(store, KEY)
    call = with_record(tool_call("c1", "a"), "made")
    written = await asyncio.gather(*(store.write(KEY, "a", turn.fence, [call]) for _ in range(10)))
    assert sorted(list(answer.passed) for answer in written) == [[], *[["c1"]] * 9]
    # A writer that begins again makes another record of the same event.
    await store.write(
        KEY, "a", turn.fence, [with_record(call, "made again"), with_record(tool_call("c2", "a"), "next")]
    )
    assert await found(store) == ["next", "made"]


async def test_who_has_lost_the_turn_records_nothing(store: Audited) -> None:
    turn = await running(store, KEY)
    assert await store.claim(KEY, "a", "other", turn.fence)
    with pytest.raises(Fenced):
        await store.write(KEY, "a", turn.fence, [with_record(tool_call("c1", "a"), "made")])
    assert await found(store) == []


async def test_of_two_answers_the_one_that_counts_is_recorded(store: Audited) -> None:
    turn = await running(store, KEY)
    await store.write(KEY, "a", turn.fence, [tool_call("c1", "a", "client", session_id="ses", needs_approval=True)])
    await store.approve(KEY, with_record(approval("yes", "c1", "a"), "approved"))
    with pytest.raises(AlreadyAnswered):
        await store.approve(KEY, with_record(approval("no", "c1", "a"), "rejected"))
    await store.answer(KEY, with_record(response("r1", "c1", "a"), "answered"), "ses")
    assert (await store.answer(KEY, with_record(response("r1", "c1", "a"), "repeated"), "ses")).duplicate
    with pytest.raises(AlreadyAnswered):
        await store.answer(KEY, with_record(response("r2", "c1", "a"), "late"), "ses")
    await store.write(KEY, "a", turn.fence, [with_record(response("r3", "c1", "a"), "timed out")])
    assert await found(store) == ["approved", "answered"]


async def test_a_direct_call_and_the_end_of_a_turn_are_recorded(store: Audited) -> None:
    call, turn = direct_call("d1")
    for id in ("made", "again"):
        await store.submit(KEY, with_record(call, id), turn)
    claimed = await store.claim(KEY, "d1", "inst", 0)
    assert claimed is not None
    events = [with_record(response("r1", "d1", "d1"), "cancelled"), end("d1")]
    assert await store.end_turn(KEY, "d1", claimed.rows.turn.fence, events, NEWEST)
    assert await store.end_turn(KEY, "d1", claimed.rows.turn.fence, events, NEWEST)
    assert await found(store) == ["made", "cancelled"]


async def test_what_was_recorded_outlives_its_context(store: Audited) -> None:
    for id in ("made", "made anew"):
        call, turn = direct_call("d1")
        await store.submit(KEY, with_record(call, id), turn)
        await store.delete_context(KEY)
    assert await found(store) == ["made anew", "made"]


# ---- what is asked for


async def test_tenants_do_not_meet(store: Audited) -> None:
    await store.audit(OWNER, [record("ann's")])
    await store.audit("t/bob", [record("bob's", subject="bob")])
    await store.audit("u/ann", [record("another's", tenant="u")])
    assert await found(store) == ["bob's", "ann's"]
    assert await found(store, "u") == ["another's"]
    assert await found(store, "t%") == await found(store, "") == await found(store, "*") == []


ASKED: list[tuple[dict[str, Any], list[str]]] = [
    ({"subject": "bob"}, ["b"]),
    ({"tool": "x"}, ["c", "a"]),
    ({"tool": "x", "outcome": "denied"}, ["c"]),
    ({"kind": "read"}, ["b"]),
    ({"context_id": "chat"}, ["a"]),
    ({"call_id": "c1"}, ["a"]),
    ({"first": 20.0}, ["c", "b"]),
    ({"end": 20.0}, ["a"]),
    ({"first": 20.0, "end": 30.0}, ["b"]),
    ({"subject": "' OR 1=1 --"}, []),
    ({"tool": "x\0"}, []),
]


async def test_only_what_is_asked_for(store: Audited) -> None:
    await store.audit(OWNER, [record("a", 10.0, tool="x", context_id="chat", call_id="c1")])
    await store.audit("t/bob", [record("b", 20.0, subject="bob", kind="read")])
    await store.audit(OWNER, [record("c", 30.0, tool="x", outcome="denied")])
    for query, expected in ASKED:
        assert await found(store, **query) == expected, query


async def test_pages_have_each_record_once(store: Audited) -> None:
    for size in (1, 2, 3, 7, 8):
        # Several of one moment, of owners who are on several shards.
        names = [f"{size}-{number}" for number in range(7)]
        for number, name in enumerate(names):
            await store.audit(f"t/{name}", [record(name, size + number // 3 / 10)])
        seen: list[str] = []
        after: str | None = None
        while True:
            page = await store.audits("t", AuditQuery(first=size, end=size + 1), after, size)
            seen += [one.id for one in page.records]
            # What comes in meanwhile is newer, and on no later page.
            await store.audit(OWNER, [record(f"{size} new {len(seen)}", size + 0.5)])
            if (after := page.next) is None:
                break
            assert len(page.records) == size
        assert seen == names[::-1]


async def test_what_is_no_token_is_refused(store: Audited) -> None:
    for token in ("x", "", "bmFuIGE=", "MTAwMA==", "MS4wIACjAA=="):
        with pytest.raises(ValueError, match=r"not a token|could not convert"):
            await store.audits("t", AuditQuery(), token, ALL)


# ---- pruning


async def test_what_is_old_is_deleted_a_part_at_a_time(store: Audited) -> None:
    for number in range(6):
        await store.audit(OWNER, [record(f"r{number}", float(number))])
    assert await store.prune_audits(4.0, 3) == 3
    assert await store.prune_audits(4.0, 3) == 1
    assert await store.prune_audits(4.0, 3) == 0
    assert await found(store) == ["r5", "r4"]


async def test_two_that_prune_at_once_delete_each_record_once(store: Audited) -> None:
    await store.audit(OWNER, [record(f"r{number}", float(number)) for number in range(20)])
    assert sum(await asyncio.gather(*(store.prune_audits(10.0, 100) for _ in range(4)))) == 10
    assert len(await found(store)) == 10


# ---- that nobody changes one


async def test_sqlite_changes_no_record(tmp_path: Path, clock: Clock) -> None:
    async with open_sqlite(tmp_path, clock) as store:
        await store.audit(OWNER, [record("one")])
        assert isinstance(store, SqliteStore)
        file = store._file  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(Exception, match="an audit record is not changed"):
            await file.write(lambda db: db.execute("UPDATE audit SET outcome = 'denied'"))
        assert await found(store, outcome="run") == ["one"]


async def test_postgres_shows_records_to_their_tenant_and_lets_nobody_change_or_take_one(clock: Clock) -> None:
    async with database() as url:
        store = await PostgresStore.open(url, clock=clock)
        await store.audit(OWNER, [record("one")])
        await store.audit("u/ann", [record("other", tenant="u")])
        postgres: PostgresDatabase = store._database  # pyright: ignore[reportPrivateUsage]

        async def seen(name: str) -> int:
            return await postgres.read(name, lambda db: db.fetchval("SELECT count(*) FROM audit"))

        assert [await seen(name) for name in ("tenant:t", "tenant:u", "*", OWNER, "tenant:", "")] == [1, 1, 2, 0, 0, 0]
        for name in ("tenant:t", "*", OWNER):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await postgres.write(name, lambda db: db.execute("UPDATE audit SET outcome = 'denied'"))
        for name in ("tenant:t", OWNER):
            assert await postgres.write(name, lambda db: db.execute("DELETE FROM audit")) == "DELETE 0"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await postgres.write("t/bob", lambda db: _add_for(db, OWNER))
        await store.close()


async def _add_for(db: Any, owner: str) -> None:
    await db.execute(
        "INSERT INTO audit (id, owner, at, tenant, subject, kind, outcome, via)"
        " VALUES ('x', $1, 1, 't', 'ann', 'decision', 'run', 'client')",
        owner,
    )
