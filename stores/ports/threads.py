"""The conversations that were used last, as models are given them, where every instance finds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stores.records import ContextKey, EventRow, ThreadRows

__all__ = ["ThreadCache"]


class ThreadCache(Protocol):
    """What `ContextStore.thread` gives, kept for a while: of each context the newest part, from the store's newest
    order at some time back. It may be lost, or old: whoever reads it compares with an order that the store told.
    Events come back without `seq`; the oldest may be dropped, then
    there are `more`. All methods may raise Unavailable."""

    async def load(self, key: ContextKey) -> tuple[ThreadRows, int] | None:
        """The newest part, and the order up to which it is whole."""
        ...

    async def save(self, key: ContextKey, rows: ThreadRows, newest: int) -> None:
        """Keep this, which is whole up to the order `newest`."""
        ...

    async def extend(self, key: ContextKey, born: int, rows: Sequence[EventRow], before: int, newest: int) -> bool:
        """Add events after the order `before`, up to `newest`; False, and nothing added, where what is kept is not
        whole up to exactly `before`, or is of a context that was `born` otherwise."""
        ...

    async def forget(self, key: ContextKey) -> None: ...
