"""What a call costs: round trips, and plans that read one partition through an index, however much is stored."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, cast

import asyncpg
import pytest

from stores.postgres import PostgresStore
from stores.postgres_database import Limits, PostgresDatabase
from stores.postgres_migrate import ROLE, migrate_database
from stores.records import ContextKey, NewEvent, Remembered, Summary
from tests.servers.postgres import administrator, new_database, postgres_server
from tests.stores.context_stores import (
    NEWEST,
    approval,
    end,
    epoch_of,
    message,
    response,
    running,
    tool_call,
    turn,
    used,
)

KEY = ContextKey("t/ann", "conv")
Query = tuple[str, tuple[Any, ...]]

# As many contexts, turns and events as make PostgreSQL prefer an index where there is one.
_FILL = """
INSERT INTO contexts (owner, context_id, epoch, born, next_order, created_at, updated_at)
SELECT 't/o' || n % 20, 'c' || n, 0, 0, 200, n, n FROM generate_series(1, 3000) n;
INSERT INTO events (owner, context_id, id, type, body, ord, turn_id, seq, given, stored_at)
SELECT 't/o' || n % 20, 'c' || n, 'e' || m, 'message', '{}', m, 't' || m, m, false, 0
FROM generate_series(1, 1000) n, generate_series(1, 40) m;
INSERT INTO turns (owner, context_id, id, kind, state, request, place, created_at)
SELECT 't/o' || n % 20, 'c' || n, 't' || m, 'message', 'done', '{}', m, m
FROM generate_series(1, 1000) n, generate_series(1, 20) m;
INSERT INTO calls (owner, context_id, id, turn_id, runs_on, needs_approval, answered)
SELECT 't/o' || n % 20, 'c' || n, 'k' || m, 't' || m, 'server', false, true
FROM generate_series(1, 1000) n, generate_series(1, 20) m;
INSERT INTO cancels (owner, context_id, id, turn_id, ord)
SELECT 't/o' || n % 20, 'c' || n, 'x' || m, 't' || m, m FROM generate_series(1, 1000) n, generate_series(1, 10) m;
INSERT INTO pins (owner, context_id, id)
SELECT 't/o' || n % 20, 'c' || n, 'e' || m FROM generate_series(1, 1000) n, generate_series(1, 10) m;
INSERT INTO summaries (owner, context_id, turn_id, first_id, turns, text, ord)
SELECT 't/o' || n % 20, 'c' || n, 't' || m, 'e1', m, '', m FROM generate_series(1, 1000) n, generate_series(1, 10) m;
INSERT INTO remembered (owner, context_id, definition, approved)
SELECT 't/o' || n % 20, 'c' || n, 't' || m, true FROM generate_series(1, 1000) n, generate_series(1, 10) m;
INSERT INTO search_texts (owner, context_id, ord, terms)
SELECT 't/o' || n % 20, 'c' || n, m, '' FROM generate_series(1, 1000) n, generate_series(1, 10) m;
ANALYZE
"""


class Watched(NamedTuple):
    store: PostgresStore
    queries: list[Query]


@pytest.fixture
async def watched(postgres: str) -> AsyncGenerator[Watched]:
    async with _watched(postgres) as opened:
        yield opened


@asynccontextmanager
async def _watched(url: str) -> AsyncGenerator[Watched]:
    """A store whose statements are written down."""
    queries: list[Query] = []

    def note(query: asyncpg.connection.LoggedQuery) -> None:
        queries.append((query.query, tuple(query.args or ())))

    async def watch(connection: asyncpg.Connection[asyncpg.Record]) -> None:
        connection.add_query_logger(note)

    pool = await asyncpg.create_pool(url, min_size=1, max_size=1, init=watch, reset=_nothing)
    store = PostgresStore(PostgresDatabase(pool, ROLE, Limits(max_size=1)), lambda: 1000.0)
    yield Watched(store, queries)
    await store.close()


async def _nothing(connection: object) -> None: ...


Call = Callable[[PostgresStore, int], Awaitable[object]]
_ASKED = [tool_call("ask", "a", "client", needs_approval=True), tool_call("do", "a", "client")]

CALLS: dict[str, tuple[Call, int]] = {
    "submit": (lambda store, n: store.submit(KEY, message(f"m{n}", f"m{n}"), turn(f"m{n}")), 4),
    "submit, interrupting": (lambda store, n: store.submit(KEY, message("i", "i"), turn("i"), "interrupt"), 4),
    "steer": (lambda store, n: store.steer(KEY, "a", message(f"s{n}", "a")), 4),
    "cancel": (lambda store, n: store.cancel(KEY, f"x{n}", "m0", None), 4),
    "approve": (lambda store, n: store.approve(KEY, approval("p", "ask", "a"), Remembered("pay", approved=True)), 4),
    "remembered": (lambda store, n: store.remembered(KEY, "pay"), 3),
    "answer": (lambda store, n: store.answer(KEY, response("r", "do", "a"), None), 4),
    "write": (lambda store, n: store.write(KEY, "a", 2, [tool_call(f"c{n}", "a"), response(f"r{n}", "c0", "a")]), 4),
    "claim_call": (lambda store, n: store.claim_call(KEY, "a", 2, "ask"), 3),
    "park": (lambda store, n: store.park(KEY, "a", 2, NEWEST), 3),
    "end_turn": (lambda store, n: store.end_turn(KEY, "a", 2, [end("a")], NEWEST), 4),
    "claim": (lambda store, n: store.claim(KEY, "a", "inst", n + 2), 3),
    "release": (lambda store, n: store.release(KEY, "a", 2), 3),
    "put_summary": (lambda store, n: store.put_summary(KEY, _SUMMARY, 0), 3),
    "raise_epoch": (lambda store, n: store.raise_epoch(KEY, -5), 3),
    "get_context": (lambda store, n: store.get_context(KEY), 3),
    "list_contexts": (lambda store, n: store.list_contexts(KEY.owner, None, 20), 3),
    "get_call": (lambda store, n: store.get_call(KEY, "ask"), 3),
    "active_turn": (lambda store, n: store.active_turn(KEY), 3),
    "next_turn": (lambda store, n: store.next_turn(KEY), 3),
    "load_turn": (lambda store, n: store.load_turn(KEY, "a"), 3),
    "inputs": (lambda store, n: store.inputs(KEY, "a", 1), 3),
    "unsequenced": (lambda store, n: store.unsequenced(KEY), 3),
    "history": (lambda store, n: store.history(KEY, None, 50), 4),
    "find_event": (lambda store, n: store.find_event(KEY, "a"), 3),
    "thread": (lambda store, n: store.thread(KEY, None, 50), 4),
    "older": (lambda store, n: store.older(KEY, 100, 50), 3),
    "open_calls": (lambda store, n: store.open_calls(KEY, 100), 3),
    "turns_to_run": (lambda store, n: store.turns_to_run(["inst"], 10), 3),
    "stray_contexts": (lambda store, n: store.stray_contexts(10), 3),
    "check": (lambda store, n: store.check(), 3),
}
_SUMMARY = Summary(turn_id="a", first_id="a", turns=1, text="")


async def _under_way(store: PostgresStore) -> None:
    """A conversation with a turn that runs, one that waits, and a call that asks a client."""
    fence = (await running(store, KEY)).fence
    await store.write(KEY, "a", fence, _ASKED)
    await store.submit(KEY, message("m0", "m0"), turn("m0"))
    await store.record(KEY, await epoch_of(store, KEY), {"a": 1})
    await store.claim(KEY, "a", "inst", 1)


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_takes_few_round_trips(watched: Watched, name: str) -> None:
    store, queries = watched
    call, trips = CALLS[name]
    await _under_way(store)
    await call(store, 0)
    queries.clear()
    await call(store, 1)
    assert 3 <= len(queries) <= trips, [query for query, _ in queries]
    assert queries[0][0].startswith("BEGIN")
    assert queries[-1][0] == "COMMIT"


async def test_what_comes_with_an_event_takes_no_round_trip_more(watched: Watched) -> None:
    store, queries = watched
    await _under_way(store)
    queries.clear()
    told = NewEvent(id="long", type="message", body=b"{}", turn_id="long", text="some words", pinned=True)
    await store.submit(KEY, told, turn("long"))
    assert len(queries) == 4
    queries.clear()
    ended = NewEvent(id="a/end", type="turn_end", body=b"{}", turn_id="a", usage=used("2026-01-01"))
    await store.end_turn(KEY, "a", 2, [ended], NEWEST)
    assert len(queries) == 5, "the sums of what was used are a statement of their own"


@pytest.mark.parametrize("events", [1, 50])
async def test_recording_takes_three_round_trips_for_any_number(watched: Watched, events: int) -> None:
    store, queries = watched
    for number in range(events):
        await store.submit(KEY, message(f"m{number}"), None)
    epoch = await epoch_of(store, KEY)
    queries.clear()
    await store.record(KEY, epoch, {f"m{number}": number + 1 for number in range(events)})
    assert len(queries) == 3


# ---- plans


async def test_every_statement_reads_through_indexes_and_of_one_partition() -> None:
    name = await new_database()
    url = postgres_server().url_of(name)
    await migrate_database(url, 5)
    async with administrator(name) as admin, _watched(url) as watched:
        await admin.execute(_FILL)
        await _explain_all(admin, watched)


async def _explain_all(admin: asyncpg.Connection[asyncpg.Record], watched: Watched) -> None:
    store, queries = watched
    await _under_way(store)
    statements: dict[str, set[Query]] = {}
    steps: dict[str, Call] = {name: call for name, (call, _) in CALLS.items()}
    epoch = await epoch_of(store, KEY)
    steps["record"] = lambda store, n: store.record(KEY, epoch, {"m0": 40})
    steps["update_context"] = lambda store, n: store.update_context(KEY, "title", None, message("t"), pins=["a"])
    steps["delete_context"] = lambda store, n: store.delete_context(KEY)
    for name, call in steps.items():
        queries.clear()
        await call(store, 1)
        statements[name] = {_hashable(query) for query in queries}
    for name, found in statements.items():
        for query, arguments in found:
            if query.startswith(("BEGIN", "COMMIT", "ROLLBACK")):
                continue
            for owner in ("*", KEY.owner):
                scans = await _scans(admin, query, arguments, owner)
                _judge(name, query, scans)


async def test_turns_that_are_parked_cost_nothing_where_one_looks_for_turns_to_run() -> None:
    name = await new_database()
    url = postgres_server().url_of(name)
    await migrate_database(url, 5)
    async with administrator(name) as admin, _watched(url) as (store, queries):
        await admin.execute(_TURNS.format(state="'running'", count=20, wake_at="NULL"))
        pages: list[int] = []
        for parked in (50, 5000):
            wake_at = "CASE WHEN n % 4 > 0 THEN 2000 + n END"
            await admin.execute(_TURNS.format(state="'parked'", count=parked, wake_at=wake_at))
            await admin.execute("VACUUM ANALYZE turns")
            assert await store.turns_to_run(["inst"], 200) == []
            query, arguments = next(each for each in queries if "turns" in each[0])
            async with admin.transaction():
                await admin.execute(f"SET LOCAL ROLE {ROLE}; SET LOCAL tidegate.owner = '*'")
                plan = json.loads(await admin.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}", *arguments))
            pages.append(plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"])
    # What the height of its indexes adds for each of the partitions; to read all of the turns would take hundreds.
    assert pages[1] <= pages[0] + 3 * 8, pages


_TURNS = """
INSERT INTO turns (owner, context_id, id, kind, state, request, place, created_at, runner, wake_at)
SELECT 't/o', {state} || n, 'a' || {count}, 'message', {state}, '', n, n, 'inst', {wake_at}
FROM generate_series(1, {count}) n
"""


def _hashable(query: Query) -> Query:
    values = (tuple(cast("Sequence[Any]", value)) if isinstance(value, list) else value for value in query[1])
    return query[0], tuple(values)


async def _scans(
    admin: asyncpg.Connection[asyncpg.Record], query: str, arguments: tuple[Any, ...], owner: str
) -> list[tuple[str, str]]:
    """What is read of which table, and how."""
    async with admin.transaction():
        await admin.execute(f"SET LOCAL ROLE {ROLE}")
        await admin.execute("SELECT set_config('tidegate.owner', $1, true)", owner)
        values = [list(cast("Sequence[Any]", value)) if isinstance(value, tuple) else value for value in arguments]
        plan = json.loads(await admin.fetchval(f"EXPLAIN (FORMAT JSON) {query}", *values))
    return list(_nodes(plan[0]["Plan"]))


def _nodes(plan: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "Relation Name" in plan and plan["Node Type"] != "ModifyTable":
        yield plan["Relation Name"], plan["Node Type"]
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


_OF_MANY = {"list_contexts", "turns_to_run", "stray_contexts"}


def _judge(name: str, query: str, scans: list[tuple[str, str]]) -> None:
    ours = [(table, how) for table, how in scans if table.rstrip("01234567").endswith("_")]
    assert not [scan for scan in ours if scan[1] == "Seq Scan"], (name, query, scans)
    if name not in _OF_MANY:
        partitions: dict[str, set[str]] = {}
        for table, _ in ours:
            partitions.setdefault(table.rpartition("_")[0], set()).add(table)
        assert all(len(read) == 1 for read in partitions.values()), (name, query, scans)
