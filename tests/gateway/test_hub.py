from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from gateway.core.fold import Transcript
from gateway.epochs import Epochs
from gateway.feed import Reader
from gateway.hub import Hub
from gateway.recorder import Recorder
from gateway.transport.port import Frames
from protocol.codec import decode_server, encode
from protocol.frames import Delta, Event, Message, MessageStart, Snapshot
from protocol.ids import Cursor
from stores.memory import MemoryLog
from stores.ports import Follower, NotFound, Unavailable
from stores.records import ContextKey, Entry, Head, LogBatch, LogEvent, NewEvent, Publication
from tests.reference_store import ReferenceStore
from tests.virtual_time import run_virtually

KEY = ContextKey("t/s", "c")


class Log(MemoryLog):
    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes=max_bytes)
        self.reads = 0
        self.away = False
        self.losing = False  # its publications, on their way

    async def follow(self, key: ContextKey, follower: Follower) -> Callable[[], Awaitable[None]]:
        def hear(publication: Publication) -> None:
            if not self.losing:
                follower(publication)

        return await super().follow(key, hear)

    async def head(self, key: ContextKey) -> Head | None:
        if self.away:
            raise Unavailable("away")
        return await super().head(key)

    async def read(self, key: ContextKey, epoch: int, after: int, limit: int) -> list[Entry] | None:
        self.reads += 1
        if self.away:
            raise Unavailable("away")
        return await super().read(key, epoch, after, limit)


class Socket:
    """An outlet that takes what the test lets it take, and a client that raises Gap where a frame is missing."""

    last_seen = 0.0
    unsent_since = None

    def __init__(self) -> None:
        self.writable = True
        self.payloads: list[bytes] = []
        self.written: list[Frames] = []
        self.transcript = Transcript(KEY.id)
        self.snapshots = 0

    def write(self, frames: Frames) -> None:
        assert self.writable, "nothing is written to a socket that takes nothing"
        self.written.append(frames)
        for payload in frames.payloads:
            self._read(payload)

    def write_one(self, payload: bytes) -> None:
        self._read(payload)

    def _read(self, payload: bytes) -> None:
        self.payloads.append(payload)
        frame = decode_server(payload)
        if isinstance(frame, Snapshot):
            self.snapshots += 1
            self.transcript.snapshot(frame)
        else:
            self.transcript.apply(cast("Event", frame))

    def on_drain(self, callback: Callable[[], None]) -> None: ...

    def close(self, code: int, reason: str) -> None: ...

    def ping(self) -> None: ...

    @property
    def text(self) -> str:
        """What was streamed of the message that is being written."""
        return self.transcript.partial["m"].text


class World:
    """A context with a message that is being written, and a hub."""

    def __init__(self, max_bytes: int) -> None:
        self.store = ReferenceStore()
        self.log = Log(max_bytes)
        self.recorder = Recorder(self.store, self.log)
        self.epochs = Epochs(self.store, self.log, self.recorder.note)
        self.hub = Hub(self.store, self.log, self.epochs)
        self._batches = 0

    async def begin(self) -> None:
        await self.store.create_context(KEY, None, None)
        await self.epochs.current(KEY)
        await self.append(
            MessageStart(context_id=KEY.id, turn_id="t", id="m", role="assistant", model="demo", attempt=1)
        )

    async def append(self, *events: Event) -> None:
        self._batches += 1
        epoch = await self.epochs.current(KEY)
        entries = [LogEvent(event=event, body=encode(event)) for event in events]
        batch = LogBatch(key=KEY, epoch=epoch, writer=f"w{self._batches}", events=entries)
        (answer,) = await self.log.append([batch])
        assert isinstance(answer, dict)

    async def say(self, *texts: str) -> None:
        for text in texts:
            await self.append(Delta(context_id=KEY.id, turn_id="t", message_id="m", text=text))

    async def store_message(self, id: str) -> None:
        message = Message(
            context_id=KEY.id, id=id, content=id, role="user", timestamp="2026-01-01T00:00:00.000Z", status="complete"
        )
        await self.store.submit(KEY, NewEvent(id=id, type="message", body=encode(message)), None)
        await self.epochs.place_row(KEY, id)

    async def follow(self, socket: Socket, *, corked: bool = False) -> Reader:
        start = await self.hub.follow(KEY, socket, socket.transcript.cursor)
        if start.snapshot is not None:
            socket.write_one(start.snapshot)
        else:
            assert start.cursor == socket.transcript.cursor
        if not corked:
            self.hub.uncork(start.reader)
        return start.reader


def hubbing(test: Callable[[World], Awaitable[None]], max_bytes: int = 1 << 20) -> None:
    async def main() -> None:
        world = World(max_bytes)
        await world.begin()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.hub.run())
            await asyncio.sleep(0)
            await test(world)
            running.cancel()

    run_virtually(main())


async def settled() -> None:
    """All catching up has ended: nothing of it waits for longer than a second."""
    await asyncio.sleep(5)


def words(count: int) -> list[str]:
    return [f"{number} " for number in range(count)]


def test_a_new_reader_gets_a_snapshot_and_then_each_frame_as_it_is_published() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        await world.say("a")
        await world.follow(socket)
        assert (socket.snapshots, socket.text) == (1, "a")
        for count, text in enumerate("bcd", start=2):
            await world.say(text)
            assert len(socket.payloads) == count
        assert socket.text == "abcd"
        assert world.log.reads == 0
        assert world.hub.tally.frames == 3

    hubbing(test)


def test_two_readers_get_identical_bytes_that_were_built_once() -> None:
    async def test(world: World) -> None:
        one, other = Socket(), Socket()
        await world.follow(one)
        await world.follow(other)
        await world.say(*words(20))
        assert one.payloads == other.payloads
        assert len(one.written) == 20
        assert all(mine is theirs for mine, theirs in zip(one.written, other.written, strict=True))
        assert all(mine.wire is theirs.wire for mine, theirs in zip(one.written, other.written, strict=True))

    hubbing(test)


def test_a_corked_reader_gets_nothing_until_it_is_uncorked() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        reader = await world.follow(socket, corked=True)
        await world.say("a", "b", "c")
        await settled()
        assert len(socket.payloads) == 1
        world.hub.uncork(reader)
        assert socket.text == "abc"
        await world.say("d")
        assert socket.text == "abcd"

    hubbing(test)


def test_a_reader_that_was_corked_twice_is_uncorked_twice() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        reader = await world.follow(socket, corked=True)
        reader.corked += 1
        await world.say("a")
        world.hub.uncork(reader)
        assert socket.text == ""
        world.hub.uncork(reader)
        assert socket.text == "a"

    hubbing(test)


@pytest.mark.promise("5")
def test_a_slow_reader_gets_merged_frames_afterwards_never_a_gap_and_delays_nobody() -> None:
    async def test(world: World) -> None:
        slow, fast = Socket(), Socket()
        reader = await world.follow(slow)
        await world.follow(fast)
        slow.writable = False
        await world.say(*words(100))
        assert fast.text == "".join(words(100))
        assert len(slow.payloads) == 1
        slow.writable = True
        world.hub.pump(reader)
        assert slow.text == fast.text
        assert (len(slow.payloads), slow.snapshots) == (2, 1)
        await world.say("on")
        assert slow.text == fast.text
        assert slow.payloads[-1] == fast.payloads[-1]

    hubbing(test)


@pytest.mark.promise("5")
def test_a_reader_behind_the_tail_reads_the_log() -> None:
    async def test(world: World) -> None:
        slow, fast = Socket(), Socket()
        reader = await world.follow(slow)
        await world.follow(fast)
        slow.writable = False
        await world.say(*words(1000))
        slow.writable = True
        world.hub.pump(reader)
        await settled()
        assert slow.text == fast.text == "".join(words(1000))
        assert world.log.reads > 0
        assert slow.snapshots == 1
        assert len(slow.payloads) < 20

    hubbing(test)


@pytest.mark.promise("5")
def test_a_reader_whom_the_log_does_not_reach_any_more_gets_a_snapshot() -> None:
    async def test(world: World) -> None:
        slow, fast = Socket(), Socket()
        reader = await world.follow(slow)
        await world.follow(fast)
        slow.writable = False
        await world.say(*words(1000))
        slow.writable = True
        world.hub.pump(reader)
        await world.say("meanwhile")
        await settled()
        assert slow.text == fast.text
        assert slow.snapshots == 2
        await world.say("on")
        assert slow.text == fast.text

    hubbing(test, max_bytes=2000)


def test_a_reader_comes_back_to_where_it_was() -> None:
    async def test(world: World) -> None:
        socket, other = Socket(), Socket()
        reader = await world.follow(socket)
        await world.say("a")
        await world.hub.unfollow(reader)
        assert world.hub.contexts == 0
        await world.say("b")
        assert socket.text == "a"
        await world.follow(other)
        await world.follow(socket)
        await settled()
        assert (socket.snapshots, socket.text) == (1, "ab")
        assert len(list(world.hub.readers())) == 2

    hubbing(test)


@pytest.mark.parametrize("cursor", [Cursor(7, 1), Cursor(1, 999)], ids=["another-epoch", "the-future"])
def test_a_cursor_that_means_nothing_here_gives_a_snapshot(cursor: Cursor) -> None:
    async def test(world: World) -> None:
        socket = Socket()
        socket.transcript.cursor = cursor
        await world.say("a")
        await world.follow(socket)
        assert (socket.snapshots, socket.text) == (1, "a")

    hubbing(test)


def test_a_lost_log_gives_a_new_epoch_and_a_snapshot() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        await world.follow(socket)
        await world.store_message("kept")
        assert await world.recorder.flush(KEY)
        before = socket.transcript.cursor
        await world.log.drop(KEY)
        await world.store_message("after")
        await settled()
        after = socket.transcript.cursor
        assert before is not None
        assert after is not None
        assert after.epoch == before.epoch + 1
        assert socket.snapshots == 2
        assert [event.id for event in socket.transcript.events if isinstance(event, Message)] == ["kept", "after"]
        # What was only in the log is gone with it.
        assert socket.transcript.partial == {}

    hubbing(test)


def test_a_reader_behind_the_tail_is_served_when_the_log_is_back() -> None:
    async def test(world: World) -> None:
        slow, fast = Socket(), Socket()
        reader = await world.follow(slow)
        await world.follow(fast)
        slow.writable = False
        await world.say(*words(1000))
        world.log.away = True
        slow.writable = True
        world.hub.pump(reader)
        await settled()
        assert slow.text == ""
        with pytest.raises(Unavailable):
            await world.follow(Socket())
        world.log.away = False
        await settled()
        assert slow.text == fast.text == "".join(words(1000))
        assert slow.snapshots == 1

    hubbing(test)


def test_a_publication_that_was_missed_is_read_from_the_log() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        await world.follow(socket)
        await world.say("a")
        world.log.losing = True
        await world.say("b")
        assert socket.text == "a"
        world.log.losing = False
        await world.say("c")
        await settled()
        assert (socket.text, socket.snapshots) == ("abc", 1)
        await world.say("d")
        assert socket.text == "abcd"

    hubbing(test)


def test_nobody_follows_a_context_that_was_deleted() -> None:
    async def test(world: World) -> None:
        one, other = Socket(), Socket()
        await world.follow(one)
        await world.follow(other)
        await world.store.delete_context(KEY)
        await world.log.drop(KEY)
        assert {id(outlet) for outlet in await world.hub.close_context(KEY)} == {id(one), id(other)}
        assert await world.hub.close_context(KEY) == []
        assert world.hub.contexts == 0
        with pytest.raises(NotFound):
            await world.follow(Socket())
        assert world.hub.contexts == 0

    hubbing(test)


def test_a_context_that_is_deleted_while_a_slow_reader_catches_up() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        reader = await world.follow(socket)
        socket.writable = False
        await world.say(*words(1000))
        socket.writable = True
        world.hub.pump(reader)
        assert reader.busy
        await world.store.delete_context(KEY)
        await world.log.drop(KEY)
        await world.hub.close_context(KEY)
        count = len(socket.payloads)
        await settled()
        assert len(socket.payloads) == count
        assert not reader.busy

    hubbing(test)


def test_an_unknown_context_cannot_be_followed() -> None:
    async def test(world: World) -> None:
        with pytest.raises(NotFound):
            await world.hub.follow(ContextKey("t/s", "unknown"), Socket(), None)
        assert world.hub.contexts == 0

    hubbing(test)
