"""The contract of SearchStore (stores/ports): every adapter passes it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.stored_events import new_event
from protocol.frames import ContextChanged, Message, Role
from protocol.ids import rfc3339
from stores import sqlite_search
from stores.ports import ContextStore, SearchStore
from stores.records import ContextKey, NewEvent, SearchHit
from stores.search_text import parse_query, terms_of
from stores.sqlite import SqliteStore
from tests.stores.context_stores import Clock, epoch_of, open_postgres, open_sharded, open_sqlite

ANN, BOB = "t/ann", "t/bob"
NOW = rfc3339(datetime(2026, 1, 1, tzinfo=UTC))


class Store(ContextStore, SearchStore, Protocol):
    """What an adapter implements."""


@pytest.fixture(params=[open_sqlite, open_sharded, open_postgres], ids=["sqlite", "sharded", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncGenerator[Store]:
    async with request.param(tmp_path, clock) as opened:
        yield opened


def said(id: str, text: str, role: Role = "user") -> NewEvent:
    return new_event(
        Message(id=id, context_id="c", content=text, role=role, timestamp=NOW, status="complete", turn_id=None)
    )


async def say(store: ContextStore, key: ContextKey, id: str, text: str, role: Role = "user") -> None:
    await store.submit(key, said(id, text, role), None)


async def rename(store: ContextStore, key: ContextKey, title: str) -> None:
    await store.update_context(key, title, None, new_event(ContextChanged(context_id=key.id, title=title)))


async def find(store: SearchStore, query: str, owner: str = ANN, limit: int = 100) -> list[SearchHit]:
    """All pages."""
    hits: list[SearchHit] = []
    after: str | None = None
    while True:
        page, after = await store.search(owner, query, after, limit)
        assert len(page) <= limit
        hits += page
        if after is None:
            return hits


def names(hits: list[SearchHit]) -> list[str]:
    return [f"{hit.key.id} {hit.message_id or 'title'}" for hit in hits]


# ---- what is found


async def test_words_of_users_and_models_are_found_and_those_of_systems_are_not(store: Store) -> None:
    key = ContextKey(ANN, "c")
    await say(store, key, "m1", "a quiet harbour")
    await say(store, key, "m2", "Harbours are loud", "assistant")
    await say(store, key, "m3", "speak of harbours", "system")
    assert names(await find(store, "harb")) == ["c m2", "c m1"]
    assert names(await find(store, "harbour")) == ["c m2", "c m1"]
    assert names(await find(store, "quiet harbour")) == ["c m1"]
    assert names(await find(store, "harbour quiet")) == ["c m1"]
    assert await find(store, "harbour absent") == []


async def test_a_hit_says_where_it_is(store: Store, clock: Clock) -> None:
    key = ContextKey(ANN, "c")
    await store.create_context(key, "By the sea", None)
    await say(store, key, "m1", "a quiet harbour")
    (hit,) = await find(store, "harbour")
    assert (hit.key, hit.title, hit.message_id, hit.role, hit.seq, hit.at) == (
        key,
        "By the sea",
        "m1",
        "user",
        None,
        clock.now,
    )
    assert [(piece.text, piece.match) for piece in hit.snippet] == [("a quiet ", False), ("harbour", True)]
    await store.record(key, await epoch_of(store, key), {"m1": 7})
    assert (await find(store, "harbour"))[0].seq == 7
    (hit,) = await find(store, "sea")
    assert (hit.message_id, hit.role, hit.seq) == (None, None, None)


async def test_a_title_is_found_while_it_is_the_title(store: Store) -> None:
    key = ContextKey(ANN, "c")
    await store.create_context(key, "Old harbour", None)
    assert names(await find(store, "harbour")) == ["c title"]
    await rename(store, key, "New bridge")
    assert await find(store, "harbour") == []
    assert names(await find(store, "bridge")) == ["c title"]
    await rename(store, key, "")
    assert await find(store, "bridge") == []


async def test_contexts_come_newest_first_with_title_and_newest_message_first(store: Store, clock: Clock) -> None:
    for name in ("c1", "c2"):
        await store.create_context(ContextKey(ANN, name), "tide", None)
        for number in range(3):
            clock.now += 1
            await say(store, ContextKey(ANN, name), f"m{number}", f"tide {number}")
    clock.now += 1
    await say(store, ContextKey(ANN, "c1"), "other", "nothing of it")
    whole = await find(store, "tide")
    assert names(whole) == [f"{name} {part}" for name in ("c1", "c2") for part in ("title", "m2", "m1", "m0")]
    for limit in range(1, 9):
        assert await find(store, "tide", limit=limit) == whole


async def test_what_goes_on_between_two_pages_repeats_nothing(store: Store, clock: Clock) -> None:
    for name in ("c1", "c2", "c3"):
        for number in range(3):
            clock.now += 1
            await say(store, ContextKey(ANN, name), f"m{number}", "tide")
    first, after = await store.search(ANN, "tide", None, 4)
    assert names(first) == ["c3 m2", "c3 m1", "c3 m0", "c2 m2"]
    clock.now += 1
    await say(store, ContextKey(ANN, "c2"), "new", "tide")  # goes to the front, and is finished all the same
    await store.delete_context(ContextKey(ANN, "c3"))
    rest, after = await store.search(ANN, "tide", after, 10)
    assert (names(rest), after) == (["c2 m1", "c2 m0", "c1 m2", "c1 m1", "c1 m0"], None)


async def test_a_context_that_goes_between_two_pages_ends_nothing(store: Store, clock: Clock) -> None:
    for name in ("c1", "c2"):
        for number in range(2):
            clock.now += 1
            await say(store, ContextKey(ANN, name), f"m{number}", "tide")
    _, after = await store.search(ANN, "tide", None, 1)
    await store.delete_context(ContextKey(ANN, "c2"))
    rest, _ = await store.search(ANN, "tide", after, 10)
    assert names(rest) == ["c1 m1", "c1 m0"]


@pytest.mark.promise("6")
async def test_nobody_finds_what_is_anothers(store: Store) -> None:
    await store.create_context(ContextKey(ANN, "c"), "hers", None)
    await say(store, ContextKey(ANN, "c"), "m1", "secret")
    await say(store, ContextKey(BOB, "c"), "m1", "mine")
    for query in ("secret", "hers", "s", "secr", "t/ann"):
        assert await find(store, query, BOB) == []
    _, after = await store.search(ANN, "secret", None, 1)
    assert after is None
    assert names(await find(store, "mine", BOB)) == ["c m1"]


async def test_what_was_deleted_is_not_found(store: Store) -> None:
    key = ContextKey(ANN, "c")
    await store.create_context(key, "secret", None)
    await say(store, key, "m1", "secret")
    await store.delete_context(key)
    assert await find(store, "secret") == []
    await store.create_context(key, None, None)
    assert await find(store, "secret") == []


async def test_a_message_that_comes_twice_is_found_once(store: Store) -> None:
    for _ in range(2):
        await say(store, ContextKey(ANN, "c"), "m1", "once once once")
    assert names(await find(store, "once")) == ["c m1"]
    assert names(await find(store, "onc")) == ["c m1"]


HOSTILE = [
    '"',
    "''",
    '"unbalanced',
    "a NEAR b",
    "NEAR(a b, 1)",
    "*",
    "har*",
    "title:harbour",
    "{a b}:c",
    "^harbour",
    "a AND",
    "OR",
    "NOT x",
    "-harbour",
    "(" * 500,
    "%_",
    "'; DROP TABLE contexts; --",
    "\0",
    "har\0bour",
    "\ud800",
    "\U0010ffff",
    "x" * 1_000_000,
    "x " * 500_000,
    "京" * 100_000,
    "🌊",
    "\u0301\u0301",
]


@pytest.mark.parametrize("query", HOSTILE, ids=range(len(HOSTILE)))
async def test_no_query_is_an_error(store: Store, query: str) -> None:
    await say(store, ContextKey(ANN, "c"), "m1", "a quiet harbour")
    await find(store, query)
    assert names(await find(store, "harbour")) == ["c m1"]


@pytest.mark.parametrize("token", ["", "x", "eA==", "ü", "bm9uc2Vuc2U=", "bmFuIDEgYw==", "MSAtMSBj", "9" * 9000])
async def test_a_token_that_is_not_one_of_these_is_a_value_error(store: Store, token: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the port promises no more
        await store.search(ANN, "x", token, 10)


# ---- against a plain search


WORDS = ["tide", "tidal", "gate", "京都", "東京", "café", "of"]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)
KEYS = st.builds(ContextKey, st.sampled_from([ANN, BOB]), st.sampled_from(["c1", "c2"]))
STEPS = st.tuples(st.sampled_from(["say", "say", "say", "rename", "create", "delete"]), KEYS, TEXTS)


def _holds(text: str, query: str) -> bool:
    terms, asked = terms_of(text), parse_query(query).terms
    return bool(asked) and all(
        any(known.startswith(term.text) for known in terms) if term.prefix else term.text in terms for term in asked
    )


OpenBoth = Callable[[Path, Clock], AbstractAsyncContextManager[Store]]


async def _agree(open_store: OpenBoth, folder: Path, steps: list[Any], queries: list[str]) -> None:
    clock = Clock()
    plain: dict[ContextKey, tuple[float, str, list[tuple[str, str]]]] = {}
    async with open_store(folder, clock) as store:
        for number, (act, key, text) in enumerate(steps):
            clock.now += 1
            _, title, messages = plain.get(key, (clock.now, "", list[tuple[str, str]]()))
            if act == "say":
                await say(store, key, f"m{number}", text)
                plain[key] = (clock.now, title, [(f"m{number}", text), *messages])
            elif act == "create" and await store.create_context(key, text, None):
                plain[key] = (clock.now, text, [])
            elif act == "rename" and key in plain:
                await rename(store, key, text)
                plain[key] = (clock.now, text, messages)
            elif act == "delete":
                assert await store.delete_context(key) is (plain.pop(key, None) is not None)
        for query in queries:
            for owner in (ANN, BOB):
                expected: list[str] = []
                mine = [(key, found) for key, found in plain.items() if key.owner == owner]
                for key, (_, title, messages) in sorted(mine, key=lambda item: item[1][0], reverse=True):
                    parts = [("title", title), *messages]
                    expected += [f"{key.id} {name}" for name, text in parts if _holds(text, query)]
                for limit in (1, 2, 100):
                    assert names(await find(store, query, owner, limit)) == expected


@pytest.mark.parametrize("open_store", [open_sqlite, open_postgres])
@settings(max_examples=50, deadline=None)
@given(st.lists(STEPS, max_size=30), st.lists(st.sampled_from([*WORDS, "ti", "京", "tide gat", "of tid"]), max_size=4))
def test_it_finds_what_a_plain_search_finds(
    tmp_path_factory: pytest.TempPathFactory, open_store: OpenBoth, steps: list[Any], queries: list[str]
) -> None:
    asyncio.run(_agree(open_store, tmp_path_factory.mktemp("store"), steps, queries))


# ---- SQLite's own


async def test_what_was_stored_before_there_was_an_index_is_found(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    folder = Path(__file__).parents[2] / "stores" / "migrations" / "sqlite"
    older = [script for script in sorted(folder.glob("*.sql")) if script.stem < "0004"]
    connection = sqlite3.connect(path)
    for script in older:
        connection.executescript(script.read_text(encoding="utf-8"))
    connection.execute(f"PRAGMA user_version = {len(older)}")
    connection.execute(
        "INSERT INTO contexts (cid, owner, id, epoch, title, created_at, updated_at) VALUES (1, ?, 'c', 0, ?, 1, 1)",
        (ANN, "By the sea"),
    )
    rows = [("m1", said("m1", "a quiet harbour").body), ("m2", b"{}"), ("m3", said("m3", "harbours", "system").body)]
    for order, (id, body) in enumerate(rows, start=1):
        connection.execute(
            "INSERT INTO events (cid, id, type, body, ord, given, stored_at) VALUES (1, ?, 'message', ?, ?, 1, 1)",
            (id, body, order),
        )
    connection.commit()
    connection.close()
    store = await SqliteStore.open(path)
    assert names(await find(store, "harb")) == ["c m1"]
    assert names(await find(store, "sea")) == ["c title"]
    await store.close()


async def test_a_search_waits_for_no_writer_and_no_writer_for_a_search(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path, Clock()) as store:
        await say(store, ContextKey(ANN, "c"), "m1", "harbour")
        other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")  # somebody writes
        assert names(await find(store, "harbour")) == ["c m1"]
        other.execute("ROLLBACK")
        other.execute("BEGIN")  # somebody reads
        other.execute("SELECT count(*) FROM search_texts").fetchone()
        await say(store, ContextKey(ANN, "c"), "m2", "harbour")
        other.close()


async def test_an_event_says_what_can_be_searched_for() -> None:
    assert said("m", "hello").text == "hello"
    assert said("m", "hello", "system").text is None
    assert new_event(ContextChanged(context_id="c", title="t")).text is None
    assert msgspec.json.decode(said("m", "hello").body)["content"] == "hello"


async def test_contexts_without_texts_use_up_a_call_too(tmp_path: Path, clock: Clock) -> None:
    async with open_sqlite(tmp_path, clock) as store:
        for number in range(800):
            clock.now += 1
            await store.create_context(ContextKey(ANN, f"c{number}"), None, None)
        assert (await store.search(ANN, "tide", None, 20))[1] is not None, "the walk stops before its end"
        clock.now = 1.0
        await say(store, ContextKey(ANN, "oldest"), "m", "tide")
        assert names(await find(store, "tide")) == ["oldest m"]


async def test_a_call_looks_through_a_bounded_amount(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_search, "_BYTES", 3000)
    async with open_sqlite(tmp_path, clock) as store:
        await say(store, ContextKey(ANN, "last"), "m", "needle")
        for number in range(7):
            clock.now += 1
            await say(store, ContextKey(ANN, f"c{number}"), "m", "hay")
        page, after = await store.search(ANN, "needle", None, 10)
        assert page == []
        assert after is not None
        assert names(await find(store, "needle")) == ["last m"]
        assert len(await find(store, "hay", limit=2)) == 7
