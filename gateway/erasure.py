"""Deletion for good: of one context, or of all that a principal has, with every trace of it (docs/data.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from gateway.auth.principal import Principal
from gateway.contexts import Contexts
from gateway.sessions import Sessions
from stores.ports import NotFound, OwnerStore, SecretStore
from stores.records import ContextKey

__all__ = ["Erasure"]

_log = structlog.get_logger(__name__)
_AT_ONCE = 50


class _Store(OwnerStore, SecretStore, Protocol):
    pass


class Erasure:
    """Raises StoreError. What a call deleted before it raised stays deleted; the same call again goes on."""

    def __init__(
        self,
        contexts: Contexts,
        sessions: Sessions,
        store: _Store,
        forget: Callable[[str], None] | None = None,
    ) -> None:
        """`forget` ends what goes on for an owner elsewhere."""
        self._forget = forget
        self._contexts = contexts
        self._sessions = sessions
        self._store = store

    async def context(self, key: ContextKey) -> None:
        """Delete the context; nothing of it can be read any more when this returns (OwnerStore.scrub)."""
        found = await self._delete(key)
        # Where there is none, an earlier call may have deleted it, and failed before the scrub that it owed.
        await self._scrub()
        if not found:
            raise NotFound(key.id)

    async def everything(self, principal: Principal) -> int:
        """Delete the contexts, sessions and secrets that the principal has now; how many contexts those were. A session
        that a socket holds lives on with it, empty."""
        deleted = 0
        after = ""
        while page := await self._store.contexts_after(principal.owner, after, _AT_ONCE):
            answers = await asyncio.gather(*(self._delete(r.key) for r in page), return_exceptions=True)
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer
                deleted += answer
            after = page[-1].key.id
        ids = [session.id for session in await self._store.all_sessions(principal.owner)]
        await self._store.delete_sessions(principal.owner)
        # Before anybody is told: what is begun anew then must not find them.
        await self._store.delete_secrets(principal.owner)
        if self._forget is not None:
            self._forget(principal.owner)
        await self._sessions.forget_all(principal.owner, ids)
        await self._scrub()
        return deleted

    async def _delete(self, key: ContextKey) -> bool:
        """False where somebody else did, or an earlier call, which may have failed half-way."""
        found = True
        try:
            await self._contexts.delete(key)
        except NotFound:
            found = False
        await self._sessions.forget(key)
        return found

    async def _scrub(self) -> None:
        if not await self._store.scrub():
            _log.warning(
                "what was deleted can still be read where the store is: others use it, or it is not ours to tidy"
            )
