"""Sessions, search, usage and owners on PostgreSQL: what only several transactions at once, its own index or its row
security can show. The contracts are tested where every adapter's are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

import asyncpg
import pytest

from gateway.stored_events import new_event
from protocol.frames import Message
from stores import postgres_owner as owners
from stores import postgres_scrub
from stores import postgres_search as index
from stores import postgres_sessions as sessions
from stores import postgres_usage as accounts
from stores.postgres import PostgresStore
from stores.postgres_database import EVERYTHING, Connection, Limits, PostgresDatabase
from stores.records import ContextKey, NewEvent, SearchHit, SessionRecord
from stores.search_text import MAX_TEXT, terms_of
from tests.servers import postgres
from tests.stores.context_stores import Clock, epoch_of, ids, used

_T = TypeVar("_T")
_U = TypeVar("_U")

ANN, BOB = "t/ann", "t/bob"
KEY = ContextKey(ANN, "c")
DAY = "2026-01-15"


@pytest.fixture
async def url() -> AsyncGenerator[str]:
    async with postgres.database() as named:
        yield named


@pytest.fixture
async def database(url: str) -> AsyncGenerator[PostgresDatabase]:
    opened = await PostgresDatabase.open(url, Limits())
    yield opened
    await opened.close()


@pytest.fixture
def store(database: PostgresDatabase, clock: Clock) -> PostgresStore:
    return PostgresStore(database, clock)


async def one_waits(
    database: PostgresDatabase,
    first: Callable[[Connection], Awaitable[_T]],
    second: Callable[[Connection], Awaitable[_U]],
) -> tuple[_T, _U]:
    """What two transactions answer of which the second waits for a lock of the first, until that is committed."""
    done, commit = asyncio.Event(), asyncio.Event()

    async def held(db: Connection) -> _T:
        answer = await first(db)
        done.set()
        await commit.wait()
        return answer

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        one = group.create_task(database.write(EVERYTHING, held))
        await done.wait()
        two = group.create_task(database.write(EVERYTHING, second))
        await until_one_waits(database)
        commit.set()
    return one.result(), two.result()


async def until_one_waits(database: PostgresDatabase) -> None:
    query = (
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE NOT granted AND datname = current_database()"
    )
    while not await database.read(EVERYTHING, lambda db: db.fetchval(query)):
        pass


# ---- sessions


def held(by: str, attempt: int, *, expires_at: float = 50) -> SessionRecord:
    return SessionRecord(id="s1", owner=ANN, attempt=attempt, expires_at=expires_at, tools=b"[1]", holder=by)


@pytest.mark.parametrize(("attempt", "taken"), [(2, True), (3, True), (1, False)])
async def test_of_two_instances_that_take_a_new_session_at_once_the_higher_attempt_has_it(
    database: PostgresDatabase, attempt: int, *, taken: bool
) -> None:
    one, two = held("one/1", 2), held("two/1", attempt)
    answers = await one_waits(
        database, lambda db: sessions.take_session(db, one, 0, None), lambda db: sessions.take_session(db, two, 0, None)
    )
    assert answers == (True, taken)
    stored = await database.read(EVERYTHING, lambda db: sessions.get_session(db, "s1", 0))
    assert stored == (two if taken else one)


async def test_who_loses_the_session_meanwhile_does_not_put_it(database: PostgresDatabase) -> None:
    before, taken = held("one/1", 1), held("two/1", 2)
    assert await database.write(EVERYTHING, lambda db: sessions.put_session(db, before))
    answers = await one_waits(
        database, lambda db: sessions.take_session(db, taken, 0, None), lambda db: sessions.put_session(db, before)
    )
    assert answers == (True, False)
    assert await database.read(EVERYTHING, lambda db: sessions.get_session(db, "s1", 0)) == taken


async def test_a_session_that_is_taken_anew_is_not_deleted_as_expired(database: PostgresDatabase) -> None:
    await database.write(EVERYTHING, lambda db: sessions.put_session(db, held("one/1", 1)))
    taken = held("two/1", 1, expires_at=99)

    async def deleted_meanwhile(db: Connection) -> int:
        assert await sessions.take_session(db, taken, 60, None)
        return await database.write(EVERYTHING, lambda other: sessions.delete_expired(other, 60))

    assert await database.write(EVERYTHING, deleted_meanwhile) == 0
    assert await database.write(EVERYTHING, lambda db: sessions.delete_expired(db, 60)) == 0
    assert await database.read(EVERYTHING, lambda db: sessions.get_session(db, "s1", 60)) == taken


async def test_sessions_are_deleted_while_contexts_leave_their_lists(store: PostgresStore) -> None:
    contexts = [f"c{number}" for number in range(10)]
    for number in range(20):
        session = SessionRecord(id=f"s{number}", owner=ANN, attempt=1, expires_at=50, contexts=tuple(contexts))
        await store.put_session(session)
    for name in contexts:
        await store.create_context(ContextKey(ANN, name), None, None)
    answers = await asyncio.gather(
        *(store.delete_context(ContextKey(ANN, name)) for name in contexts), store.delete_sessions(ANN)
    )
    assert answers == [*[True] * 10, 20]


# ---- usage


async def test_an_id_that_comes_twice_at_once_is_added_once(database: PostgresDatabase) -> None:
    def add(db: Connection) -> Awaitable[bool]:
        return accounts.add_once(db, KEY, "title", used(DAY))

    assert await one_waits(database, add, add) == (True, False)
    assert await steps(database) == {"": 1}


async def test_an_id_whose_first_transaction_fails_is_added_by_the_second(database: PostgresDatabase) -> None:
    class Failed(Exception):
        pass

    async def fails(db: Connection) -> None:
        assert await accounts.add_once(db, KEY, "title", used(DAY))
        raise Failed

    with pytest.raises(Failed):
        await database.write(ANN, fails)
    assert await steps(database) == {}
    assert await database.write(ANN, lambda db: accounts.add_once(db, KEY, "title", used(DAY)))
    assert await steps(database) == {"": 1}


async def test_a_context_that_is_deleted_while_a_call_is_added_keeps_the_sum_without_its_name(
    database: PostgresDatabase, store: PostgresStore
) -> None:
    await store.create_context(KEY, None, None)

    async def deleted_meanwhile(db: Connection) -> asyncio.Task[bool]:
        assert await accounts.add_once(db, KEY, "title", used(DAY))
        deletion = asyncio.create_task(store.delete_context(KEY))
        await until_one_waits(database)
        return deletion

    async with asyncio.timeout(20):
        assert await (await database.write(ANN, deleted_meanwhile))
    assert await steps(database) == {"": 1}


async def test_many_contexts_of_one_owner_are_deleted_at_once(store: PostgresStore, database: PostgresDatabase) -> None:
    keys = [ContextKey(ANN, f"c{number}") for number in range(12)]
    for place, key in enumerate(keys):
        await store.create_context(key, None, None)
        days = [f"2026-01-0{day}" for day in range(1, 6)]
        for day in days if place % 2 else reversed(days):
            await store.add_usage(key, f"{key.id} {day}", used(day))
    added = (store.add_usage(ContextKey(ANN, "gone"), f"x{number}", used("2026-01-03")) for number in range(12))
    deleted = await asyncio.gather(*map(store.delete_context, keys), *added)
    assert deleted == [True] * 24
    assert await steps(database) == {"": 72}


async def test_ids_of_all_owners_are_forgotten_and_none_that_is_young(database: PostgresDatabase) -> None:
    for owner in (ANN, BOB):
        for day in ("2026-01-01", "2026-01-15"):
            key, usage = ContextKey(owner, "c"), used(day)
            await database.write(owner, lambda db: accounts.add_once(db, key, usage.day, usage))  # noqa: B023
    await database.write(EVERYTHING, lambda db: accounts.forget_ids(db, "2026-01-15"))
    rows = await database.read(EVERYTHING, lambda db: db.fetch("SELECT owner, day FROM usage_ids ORDER BY owner"))
    assert [tuple(row) for row in rows] == [(ANN, "2026-01-15"), (BOB, "2026-01-15")]


async def steps(database: PostgresDatabase) -> dict[str, int]:
    page = await database.read(
        ANN, lambda db: accounts.usage(db, "t", ANN, ("2026-01-01", "2026-12-31"), "context", "\0x", 100)
    )
    return {row.name: row.steps for row in page.rows} | ({"": page.total.steps} if page.total.steps else {})


# ---- search


async def say(store: PostgresStore, key: ContextKey, id: str, text: str) -> None:
    message = Message(
        id=id, context_id=key.id, content=text, role="user", timestamp="2026-01-01T00:00:00.000Z", status="complete"
    )
    await store.submit(key, new_event(message), None)


async def find(store: PostgresStore, query: str, limit: int = 100) -> tuple[list[SearchHit], int]:
    """The hits of all pages, and how many pages those were."""
    hits: list[SearchHit] = []
    after: str | None = None
    pages = 0
    while pages == 0 or after is not None:
        page, after = await store.search(ANN, query, after, limit)
        assert len(page) <= limit
        hits += page
        pages += 1
    return hits, pages


async def test_a_walk_finds_what_the_index_finds(
    store: PostgresStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("c3", "c1", "c2"):
        key = ContextKey(ANN, name)
        await store.create_context(key, "high tide" if name != "c1" else None, None)
        for number in range(5):
            clock.now += 1
            await say(store, key, f"m{number}", f"tide {'gate' if number % 2 else 'wall'} {number}")
        await store.create_context(ContextKey(ANN, f"{name} without anything"), None, None)
    for query in ("tide", "tide gate", "gate tid", "3", "absent", "high"):
        whole, _ = await find(store, query)
        for rows, size in ((2000, 1 << 20), (1, 1 << 20), (4, 1 << 20), (2000, 0), (2000, 700)):
            with monkeypatch.context() as bounds:
                bounds.setattr(index, "_INDEXED", 0)
                bounds.setattr(index, "_ROWS", rows)
                bounds.setattr(index, "_BYTES", size)
                for limit in (1, 3, 100):
                    found, pages = await find(store, query, limit)
                    assert found == whole
                    assert pages < 50
        for limit in (1, 2, 5):
            assert (await find(store, query, limit))[0] == whole


async def test_a_walk_looks_at_a_bounded_number_of_texts(
    store: PostgresStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await say(store, ContextKey(ANN, "oldest"), "m", "needle")
    for number in range(7):
        clock.now += 1
        await say(store, ContextKey(ANN, f"c{number}"), "m", "hay")
    assert len((await store.search(ANN, "needle", None, 10))[0]) == 1, "the index has it at once"
    monkeypatch.setattr(index, "_INDEXED", 0)
    for name, bound in (("_ROWS", 3), ("_BYTES", 900)):
        with monkeypatch.context() as bounds:
            bounds.setattr(index, name, bound)
            page, after = await store.search(ANN, "needle", None, 10)
            assert page == []
            assert after is not None
            assert len((await find(store, "needle"))[0]) == 1
            assert len((await find(store, "hay"))[0]) == 7


async def test_row_security_leaves_the_index_to_be_used(database: PostgresDatabase) -> None:
    async def plan(db: Connection) -> list[asyncpg.Record]:
        await db.execute("SET LOCAL enable_seqscan = off")
        return await db.fetch("EXPLAIN SELECT ord FROM search_texts WHERE terms @@ 'x'::tsquery")

    assert any("_terms_idx" in row[0] for row in await database.read(ANN, plan))


async def test_nobody_changes_what_others_are_found_by(store: PostgresStore, database: PostgresDatabase) -> None:
    await store.create_context(KEY, "harbour", None)
    for change in ("DELETE FROM search_texts", "UPDATE search_texts SET terms = '', owner = 't/bob'"):
        assert (await database.write(BOB, lambda db: db.execute(change))).endswith(" 0")  # noqa: B023
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await database.write(BOB, lambda db: index.index_title(db, ANN, "other", "harbour"))
    assert len((await find(store, "harbour"))[0]) == 1


async def test_a_text_with_more_words_than_an_index_entry_holds_is_stored_and_found_by_its_beginning(
    store: PostgresStore,
) -> None:
    # Pairs of neighbours are all different.
    every = "".join(chr(0x20000 + number * (7 if number < 40_000 else 11) % 40_000) for number in range(MAX_TEXT))
    assert sum(len(term.encode()) for term in terms_of(every)) > 600_000
    await say(store, KEY, "m1", every)
    await say(store, KEY, "m2", " ".join(f"{number:048x}" for number in range(2600)))
    assert [hit.message_id for hit in (await find(store, every[:8]))[0]] == ["m1"]
    assert [hit.message_id for hit in (await find(store, f"{2599:048x} {1:048x}"))[0]] == ["m2"]


async def test_words_with_signs_of_the_query_language_are_words(store: PostgresStore) -> None:
    await say(store, KEY, "m1", "it's a\\b 'quoted' & (grouped) | !not <-> near:* ﬁn")
    for query in ("it's", "a\\b", "'quoted'", "grouped) |", "!not", "<->near:*", "fin"):
        assert [hit.message_id for hit in (await find(store, query))[0]] == ["m1"], query


# ---- all that an owner has


async def test_a_page_of_events_is_read_in_several_steps(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "_ROWS", 2)
    names = [f"m{number}" for number in range(7)]
    for name in (*names, "last"):
        await store.submit(KEY, NewEvent(id=name, type="message", body=b"x" * 10), None)
    await store.record(KEY, await epoch_of(store, KEY), {name: seq for seq, name in enumerate(names, 1)})
    for limit, count in ((0, 1), (9, 1), (10, 2), (19, 2), (20, 3), (49, 5), (59, 6), (60, 7), (69, 7), (1000, 7)):
        page = await store.events_after(KEY, 0, limit)
        assert ids(page.rows) == names[:count]
        assert page.has_more is (count < 7)
        assert ids(page.unsequenced) == ([] if page.has_more else ["last"])


# ---- scrubbing


async def test_after_a_scrub_no_deleted_row_is_left_in_any_table(store: PostgresStore, url: str) -> None:
    for name in ("c", "d"):
        for number in range(20):
            await say(store, ContextKey(ANN, name), f"m{number}", f"secret {number}")
    await store.put_session(held("one/1", 1))
    await store.delete_context(KEY)
    await store.delete_sessions(ANN)
    assert await dead_rows(url) > 40
    assert await store.scrub()
    assert await dead_rows(url) == 0
    assert len((await find(store, "secret"))[0]) == 20


async def test_a_scrub_does_not_claim_what_an_older_snapshot_prevents(
    store: PostgresStore, database: PostgresDatabase, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await say(store, KEY, "m", "secret")

    async def deleted_meanwhile(db: Connection) -> bool:
        await db.fetchval("SELECT count(*) FROM events")
        await store.delete_context(KEY)
        monkeypatch.setattr(postgres_scrub, "_WAIT_SECONDS", 0.0)
        return await store.scrub()

    assert await database.read(ANN, deleted_meanwhile) is False
    assert await dead_rows(url) > 0
    assert await store.scrub()
    assert await dead_rows(url) == 0


@pytest.mark.parametrize("answer", [True, False])
async def test_one_scrub_serves_all_who_asked_before_it_began(*, answer: bool) -> None:
    begun: list[asyncio.Event] = []

    async def bare(work: Callable[[Connection], Awaitable[bool]]) -> bool:
        begun.append(asyncio.Event())
        await begun[-1].wait()
        return answer

    scrub = postgres_scrub.Scrub(bare)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        first = group.create_task(scrub())
        while not begun:
            await asyncio.sleep(0)
        others = [group.create_task(scrub()) for _ in range(20)]
        begun[0].set()
        await first
        while len(begun) < 2:
            await asyncio.sleep(0)
        begun[1].set()
    assert [task.result() for task in others] == [answer] * 20
    assert len(begun) == 2


async def test_long_scrubs_keep_their_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    takes = iter([5.0, 0.5, 0.0])
    rests: list[float] = []

    async def bare(work: Callable[[Connection], Awaitable[bool]]) -> bool:
        clock.now += next(takes)
        return True

    async def sleep(seconds: float) -> None:
        rests.append(seconds)
        clock.now += max(0.0, seconds)

    monkeypatch.setattr(postgres_scrub.asyncio, "sleep", sleep)
    scrub = postgres_scrub.Scrub(bare, clock)
    for _ in range(3):
        assert await scrub()
    assert rests == [0, 45, -0.5]


async def test_a_scrub_that_takes_too_long_is_left_to_the_database(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_scrub, "_VACUUM_SECONDS", -1.0)
    assert await store.scrub() is False


async def test_a_scrub_by_a_role_that_does_not_own_the_tables_is_left_to_the_database(
    database: PostgresDatabase,
) -> None:
    async def as_other(db: Connection) -> bool:
        await db.execute("SET ROLE tidegate_app")
        try:
            return await postgres_scrub.vacuum(db)
        finally:
            await db.execute("RESET ROLE")

    assert await database.bare(as_other) is False


async def test_a_scrub_gives_up_where_somebody_locks_a_table(store: PostgresStore, url: str) -> None:
    locking = await PostgresDatabase.open(url, Limits(lock=0.05))
    db = await asyncpg.connect(url)
    try:
        async with db.transaction():
            await db.execute("LOCK TABLE sessions IN SHARE UPDATE EXCLUSIVE MODE")
            assert await PostgresStore(locking).scrub() is False
        assert await PostgresStore(locking).scrub()
    finally:
        await db.close()
        await locking.close()


async def dead_rows(url: str) -> int:
    db = await asyncpg.connect(url)
    try:
        await db.execute("CREATE EXTENSION IF NOT EXISTS pgstattuple")
        return await db.fetchval(
            "SELECT sum((pgstattuple(oid)).dead_tuple_count)::bigint FROM pg_class"
            # No deletion touches the audit; what tests cleared of it is nothing deleted.
            " WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace AND relname <> 'audit'"
        )
    finally:
        await db.close()
