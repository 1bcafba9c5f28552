"""What is kept of conversations where several instances keep it: never stale, and read from the store only where it
must be."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import cast

import pytest

from gateway.active_context import ActiveContext
from gateway.active_contexts import ActiveContexts
from gateway.core.stored_turn import StoredTurn
from gateway.stored_events import new_event
from protocol.frames import DurableEvent, Message, TurnEnd, Usage
from stores.memory_threads import MemoryThreadCache
from stores.ports import ContextStore, NotFound, Unavailable
from stores.records import Claimed, ContextKey, EventRow, NewEvent, NewTurn, Summary, ThreadRows
from stores.sqlite import SqliteStore
from tests.gateway.test_active_contexts import KEY, Counting, ids, say

NO_USAGE = Usage(input_tokens=0, output_tokens=0)


class Cache(MemoryThreadCache):
    """`away`: it can't be asked."""

    away = False

    def _look(self) -> None:
        if self.away:
            raise Unavailable("away")

    async def load(self, key: ContextKey) -> tuple[ThreadRows, int] | None:
        self._look()
        return await super().load(key)

    async def save(self, key: ContextKey, rows: ThreadRows, newest: int) -> None:
        self._look()
        await super().save(key, rows, newest)

    async def extend(self, key: ContextKey, born: int, rows: Sequence[EventRow], before: int, newest: int) -> bool:
        self._look()
        return await super().extend(key, born, rows, before, newest)

    async def forget(self, key: ContextKey) -> None:
        self._look()
        await super().forget(key)


class World:
    """Two instances; `reads` are of conversations, from the store."""

    def __init__(self, store: Counting) -> None:
        self.store = store
        self.cache = Cache()
        port = cast("ContextStore", store)
        self.one, self.two = (ActiveContexts(port, 1 << 20, self.cache) for _ in range(2))
        self.alone = ActiveContexts(port, 1 << 20)
        self._turns = 0

    @property
    def reads(self) -> int:
        return self.store.calls["thread"] + self.store.calls["older"]

    async def begin(self, *, role: str = "user") -> tuple[str, StoredTurn]:
        self._turns += 1
        id = f"t{self._turns}"
        asked = _message(id, id, role)
        await self.store.submit(KEY, asked, NewTurn(id=id, kind="message", request=b"{}"))
        claimed = await self.store.claim(KEY, id, "inst", 0)
        assert claimed is not None
        return id, StoredTurn(claimed)

    async def write(self, id: str, stored: StoredTurn, name: str) -> None:
        rows = [_message(f"{id}/{name}", id, "assistant")]
        stored.wrote(id, rows, await self.store.write(KEY, id, 1, rows))

    async def end(self, contexts: ActiveContexts, id: str, stored: StoredTurn) -> None:
        end = TurnEnd(context_id=KEY.id, turn_id=id, status="complete", steps=1, usage=NO_USAGE)
        rows = [_message(f"{id}/a", id, "assistant"), _event(end)]
        stored.wrote(id, rows, await self.store.end_turn(KEY, id, 1, rows, 1 << 62))
        await self._done()
        await contexts.turn_over(KEY, stored)

    async def _done(self) -> None:
        """All that is stored has its seq, so that another turn may begin."""
        record = await self.store.get_context(KEY)
        seqs = {row.id: row.order for row, _ in await self.store.unsequenced(KEY)}
        assert await self.store.record(KEY, record.epoch, seqs) is not None

    async def turn(self, contexts: ActiveContexts) -> ActiveContext:
        """A whole turn on this instance; what it had at its step is what a cold read gives."""
        id, stored = await self.begin()
        active = await contexts.get(KEY, stored)
        await self.check(active, id)
        await self.end(contexts, id, stored)
        return active

    async def check(self, active: ActiveContext, id: str) -> None:
        before = self.store.calls.copy()
        cold = ActiveContexts(cast("ContextStore", self.store), 1 << 20)
        read = await cold.get(KEY)
        assert _inputs(active, id) == _inputs(read, id)
        assert active.settings == read.settings
        assert active.pins == read.pins
        assert active.summaries.keys() == read.summaries.keys()
        self.store.calls = before


def _inputs(active: ActiveContext, id: str) -> list[object]:
    return [item for node in list(active.thread.path(id))[::-1] for item in node.inputs]


def _event(event: DurableEvent) -> NewEvent:
    return new_event(event)


def _message(id: str, turn_id: str | None, role: str) -> NewEvent:
    text = f"{role} says {id}"
    return new_event(
        Message(
            context_id=KEY.id,
            turn_id=turn_id,
            id=id,
            content=text,
            role=role,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            timestamp="now",
            status="complete",
        )
    )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    store = await SqliteStore.open(tmp_path / "store.db")
    yield World(Counting(store))
    await store.close()


async def test_one_that_is_warm_needs_no_read(world: World) -> None:
    await world.turn(world.alone)
    assert world.reads == 1
    for _ in range(3):
        id, stored = await world.begin()
        for step in range(3):
            await world.check(await world.alone.get(KEY, stored), id)
            await world.write(id, stored, f"step{step}")
        await world.end(world.alone, id, stored)
    assert world.reads == 1


async def test_two_that_take_turns_need_no_read_from_the_second_on(world: World) -> None:
    for number in range(8):
        await world.turn((world.one, world.two)[number % 2])
    assert world.reads == 1


async def test_one_that_is_new_goes_on_from_what_the_others_left(world: World) -> None:
    for _ in range(4):
        await world.turn(world.one)
    fresh = ActiveContexts(cast("ContextStore", world.store), 1 << 20, world.cache)
    await world.turn(fresh)
    assert world.reads == 1


async def test_what_each_loaded_of_a_long_conversation_is_kept_when_it_goes_on_elsewhere(world: World) -> None:
    await say(world.store, *[f"m{n}" for n in range(450)])
    for number in range(6):
        contexts = (world.one, world.two)[number % 2]
        id, stored = await world.begin()
        active = await contexts.get(KEY, stored)
        while not active.thread.reaches:
            await contexts.load_older(active)
        assert len(ids(active, id)) == 451 + number
        await world.end(contexts, id, stored)
    assert world.store.calls["thread"] == 1
    assert world.store.calls["older"] == 4  # each once, as far back as it wanted


async def test_a_step_that_was_learnt_between_is_read(world: World) -> None:
    async def aside() -> None:
        await say(world.store, "aside")

    async def summarise() -> None:
        active = await world.alone.get(KEY)
        summary = Summary(turn_id="t1", first_id="t1", turns=1, text="They met.")
        assert await world.store.put_summary(KEY, summary, active.record.born)

    async def change() -> None:
        told = NewEvent(id="x1", type="context", body=b'{"type":"context","context_id":"chat"}')
        await world.store.update_context(KEY, "T", None, told, settings=b'{"system":"be kind"}', pins=["t1"])

    async def rules() -> None:
        await world.store.submit(KEY, _message("rule", None, "system"), None)

    for between in (aside, summarise, change, rules):
        for contexts in (world.one, world.two):
            await world.turn(contexts)
        await between()
        before = world.reads
        await world.turn(world.one)
        assert world.reads == before + 1, between.__name__
        # The other one finds what was read.
        await world.turn(world.two)
        await world.turn(world.one)
        assert world.reads == before + 1, between.__name__


async def test_what_comes_between_the_steps_of_a_turn_is_read(world: World) -> None:
    await world.turn(world.one)
    id, stored = await world.begin()
    await world.one.get(KEY, stored)
    await say(world.store, "aside")
    await world.write(id, stored, "step")
    before = world.reads
    await world.check(await world.one.get(KEY, stored), id)
    assert world.reads == before + 1
    await world.write(id, stored, "more")
    await world.check(await world.one.get(KEY, stored), id)
    assert world.reads == before + 1


async def test_a_turn_that_the_operator_began_is_read_since_it_is_pinned(world: World) -> None:
    await world.turn(world.one)
    id, stored = await world.begin(role="system")
    active = await world.one.get(KEY, stored)
    assert {pin.id for pin in active.pins} == {id}
    await world.check(active, id)


@pytest.mark.parametrize("warm", [True, False])
async def test_a_context_that_was_deleted_and_made_again_is_never_the_old_one(world: World, *, warm: bool) -> None:
    for _ in range(3):
        await world.turn(world.one)
    await world.store.delete_context(KEY)  # and nobody was told
    if not warm:
        world.one.forget(KEY)
    world._turns = 0  # pyright: ignore[reportPrivateUsage] - the same ids, and the same orders
    active = await world.turn(world.one)
    assert ids(active, "t1") == ["t1"]
    await world.turn(world.two)
    await world.turn(world.one)


async def test_what_the_others_find_of_a_deleted_one_is_forgotten(world: World) -> None:
    await world.turn(world.one)
    await world.one.deleted(KEY)
    assert len(world.one) == 0
    assert await world.cache.load(KEY) is None
    world.cache.away = True
    with pytest.raises(Unavailable):
        await world.one.deleted(KEY)
    await world.store.delete_context(KEY)
    with pytest.raises(NotFound):
        await world.one.get(KEY)


async def test_a_cache_that_is_lost_costs_one_read(world: World) -> None:
    for number in range(10):
        if number == 5:
            await world.cache.forget(KEY)
        await world.turn((world.one, world.two)[number % 2])
    assert world.reads == 2


async def test_one_that_is_old_is_seen_to_be_so(world: World) -> None:
    await world.turn(world.one)
    old = await world.cache.load(KEY)
    assert old is not None
    await world.turn(world.one)
    await world.cache.save(KEY, *old)
    before = world.reads
    await world.turn(world.two)
    assert world.reads == before + 1
    await world.turn(world.one)
    assert world.reads == before + 1


async def test_a_cache_that_is_away_costs_reads_and_nothing_else(world: World) -> None:
    await world.turn(world.one)
    world.cache.away = True
    for number in range(4):
        await world.turn((world.one, world.two)[number % 2])
    await world.one.get(KEY)
    world.cache.away = False
    for number in range(4):
        await world.turn((world.one, world.two)[number % 2])
    before = world.reads
    for number in range(4):
        await world.turn((world.one, world.two)[number % 2])
    assert world.reads == before


async def test_a_runner_that_does_not_know_how_far_its_context_is_reads(world: World) -> None:
    await world.turn(world.one)
    id, stored = await world.begin()
    stored.born = -1  # as after a claim whose reply was lost
    before = world.reads
    await world.check(await world.one.get(KEY, stored), id)
    assert world.reads == before + 1
    await world.end(world.one, id, stored)


async def test_a_turn_that_ends_after_the_next_has_begun_loses_nothing(world: World) -> None:
    await world.turn(world.one)
    first, stored = await world.begin()
    await world.one.get(KEY, stored)
    over: list[StoredTurn] = []

    class Later(ActiveContexts):
        async def turn_over(self, key: ContextKey, stored: StoredTurn) -> None:
            over.append(stored)

    await world.end(Later(cast("ContextStore", world.store)), first, stored)
    second, following = await world.begin()
    await world.check(await world.one.get(KEY, following), second)
    await world.one.turn_over(KEY, over[0])
    await world.end(world.one, second, following)
    await world.turn(world.two)
    await world.turn(world.one)


async def test_nothing_is_left_of_what_is_not_loaded(world: World) -> None:
    _, stored = await world.begin()
    await world.one.turn_over(KEY, stored)
    assert len(world.one) == len(world.cache) == 0


async def test_a_read_anew_takes_nothing_from_who_is_at_work(world: World) -> None:
    """What follows a turn may look while the next one waits for a page of what came before."""
    first, stored = await world.begin()
    await world.end(world.one, first, stored)
    second, following = await world.begin()
    active = await world.one.get(KEY, following)
    active.cuts["m"] = None
    await world.write(second, StoredTurn(await _claimed(world, second)), "a")
    await world.write(second, following, "b")
    again = await world.one.get(KEY, following)  # which does not know of all before it
    assert again is not active
    assert again.cuts is active.cuts
    assert [node.id for node in active.thread.path(second)] == [second, first]
    assert [node.id for node in again.thread.path(second)] == [second, first]


async def _claimed(world: World, id: str) -> Claimed:
    rows = await world.store.load_turn(KEY, id)
    assert rows is not None
    return Claimed(rows=rows, newest=-1, born=-1)
