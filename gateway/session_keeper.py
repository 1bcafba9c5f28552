"""Sessions in the store, and in the cache of all instances, where resuming finds them."""

from __future__ import annotations

import msgspec

from stores.ports import Cache, SessionStore
from stores.records import SessionRecord

__all__ = ["SessionKeeper"]

_CACHED_SECONDS = 3600.0
_CACHED_BYTES = 64 * 1024  # of one session: a client may declare tools as large as a frame, in session after session


_decode = msgspec.json.Decoder(SessionRecord).decode


class SessionKeeper:
    """Sessions in the store, and as they were last in the cache of all instances, where resuming finds them unless they
    are large."""

    def __init__(self, store: SessionStore, cache: Cache) -> None:
        self._store = store
        self._cache = cache

    async def find(self, id: str, now: float) -> SessionRecord | None:
        kept = await self._cache.get(_key(id))
        record = _decoded(kept) if kept is not None else None
        if record is None:
            record = await self._store.get_session(id, now)
        return record if record is not None and record.expires_at > now else None

    async def take(self, record: SessionRecord, now: float, gone: str | None) -> bool:
        await self._cache.take(_key(record.id))  # before it is old: whoever dies in between leaves none
        took = await self._store.take_session(record, now, gone)
        if took:
            await self._keep(record)
        return took

    async def put(self, record: SessionRecord) -> bool:
        await self._cache.take(_key(record.id))
        kept = await self._store.put_session(record)
        if kept:
            await self._keep(record)
        return kept

    async def _keep(self, record: SessionRecord) -> None:
        data = msgspec.json.encode(record)
        if len(data) <= _CACHED_BYTES:
            await self._cache.set(_key(record.id), data, _CACHED_SECONDS)

    async def leave(self, record: SessionRecord) -> None:
        # What the cache has is left for whoever resumes: its holder is none any more, and the store knows.
        await self._store.leave_session(record.id, record.holder or "")

    async def is_held(self, record: SessionRecord, now: float) -> bool:
        stored = await self._store.get_session(record.id, now)
        return stored is None or stored.holder in (None, record.holder)

    async def drop(self, record: SessionRecord) -> None:
        kept = await self._cache.get(_key(record.id))
        found = _decoded(kept) if kept is not None else None
        if found is not None and found.holder == record.holder:
            await self._cache.take(_key(record.id))

    async def forget(self, id: str) -> None:
        await self._cache.take(_key(id))


def _key(id: str) -> str:
    return f"session:{id}"


def _decoded(kept: bytes) -> SessionRecord | None:
    try:
        return _decode(kept)
    except msgspec.DecodeError:
        return None  # another version of the gateway kept it: the store has it too
