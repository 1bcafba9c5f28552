"""What a hub finds out without being told: publications that were lost, contexts that are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from gateway.epochs import Epochs
from gateway.hub import Hub
from gateway.recorder import Recorder
from protocol.codec import decode_server
from protocol.frames import ContextChanged
from protocol.ids import Cursor
from stores.memory import MemoryLog
from stores.ports import Follower, Unavailable
from stores.records import ContextKey, Head, Publication
from tests.gateway.test_hub import KEY, Log, Socket, World, hubbing
from tests.reference_store import ReferenceStore
from tests.virtual_time import run_virtually


def deletions(socket: Socket) -> list[int | None]:
    frames = [decode_server(payload) for payload in socket.payloads]
    return [frame.seq for frame in frames if isinstance(frame, ContextChanged) and frame.deleted]


def test_a_last_publication_that_was_lost_is_found_by_comparing() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        await world.follow(socket)
        await world.say("a")
        world.log.losing = True
        await world.say("b")
        world.log.losing = False
        await world.hub.compare()
        await asyncio.sleep(0.1)
        assert (socket.text, socket.snapshots, world.hub.gaps) == ("ab", 1, 1)
        await world.say("c")
        assert (socket.text, world.hub.gaps) == ("abc", 1)

    hubbing(test)


def test_it_compares_by_itself_every_five_seconds() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        await world.follow(socket)
        world.log.losing = True
        await world.say("b")
        await asyncio.sleep(5.5)
        assert socket.text == "b"

    hubbing(test)


def test_a_log_that_is_away_is_compared_with_when_it_is_back() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        await world.follow(socket)
        world.log.losing = True
        await world.say("b")
        world.log.away = True
        await asyncio.sleep(11)
        assert socket.text == ""
        world.log.away = False
        await asyncio.sleep(5.5)
        assert socket.text == "b"

    hubbing(test)


def test_what_is_on_its_way_is_not_taken_for_lost() -> None:
    async def test(world: World) -> None:
        socket, late = Socket(), list[Publication]()
        reader = await world.follow(socket)
        listen = world.hub._listener(reader.feed)  # pyright: ignore[reportPrivateUsage]
        stop = await MemoryLog.follow(world.log, KEY, late.append)
        world.log.losing = True
        await world.say("b")
        comparing = asyncio.create_task(world.hub.compare())
        await asyncio.sleep(0.1)
        listen(late[0])
        await comparing
        await asyncio.sleep(1)
        assert (socket.text, world.hub.gaps, world.log.reads) == ("b", 0, 0)
        await stop()

    hubbing(test)


def test_a_publication_without_entries_makes_it_look() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        reader = await world.follow(socket)
        listen = world.hub._listener(reader.feed)  # pyright: ignore[reportPrivateUsage]
        world.log.losing = True
        await world.say("b")
        assert socket.text == ""
        listen(Publication(KEY, 0, []))
        await asyncio.sleep(0.1)
        assert (socket.text, world.hub.gaps) == ("b", 1)
        # Where nothing was lost there is nothing to tell.
        listen(Publication(KEY, 0, []))
        await asyncio.sleep(0.1)
        assert (len(socket.payloads), world.hub.gaps) == (2, 1)

    hubbing(test)


def test_whoever_is_asked_to_look_looks() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        await world.follow(socket)
        world.log.losing = True
        await world.say("b")
        world.hub.look(ContextKey("t/s", "nobody follows this"))
        world.hub.look(KEY)
        await asyncio.sleep(0.1)
        assert socket.text == "b"

    hubbing(test)


def test_a_log_that_was_begun_anew_elsewhere_gives_a_snapshot() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        await world.follow(socket)
        world.log.losing = True
        await world.log.drop(KEY)
        elsewhere = Epochs(world.store, world.log, world.recorder.note)
        assert await elsewhere.current(KEY) == 2
        await world.hub.compare()
        await asyncio.sleep(0.1)
        assert socket.snapshots == 2
        assert socket.transcript.cursor == Cursor(2, 0)
        assert world.hub.gaps == 0

    hubbing(test)


def test_a_log_of_an_epoch_that_is_over_is_not_gone_back_to() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        reader = await world.follow(socket)
        reader.feed.restart(7, 3)  # as of a log that a failover has lost since
        await world.hub.compare()
        assert reader.feed.epoch == 7

    hubbing(test)


def test_a_context_whose_end_was_lost_is_told_to_be_deleted() -> None:
    async def test(world: World) -> None:
        one, slow, corked = Socket(), Socket(), Socket()
        await world.follow(one)
        await world.follow(slow)
        await world.follow(corked, corked=True)
        slow.writable = False
        await world.say("a")
        head = one.transcript.cursor
        assert head is not None
        await world.store.delete_context(KEY)
        await world.log.drop(KEY)
        await world.hub.compare()
        await asyncio.sleep(0.1)
        assert (deletions(one), deletions(slow), deletions(corked)) == ([head.seq + 1], [], [])
        assert world.hub.contexts == 0
        assert list(world.hub.readers()) == []
        await asyncio.sleep(11)
        assert len(deletions(one)) == 1

    hubbing(test)


def test_a_context_that_was_deleted_and_made_again_goes_on_under_its_new_epoch() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        await world.follow(socket)
        world.log.losing = True
        await world.store.delete_context(KEY)
        await world.log.drop(KEY)
        await world.store.create_context(KEY, None, None)
        await world.hub.compare()
        await asyncio.sleep(0.1)
        assert deletions(socket) == []
        assert socket.snapshots == 2
        assert socket.transcript.partial == {}

    hubbing(test)


class _Counting(Log):
    """Counts how often it is asked, and hands on nothing of what is published."""

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self.asked: list[int] = []
        self.losing = True

    async def heads(self, keys: Sequence[ContextKey]) -> list[Head | None]:
        self.asked.append(len(keys))
        return await super().heads(keys)


def test_thousands_are_compared_in_few_calls() -> None:
    async def main() -> None:
        log, store = _Counting(), ReferenceStore()
        epochs = Epochs(store, log, Recorder(store, log).note)
        hub = Hub(store, log, epochs)
        keys = [ContextKey("t/s", f"c{number}") for number in range(3000)]
        for key in keys:
            await store.create_context(key, None, None)
            start = await hub.follow(key, Socket(), None)
            hub.uncork(start.reader)
        await hub.compare()
        assert len(log.asked) <= 12
        assert (sum(log.asked), max(log.asked)) == (3000, 256)
        assert hub.gaps == 0

    run_virtually(main())


def test_a_head_that_can_not_be_had_keeps_nobody_from_the_others() -> None:
    """A look that waits for the log is one task, which ends with the hub."""

    async def test(world: World) -> None:
        socket = Socket()
        await world.follow(socket)
        world.log.losing = True
        await world.say("b")
        world.log.away = True
        world.hub.look(KEY)
        world.hub.look(KEY)
        await asyncio.sleep(2)
        assert socket.text == ""
        world.log.away = False
        await asyncio.sleep(1)
        assert (socket.text, world.hub.gaps) == ("b", 1)

    hubbing(test)


def test_what_is_published_while_it_looks_is_not_missed_for_long() -> None:
    """A head that was read before, and arrives after, a publication that showed a gap."""

    class Slow(Log):
        slow: asyncio.Event | None = None

        async def head(self, key: ContextKey) -> Head | None:
            head = await super().head(key)
            slow, self.slow = self.slow, None
            if slow is not None:
                await slow.wait()
            return head

    async def test(world: World) -> None:
        log = Slow(1 << 20)
        world.log = log
        world.epochs = Epochs(world.store, log, world.recorder.note)
        world.hub._event_log = log  # pyright: ignore[reportPrivateUsage]
        world.hub._epochs = world.epochs  # pyright: ignore[reportPrivateUsage]
        await world.epochs.current(KEY)
        await world.begin()
        socket = Socket()
        await world.follow(socket)
        log.losing = True
        await world.say("a")
        log.losing = False
        await world.say("b")  # shows the gap
        await asyncio.sleep(0)
        await world.say("c")
        await asyncio.sleep(5.5)
        assert socket.text == "abc"

    hubbing(test)


def test_a_comparison_that_can_not_be_made_says_so() -> None:
    async def test(world: World) -> None:
        await world.follow(Socket())
        world.log.away = True
        with pytest.raises(Unavailable):
            await world.hub.compare()

    hubbing(test)


class _Vanishing(Log):
    """Goes away once it is followed."""

    async def head(self, key: ContextKey) -> Head | None:
        self.away = bool(self._followed(key))
        return await super().head(key)

    def _followed(self, key: ContextKey) -> int:
        return key in self.followed

    followed: set[ContextKey] = set()  # noqa: RUF012 - of this one test

    async def follow(self, key: ContextKey, follower: Follower) -> Callable[[], Awaitable[None]]:
        stop = await super().follow(key, follower)
        self.followed.add(key)

        async def leave() -> None:
            self.followed.discard(key)
            await stop()

        return leave


def test_a_log_that_goes_away_while_it_is_opened_leaves_nothing_behind() -> None:
    async def main() -> None:
        log, store = _Vanishing(1 << 20), ReferenceStore()
        hub = Hub(store, log, Epochs(store, log, Recorder(store, log).note))
        await store.create_context(KEY, None, None)
        with pytest.raises(Unavailable):
            await hub.follow(KEY, Socket(), None)
        assert (hub.contexts, log.followed) == (0, set())

    run_virtually(main())


class _Sharded(Log):
    """The logs of some contexts can't be asked."""

    gone: frozenset[ContextKey] = frozenset()

    async def head(self, key: ContextKey) -> Head | None:
        if key in self.gone:
            raise Unavailable("away")
        return await super().head(key)


def test_what_can_not_be_renewed_holds_up_nothing_that_can() -> None:
    async def main() -> None:
        log, store = _Sharded(1 << 20), ReferenceStore()
        hub = Hub(store, log, Epochs(store, log, Recorder(store, log).note))
        keys = [ContextKey("t/s", f"c{number}") for number in range(60)]
        sockets = [Socket() for _ in keys]
        async with asyncio.TaskGroup() as group:
            running = group.create_task(hub.run())
            for key, socket in zip(keys, sockets, strict=True):
                await store.create_context(key, None, None)
                start = await hub.follow(key, socket, None)
                hub.uncork(start.reader)
            log.gone = frozenset(keys[:50])
            for key in keys:
                await log.drop(key)
                hub.look(key)
            await asyncio.sleep(3)
            assert [socket.snapshots for socket in sockets[50:]] == [1] * 10
            running.cancel()

    run_virtually(main())
