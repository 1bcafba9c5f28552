"""Several processes over one SQLite file: each step is one process's, and none waits for long."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest

from stores import sqlite_file, sqlite_lock
from stores.ports import Unavailable
from stores.records import ContextKey
from stores.sqlite import SqliteStore
from tests.stores.context_stores import message
from tests.stores.sqlite_racer import EPOCHS, KEY, MESSAGES, TURNS, Outcome

ROOT = Path(__file__).parents[2]
NAMES = ("one", "two", "three")


async def race(act: str, path: Path) -> list[list[str]]:
    """Three processes that begin at the same moment; what each was told it did."""
    racers = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.stores.sqlite_racer",
            act,
            str(path),
            name,
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for name in NAMES
    ]
    try:
        async with asyncio.timeout(60):
            for racer in racers:
                assert racer.stdout is not None
                assert await racer.stdout.readline() == b"ready\n"
            finished = await asyncio.gather(*(racer.communicate(b"go\n") for racer in racers))
    finally:
        for racer in racers:
            if racer.returncode is None:
                racer.kill()
                await racer.wait()
    assert [racer.returncode for racer in racers] == [0] * len(racers)
    return [msgspec.json.decode(out, type=Outcome).did for out, _ in finished]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "store.db")
    yield opened
    await opened.close()


async def test_each_epoch_is_raised_by_one_process(store: SqliteStore, tmp_path: Path) -> None:
    await store.create_context(KEY, None, None)
    outcomes = await race("raise_epochs", tmp_path / "store.db")
    assert all(outcomes), "all had their part"
    raised = sorted(int(epoch) for did in outcomes for epoch in did)
    assert len(raised) >= EPOCHS
    assert raised == list(range(1, len(raised) + 1))
    assert await store.raise_epoch(KEY, len(raised)) == (len(raised) + 1, 0)


async def test_each_message_is_stored_for_one_process(store: SqliteStore, tmp_path: Path) -> None:
    outcomes = await race("submit", tmp_path / "store.db")
    names = ["created", *(f"m{number}" for number in range(MESSAGES))]
    assert sorted(name for did in outcomes for name in did) == sorted(names)
    orders = [row.order for row, _ in await store.unsequenced(KEY)]
    assert orders == list(range(1, MESSAGES + 1))


async def test_each_turn_is_claimed_by_one_process_under_one_fence(store: SqliteStore, tmp_path: Path) -> None:
    await store.create_context(KEY, None, None)
    outcomes = await race("run_turns", tmp_path / "store.db")
    assert all(outcomes), "all had their part"
    claims = [claim for did in outcomes for claim in did]
    assert len(set(claims)) == len(claims)
    rows = (await store.history(KEY, None, 10 * TURNS)).rows
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
    for number in range(TURNS):
        stored = await store.load_turn(KEY, f"t{number}")
        assert stored is not None
        assert [event.type for event in stored.events] == ["message", "turn_end"]


async def test_what_each_process_deleted_is_gone_from_the_disk(store: SqliteStore, tmp_path: Path) -> None:
    outcomes = await race("delete", tmp_path / "store.db")
    erased = [mark.encode() for did in outcomes for mark in did]
    assert len(erased) > len(NAMES), "scrubs succeed beside others"
    on_disk = b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert [mark for mark in erased if mark in on_disk] == []


async def test_a_deletion_between_anothers_scrub_and_its_note_is_still_owed(store: SqliteStore, tmp_path: Path) -> None:
    other = await SqliteStore.open(tmp_path / "store.db")
    try:
        for number, deleter in enumerate((store, other)):
            await deleter.create_context(KEY, None, None)
            await deleter.delete_context(KEY)
            covered = 1 + number
            assert await owed(deleter) == covered
            if deleter is store:
                await settled(other, covered)
                assert await owed(store) == 0
        await settled(store, 1)  # late
        assert await owed(other) == 2
        assert await other.scrub()
        assert await owed(store) == 0
    finally:
        await other.close()


async def owed(store: SqliteStore) -> int:
    return await file_of(store).read(sqlite_file.owed)


async def settled(store: SqliteStore, covered: int) -> None:
    await file_of(store).write(lambda db: sqlite_file.settle(db, covered))


def file_of(store: SqliteStore) -> sqlite_file.SqliteFile:
    return store._file  # pyright: ignore[reportPrivateUsage]


# ---- waiting


async def test_whoever_finds_the_file_locked_writes_once_it_is_free(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 5:
            other.execute("COMMIT")

    monkeypatch.setattr(sqlite_lock.time, "sleep", sleep)
    assert (await store.submit(KEY, message("a"), None)).created
    assert len(waited) == 5
    other.close()


async def test_a_file_that_stays_locked_is_unavailable_after_a_while(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "_LOCK_SECONDS", 0.2)
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(Unavailable, match="locked") as refused:
        await store.submit(KEY, message("a"), None)
    assert time.monotonic() - began >= 0.2
    assert isinstance(refused.value.__cause__, sqlite3.OperationalError)
    await store.check()
    other.close()


async def test_a_start_waits_for_whoever_has_the_file_for_himself(tmp_path: Path) -> None:
    await (await SqliteStore.open(tmp_path / "store.db")).close()
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    opening = asyncio.create_task(SqliteStore.open(tmp_path / "store.db"))
    done, _ = await asyncio.wait((opening,), timeout=0.1)
    assert not done
    other.close()
    await (await opening).close()


async def test_nobody_takes_a_file_for_himself_that_was_opened_and_not_used(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None, timeout=0)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN EXCLUSIVE")
    other.close()
    await store.close()


async def test_what_one_stored_the_other_reads_next(store: SqliteStore, tmp_path: Path) -> None:
    other = await SqliteStore.open(tmp_path / "store.db")
    try:
        for number in range(50):
            writer, reader = (store, other) if number % 2 else (other, store)
            key = ContextKey("t/ann", f"c{number}")
            await writer.submit(key, message("m"), None)
            assert await reader.find_event(key, "m") is not None
    finally:
        await other.close()
