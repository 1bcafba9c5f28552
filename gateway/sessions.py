"""Sessions: a client's place in the gateway, which outlives its sockets and the process (docs/protocol.md, 1)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from msgspec.structs import replace

from gateway.auth.principal import Principal
from protocol.codec import encode
from protocol.frames import Hello
from protocol.ids import new_id
from stores.ports import SessionStore
from stores.records import ContextKey, SessionRecord

__all__ = ["Session", "Sessions"]


class Session:
    """A session while a socket holds it. `give_up` closes that socket because a later attempt took the session."""

    __slots__ = ("_lock", "_store", "give_up", "record")

    def __init__(self, store: SessionStore, record: SessionRecord, give_up: Callable[[], None]) -> None:
        self._store = store
        self.record = record
        self.give_up = give_up
        self._lock = asyncio.Lock()

    @property
    def id(self) -> str:
        return self.record.id

    async def follow(self, context_id: str) -> None:
        """Keep that the session follows the context."""
        if context_id not in self.record.contexts:
            await self._put((*self.record.contexts, context_id))

    async def unfollow(self, context_id: str) -> None:
        if context_id in self.record.contexts:
            await self._put(tuple(known for known in self.record.contexts if known != context_id))

    async def unfollow_all(self) -> None:
        """Follow nothing, and be in the store whether or not it was."""
        await self._put(())

    async def _put(self, contexts: tuple[str, ...]) -> None:
        async with self._lock:
            self.record = replace(self.record, contexts=contexts)
            await self._store.put_session(self.record)


class Sessions:
    """Opens sessions; `ttl` (seconds) is how long one is kept after its last `hello`."""

    def __init__(self, store: SessionStore, instance: str, ttl: float, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._instance = instance
        self._ttl = ttl
        self._clock = clock
        self._held: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._held)

    async def open(
        self, principal: Principal, hello: Hello, give_up: Callable[[], None]
    ) -> tuple[Session, bool] | None:
        """The session that `hello` names, or a new one, and whether it was resumed. None where a later attempt of it
        is connected. An unknown, expired or foreign session gives a new one, with no hint which it was."""
        now = self._clock()
        found = await self._store.get_session(hello.session_id, now) if hello.session_id is not None else None
        if found is not None and found.owner != principal.owner:
            found = None
        held = self._held.get(found.id) if found is not None else None
        attempt = hello.attempt if hello.attempt is not None else (held.record.attempt if held is not None else 0)
        if held is not None:
            if attempt < held.record.attempt:
                return None
            found = held.record
        record = found or SessionRecord(id=new_id("sess_"), owner=principal.owner, attempt=0, expires_at=0)
        record = replace(
            record,
            attempt=attempt,
            expires_at=now + self._ttl,
            holder=self._instance,
            tools=encode(hello.tools) if hello.tools is not None else record.tools,
            contexts=tuple(hello.cursors) if hello.cursors is not None else record.contexts,
        )
        session = Session(self._store, record, give_up)
        # Before anything is awaited, so that of two sockets at once the second meets the first.
        self._held[record.id] = session
        if held is not None:
            held.give_up()
        await self._store.put_session(record)
        return session, found is not None

    def close(self, session: Session) -> None:
        """The socket that held the session is gone."""
        if self._held.get(session.id) is session:
            del self._held[session.id]

    async def forget(self, key: ContextKey) -> None:
        """The context was deleted: no session that is held here follows it any more."""
        for session in self._held_by(key.owner):
            await session.unfollow(key.id)

    async def forget_all(self, owner: str) -> None:
        """All that the owner had was deleted; what is held here goes on, and follows nothing."""
        for session in self._held_by(owner):
            await session.unfollow_all()

    def _held_by(self, owner: str) -> list[Session]:
        return [session for session in self._held.values() if session.record.owner == owner]

    async def sweep(self) -> int:
        """Delete what has expired."""
        return await self._store.delete_expired_sessions(self._clock())
