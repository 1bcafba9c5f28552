"""Which local readers follow which context: one log subscription a context, and no queue for anybody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from weakref import WeakValueDictionary

import structlog

from gateway.core.snapshot import SNAPSHOT_EVENTS, make_snapshot
from gateway.epochs import Epochs
from gateway.feed import Feed, Reader, Tally
from gateway.transport.port import Outlet
from protocol.codec import decode_server, encode, with_seq
from protocol.frames import ContextChanged
from protocol.ids import Cursor
from stores.ports import ContextStore, EventLog, NotFound, Unavailable
from stores.records import ContextKey, Entry, Head, Publication

__all__ = ["Hub", "Start"]

_log = structlog.get_logger(__name__)
_READ_BYTES = 64 * 1024
_AT_ONCE = 8
_RETRY = 0.5
_COMPARE_SECONDS = 5.0
_COMPARE_AT_ONCE = 256
_ON_ITS_WAY_SECONDS = 0.25
_RENEWALS_AT_ONCE = 32
# The newest page is read a little longer than a snapshot is: the store may know of events that came after it.
_PAGE = SNAPSHOT_EVENTS + 28


class Start:
    """Where a new reader begins: after `cursor`, with `snapshot` first if there is one."""

    __slots__ = ("cursor", "reader", "snapshot")

    def __init__(self, cursor: Cursor, reader: Reader, snapshot: bytes | None) -> None:
        self.cursor = cursor
        self.reader = reader
        self.snapshot = snapshot


class Hub:
    """`follow` gives a socket a corked reader; `uncork` lets it run. All else happens as the log publishes."""

    def __init__(self, store: ContextStore, log: EventLog, epochs: Epochs) -> None:
        self._store = store
        self._event_log = log
        self._epochs = epochs
        self._feeds: dict[ContextKey, Feed] = {}
        # A lock lives as long as somebody holds or awaits it.
        self._opening: WeakValueDictionary[ContextKey, asyncio.Lock] = WeakValueDictionary()
        self._group: asyncio.TaskGroup | None = None
        # Reads and snapshots made at a time: a thousand slow readers that wake up together take turns.
        self._turnstile = asyncio.Semaphore(_AT_ONCE)
        self._renewals = asyncio.Semaphore(_RENEWALS_AT_ONCE)
        self.tally = Tally()
        self.gaps = 0

    async def run(self) -> None:
        """Own the catching-up until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            while True:
                await asyncio.sleep(_COMPARE_SECONDS)
                try:
                    await self.compare()
                except Unavailable as error:
                    _log.warning("the log could not be asked how far it is", reason=str(error))

    @property
    def contexts(self) -> int:
        return len(self._feeds)

    def readers(self) -> Iterator[Reader]:
        for feed in self._feeds.values():
            yield from feed.readers

    # ---- following

    async def follow(self, key: ContextKey, outlet: Outlet, cursor: Cursor | None) -> Start:
        """A reader of the context after `cursor`; where the log does not reach back to it, with a snapshot. Raises
        NotFound, Unavailable."""
        while True:
            feed = await self._open(key)
            feed.joining += 1
            try:
                start = await self._start(feed, outlet, cursor)
            finally:
                feed.joining -= 1
                if not feed.readers:
                    await self._leave(feed)
            if self._feeds.get(key) is feed:
                return start
            feed.readers.discard(start.reader)  # the context was deleted meanwhile

    async def _start(self, feed: Feed, outlet: Outlet, cursor: Cursor | None) -> Start:
        if cursor is not None and cursor.epoch == feed.epoch and cursor.seq <= feed.head:
            reaches = cursor.seq >= feed.base
            if not reaches:
                reaches = await self._event_log.read(feed.key, cursor.epoch, cursor.seq, 1) is not None
            if reaches and feed.epoch == cursor.epoch:
                return Start(cursor, self._add(feed, outlet, cursor.seq), None)
        async with self._turnstile:
            seq, snapshot = await self._snapshot(feed)
        return Start(Cursor(feed.epoch, seq), self._add(feed, outlet, seq), snapshot)

    def _add(self, feed: Feed, outlet: Outlet, seq: int) -> Reader:
        reader = Reader(feed, outlet, seq)
        reader.corked = 1
        feed.readers.add(reader)
        return reader

    async def unfollow(self, reader: Reader) -> None:
        reader.feed.readers.discard(reader)
        await self._leave(reader.feed)

    async def _leave(self, feed: Feed) -> None:
        async with self._opening.setdefault(feed.key, asyncio.Lock()):
            if not (feed.readers or feed.joining) and self._feeds.get(feed.key) is feed:
                del self._feeds[feed.key]
                if feed.stop is not None:
                    await feed.stop()

    async def _open(self, key: ContextKey) -> Feed:
        epoch = await self._epochs.standing(key)
        feed = self._feeds.get(key)
        if feed is not None and feed.epoch == epoch:
            return feed
        async with self._opening.setdefault(key, asyncio.Lock()):
            feed = self._feeds.get(key)
            if feed is None:
                head = await self._event_log.head(key)
                if head is None:
                    raise Unavailable("the log went away")
                feed = Feed(key, head.epoch, head.seq, self.tally)
                feed.stop = await self._event_log.follow(key, self._listener(feed))
                self._feeds[key] = feed
            # Whatever was published between the two reads is a gap, which the next publication or this closes.
            try:
                head = await self._event_log.head(key)
                if head is None:
                    raise Unavailable("the log went away")
            except BaseException:
                # Who asked for it is no reader, and nobody else would ever give it up.
                if not (feed.readers or feed.joining) and self._feeds.get(key) is feed:
                    del self._feeds[key]
                    if feed.stop is not None:
                        await feed.stop()
                raise
            if head.epoch != feed.epoch or head.seq > feed.head:
                feed.restart(head.epoch, head.seq)
                self._wake_all(feed)
            return feed

    # ---- publishing

    def _listener(self, feed: Feed) -> Callable[[Publication], None]:
        def listen(publication: Publication) -> None:
            if not publication.entries:
                if feed.stop is not None:  # else whoever opens it looks anyway
                    self._renew(feed)
            elif not feed.extend(publication):
                self._renew(feed)
            elif any(reader.seq < feed.head for reader in feed.readers):
                self._wake_all(feed)

        return listen

    def _wake_all(self, feed: Feed) -> None:
        for reader in tuple(feed.readers):
            self.pump(reader)

    def pump(self, reader: Reader) -> None:
        """Give the reader what it lacks, if its socket takes it."""
        if reader.corked or reader.busy or not reader.outlet.writable:
            return
        if not reader.feed.pull(reader):
            self._spawn(reader)

    def uncork(self, reader: Reader) -> None:
        reader.corked -= 1
        self.pump(reader)

    # ---- catching up

    def _spawn(self, reader: Reader) -> None:
        if self._group is not None:
            reader.busy = True
            self._group.create_task(self._catch_up(reader))

    async def _catch_up(self, reader: Reader) -> None:
        """Read for one that is behind the tail: from the log as far as it reaches, else a snapshot."""
        feed = reader.feed
        try:
            while reader in feed.readers and reader.outlet.writable and not reader.corked:
                if feed.base <= reader.seq:
                    break
                async with self._turnstile:
                    await self._catch_up_some(reader)
                await asyncio.sleep(0)
        except NotFound:
            return  # the context was deleted; its readers were told
        except Unavailable as error:
            _log.warning("a reader could not be served", reason=str(error))
            await asyncio.sleep(_RETRY)
        finally:
            reader.busy = False
        if reader in feed.readers:
            self.pump(reader)

    def _served(self, reader: Reader) -> bool:
        """Whether it still is a reader that frames may be written to: it may have gone, or been corked, meanwhile."""
        return reader in reader.feed.readers and not reader.corked

    async def _catch_up_some(self, reader: Reader) -> None:
        feed, epoch = reader.feed, reader.feed.epoch
        entries = await self._event_log.read(feed.key, epoch, reader.seq, _READ_BYTES) if reader.seq >= 0 else None
        if feed.epoch != epoch or not self._served(reader):
            return
        if entries:
            feed.deliver(reader, entries)
            return
        seq, snapshot = await self._snapshot(feed)
        if not self._served(reader):
            return
        reader.outlet.write_one(snapshot)
        reader.seq = seq

    def _renew(self, feed: Feed) -> None:
        """Something was missed: whoever reads here gets it from the log, or a snapshot under the new epoch."""
        if feed.stale:
            feed.stale_again = True  # what is read now may not have it
        elif self._group is not None:
            feed.stale = True
            self._group.create_task(self._renew_quietly(feed))

    async def compare(self) -> None:
        """Find out whether what was published last was missed somewhere: no publication after it would show it."""
        feeds = list(self._feeds.values())
        for start in range(0, len(feeds), _COMPARE_AT_ONCE):
            some = feeds[start : start + _COMPARE_AT_ONCE]
            heads = await self._event_log.heads([feed.key for feed in some])
            behind = [(feed, head) for feed, head in zip(some, heads, strict=True) if not _reaches(feed, head)]
            if behind:
                # What is on its way is not lost.
                await asyncio.sleep(_ON_ITS_WAY_SECONDS)
            for feed, head in behind:
                if self._feeds.get(feed.key) is feed and not _reaches(feed, head):
                    self._renew(feed)

    def look(self, key: ContextKey) -> None:
        """Something happened to the context that its log does not tell: whoever follows it finds out."""
        feed = self._feeds.get(key)
        if feed is not None:
            self._renew(feed)

    async def _renew_quietly(self, feed: Feed) -> None:
        try:
            feed.stale_again = True
            while feed.stale_again:
                feed.stale_again = False
                await self._renew_in_turn(feed)
        except NotFound:
            await self._deleted(feed)
        finally:
            feed.stale = False

    async def deleted(self, key: ContextKey) -> None:
        """The context is gone: whoever follows it here is told, if he has not heard yet."""
        feed = self._feeds.get(key)
        if feed is not None:
            await self._deleted(feed)

    async def _deleted(self, feed: Feed) -> None:
        """The context is gone, and its last event with its log: readers that had all before it are told of it, unless
        they had it too."""
        if self._feeds.get(feed.key) is not feed:
            return
        if not any(_is_deletion(entry) for entry in feed.tail):
            last = ContextChanged(context_id=feed.key.id, deleted=True)
            frame = with_seq(encode(last), feed.head + 1)
            for reader in feed.readers:
                if reader.seq == feed.head and not reader.corked:
                    reader.outlet.write_one(frame)
        await self.close_context(feed.key)

    async def _renew_in_turn(self, feed: Feed) -> None:
        """Learn where the log stands, however long that takes. Raises NotFound."""
        while True:
            try:
                async with self._renewals:
                    await self._renew_feed(feed)
            except Unavailable:
                await asyncio.sleep(_RETRY)  # others get their turn meanwhile: their shard may be there
            else:
                return

    async def _renew_feed(self, feed: Feed) -> None:
        """Learn where the log stands. Raises NotFound, Unavailable."""
        await self._epochs.standing(feed.key)
        head = await self._event_log.head(feed.key)
        if head is None:
            raise Unavailable("the log went away")
        if head.epoch != feed.epoch or head.seq > feed.head:
            self.gaps += head.epoch == feed.epoch
            feed.restart(head.epoch, head.seq)
        self._wake_all(feed)

    async def _snapshot(self, feed: Feed) -> tuple[int, bytes]:
        """The context as of now: the log first, then the store (docs/design.md, Readers)."""
        while True:
            fold = await self._event_log.fold(feed.key)
            if fold is None or fold.epoch != feed.epoch:
                await self._renew_feed(feed)
                continue
            cached = feed.snapshot
            if cached is not None and cached[0] == fold.seq:
                return cached
            history = await self._store.history(feed.key, None, _PAGE)
            open_calls = await self._store.open_calls(feed.key, fold.seq)
            # Rows that were recorded under a newer epoch have no place in this one.
            head = await self._event_log.head(feed.key)
            if head is None or head.epoch != fold.epoch or feed.epoch != fold.epoch:
                continue
            snapshot = make_snapshot(feed.key.id, fold, history, open_calls)
            feed.snapshot = (fold.seq, snapshot)
            return fold.seq, snapshot

    async def close_context(self, key: ContextKey) -> list[Outlet]:
        """The context is gone: nobody follows it any more. Answers whose sockets did."""
        feed = self._feeds.pop(key, None)
        if feed is None:
            return []
        outlets = [reader.outlet for reader in feed.readers]
        feed.readers.clear()
        feed.restart(feed.epoch, feed.head)  # sockets keep their readers, and these the feed: not what was in it
        if feed.stop is not None:
            await feed.stop()
        return outlets


def _is_deletion(entry: Entry) -> bool:
    # Words of a model may hold it too.
    if b'"deleted":true' not in entry.data:
        return False
    event = decode_server(entry.data)
    return isinstance(event, ContextChanged) and event.deleted is True


def _reaches(feed: Feed, head: Head | None) -> bool:
    """Whether the feed has all that the log has, or had."""
    return head is not None and (head.epoch < feed.epoch or (head.epoch == feed.epoch and head.seq <= feed.head))
