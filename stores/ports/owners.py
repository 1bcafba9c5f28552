"""All that one owner has."""

from __future__ import annotations

from typing import Protocol

from stores.records import ContextKey, ContextRecord, History, KeyRecord, Remembered, SessionRecord

__all__ = ["OwnerStore"]


class OwnerStore(Protocol):
    """All that one owner has, to be handed out or erased. All methods may raise Unavailable."""

    async def contexts_after(self, owner: str, id: str, limit: int) -> list[ContextRecord]:
        """The owner's contexts whose id is above `id`, by id: an order that nothing changes."""
        ...

    async def events_after(self, key: ContextKey, seq: int, limit: int) -> History:
        """The events with a seq above `seq`, in its order, until their bodies exceed `limit` bytes (one at least);
        where no more are left (`has_more` False), those without seq as well, read in the same transaction. Empty for
        an unknown context."""
        ...

    async def all_remembered(self, key: ContextKey) -> list[Remembered]:
        """What was decided for the context, by definition; nothing for an unknown one."""
        ...

    async def all_sessions(self, owner: str) -> list[SessionRecord]:
        """The owner's sessions, expired or not, the last put first."""
        ...

    async def delete_sessions(self, owner: str) -> int: ...

    async def keys_of(self, tenant: str, subject: str) -> list[KeyRecord]:
        """The subject's API keys, oldest first."""
        ...

    async def scrub(self) -> bool:
        """Return once nothing that was deleted before this call can be read any more: of files of one's own, by nobody;
        of a database server, by no query, of whatever snapshot (what such a server leaves on its disk is with whoever
        runs it). False where that could not be done, because others use what it is about, and is left to a later call.
        """
        ...
