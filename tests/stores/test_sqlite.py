"""What only the SQLite store does: files, schema versions, pages, sessions, keys, and batches that fail."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from stores.connect import StoreUrlError, migrate, open_store
from stores.ports import Busy, Unavailable
from stores.records import ContextKey, KeyRecord, NewEvent, NewTurn, SessionRecord
from stores.sqlite import SqliteStore


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncGenerator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "store.db", clock=clock)
    yield opened
    await opened.close()


def event(id: str, type: str = "message") -> NewEvent:
    return NewEvent(id=id, type=type, body=b"{}")


# ---- contexts


async def test_contexts_are_listed_newest_first_in_pages(store: SqliteStore, clock: Clock) -> None:
    for number in range(5):
        clock.now += 1
        await store.create_context(ContextKey("ann", f"c{number}"), f"title {number}", None)
    await store.create_context(ContextKey("bob", "his"), None, None)
    clock.now += 1
    await store.submit(ContextKey("ann", "c1"), event("m"), None)
    listed: list[str] = []
    after: str | None = None
    while True:
        page, after = await store.list_contexts("ann", after, 2)
        listed += [record.key.id for record in page]
        if after is None:
            break
    assert listed == ["c1", "c4", "c3", "c2", "c0"]


@pytest.mark.parametrize("token", ["", "nonsense", "eA==", "ä", "eCB5"])
async def test_a_wrong_token_of_a_page_is_a_value_error(store: SqliteStore, token: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the port promises no more
        await store.list_contexts("ann", token, 2)


async def test_titles_and_metadata_change_one_by_one(store: SqliteStore) -> None:
    key = ContextKey("ann", "c")
    await store.create_context(key, "old", b'{"a":1}')
    await store.update_context(key, "new", None, event("ctx_1", "context"))
    await store.update_context(key, None, b'{"a":2}', event("ctx_2", "context"))
    record = await store.get_context(key)
    assert record is not None
    assert (record.title, record.metadata) == ("new", b'{"a":2}')
    assert [row.id for row, _ in await store.unsequenced(key)] == ["ctx_1", "ctx_2"]


async def test_a_new_context_begins_above_the_epochs_of_a_deleted_one(store: SqliteStore) -> None:
    key = ContextKey("ann", "c")
    await store.create_context(key, None, None)
    await store.raise_epoch(key, 0)
    await store.delete_context(key)
    await store.create_context(key, None, None)
    record = await store.get_context(key)
    assert record is not None
    assert record.epoch > 1


# ---- sessions


async def test_sessions_are_kept_until_they_expire(store: SqliteStore) -> None:
    session = SessionRecord(
        id="s", owner="ann", attempt=3, expires_at=50, tools=b"[1]", contexts=("a", "b"), holder="i"
    )
    await store.put_session(session)
    assert await store.get_session("s", 49) == session
    assert await store.get_session("s", 50) is None
    assert await store.get_session("other", 0) is None
    assert await store.delete_expired_sessions(49) == 0
    assert await store.delete_expired_sessions(50) == 1
    assert await store.get_session("s", 0) is None


async def test_sessions_with_tools_come_last_put_first(store: SqliteStore) -> None:
    for name, tools in (("a", b"[1]"), ("b", b"[]"), ("c", b"[2]")):
        await store.put_session(SessionRecord(id=name, owner="ann", attempt=0, expires_at=50, tools=tools))
    await store.put_session(SessionRecord(id="x", owner="bob", attempt=0, expires_at=50, tools=b"[1]"))
    await store.put_session(SessionRecord(id="a", owner="ann", attempt=1, expires_at=50, tools=b"[3]"))
    assert [(s.id, s.tools) for s in await store.sessions_of("ann", 0)] == [("a", b"[3]"), ("c", b"[2]")]
    assert await store.sessions_of("ann", 50) == []


# ---- keys


async def test_keys_are_found_by_digest_listed_and_revoked_once(store: SqliteStore) -> None:
    keys = [
        KeyRecord(id=f"k{n}", digest=bytes([n]) * 32, tenant="t", subject="ann", role=None, created_at=n)
        for n in range(2)
    ]
    for key in reversed(keys):
        await store.add_key(key)
    assert await store.list_keys() == keys
    assert await store.find_key(bytes([1]) * 32) == keys[1]
    assert await store.find_key(b"\xff" * 32) is None
    assert await store.revoke_key("k1", 9.0) is True
    assert await store.revoke_key("k1", 10.0) is False
    assert await store.revoke_key("nothing", 10.0) is False
    revoked = await store.find_key(bytes([1]) * 32)
    assert revoked is not None
    assert revoked.revoked_at == 9.0


# ---- the file


async def test_what_was_stored_is_there_after_a_restart(tmp_path: Path) -> None:
    key = ContextKey("ann", "c")
    url = f"sqlite:///{tmp_path}/deep/er/store.db"
    assert await migrate(url) == ["0001_initial"]
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
    for store in stores:
        await store.create_context(ContextKey("ann", "c"), None, None)
        await store.close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "mysql://host/db", "nonsense", "postgres://u:secret@h/d"])
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


async def test_a_locked_file_is_unavailable_and_then_is_not(store: SqliteStore, tmp_path: Path) -> None:
    key = ContextKey("ann", "c")
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"):
        await store.submit(key, event("a"), None)
    assert await store.get_context(key) is None
    other.execute("ROLLBACK")
    other.close()
    assert (await store.submit(key, event("a"), None)).created
