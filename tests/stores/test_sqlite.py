"""What only the SQLite store does: files, schema versions, and batches that fail."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from stores import sqlite_file
from stores.connect import StoreUrlError, migrate, open_store
from stores.ports import Busy, Unavailable
from stores.records import ContextKey, NewEvent, NewTurn
from stores.sqlite import SqliteStore

MIGRATIONS = Path(__file__).parents[2] / "stores" / "migrations" / "sqlite"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "store.db")
    yield opened
    await opened.close()


def event(id: str, type: str = "message") -> NewEvent:
    return NewEvent(id=id, type=type, body=b"{}")


# ---- the file


async def test_what_was_stored_is_there_after_a_restart(tmp_path: Path) -> None:
    key = ContextKey("ann", "c")
    url = f"sqlite:///{tmp_path}/deep/er/store.db"
    assert await migrate(url) == sorted(script.stem for script in MIGRATIONS.glob("*.sql"))
    assert await migrate(url) == []
    store = await open_store(url)
    await store.submit(key, event("m"), None)
    await store.close()
    again = await open_store(url)
    assert [row.id for row, _ in await again.unsequenced(key)] == ["m"]
    await again.close()
    with pytest.raises(Unavailable):
        await again.get_context(key)


async def test_two_that_open_a_new_file_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    stores = await asyncio.gather(*(open_store(url) for _ in range(4)))
    key = ContextKey("ann", "c")
    for store in stores:
        await store.submit(key, event("m"), None)
        assert await store.delete_context(key)
        await store.create_context(key, None, None)
        assert await store.unsequenced(key) == [], "what belonged to a context goes with it, whoever deletes it"
        await store.delete_context(key)
        await store.close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "mysql://host/db", "nonsense", "mysql://u:secret@h/d"])
async def test_a_url_that_is_no_store_says_what_was_expected(url: str) -> None:
    with pytest.raises(StoreUrlError, match="sqlite:///FILE") as refused:
        await open_store(url)
    assert "secret" not in str(refused.value)


async def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(StoreUrlError, match="newer version"):
        await SqliteStore.open(path)


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(StoreUrlError, match="not an SQLite database"):
        await SqliteStore.open(path)


async def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await SqliteStore.open(tmp_path)


# ---- batches


async def test_one_that_is_refused_takes_no_other_with_it(store: SqliteStore) -> None:
    key = ContextKey("ann", "c")

    def turn(name: str) -> NewTurn:
        return NewTurn(id=name, kind="message", request=b"{}")

    answers = await asyncio.gather(
        *(store.submit(key, event(f"m{n}"), turn(f"m{n}"), "reject" if n % 2 else "queue") for n in range(40)),
        return_exceptions=True,
    )
    assert [isinstance(answer, Busy) for answer in answers] == [bool(n % 2) for n in range(40)]
    assert len(await store.unsequenced(key)) == 20


async def test_a_caller_that_gave_up_harms_nobody(store: SqliteStore) -> None:
    key = ContextKey("ann", "c")
    gone = asyncio.create_task(store.submit(key, event("a"), None))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait((gone,))
    await store.submit(key, event("b"), None)
    assert "b" in [row.id for row, _ in await store.unsequenced(key)]


async def test_a_locked_file_is_unavailable_and_then_is_not(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "_LOCK_SECONDS", 0.1)
    key = ContextKey("ann", "c")
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"):
        await store.submit(key, event("a"), None)
    assert await store.get_context(key) is None
    other.execute("ROLLBACK")
    other.close()
    assert (await store.submit(key, event("a"), None)).created
