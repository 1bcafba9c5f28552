"""What only a store of shards does: it answers as one store would, and goes on where one of its shards is away. Its
contracts are those of every adapter (test_contexts.py and the rest)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.stored_events import new_event
from protocol.frames import Message
from stores.connect import StoreUrlError, migrate, open_store
from stores.list_pages import context_token
from stores.ports import Unavailable
from stores.records import ContextKey, ContextRecord, KeyRecord, SearchHit, SessionRecord, UsageBy
from stores.sharded import ShardedStore
from stores.shards import Shards
from stores.sqlite import SqliteStore
from stores.store import Store
from tests.stores.context_stores import ALL, Clock, message, open_mixed, open_sharded, open_sqlite, running, used

ANN = "t/ann"
NAMES = ("shard0", "shard1", "shard2")


class Parts:
    """The shards that `ShardedStore` is made of, to look at and to end."""

    def __init__(self, stores: list[SqliteStore]) -> None:
        self.stores = stores
        self.whole = ShardedStore(dict(zip(NAMES, stores, strict=True)))
        self._places = Shards(dict(zip(NAMES, stores, strict=True)))

    def contexts_on(self, number: int, owner: str = ANN) -> list[ContextKey]:
        """Names of contexts that belong there."""
        keys = [ContextKey(owner, f"c{each}") for each in range(60)]
        return [key for key in keys if self._places.place("context", *key) == number]

    def owner_on(self, number: int) -> str:
        owners = (f"t/owner{each}" for each in range(60))
        return next(owner for owner in owners if self._places.place("owner", owner) == number)

    def key_on(self, number: int) -> KeyRecord:
        digests = (bytes([each]) * 32 for each in range(60))
        digest = next(digest for digest in digests if self._places.place("key", digest) == number)
        return KeyRecord(id=f"k{number}", digest=digest, tenant="t", subject="ann", role=None, created_at=10.0 - number)


@pytest.fixture
async def parts(tmp_path: Path, clock: Clock) -> AsyncGenerator[Parts]:
    opened = Parts([await SqliteStore.open(tmp_path / f"{name}.db", clock=clock) for name in NAMES])
    yield opened
    await opened.whole.close()


# ---- as one store


async def all_pages(store: Store, limit: int) -> list[ContextRecord]:
    records: list[ContextRecord] = []
    after: str | None = None
    while True:
        page, after = await store.list_contexts(ANN, after, limit)
        assert len(page) == limit or after is None
        records += page
        if after is None:
            return records


async def all_hits(store: Store, query: str, limit: int) -> list[SearchHit]:
    hits: list[SearchHit] = []
    after: str | None = None
    while True:
        page, after = await store.search(ANN, query, after, limit)
        assert len(page) <= limit
        hits += page
        if after is None:
            return hits


WORDS = ["tide", "tidal", "gate", "harbour"]
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["say", "say", "say", "title", "delete", "use"]),
        st.integers(0, 11),
        st.sampled_from(WORDS),
        st.sampled_from([0, 1]),  # often at the same time
    ),
    max_size=40,
)


async def change(store: Store, number: int, act: str, context: int, word: str) -> None:
    key = ContextKey(ANN, f"c{context}")
    if act == "say":
        said = Message(
            id=f"m{number}", context_id=key.id, content=word, role="user", timestamp="", status="complete", turn_id=None
        )
        await store.submit(key, new_event(said), None)
    elif act == "title":
        await store.create_context(key, word, None)
    elif act == "delete":
        await store.delete_context(key)
    else:
        await store.add_usage(key, f"{number}", used(f"2026-01-0{1 + context % 9}", word))


async def _answers_agree(folder: Path, changes: list[tuple[str, int, str, int]], *, mixed: bool) -> None:
    clock = Clock()
    single, several = folder / "single", folder / "several"
    for each in (single, several):
        each.mkdir()
    async with (
        open_sqlite(single, clock) as one,
        (open_mixed if mixed else open_sharded)(several, clock) as sharded,
    ):
        for number, (act, context, word, seconds) in enumerate(changes):
            clock.now += seconds
            for store in (one, sharded):
                await change(store, number, act, context, word)
        whole = [(record.key, record.updated_at) for record in await all_pages(one, ALL)]
        hits = {word: await all_hits(one, word, ALL) for word in WORDS[1:]}
        for limit in (1, 2, 5, ALL):
            assert [(found.key, found.updated_at) for found in await all_pages(sharded, limit)] == whole
            for word, found in hits.items():
                assert await all_hits(sharded, word, limit) == found
            by_id = await sharded.contexts_after(ANN, "c3", limit)
            assert [found.key for found in by_id] == [found.key for found in await one.contexts_after(ANN, "c3", limit)]
            groups: list[UsageBy] = ["day", "context", "model", "subject"]
            for by in groups:
                for owner in (ANN, None):
                    for after in (None, "", "c4", "gate"):
                        asked = ("t", owner, "2026-01-02", "2026-01-08", by, after, limit)
                        assert await sharded.usage(*asked) == await one.usage(*asked)


@settings(max_examples=15, deadline=None)
@given(changes=CHANGES)
def test_it_lists_finds_and_sums_as_one_store_does(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, int, str, int]]
) -> None:
    asyncio.run(_answers_agree(tmp_path_factory.mktemp("stores"), changes, mixed=False))


async def test_shards_of_two_kinds_list_find_and_sum_as_one_store_does(tmp_path: Path) -> None:
    chance = random.Random(3)  # noqa: S311 - the same each time
    acts = ["say", "say", "say", "title", "delete", "use"]
    changes = [
        (chance.choice(acts), chance.randrange(12), chance.choice(WORDS), chance.randrange(2)) for _ in range(80)
    ]
    await _answers_agree(tmp_path, changes, mixed=True)


async def test_pages_lose_and_repeat_nothing_while_contexts_change(parts: Parts, clock: Clock) -> None:
    store = parts.whole
    keys = [ContextKey(ANN, f"c{number:02}") for number in range(60)]
    for key in keys:
        clock.now += 1
        await store.create_context(key, None, None)
    changed = set(keys[::7])
    listed: list[ContextKey] = []
    after: str | None = None
    for step in range(60):
        page, after = await store.list_contexts(ANN, after, 4)
        listed += [record.key for record in page]
        if after is None:
            break
        clock.now += 1
        await store.create_context(ContextKey(ANN, f"new{step}"), None, None)
        for key in keys[7 * (step % 9) :: 63]:  # some that were listed, some that were not
            await (store.delete_context(key) if step % 2 else store.submit(key, message(f"m{step}"), None))
    assert len(set(listed)) == len(listed)
    assert [key for key in listed if key not in changed] == [key for key in reversed(keys) if key not in changed]
    assert changed & set(listed), "some changed after they were listed"
    assert changed - set(listed), "some changed before"


@pytest.mark.parametrize("token", ["", "x", "nonsense", "eA==", "ü", "bm9uc2Vuc2U=", "9" * 9000, "bmFuIDEgYw=="])
async def test_anothers_token_is_a_value_error(parts: Parts, token: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the port promises no more
        await parts.whole.list_contexts(ANN, token, ALL)
    with pytest.raises(ValueError):  # noqa: PT011
        await parts.whole.search(ANN, "tide", token, ALL)


async def test_a_token_grows_with_no_number_of_shards(parts: Parts, clock: Clock) -> None:
    for number in range(9):
        clock.now += 1
        await parts.whole.create_context(ContextKey(ANN, f"c{number}"), None, None)
    page, after = await parts.whole.list_contexts(ANN, None, 3)
    assert after == context_token(page[-1])


# ---- what is where


async def test_each_context_is_on_one_shard(parts: Parts) -> None:
    for number, shard in enumerate(parts.stores):
        for key in parts.contexts_on(number):
            await parts.whole.submit(key, message("m"), None)
            assert [await other.get_context(key) is not None for other in parts.stores] == [
                other is shard for other in parts.stores
            ]


async def test_an_owners_sessions_are_together(parts: Parts) -> None:
    for number, shard in enumerate(parts.stores):
        owner = parts.owner_on(number)
        for name in ("s2", "s1", "s3", "s1"):
            session = SessionRecord(id=f"{number}{name}", owner=owner, attempt=1, expires_at=50, holder="one/1")
            assert await parts.whole.take_session(session, 10)
        assert [found.id[1:] for found in await shard.all_sessions(owner)] == ["s1", "s3", "s2"]
        await parts.whole.leave_session(f"{number}s2", "one/1")
        left = await parts.whole.get_session(f"{number}s2", 10)
        assert left is not None
        assert left.holder is None
    assert await parts.whole.delete_expired_sessions(50) == 9


async def test_keys_are_found_listed_and_revoked_wherever_they_are(parts: Parts) -> None:
    keys = [parts.key_on(number) for number in range(3)]
    for key in keys:
        await parts.whole.add_key(key)
        assert await parts.whole.find_key(key.digest) == key
    assert await parts.whole.list_keys() == keys[::-1]
    assert await parts.whole.keys_of("t", "ann") == keys[::-1]
    assert [await parts.whole.revoke_key(key.id, 9) for key in keys] == [True] * 3
    assert [await parts.whole.revoke_key(key.id, 9) for key in keys] == [False] * 3


async def test_several_urls_are_the_shards_of_one_store(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/{number}.db" for number in range(3)]
    assert len(await migrate(urls)) % 3 == 0
    assert await migrate(urls) == []
    key = ContextKey(ANN, "c")
    async with AsyncExitStack() as closing:
        for order in (urls, urls[::-1]):
            store = await open_store(order)
            closing.push_async_callback(store.close)
            assert isinstance(store, ShardedStore)
            await store.submit(key, message("m"), None)
            assert await store.find_event(key, "m") is not None
        assert len((await store.list_contexts(ANN, None, ALL))[0]) == 1
    with pytest.raises(StoreUrlError, match="at place 2"):
        await open_store([urls[0], urls[0]])


# ---- a shard that is away


async def test_only_what_needs_the_shard_that_is_away_is_unavailable(parts: Parts) -> None:
    there, away = parts.contexts_on(0)[0], parts.contexts_on(1)[0]
    for key in (there, away):
        await parts.whole.submit(key, message("m"), None)
    await parts.stores[1].close()
    assert await parts.whole.find_event(there, "m") is not None
    assert (await parts.whole.submit(there, message("m2"), None)).duplicate is False
    with pytest.raises(Unavailable):
        await parts.whole.find_event(away, "m")
    for refused in (
        parts.whole.list_contexts(ANN, None, ALL),
        parts.whole.search(ANN, "tide", None, ALL),
        parts.whole.contexts_after(ANN, "", ALL),
        parts.whole.usage("t", ANN, "2026-01-01", "2026-12-31", "day", None, ALL),
        parts.whole.list_keys(),
        parts.whole.keys_of("t", "ann"),
        parts.whole.scrub(),
    ):
        with pytest.raises(Unavailable):
            await refused


async def test_recovery_goes_on_for_the_others(parts: Parts) -> None:
    for number in range(3):
        await running(parts.whole, parts.contexts_on(number)[0])
        await parts.whole.submit(parts.contexts_on(number)[1], message("stray"), None)
    await parts.stores[1].close()
    with capture_logs() as logs:
        for _ in range(3):
            turns = {turn.key for turn in await parts.whole.turns_to_run([], ALL)}
            assert turns == {parts.contexts_on(number)[0] for number in (0, 2)}
            strays = set(await parts.whole.stray_contexts(ALL))
            assert strays == {parts.contexts_on(number)[1] for number in (0, 2)}
    assert [(entry["event"], entry["shard"]) for entry in logs] == [("shard away", 2)]


async def test_one_shard_with_many_strays_keeps_none_from_being_looked_at(parts: Parts) -> None:
    for key in (*parts.contexts_on(0)[:8], parts.contexts_on(1)[0], parts.contexts_on(2)[0]):
        await parts.whole.submit(key, message("m"), None)
    strays = await parts.whole.stray_contexts(4)
    assert {parts.contexts_on(1)[0], parts.contexts_on(2)[0]} < set(strays)


async def test_a_check_asks_for_one_shard_that_is_there(parts: Parts) -> None:
    await parts.whole.check()
    for store in parts.stores[1:]:
        await store.close()
    await parts.whole.check()
    await parts.stores[0].close()
    with pytest.raises(Unavailable):
        await parts.whole.check()


async def test_a_session_is_found_unless_it_may_be_on_the_shard_that_is_away(parts: Parts) -> None:
    session = SessionRecord(id="s", owner=parts.owner_on(0), attempt=1, expires_at=50, holder="one/1")
    await parts.whole.take_session(session, 10)
    await parts.stores[1].close()
    assert await parts.whole.get_session("s", 10) == session
    with pytest.raises(Unavailable):
        await parts.whole.get_session("unknown", 10)
    with pytest.raises(Unavailable):
        await parts.whole.leave_session("s", "one/1")
    left = await parts.whole.get_session("s", 10)
    assert left is not None
    assert left.holder is None


async def test_a_key_is_revoked_unless_it_may_be_on_the_shard_that_is_away(parts: Parts) -> None:
    await parts.whole.add_key(parts.key_on(0))
    await parts.stores[1].close()
    assert await parts.whole.revoke_key("k0", 9) is True
    with pytest.raises(Unavailable):
        await parts.whole.revoke_key("unknown", 9)
    with pytest.raises(Unavailable):
        await parts.whole.revoke_key("k0", 10)


async def test_a_deletion_that_fails_half_way_is_done_again(parts: Parts, tmp_path: Path) -> None:
    owner = parts.owner_on(1)
    key = parts.contexts_on(0, owner)[0]
    session = SessionRecord(id="s", owner=owner, attempt=1, expires_at=50, contexts=(key.id, "other"))
    await parts.whole.put_session(session)
    await parts.whole.create_context(key, None, None)
    again = await SqliteStore.open(tmp_path / "shard0.db")
    await parts.stores[0].close()  # where the context is; its owner's sessions are elsewhere
    with pytest.raises(Unavailable):
        await parts.whole.delete_context(key)
    whole = ShardedStore(dict(zip(NAMES, [again, *parts.stores[1:]], strict=True)))
    assert await whole.get_context(key) is not None
    assert await whole.delete_context(key) is True
    assert [found.contexts for found in await whole.all_sessions(owner)] == [("other",)]
    await again.close()


async def test_closing_closes_all(parts: Parts) -> None:
    await parts.whole.close()
    for shard in parts.stores:
        with pytest.raises(Unavailable):
            await shard.check()
