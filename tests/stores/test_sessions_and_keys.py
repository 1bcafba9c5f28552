"""The contracts of SessionStore and KeyStore (stores/ports): every adapter passes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pytest
from msgspec.structs import replace

from stores.ports import KeyStore, SessionStore
from stores.records import KeyRecord, SessionRecord
from tests.stores.context_stores import Clock, open_postgres, open_sharded, open_sqlite


class Store(SessionStore, KeyStore, Protocol):
    """What an adapter implements."""


OpenBoth = Callable[[Path, Clock], AbstractAsyncContextManager[Store]]


@pytest.fixture(params=[open_sqlite, open_sharded, open_postgres], ids=["sqlite", "sharded", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Store]:
    open_store: OpenBoth = request.param
    async with open_store(tmp_path, Clock()) as opened:
        yield opened


def session(id: str, owner: str = "t/ann", *, expires_at: float = 50, tools: bytes = b"[1]") -> SessionRecord:
    return SessionRecord(id=id, owner=owner, attempt=1, expires_at=expires_at, tools=tools)


def api_key(id: str, created_at: float = 1) -> KeyRecord:
    return KeyRecord(
        id=id, digest=id.encode().ljust(32, b"\0"), tenant="t", subject="ann", role="admin", created_at=created_at
    )


# ---- sessions


async def test_a_session_comes_back_as_it_was_put(store: Store) -> None:
    whole = SessionRecord(
        id="s1", owner="t/ann", attempt=3, expires_at=50.5, tools=b'["x"]', contexts=("b", "a"), holder="inst/7"
    )
    bare = SessionRecord(id="s2", owner="t/ann", attempt=0, expires_at=50)
    for put in (whole, bare):
        await store.put_session(put)
        assert await store.get_session(put.id, 0) == put


async def test_a_session_that_is_put_again_is_replaced(store: Store) -> None:
    await store.put_session(session("s1"))
    await store.put_session(session("s2"))
    changed = replace(session("s1"), attempt=2, holder="inst/8", expires_at=99)
    await store.put_session(changed)
    assert await store.get_session("s1", 98) == changed
    assert await store.get_session("s2", 0) == session("s2")


async def test_a_session_that_is_unknown_or_expired_is_none(store: Store) -> None:
    await store.put_session(session("s1", expires_at=50))
    assert await store.get_session("s2", 0) is None
    assert await store.get_session("s1", 49.9) is not None
    assert await store.get_session("s1", 50) is None


async def test_an_owners_sessions_are_those_that_declare_tools_and_have_not_expired(store: Store) -> None:
    for put in (
        session("with tools"),
        session("without", tools=b"[]"),
        session("expired", expires_at=10),
        session("of another", "t/bob"),
    ):
        await store.put_session(put)
    assert await store.sessions_of("t/ann", 10) == [session("with tools")]
    assert await store.sessions_of("t/ann", 50) == []
    assert await store.sessions_of("t/nobody", 10) == []


async def test_of_an_owners_sessions_the_one_taken_last_comes_first(store: Store) -> None:
    for name in ("s2", "s1", "s3"):
        await store.take_session(session(name), 0)
    for name in ("s1", "s2", "s1"):
        # It follows another context, and declares nothing.
        await store.put_session(session(name))
    assert [found.id for found in await store.sessions_of("t/ann", 0)] == ["s3", "s1", "s2"]
    await store.take_session(session("s2"), 0)
    assert [found.id for found in await store.sessions_of("t/ann", 0)] == ["s2", "s3", "s1"]


# ---- sessions and who holds them


def held(by: str | None, attempt: int = 1, *, expires_at: float = 50) -> SessionRecord:
    return replace(session("s1", expires_at=expires_at), holder=by, attempt=attempt)


async def test_an_attempt_that_is_not_lower_takes_the_session(store: Store) -> None:
    for taken in (held("one/1", 3), held("two/1", 3), held("one/2", 4)):
        assert await store.take_session(taken, 10) is True
        assert await store.get_session("s1", 10) == taken


async def test_a_lower_attempt_takes_no_session_that_is_held(store: Store) -> None:
    newest = held("one/1", 3)
    await store.take_session(newest, 10)
    for gone in (None, "one/2", "one", ""):
        assert await store.take_session(held("two/1", 2), 10, gone) is False
    assert await store.get_session("s1", 10) == newest


async def test_a_lower_attempt_takes_a_session_whose_holder_is_gone_or_that_nobody_holds(store: Store) -> None:
    await store.take_session(held("one/1", 3), 10)
    assert await store.take_session(held("two/1", 2), 10, "one/1") is True
    assert await store.get_session("s1", 10) == held("two/1", 2)
    await store.leave_session("s1", "two/1")
    assert await store.take_session(held("one/2", 0), 10) is True
    assert await store.get_session("s1", 10) == held("one/2", 0)


async def test_a_lower_attempt_takes_a_session_that_has_expired(store: Store) -> None:
    await store.take_session(held("one/1", 3, expires_at=50), 10)
    assert await store.take_session(held("two/1", 2, expires_at=90), 49.9) is False
    assert await store.take_session(held("two/1", 2, expires_at=90), 50) is True


async def test_of_many_attempts_at_once_the_highest_holds_the_session(store: Store) -> None:
    attempts = [7, 2, 9, 1, 8, 3]
    taken = await asyncio.gather(*(store.take_session(held(f"one/{n}", n), 10) for n in attempts))
    assert taken[attempts.index(9)] is True
    assert await store.get_session("s1", 10) == held("one/9", 9)


async def test_only_its_holder_changes_a_session(store: Store) -> None:
    await store.take_session(held("one/1", 3), 10)
    changed = replace(held("one/1", 3), contexts=("c",))
    assert await store.put_session(changed) is True
    for other in ("two/1", "one/2", None):
        assert await store.put_session(replace(held(other, 9), contexts=("d",))) is False
    assert await store.get_session("s1", 10) == changed


async def test_a_session_that_is_not_stored_or_that_nobody_holds_is_put(store: Store) -> None:
    assert await store.put_session(held("one/1")) is True
    await store.leave_session("s1", "one/1")
    assert await store.put_session(held("two/1")) is True
    assert await store.get_session("s1", 10) == held("two/1")


async def test_whoever_lost_a_session_does_not_put_it_any_more(store: Store) -> None:
    await store.take_session(held("one/1", 1), 10)
    await store.take_session(held("two/1", 2), 10)
    assert await store.put_session(held("one/1", 1)) is False
    await store.leave_session("s1", "one/1")
    assert await store.get_session("s1", 10) == held("two/1", 2)


async def test_leaving_changes_nothing_but_the_holder(store: Store) -> None:
    whole = replace(held("one/1", 3), contexts=("b", "a"))
    await store.take_session(session("s0"), 10)
    await store.take_session(whole, 10)
    await store.take_session(session("s2"), 10)
    for holder in ("one", "one/1", "one/1", "two/1"):
        await store.leave_session("s1", holder)
    await store.leave_session("unknown", "one/1")
    assert await store.get_session("s1", 10) == replace(whole, holder=None)
    assert [found.id for found in await store.sessions_of("t/ann", 0)] == ["s2", "s1", "s0"]


async def test_expired_sessions_are_deleted_and_counted(store: Store) -> None:
    for name, expires_at in (("s1", 10), ("s2", 20), ("s3", 30)):
        await store.put_session(session(name, expires_at=expires_at))
    assert await store.delete_expired_sessions(9.9) == 0
    assert await store.delete_expired_sessions(20) == 2
    assert await store.delete_expired_sessions(20) == 0
    assert [found.id for found in await store.sessions_of("t/ann", 0)] == ["s3"]


# ---- keys


async def test_a_key_is_found_by_its_digest(store: Store) -> None:
    await store.add_key(api_key("k1"))
    await store.add_key(replace(api_key("k2"), role=None))
    assert await store.find_key(api_key("k1").digest) == api_key("k1")
    assert await store.find_key(api_key("k2").digest) == replace(api_key("k2"), role=None)
    assert await store.find_key(api_key("k3").digest) is None


async def test_a_revoked_key_is_found_too(store: Store) -> None:
    await store.add_key(api_key("k1"))
    await store.revoke_key("k1", 9)
    revoked = replace(api_key("k1"), revoked_at=9)
    assert await store.find_key(revoked.digest) == revoked
    assert await store.list_keys() == [revoked]


async def test_keys_are_listed_oldest_first(store: Store) -> None:
    assert await store.list_keys() == []
    for name, created_at in (("k1", 3), ("k3", 1), ("k2", 2)):
        await store.add_key(api_key(name, created_at))
    assert [found.id for found in await store.list_keys()] == ["k3", "k2", "k1"]


async def test_a_key_is_revoked_once(store: Store) -> None:
    await store.add_key(api_key("k1"))
    assert await store.revoke_key("k2", 9) is False
    assert await store.revoke_key("k1", 9) is True
    assert await store.revoke_key("k1", 10) is False
    assert (await store.list_keys())[0].revoked_at == 9


async def test_one_of_many_revokes_a_key(store: Store) -> None:
    await store.add_key(api_key("k1"))
    answers = await asyncio.gather(*(store.revoke_key("k1", now) for now in range(20)))
    assert sorted(answers) == [False] * 19 + [True]
