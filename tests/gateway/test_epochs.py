"""Which epoch a context's log is in, and what is asked to learn it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import pytest

from gateway.epochs import Epochs
from gateway.recorder import Recorder
from protocol.codec import encode
from protocol.frames import Message
from stores.memory import MemoryLog
from stores.ports import ContextStore, EpochOver, NotFound, StoreError, Unavailable
from stores.records import ContextKey, Head, LogBatch, NewEvent
from tests.reference_store import ReferenceStore

KEY = ContextKey("t/s", "c")


class Counting:
    """A store whose calls are counted."""

    def __init__(self, store: ReferenceStore) -> None:
        self._store = store
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            self.calls[name] += 1
            return await getattr(self._store, name)(*args, **options)

        return call


class Log(MemoryLog):
    away = False

    async def head(self, key: ContextKey) -> Head | None:
        if self.away:
            raise Unavailable("away")
        return await super().head(key)

    async def append(self, batches: Sequence[LogBatch]) -> list[dict[str, int] | StoreError]:
        if self.away:
            return [Unavailable("away") for _ in batches]
        return await super().append(batches)


class World:
    def __init__(self) -> None:
        self.kept = ReferenceStore()
        self.log = Log()
        self.store = Counting(self.kept)
        self.one, self.two = self.instance(), self.instance()
        self.notes: list[dict[str, int]] = []

    def instance(self) -> Epochs:
        store = cast("ContextStore", self.store)
        note = Recorder(self.kept, self.log).note

        def noted(key: ContextKey, epoch: int, seqs: dict[str, int]) -> None:
            self.notes.append(seqs)
            note(key, epoch, seqs)

        return Epochs(store, self.log, noted)

    async def store_message(self, id: str) -> NewEvent:
        message = Message(
            context_id=KEY.id, id=id, content=id, role="user", timestamp="2026-01-01T00:00:00.000Z", status="complete"
        )
        event = NewEvent(id=id, type="message", body=encode(message))
        await self.kept.submit(KEY, event, None)
        return event


async def test_only_who_had_to_do_with_a_log_knows_its_epoch() -> None:
    world = World()
    await world.kept.create_context(KEY, None, None)
    assert await world.one.known(KEY) is None
    assert await world.one.current(KEY) == 1
    assert await world.one.known(KEY) == 1
    assert await world.two.known(KEY) is None
    # Who only reads takes what stands.
    world.store.calls.clear()
    assert await world.two.standing(KEY) == 1
    assert world.store.calls == {}
    assert await world.two.known(KEY) is None


async def test_where_no_log_stands_it_is_begun_for_who_only_reads_too() -> None:
    world = World()
    await world.kept.create_context(KEY, None, None)
    assert await world.one.standing(KEY) == 1
    await world.log.drop(KEY)
    assert await world.one.known(KEY) is None
    assert await world.one.standing(KEY) == 2
    with pytest.raises(NotFound):
        await world.one.standing(ContextKey("t/s", "unknown"))
    assert world.one.begun == 2


async def test_what_was_known_of_a_log_that_was_begun_elsewhere_is_known_no_more() -> None:
    world = World()
    await world.kept.create_context(KEY, None, None)
    await world.one.current(KEY)
    await world.log.drop(KEY)
    assert await world.two.current(KEY) == 2
    assert await world.one.known(KEY) is None
    assert await world.one.current(KEY) == 2


async def test_a_log_that_is_away_is_met_before_anything_is_stored() -> None:
    world = World()
    await world.kept.create_context(KEY, None, None)
    world.log.away = True
    for learn in (world.one.known, world.one.standing, world.one.current):
        with pytest.raises(Unavailable):
            await learn(KEY)


async def test_an_event_that_was_stored_after_the_epoch_was_known_is_placed_without_a_read() -> None:
    world = World()
    await world.kept.create_context(KEY, None, None)
    epoch = await world.one.current(KEY)
    world.store.calls.clear()
    for number in range(1, 4):
        event = await world.store_message(f"m{number}")
        placed = await world.one.place(KEY, event, epoch, epoch)
        assert (placed.epoch, placed.seq) == (epoch, number)
    assert world.store.calls == {}
    assert world.notes == [{"m1": 1}, {"m2": 2}, {"m3": 3}]


async def test_where_that_epoch_is_over_the_event_gets_the_seq_of_the_next_one() -> None:
    world = World()
    await world.kept.create_context(KEY, None, None)
    epoch = await world.one.current(KEY)
    event = await world.store_message("m1")
    await world.log.drop(KEY)
    placed = await world.one.place(KEY, event, epoch, epoch)
    # Whoever begins a log appends what has no seq: it is known by then, and not appended again.
    assert (placed.epoch, placed.seq) == (2, 1)
    head = await world.log.head(KEY)
    assert head == Head(2, 1)


async def test_an_event_that_another_one_placed_keeps_its_seq() -> None:
    world = World()
    await world.kept.create_context(KEY, None, None)
    epoch = await world.one.current(KEY)
    event = await world.store_message("m1")
    await world.two.place_row(KEY, "m1")
    placed = await world.one.place(KEY, event, epoch, epoch)
    assert (placed.epoch, placed.seq) == (epoch, 1)
    assert await world.log.head(KEY) == Head(1, 1)
    await world.kept.record(KEY, 1, {"m1": 1})
    assert (await world.one.place(KEY, event)).seq is None


async def test_a_log_that_is_away_or_a_context_that_is_gone_is_told() -> None:
    world = World()
    await world.kept.create_context(KEY, None, None)
    epoch = await world.one.current(KEY)
    event = await world.store_message("m1")
    world.log.away = True
    with pytest.raises(Unavailable):
        await world.one.place(KEY, event, epoch, epoch)
    world.log.away = False
    await world.kept.delete_context(KEY)
    await world.log.drop(KEY)
    with pytest.raises(NotFound):
        await world.one.place(KEY, event, epoch, epoch)


async def test_an_epoch_that_ends_between_its_look_and_the_append_is_learnt_anew() -> None:
    world = World()
    await world.kept.create_context(KEY, None, None)
    await world.one.current(KEY)
    await world.store_message("m1")
    append, first = world.log.append, True

    async def late(batches: Sequence[LogBatch]) -> list[dict[str, int] | StoreError]:
        nonlocal first
        if first:
            first = False
            await world.log.drop(KEY)
            return [EpochOver()]
        return await append(batches)

    world.log.append = late  # type: ignore[method-assign]
    placed = await world.one.place_row(KEY, "m1")
    assert (placed.epoch, placed.seq) == (2, 1)


async def test_many_that_find_no_log_begin_one() -> None:
    world = World()
    await world.kept.create_context(KEY, None, None)
    found = await asyncio.gather(*(each.current(KEY) for each in (world.one, world.two) for _ in range(5)))
    assert set(found) == {max(found)}
    assert await world.log.head(KEY) == Head(max(found), 0)


async def test_one_that_is_begun_while_another_looks_is_not_begun_again() -> None:
    world = World()
    await world.kept.create_context(KEY, None, None)
    get_context = world.kept.get_context

    async def late(key: ContextKey) -> object:
        world.kept.get_context = get_context  # type: ignore[method-assign]
        await world.two.current(KEY)
        return await get_context(key)

    world.kept.get_context = late  # type: ignore[method-assign,assignment]  # pyright: ignore
    assert await world.one.current(KEY) == 1
    assert (world.one.begun, world.two.begun) == (0, 1)
