"""What local readers share of one context: the newest entries of its log, and each frame's bytes built once."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

from gateway.core.fold import merge
from gateway.transport.port import Frames, Outlet
from stores.records import ContextKey, Entry, Publication

__all__ = ["Feed", "Reader", "Tally"]

_TAIL_ENTRIES = 256
_TAIL_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024


class Tally:
    """Counts the frames that were sent, of all kinds, to all sockets."""

    __slots__ = ("frames",)

    def __init__(self) -> None:
        self.frames = 0


class Reader:
    """A cursor on a context, and the socket that its frames go to. Nothing is queued for it."""

    __slots__ = ("busy", "corked", "feed", "outlet", "seq")

    def __init__(self, feed: Feed, outlet: Outlet, seq: int) -> None:
        self.feed = feed
        self.outlet = outlet
        self.seq = seq
        self.corked = 0
        self.busy = False  # somebody reads the log or makes a snapshot for it


class Feed:
    """The tail of one context's log as this instance has it, under one epoch. `base` is the seq before its oldest
    entry, `head` the newest."""

    __slots__ = (
        "base",
        "epoch",
        "head",
        "joining",
        "key",
        "readers",
        "snapshot",
        "stale",
        "stale_again",
        "stop",
        "tail",
        "tail_bytes",
        "tally",
    )

    def __init__(self, key: ContextKey, epoch: int, head: int, tally: Tally) -> None:
        self.key = key
        self.tally = tally
        self.epoch = epoch
        self.base = self.head = head
        self.tail: deque[Entry] = deque()
        self.tail_bytes = 0
        self.readers: set[Reader] = set()
        self.joining = 0  # how many are about to become readers: it is not given up under them
        self.snapshot: tuple[int, bytes] | None = None
        self.stale = self.stale_again = False
        self.stop: Callable[[], Awaitable[None]] | None = None

    def extend(self, publication: Publication) -> bool:
        """Take in what was published; False where something before it is missing, or it is of another epoch."""
        if publication.epoch != self.epoch:
            return publication.epoch < self.epoch
        entries = publication.entries
        if entries[0].first > self.head + 1:
            return False
        fresh = [entry for entry in entries if entry.seq > self.head] if entries[0].first <= self.head else entries
        if not fresh:
            return True
        before, self.head = self.head, fresh[-1].seq
        self.snapshot = None
        for entry in fresh:
            self.tail.append(entry)
            self.tail_bytes += len(entry.data)
        while len(self.tail) > _TAIL_ENTRIES or (self.tail_bytes > _TAIL_BYTES and len(self.tail) > 1):
            oldest = self.tail.popleft()
            self.tail_bytes -= len(oldest.data)
            self.base = oldest.seq
        # Built once, written to every socket that is up to date.
        frames = Frames([entry.data for entry in fresh])
        for reader in self.readers:
            if reader.seq == before and not (reader.corked or reader.busy) and reader.outlet.writable:
                reader.outlet.write(frames)
                reader.seq = self.head
                self.tally.frames += len(fresh)
        return True

    def restart(self, epoch: int, head: int) -> None:
        """Nothing that was read of the log counts: it has a gap, or another life of it begins."""
        if epoch != self.epoch:
            for reader in self.readers:
                reader.seq = -1  # a cursor of an epoch that is over reaches nowhere
        self.epoch = epoch
        self.base = self.head = head
        self.tail.clear()
        self.tail_bytes = 0
        self.snapshot = None

    def pull(self, reader: Reader) -> bool:
        """Give the reader what it lacks, merged, while its socket takes it. False where the tail does not reach back
        to it."""
        while reader.seq < self.head and reader.outlet.writable:
            if reader.seq < self.base:
                return False
            entries: list[Entry] = []
            size = 0
            for place in range(_place(self.tail, reader.seq), len(self.tail)):
                entry = self.tail[place]
                entries.append(entry)
                size += len(entry.data)
                if size > _CHUNK_BYTES:
                    break
            self.deliver(reader, entries)
        return True

    def deliver(self, reader: Reader, entries: list[Entry]) -> None:
        """Write entries to the reader's socket in as few frames as may be."""
        merged = merge(entries)
        reader.outlet.write(Frames([entry.data for entry in merged]))
        reader.seq = entries[-1].seq
        self.tally.frames += len(merged)


def _place(tail: deque[Entry], seq: int) -> int:
    """The index of the first entry above `seq`; entries may stand for several seqs, so it is looked for."""
    low, high = 0, len(tail)
    while low < high:
        middle = (low + high) // 2
        if tail[middle].seq <= seq:
            low = middle + 1
        else:
            high = middle
    return low
