"""The live log of every context."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from stores.ports.errors import StoreError
from stores.records import ContextKey, Entry, Head, LogBatch, LogFold, Publication

__all__ = ["EventLog", "Follower"]


Follower = Callable[[Publication], None]


class EventLog(Protocol):
    """The live tail of every context. All methods may raise Unavailable; loss of the whole log is not an error:
    it shows as EpochOver, or None."""

    async def head(self, key: ContextKey) -> Head | None: ...

    async def heads(self, keys: Sequence[ContextKey]) -> list[Head | None]:
        """The heads of many logs, in one round trip; a log that is asked for is in use, and kept."""
        ...

    async def begin(self, key: ContextKey, epoch: int, base: int) -> bool:
        """Begin a log whose first event will be `base` + 1. Succeeds over nothing and over an older epoch (or what an
        earlier life of the server left); False where a log of this epoch or a newer one stands."""
        ...

    async def append(self, batches: Sequence[LogBatch]) -> list[dict[str, int] | StoreError]:
        """Append batches of any contexts, in order, in one round trip; an answer for each, in the same order: the
        seqs of its durable events by id, or the refusal (EpochOver, StaleFence, Unavailable), which is not raised so
        that one context's refusal costs no other.

        Each batch is atomic: its events take the next seqs in order, without gap, and are published as one. A durable
        event whose id the log has is not appended again: its seq is answered. A batch whose `writer` was seen is
        answered as the first time and appends nothing. Unavailable means that it may have been appended: send the
        same batch again.
        """
        ...

    async def read(self, key: ContextKey, epoch: int, after: int, limit: int) -> list[Entry] | None:
        """Entries with a seq above `after`, in order, until their data exceeds `limit` bytes (one at least). None
        where the log is of another epoch or does not reach back to `after` + 1; [] at the head."""
        ...

    async def fold(self, key: ContextKey) -> LogFold | None: ...

    async def ids(self, key: ContextKey, epoch: int, upto: int) -> dict[str, int] | None:
        """The seq of every durable event up to `upto` that was not `recorded`; None where the log is of another
        epoch."""
        ...

    async def recorded(self, key: ContextKey, epoch: int, seq: int) -> None:
        """Tell the log that the store has every seq up to `seq`: their ids may be forgotten after an hour."""
        ...

    async def drop(self, key: ContextKey) -> None:
        """Forget the context's log."""
        ...

    async def follow(self, key: ContextKey, follower: Follower) -> Callable[[], Awaitable[None]]:
        """Hand every later publication of the context to `follower`, in order but possibly with gaps, from the event
        loop; it must not block. Answers how to stop.

        Publications are at most once. One without entries (and epoch 0) says that some may have been lost, or that
        none were handed on until now: whoever follows compares what it has with `head`. A last one that is lost shows
        no gap and may not be told of, so whoever follows also compares `heads` from time to time. In process nothing
        is lost, and the call comes before `append` returns."""
        ...

    async def check(self) -> None:
        """Raises Unavailable where the log can't be asked now, or where what it publishes does not arrive."""
        ...
