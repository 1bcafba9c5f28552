"""The contract of OwnerStore (stores/ports): all that one has is handed out whole, and erased without a trace."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol

import pytest

from stores import sqlite_file
from stores.ports import ContextStore, KeyStore, OwnerStore, SessionStore
from stores.records import ContextKey, EventRow, KeyRecord, NewEvent, SessionRecord
from stores.sqlite import SqliteStore
from tests.stores.context_stores import Clock, epoch_of, ids, message, open_postgres, open_sharded, open_sqlite

ANN, BOB = "t/ann", "t/bob"
KEY = ContextKey(ANN, "c")


class Store(ContextStore, SessionStore, KeyStore, OwnerStore, Protocol):
    """What an adapter implements."""


@pytest.fixture(params=[open_sqlite, open_sharded, open_postgres], ids=["sqlite", "sharded", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncGenerator[Store]:
    async with request.param(tmp_path, clock) as opened:
        yield opened


async def fill(store: Store, *names: str, size: int = 10) -> None:
    for name in names:
        event = NewEvent(id=name, type="message", body=b'{"x":"%b"}' % (b"x" * size))
        await store.submit(KEY, event, None)


# ---- handing out


async def test_contexts_come_by_id_whatever_happens_to_them(store: Store, clock: Clock) -> None:
    for name in ("c2", "c1", "c3"):
        clock.now += 1
        await store.create_context(ContextKey(ANN, name), None, None)
    await store.create_context(ContextKey(BOB, "c0"), None, None)
    first = await store.contexts_after(ANN, "", 2)
    clock.now += 1
    await store.submit(ContextKey(ANN, "c3"), message("m"), None)
    await store.delete_context(ContextKey(ANN, "c2"))
    rest = await store.contexts_after(ANN, first[-1].key.id, 2)
    assert [record.key.id for record in (*first, *rest)] == ["c1", "c2", "c3"]
    assert await store.contexts_after(ANN, "c3", 2) == []


async def test_events_come_oldest_first_in_pages_and_those_without_seq_last(store: Store) -> None:
    await fill(store, "e", "d", "c", "b", "a", size=1000)
    await store.record(KEY, await epoch_of(store, KEY), {"e": 1, "d": 2, "c": 3})
    rows: list[EventRow] = []
    seq = 0
    while True:
        page = await store.events_after(KEY, seq, 1500)
        assert len(page.rows) <= 2
        rows += page.rows
        seq = rows[-1].seq or 0
        if not page.has_more:
            break
        assert page.unsequenced == []
    assert (ids(rows), [row.seq for row in rows]) == (["e", "d", "c"], [1, 2, 3])
    assert ids(page.unsequenced) == ["b", "a"]


async def test_an_event_larger_than_a_page_is_one(store: Store) -> None:
    await fill(store, "a", "b", size=100_000)
    await store.record(KEY, await epoch_of(store, KEY), {"a": 1, "b": 2})
    page = await store.events_after(KEY, 0, 10)
    assert (ids(page.rows), page.has_more) == (["a"], True)


async def test_an_unknown_context_has_no_events(store: Store) -> None:
    page = await store.events_after(KEY, 0, 10)
    assert (page.rows, page.unsequenced, page.has_more) == ([], [], False)


async def test_sessions_and_keys_are_their_owners(store: Store) -> None:
    for name, owner in (("s1", ANN), ("s2", ANN), ("s3", BOB)):
        await store.put_session(SessionRecord(id=name, owner=owner, attempt=1, expires_at=5))
    for name, subject in (("k2", "ann"), ("k1", "ann"), ("k3", "bob")):
        key = KeyRecord(id=name, digest=name.encode(), tenant="t", subject=subject, role=None, created_at=1)
        await store.add_key(key)
    assert [session.id for session in await store.all_sessions(ANN)] == ["s2", "s1"]
    assert [key.id for key in await store.keys_of("t", "ann")] == ["k1", "k2"]
    assert await store.keys_of("other", "ann") == []
    assert await store.delete_sessions(ANN) == 2
    assert await store.all_sessions(ANN) == []
    assert [session.id for session in await store.all_sessions(BOB)] == ["s3"]


async def test_a_deleted_context_leaves_the_lists_of_its_owners_sessions(store: Store) -> None:
    for owner in (ANN, BOB):
        contexts = ("c", "other", 'odd"c')
        await store.put_session(SessionRecord(id=owner, owner=owner, attempt=1, expires_at=5, contexts=contexts))
    await store.create_context(KEY, None, None)
    await store.delete_context(KEY)
    assert [session.contexts for session in await store.all_sessions(ANN)] == [("other", 'odd"c')]
    assert [session.contexts for session in await store.all_sessions(BOB)] == [("c", "other", 'odd"c')]
    assert await store.delete_context(ContextKey(ANN, "other")) is False
    assert [session.contexts for session in await store.all_sessions(ANN)] == [('odd"c',)]


# ---- erasing


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


async def stuff(store: Store, contexts: int, messages: int) -> None:
    """Contexts `c0`… that grow at the same time, whose every word is their own: what splits pages the most."""
    chance = random.Random(7)  # noqa: S311 - the same each time
    for _ in range(messages):
        async with asyncio.TaskGroup() as group:
            for number in range(contexts):
                key = ContextKey(ANN, f"c{number}")
                id = f"{chance.getrandbits(64):x}"
                text = " ".join(f"own{number:03}x{chance.randrange(2000)}" for _ in range(chance.choice([3, 40])))
                event = NewEvent(id=id, type="message", body=text.encode(), turn_id=id, text=text)
                group.create_task(store.submit(key, event, None))
        async with asyncio.TaskGroup() as group:
            for number in range(contexts):
                key = ContextKey(ANN, f"c{number}")
                rows = [row.id for row, _ in await store.unsequenced(key)]
                epoch, highest = await epoch_of(store, key), len((await store.history(key, None, 10_000)).rows)
                group.create_task(store.record(key, epoch, {id: highest + place for place, id in enumerate(rows, 1)}))


# SQLite alone: other processes' files are not the store's to clean (stores/postgres_scrub.py).
@pytest.mark.parametrize("store", [open_sqlite], ids=["sqlite"], indirect=True)
async def test_after_a_scrub_nothing_of_what_was_deleted_is_on_the_disk(store: Store, tmp_path: Path) -> None:
    contexts = 12
    await stuff(store, contexts, 60)
    await store.update_context(ContextKey(ANN, "c1"), "own001 title", b'"own001"', message("x"))
    for number in range(contexts - 1):
        mark = b"own%03d" % number
        assert mark in on_disk(tmp_path)
        assert await store.delete_context(ContextKey(ANN, f"c{number}"))
        assert await store.scrub()
        assert mark not in on_disk(tmp_path)
    assert b"own%03d" % (contexts - 1) in on_disk(tmp_path)
    assert len((await store.history(ContextKey(ANN, f"c{contexts - 1}"), None, 1000)).rows) == 60


@pytest.mark.parametrize("store", [open_sqlite], ids=["sqlite"], indirect=True)
async def test_many_scrubs_at_once_while_others_write_and_read(store: Store, tmp_path: Path) -> None:
    async def one(number: int) -> None:
        key = ContextKey(ANN, f"c{number}")
        await store.submit(key, NewEvent(id="m", type="message", body=b"own%03d" % number), None)
        assert await store.delete_context(key)
        assert await store.scrub()
        assert b"own%03d" % number not in on_disk(tmp_path)

    async def others() -> None:
        for number in range(200):
            await fill(store, f"m{number}")
            await store.history(KEY, None, 10)

    await asyncio.gather(*map(one, range(40)), others())
    assert len((await store.history(KEY, None, 1000)).unsequenced) == 200


async def test_a_scrub_with_nothing_deleted_changes_nothing(store: Store) -> None:
    await fill(store, "m")
    assert await store.scrub()
    assert await store.scrub()
    assert ids((await store.history(KEY, None, 10)).unsequenced) == ["m"]


# ---- SQLite's own


async def test_a_scrub_gives_up_where_another_process_reads_on_and_does_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "_SCRUB_TRIES", 2)
    async with open_sqlite(tmp_path, Clock()) as store:
        await store.submit(KEY, NewEvent(id="m", type="message", body=b"zeppelin"), None)
        other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM events").fetchone()
        await store.delete_context(KEY)
        assert await store.scrub() is False
        await fill(store, "others are served")
        other.execute("COMMIT")
        other.close()
        assert await store.scrub()
        assert b"zeppelin" not in on_disk(tmp_path)


async def test_what_a_crash_left_is_erased_at_the_next_start(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    await stuff(store, 6, 40)
    await store.delete_context(ContextKey(ANN, "c2"))
    await store.close()  # without a scrub
    again = await SqliteStore.open(tmp_path / "store.db")
    assert b"own002" not in on_disk(tmp_path)
    await again.close()


async def test_a_file_too_large_to_be_written_anew_at_once_is_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "COMPACT_BYTES", 1)
    store = await SqliteStore.open(tmp_path / "store.db")
    await stuff(store, 6, 40)
    size = (tmp_path / "store.db").stat().st_size
    for number in range(5):
        await store.delete_context(ContextKey(ANN, f"c{number}"))
    assert await store.scrub()
    assert (tmp_path / "store.db").stat().st_size >= size, "it was not written anew"
    await store.close()
    again = await SqliteStore.open(tmp_path / "store.db")
    assert (tmp_path / "store.db").stat().st_size < size
    assert not any(b"own%03d" % number in on_disk(tmp_path) for number in range(5))
    await again.close()


async def test_large_scrubs_keep_their_distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "_SHORT_SECONDS", 0.0)
    async with open_sqlite(tmp_path, Clock()) as store:
        rests: list[float] = []
        real = asyncio.sleep

        async def sleep(seconds: float) -> None:
            rests.append(seconds)
            await real(0)

        monkeypatch.setattr(sqlite_file.asyncio, "sleep", sleep)
        assert await store.scrub()
        assert await store.scrub()
        assert rests[0] <= 0
        assert rests[1] > 0


async def test_a_start_beside_a_running_process_keeps_nobody_waiting(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path, Clock()) as running:
        await stuff(running, 3, 10)
        await running.delete_context(ContextKey(ANN, "c1"))  # not scrubbed yet
        beside = await SqliteStore.open(tmp_path / "store.db")
        await beside.close()
        await fill(running, "m")
        assert await running.scrub()
        assert b"own001" not in on_disk(tmp_path)
