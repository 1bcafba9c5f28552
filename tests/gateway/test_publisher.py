from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from gateway.outbox import live
from gateway.publisher import Publisher
from protocol.frames import Delta
from stores.memory import MemoryLog
from stores.ports import StaleFence, StoreError, Unavailable
from stores.records import ContextKey, LogBatch
from tests.virtual_time import run_virtually

KEY = ContextKey("t/s", "c")


class Log(MemoryLog):
    """Notes what it is asked, and when; `away` is how often it will be away."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[LogBatch]] = []
        self.times: list[float] = []
        self.away = 0
        self.refuse: set[str] = set()
        self.unavailable: set[str] = set()

    async def append(self, batches: Sequence[LogBatch]) -> list[dict[str, int] | StoreError]:
        self.asked.append(list(batches))
        self.times.append(asyncio.get_running_loop().time())
        if self.away:
            self.away -= 1
            raise Unavailable("away")
        answers: list[dict[str, int] | StoreError] = []
        for batch in batches:
            if batch.writer in self.refuse:
                answers.append(StaleFence())
            elif batch.writer in self.unavailable:
                self.unavailable.discard(batch.writer)
                answers.append(Unavailable("this one"))
            else:
                answers += await super().append([batch])
        return answers


class Turn:
    """A source with so many batches, all of them waiting."""

    def __init__(self, name: str, batches: int = 1) -> None:
        self.waiting = [
            LogBatch(
                key=KEY,
                epoch=1,
                writer=f"{name}/{number}",
                events=[live(Delta(context_id="c", message_id="m", text=name))],
            )
            for number in range(batches)
        ]
        self.refusals: list[StoreError] = []
        self.done = asyncio.Event()

    def take(self) -> LogBatch | None:
        return self.waiting[0] if self.waiting else None

    def appended(self, batch: LogBatch, seqs: dict[str, int]) -> bool:
        assert self.waiting.pop(0) is batch
        if not self.waiting:
            self.done.set()
        return bool(self.waiting)

    def refused(self, batch: LogBatch, reason: StoreError) -> None:
        self.waiting.remove(batch)
        self.refusals.append(reason)
        self.done.set()


def publishing(test: Callable[[Log, Publisher], Awaitable[None]], delay: float = 0.0) -> None:
    async def main() -> None:
        log = Log()
        await log.begin(KEY, 1, 0)
        publisher = Publisher(log, delay)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(publisher.run())
            await test(log, publisher)
            running.cancel()

    run_virtually(main())


def writers(asked: list[list[LogBatch]]) -> list[list[str]]:
    return [[batch.writer for batch in batches] for batches in asked]


def test_what_comes_up_in_one_tick_leaves_as_one_append() -> None:
    async def test(log: Log, publisher: Publisher) -> None:
        turns = [Turn("a"), Turn("b"), Turn("c")]
        for turn in turns:
            publisher.mark(turn)
            publisher.mark(turn)
        for turn in turns:
            await turn.done.wait()
        assert writers(log.asked) == [["a/0", "b/0", "c/0"]]

    publishing(test)


def test_a_source_with_more_is_asked_again() -> None:
    async def test(log: Log, publisher: Publisher) -> None:
        turn = Turn("a", batches=3)
        publisher.mark(turn)
        await turn.done.wait()
        assert writers(log.asked) == [["a/0"], ["a/1"], ["a/2"]]

    publishing(test)


def test_a_source_with_nothing_costs_no_append() -> None:
    async def test(log: Log, publisher: Publisher) -> None:
        publisher.mark(Turn("a", batches=0))
        await asyncio.sleep(1)
        assert log.asked == []

    publishing(test)


def test_events_are_gathered_for_the_delay() -> None:
    async def test(log: Log, publisher: Publisher) -> None:
        one, other = Turn("a"), Turn("b")
        publisher.mark(one)
        await asyncio.sleep(0.4)
        publisher.mark(other)
        await other.done.wait()
        assert writers(log.asked) == [["a/0", "b/0"]]
        assert log.times == [0.5]

    publishing(test, delay=0.5)


def test_while_the_log_is_away_the_same_batch_is_offered_again_but_not_at_once() -> None:
    async def test(log: Log, publisher: Publisher) -> None:
        log.away = 2
        one, other = Turn("a"), Turn("b")
        publisher.mark(one)
        await asyncio.sleep(0.1)
        publisher.mark(other)
        await other.done.wait()
        assert writers(log.asked) == [["a/0"], ["a/0", "b/0"], ["a/0", "b/0"]]
        assert [round(time, 3) for time in log.times] == [0, 0.2, 0.4]

    publishing(test)


def test_one_context_that_is_away_holds_up_only_itself() -> None:
    async def test(log: Log, publisher: Publisher) -> None:
        log.unavailable = {"a/0"}
        one, other = Turn("a"), Turn("b")
        publisher.mark(one)
        publisher.mark(other)
        await other.done.wait()
        assert not one.done.is_set()
        await one.done.wait()
        assert writers(log.asked) == [["a/0", "b/0"], ["a/0"]]

    publishing(test)


def test_a_refused_batch_is_told_of_and_not_offered_again() -> None:
    async def test(log: Log, publisher: Publisher) -> None:
        log.refuse = {"a/0"}
        one, other = Turn("a"), Turn("b")
        publisher.mark(one)
        publisher.mark(other)
        await one.done.wait()
        await other.done.wait()
        await asyncio.sleep(1)
        assert [type(reason) for reason in one.refusals] == [StaleFence]
        assert writers(log.asked) == [["a/0", "b/0"]]

    publishing(test)
