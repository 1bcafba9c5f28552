"""The contract of EventLog (stores/ports/log.py): every adapter passes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from gateway.servers.valkey import ValkeyServer
from protocol.codec import decode_event, encode
from protocol.frames import (
    Delta,
    ToolCall,
    ToolProgress,
    ToolResponse,
    TurnEnd,
    Usage,
)
from stores.memory import MemoryLog
from stores.ports import EpochOver, EventLog, StaleFence, StoreError
from stores.records import ContextKey, Entry, Head, LogBatch, LogEvent, OpenMessage, Progress, Publication
from stores.redis_hot import RedisHot
from tests.servers.hot import running
from tests.servers.valkey import fresh_prefix
from tests.stores.log_events import A, append, batch, live, said, start, text
from tests.stores.received import Received

B = ContextKey("t/s", "conv_b")
NO_USAGE = Usage(input_tokens=0, output_tokens=0)
ALL = 1 << 20

OpenLog = Callable[[int], AbstractAsyncContextManager[EventLog]]
"""Opens an empty log that keeps so many bytes of a context's tail."""


@asynccontextmanager
async def memory_log(max_bytes: int) -> AsyncGenerator[EventLog]:
    yield MemoryLog(max_bytes=max_bytes)


@pytest.fixture(params=["memory", "valkey"])
def open_log(request: pytest.FixtureRequest) -> OpenLog:
    if request.param == "memory":
        return memory_log
    server: ValkeyServer = request.getfixturevalue("valkey")

    @asynccontextmanager
    async def valkey_log(max_bytes: int) -> AsyncGenerator[EventLog]:
        async with running(RedisHot(server.url, prefix=fresh_prefix(), max_bytes=max_bytes)) as hot:
            yield hot.log

    return valkey_log


@pytest.fixture
async def log(open_log: OpenLog) -> AsyncGenerator[EventLog]:
    async with open_log(1 << 20) as opened:
        yield opened


async def refused(log: EventLog, refused_batch: LogBatch) -> StoreError:
    (answer,) = await log.append([refused_batch])
    assert isinstance(answer, StoreError)
    return answer


async def read(log: EventLog, after: int = 0, limit: int = ALL, epoch: int = 1) -> list[Entry]:
    entries = await log.read(A, epoch, after, limit)
    assert entries is not None
    return entries


# ---- beginning


async def test_a_context_that_nobody_wrote_has_no_log(log: EventLog) -> None:
    assert await log.head(A) is None
    assert await log.fold(A) is None
    assert await log.read(A, 1, 0, ALL) is None
    assert await log.ids(A, 1, 9) is None
    assert isinstance(await refused(log, batch(said("u1"))), EpochOver)


async def test_a_log_begins_after_its_base(log: EventLog) -> None:
    assert await log.begin(A, 3, 40)
    assert await log.head(A) == Head(3, 40)
    assert await append(log, said("u1"), epoch=3) == {"u1": 41}
    assert await log.head(A) == Head(3, 41)


async def test_a_log_begins_only_over_an_older_epoch(log: EventLog) -> None:
    await log.begin(A, 2, 0)
    await append(log, said("u1"), epoch=2)
    assert not await log.begin(A, 2, 7)
    assert not await log.begin(A, 1, 7)
    assert await log.head(A) == Head(2, 1)
    assert await log.begin(A, 3, 1)
    assert await log.head(A) == Head(3, 1)
    fold = await log.fold(A)
    assert fold is not None
    assert (fold.epoch, fold.seq, dict(fold.ids), list(fold.open)) == (3, 1, {}, [])


async def test_an_epoch_that_is_over_takes_and_gives_nothing(log: EventLog) -> None:
    await log.begin(A, 1, 0)
    await append(log, said("u1"))
    await log.begin(A, 2, 1)
    assert isinstance(await refused(log, batch(said("u2"), epoch=1)), EpochOver)
    assert isinstance(await refused(log, batch(said("u2"), epoch=3)), EpochOver)
    assert await log.read(A, 1, 0, ALL) is None
    assert await log.ids(A, 1, 9) is None
    assert await log.head(A) == Head(2, 1)


async def test_what_was_dropped_is_gone(log: EventLog) -> None:
    await log.begin(A, 1, 0)
    await append(log, said("u1"))
    await log.drop(A)
    await log.drop(B)
    assert await log.head(A) is None
    assert await log.begin(A, 2, 0)


async def test_heads_of_many_logs_come_in_the_order_asked(log: EventLog) -> None:
    await log.begin(A, 3, 40)
    assert await log.heads([B, A, A]) == [None, Head(3, 40), Head(3, 40)]
    assert await log.heads([]) == []
    await log.check()


# ---- appending


async def test_seqs_have_no_gap_and_stand_in_the_frames(log: EventLog) -> None:
    await log.begin(A, 1, 0)
    assert await append(log, said("u1"), start(), text("a")) == {"u1": 1}
    assert await append(log, text("b"), said("m1")) == {"m1": 5}
    entries = await read(log)
    assert [(entry.seq, entry.first) for entry in entries] == [(n, n) for n in range(1, 6)]
    assert [decode_event(entry.data).seq for entry in entries] == [1, 2, 3, 4, 5]


async def test_a_durable_event_is_appended_once(log: EventLog) -> None:
    await log.begin(A, 1, 0)
    assert await append(log, said("u1")) == {"u1": 1}
    assert await append(log, said("u2"), said("u1"), said("u3")) == {"u1": 1, "u2": 2, "u3": 3}
    assert await append(log, said("u1")) == {"u1": 1}
    assert await log.head(A) == Head(1, 3)


async def test_a_batch_that_is_sent_again_is_answered_as_before(log: EventLog) -> None:
    await log.begin(A, 1, 0)
    again = batch(said("u1"), text("a"), writer="w")
    first = await log.append([again])
    await append(log, text("b"))
    assert await log.append([again]) == first == [{"u1": 1}]
    assert await log.head(A) == Head(1, 3)


async def test_batches_of_many_contexts_are_answered_in_order(log: EventLog) -> None:
    await log.begin(A, 1, 0)
    await log.begin(B, 5, 10)
    answers = await log.append(
        [
            batch(said("u1")),
            batch(said("x1"), key=B, epoch=4),
            batch(said("x1"), key=B, epoch=5),
            batch(said("u2")),
        ]
    )
    assert answers[0] == {"u1": 1}
    assert isinstance(answers[1], EpochOver)
    assert answers[2:] == [{"x1": 11}, {"u2": 2}]
    assert await log.append([]) == []


async def test_a_stale_fence_is_refused_whatever_it_brings(log: EventLog) -> None:
    await log.begin(A, 1, 0)
    assert await log.append([batch(text("a"), turn="t1", fence=1)]) == [{}]
    assert await log.append([batch(turn="t1", fence=2)]) == [{}]
    assert isinstance(await refused(log, batch(text("late"), turn="t1", fence=1)), StaleFence)
    assert isinstance(await refused(log, batch(turn="t1", fence=1)), StaleFence)
    assert await log.append([batch(text("b"), turn="t1", fence=2)]) == [{}]
    assert await log.append([batch(text("c"), turn="t2", fence=1)]) == [{}]
    assert await log.append([batch(text("d"))]) == [{}]
    assert [entry.seq for entry in await read(log)] == [1, 2, 3, 4]


async def test_a_batch_that_was_taken_is_answered_also_when_its_fence_is_stale_by_now(log: EventLog) -> None:
    await log.begin(A, 1, 0)
    taken = batch(said("m1"), turn="t1", fence=1)
    await log.append([taken])
    await log.append([batch(turn="t1", fence=2)])
    assert await log.append([taken]) == [{"m1": 1}]


async def test_concurrent_writers_share_no_seq(log: EventLog) -> None:
    await log.begin(A, 1, 0)
    answers = await asyncio.gather(*(log.append([batch(said(f"u{n}"), text("x"))]) for n in range(20)))
    seqs = [seq for (answer,) in answers if isinstance(answer, dict) for seq in answer.values()]
    assert sorted(seqs) == list(range(1, 40, 2))
    assert [entry.seq for entry in await read(log)] == list(range(1, 41))


# ---- reading


async def test_reading_goes_on_after_a_seq(log: EventLog) -> None:
    await log.begin(A, 1, 10)
    await append(log, *(text(str(n)) for n in range(4)))
    assert [entry.seq for entry in await read(log, 12)] == [13, 14]
    assert await read(log, 14) == []
    assert await log.read(A, 1, 9, ALL) is None
    assert await log.read(A, 1, 15, ALL) is None


async def test_a_read_is_bounded_in_bytes_but_gives_one_at_least(log: EventLog) -> None:
    await log.begin(A, 1, 0)
    await append(log, *(text("x" * 100) for _ in range(4)))
    assert [entry.seq for entry in await read(log, 0, 1)] == [1]
    size = len((await read(log, 0, 1))[0].data)
    assert [entry.seq for entry in await read(log, 1, size + 1)] == [2, 3]


async def test_the_tail_is_bounded_and_the_fold_needs_none_of_it(open_log: OpenLog) -> None:
    async with open_log(2000) as log:
        await log.begin(A, 1, 0)
        await append(log, start())
        for n in range(50):
            await append(log, text(f"<{n}>" + "x" * 50))
        assert await log.read(A, 1, 0, ALL) is None
        assert await read(log, 51) == []
        newest = await read(log, 48)
        assert [entry.seq for entry in newest] == [49, 50, 51]
        fold = await log.fold(A)
        assert fold is not None
        assert fold.open[0].text == "".join(f"<{n}>" + "x" * 50 for n in range(50))


async def test_one_entry_larger_than_the_tail_can_be_read(open_log: OpenLog) -> None:
    async with open_log(100) as log:
        await log.begin(A, 1, 0)
        await append(log, text("a"))
        await append(log, text("x" * 1000))
        assert [entry.seq for entry in await read(log, 1)] == [2]


# ---- the fold


async def test_the_fold_holds_what_is_open_and_running(log: EventLog) -> None:
    await log.begin(A, 1, 0)
    call = ToolCall(
        context_id="conv_a", id="c1", tool="t", parameters={}, timestamp="now", runs_on="server", turn_id="t1"
    )
    why = Delta(context_id="conv_a", turn_id="t1", message_id="m1", text="why", channel="reasoning")
    progress = [ToolProgress(context_id="conv_a", tool_call_id="c1", progress=n, total=3, message="on") for n in (1, 2)]
    await append(log, start(), text("a"), live(why), text("b"), text("x", "unknown"))
    await append(log, LogEvent(event=call, body=encode(call), id="c1"), *map(live, progress))
    fold = await log.fold(A)
    assert fold is not None
    assert (fold.epoch, fold.seq, dict(fold.ids)) == (1, 8, {"c1": 6})
    opened = OpenMessage(message_id="m1", turn_id="t1", model="m", attempt=1, text="ab", reasoning="why")
    assert list(fold.open) == [opened]
    assert dict(fold.progress) == {"c1": Progress(call_id="c1", progress=2, total=3, message="on")}
    answer = ToolResponse(
        context_id="conv_a", id="r1", tool_call_id="c1", result=1, status="success", timestamp="now", turn_id="t1"
    )
    await append(log, LogEvent(event=answer, body=encode(answer), id="r1"), said("m1"))
    closed = await log.fold(A)
    assert closed is not None
    assert (list(closed.open), dict(closed.progress)) == ([], {})
    assert list(fold.open) == [opened]  # what was handed out does not change


async def test_another_attempt_drops_the_text_before_it(log: EventLog) -> None:
    await log.begin(A, 1, 0)
    await append(log, start(), text("bad"), start(attempt=2), text("good"))
    fold = await log.fold(A)
    assert fold is not None
    assert [(opened.attempt, opened.text) for opened in fold.open] == [(2, "good")]


async def test_a_turn_that_ends_leaves_no_message_of_it_open(log: EventLog) -> None:
    await log.begin(A, 1, 0)
    end = TurnEnd(context_id="conv_a", turn_id="t1", status="failed", steps=0, usage=NO_USAGE)
    await append(log, start("m1"), start("m2", turn="t2"), LogEvent(event=end, body=encode(end), id="t1/end"))
    fold = await log.fold(A)
    assert fold is not None
    assert [opened.message_id for opened in fold.open] == ["m2"]


# ---- what the store does not know yet


async def test_ids_are_those_that_were_not_recorded(log: EventLog) -> None:
    await log.begin(A, 1, 0)
    await append(log, said("u1"), text("a"), said("u2"), said("u3"))
    assert await log.ids(A, 1, 3) == {"u1": 1, "u2": 3}
    await log.recorded(A, 1, 1)
    assert await log.ids(A, 1, 9) == {"u2": 3, "u3": 4}
    await log.recorded(A, 1, 4)
    await log.recorded(A, 1, 2)  # late: what was recorded stays so
    await log.recorded(A, 2, 9)  # of another epoch
    await log.recorded(B, 1, 9)  # of no log
    assert await log.ids(A, 1, 9) == {}
    fold = await log.fold(A)
    assert fold is not None
    assert dict(fold.ids) == {"u1": 1, "u2": 3, "u3": 4}
    assert await append(log, said("u2")) == {"u2": 3}


# ---- following


async def test_followers_are_handed_every_batch_in_order(log: EventLog) -> None:
    await log.begin(A, 1, 0)
    await log.begin(B, 1, 0)
    await append(log, text("before"))
    received = Received[Publication]()
    stop = await log.follow(A, received)
    await append(log, said("u1"), text("a"))
    await append(log, said("x1"), key=B)
    await append(log, said("u1"))  # known: nothing new
    await append(log, text("b"))
    publications = await received.reach(2)
    assert [(p.key, p.epoch, [entry.seq for entry in p.entries]) for p in publications] == [
        (A, 1, [2, 3]),
        (A, 1, [4]),
    ]
    assert [entry for p in publications for entry in p.entries] == await read(log, 1)
    await stop()
    await append(log, text("c"))
    assert len(received.items) == 2


async def test_followers_do_not_disturb_each_other(log: EventLog) -> None:
    await log.begin(A, 1, 0)
    one = Received[Publication]()
    other = Received[Publication]()
    stop = await log.follow(A, one)
    await log.follow(A, other)
    await append(log, text("a"))
    await one.reach(1)
    await stop()
    await stop()
    await append(log, text("b"))
    await other.reach(2)
    assert (len(one.items), len(other.items)) == (1, 2)


async def test_a_follower_stays_when_the_log_begins_anew(log: EventLog) -> None:
    await log.begin(A, 1, 0)
    received = Received[Publication]()
    await log.follow(A, received)
    await append(log, text("a"))
    await received.reach(1)
    await log.drop(A)
    await log.begin(A, 2, 1)
    await append(log, text("b"), epoch=2)
    assert [p.epoch for p in await received.reach(2)] == [1, 2]
