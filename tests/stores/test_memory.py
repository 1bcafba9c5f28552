"""What only the adapters in process promise: their bounds."""

from __future__ import annotations

from protocol.codec import encode
from protocol.frames import Delta, Message, MessageStart
from stores.memory import MemoryBus, MemoryCache, MemoryLog
from stores.ports import StoreError
from stores.records import ContextKey, LogBatch, LogEvent, Publication
from tests.stores.received import Received


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def key(n: int) -> ContextKey:
    return ContextKey("t/s", f"conv_{n}")


def said(id: str) -> LogEvent:
    event = Message(context_id="c", id=id, content=id, role="user", timestamp="now", status="complete")
    return LogEvent(event=event, body=encode(event), id=id)


async def append(
    log: MemoryLog, n: int, *events: LogEvent, writer: str = "w", turn: str | None = None, fence: int = 0
) -> dict[str, int] | StoreError:
    (answer,) = await log.append(
        [LogBatch(key=key(n), epoch=1, writer=writer, events=events, turn_id=turn, fence=fence)]
    )
    return answer


async def test_a_log_that_nobody_uses_is_dropped_after_its_time() -> None:
    clock = Clock()
    log = MemoryLog(ttl=10, clock=clock)
    await log.begin(key(1), 1, 0)
    await append(log, 1, said("u1"))
    await log.recorded(key(1), 1, 1)
    clock.now = 9
    await log.begin(key(2), 1, 0)
    assert len(log) == 2
    clock.now = 12
    await log.begin(key(3), 1, 0)
    assert await log.head(key(1)) is None
    assert await log.head(key(2)) is not None


async def test_a_log_with_something_to_lose_is_kept() -> None:
    clock = Clock()
    log = MemoryLog(ttl=10, clock=clock)
    start = MessageStart(context_id="c", id="m1", role="assistant", model="m", attempt=1)
    for n in (1, 2, 3, 4):
        await log.begin(key(n), 1, 0)
    await append(log, 1, said("not recorded"))
    await append(log, 2, LogEvent(event=start, body=encode(start)))
    received: list[Publication] = []
    await log.follow(key(3), received.append)
    clock.now = 100
    await log.begin(key(5), 1, 0)
    assert [await log.head(key(n)) is None for n in range(1, 6)] == [False, False, False, True, False]


async def test_a_log_is_not_dropped_by_its_own_beginning() -> None:
    log = MemoryLog(ttl=0, clock=Clock())
    await log.begin(key(1), 1, 0)
    assert await log.head(key(1)) is not None
    await log.begin(key(2), 1, 0)
    assert len(log) == 1


async def test_ids_are_forgotten_an_hour_after_they_were_recorded() -> None:
    clock = Clock()
    log = MemoryLog(clock=clock)
    await log.begin(key(1), 1, 0)
    await append(log, 1, said("u1"), said("u2"))
    await log.recorded(key(1), 1, 2)
    clock.now = 3599
    await append(log, 1, said("u3"), writer="w2")
    await log.recorded(key(1), 1, 3)
    assert await append(log, 1, said("u1"), writer="w3") == {"u1": 1}
    clock.now = 3601
    await append(log, 1, said("u4"), writer="w4")
    await log.recorded(key(1), 1, 4)
    fold = await log.fold(key(1))
    assert fold is not None
    assert dict(fold.ids) == {"u3": 3, "u4": 4}


async def test_writers_and_fences_are_remembered_up_to_a_bound() -> None:
    log = MemoryLog()
    await log.begin(key(1), 1, 0)
    delta = Delta(context_id="c", message_id="m1", text="x")
    for n in range(2000):
        await append(log, 1, LogEvent(event=delta, body=encode(delta)), writer=f"w{n}", turn=f"t{n}", fence=2)
    assert await append(log, 1, writer="w1999", turn="t1999", fence=1) == {}
    assert isinstance(await append(log, 1, writer="new", turn="t1999", fence=1), StoreError)
    assert await append(log, 1, writer="other", turn="t0", fence=1) == {}


async def test_a_cache_is_bounded() -> None:
    cache = MemoryCache(max_items=2)
    for name in ("a", "b", "a", "c"):
        await cache.set(name, name.encode(), 60)
    assert [await cache.get(name) for name in ("a", "b", "c")] == [b"a", None, b"c"]


async def test_a_cache_is_bounded_in_bytes() -> None:
    now = 0.0
    cache = MemoryCache(clock=lambda: now, max_bytes=10)
    for name, size in (("a", 4), ("b", 4), ("a", 5), ("c", 1)):
        await cache.set(name, b"x" * size, 60 if name != "c" else 1)
    assert [len(await cache.get(name) or b"") for name in ("a", "b", "c")] == [5, 4, 1]
    now = 2.0
    # What was taken or has expired counts no more.
    assert await cache.take("b") is not None
    assert await cache.get("c") is None
    assert await cache.add("d", b"x" * 5, 60)
    assert [len(await cache.get(name) or b"") for name in ("a", "d")] == [5, 5]
    await cache.set("e", b"x", 60)
    assert [len(await cache.get(name) or b"") for name in ("a", "d", "e")] == [0, 5, 1]
    await cache.set("f", b"x" * 11, 60)
    assert [await cache.get(name) for name in ("d", "e", "f")] == [None, None, None]


async def test_a_bus_forgets_the_channels_that_nobody_listens_to() -> None:
    bus = MemoryBus()
    stops = [await bus.listen(f"channel {n}", Received[bytes]()) for n in range(3)]
    other = await bus.listen("channel 0", Received[bytes]())
    assert len(bus) == 3
    for stop in stops:
        await stop()
    assert len(bus) == 1
    await other()
    assert len(bus) == 0
