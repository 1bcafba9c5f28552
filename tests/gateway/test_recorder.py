from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from gateway.epochs import log_event
from gateway.recorder import Recorder
from protocol.codec import encode
from protocol.frames import Message
from stores.memory import MemoryLog
from stores.ports import Unavailable
from stores.records import ContextKey, LogBatch, NewEvent, Recorded
from tests.reference_store import ReferenceStore
from tests.virtual_time import run_virtually

KEY, OTHER = ContextKey("t/s", "c"), ContextKey("t/s", "d")


class Store(ReferenceStore):
    """Away so many times; notes what it recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.away = 0
        self.recorded: list[dict[str, int]] = []

    async def record(self, key: ContextKey, epoch: int, seqs: Mapping[str, int]) -> Recorded | None:
        if self.away:
            self.away -= 1
            raise Unavailable("away")
        self.recorded.append(dict(seqs))
        return await super().record(key, epoch, seqs)


class World:
    """A context whose log is in its first life, and a recorder."""

    def __init__(self) -> None:
        self.store = Store()
        self.log = MemoryLog()
        self.recorder = Recorder(self.store, self.log)

    async def begin(self, key: ContextKey = KEY) -> None:
        await self.store.create_context(key, None, None)
        raised = await self.store.raise_epoch(key, 0)
        assert raised is not None
        assert await self.log.begin(key, *raised)

    async def append(self, id: str, key: ContextKey = KEY) -> dict[str, int]:
        """A stored event that the log gives a seq; whoever appended it has noted nothing yet."""
        message = Message(
            context_id=key.id, id=id, content="x", role="user", timestamp="2026-01-01T00:00:00.000Z", status="complete"
        )
        event = NewEvent(id=id, type="message", body=encode(message))
        await self.store.submit(key, event, None)
        batch = LogBatch(key=key, epoch=1, writer=id, events=[log_event(event)])
        (answer,) = await self.log.append([batch])
        assert isinstance(answer, dict)
        return answer

    def seqs(self, key: ContextKey = KEY) -> dict[str, int | None]:
        return {row.id: row.seq for row in self.store.rows(key)}


async def test_a_flush_records_what_was_noted_and_what_others_appended_before() -> None:
    world = World()
    await world.begin()
    await world.append("another instance's")
    world.recorder.note(KEY, 1, await world.append("ours"))
    assert await world.recorder.flush(KEY)
    assert world.seqs() == {"another instance's": 1, "ours": 2}
    assert world.store.recorded == [{"another instance's": 1, "ours": 2}]


async def test_a_flush_records_up_to_the_highest_seq_that_was_noted() -> None:
    world = World()
    await world.begin()
    first, second = await world.append("a"), await world.append("b")
    await world.append("after")
    world.recorder.note(KEY, 1, second)
    world.recorder.note(KEY, 1, first)
    assert await world.recorder.flush(KEY)
    assert world.seqs() == {"a": 1, "b": 2, "after": None}


async def test_what_was_recorded_is_not_recorded_again() -> None:
    world = World()
    await world.begin()
    seqs = await world.append("a")
    world.recorder.note(KEY, 1, seqs)
    assert await world.recorder.flush(KEY)
    world.recorder.note(KEY, 1, seqs)
    assert await world.recorder.flush(KEY)
    assert len(world.store.recorded) == 1


async def test_what_is_being_recorded_is_waited_for_and_its_end_is_told_to_both() -> None:
    world = World()
    await world.begin()
    world.recorder.note(KEY, 1, await world.append("a"))
    first, second = await asyncio.gather(world.recorder.flush(KEY), world.recorder.flush(KEY))
    assert first is second
    assert len(world.store.recorded) == 1
    # What comes after it was recorded is another matter.
    assert await world.recorder.flush(KEY) is not first


async def test_whoever_waits_for_one_that_fails_records_it_again() -> None:
    world = World()
    await world.begin()
    world.recorder.note(KEY, 1, await world.append("a"))
    world.store.away = 1
    first, second = await asyncio.gather(world.recorder.flush(KEY), world.recorder.flush(KEY), return_exceptions=True)
    assert isinstance(first, Unavailable)
    assert not isinstance(second, BaseException)
    assert world.seqs() == {"a": 1}


async def test_nothing_noted_is_nothing_to_do() -> None:
    world = World()
    await world.begin()
    world.recorder.note(KEY, 1, {})
    assert await world.recorder.flush(KEY)
    assert world.store.recorded == []


async def test_of_a_log_that_is_lost_nothing_is_recorded() -> None:
    world = World()
    await world.begin()
    world.recorder.note(KEY, 1, await world.append("a"))
    await world.log.drop(KEY)
    assert not await world.recorder.flush(KEY)
    assert world.seqs() == {"a": None}


async def test_of_an_epoch_that_is_over_in_the_store_nothing_is_recorded() -> None:
    world = World()
    await world.begin()
    world.recorder.note(KEY, 1, await world.append("a"))
    await world.store.raise_epoch(KEY, 1)
    assert not await world.recorder.flush(KEY)
    assert world.seqs() == {"a": None}


async def test_a_store_that_is_away_loses_no_note() -> None:
    world = World()
    await world.begin()
    world.recorder.note(KEY, 1, await world.append("a"))
    world.store.away = 1
    with pytest.raises(Unavailable):
        await world.recorder.flush(KEY)
    assert await world.recorder.flush(KEY)
    assert world.seqs() == {"a": 1}


def test_it_records_within_its_delay_in_one_transaction_a_context() -> None:
    async def main() -> None:
        world = World()
        await world.begin()
        await world.begin(OTHER)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.recorder.run())
            for number in range(5):
                world.recorder.note(KEY, 1, await world.append(f"{number}"))
            world.recorder.note(OTHER, 1, await world.append("other", OTHER))
            await asyncio.sleep(0.29)
            assert world.store.recorded == []
            await asyncio.sleep(0.02)
            assert [len(seqs) for seqs in world.store.recorded] == [5, 1]
            running.cancel()

    run_virtually(main())


def test_it_goes_on_while_the_store_is_away() -> None:
    async def main() -> None:
        world = World()
        await world.begin()
        world.store.away = 3
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.recorder.run())
            world.recorder.note(KEY, 1, await world.append("a"))
            await asyncio.sleep(1.0)
            assert world.seqs() == {"a": None}
            await asyncio.sleep(1.0)
            assert world.seqs() == {"a": 1}
            running.cancel()

    run_virtually(main())
