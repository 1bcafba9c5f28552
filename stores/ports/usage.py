"""What model calls used."""

from __future__ import annotations

from typing import Protocol

from stores.records import ContextKey, NewUsage, UsageBy, UsagePage

__all__ = ["UsageStore"]


class UsageStore(Protocol):
    """What model calls used, added up by owner, day, context and model. A call that made an event is added with the
    event (NewEvent.usage), in its transaction. All methods may raise Unavailable."""

    async def add_usage(self, key: ContextKey, id: str, usage: NewUsage) -> bool:
        """Add a model call that made no event; False, and nothing added, where the owner's `id` was added before. Ids
        are remembered for a week of `usage.day`s at least. Where the context is gone the sum is kept without it."""
        ...

    async def usage(
        self,
        tenant: str,
        owner: str | None,
        first: str,
        last: str,
        by: UsageBy,
        after: str | None,
        limit: int,
    ) -> UsagePage:
        """What was used from the day `first` to `last`, both included, by an owner, or by its whole tenant (None):
        the first `limit` names above `after`."""
        ...
