"""A principal's contexts as things: listed, made, renamed, read, deleted for good."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import orjson
from msgspec import Struct, to_builtins

from gateway.active_contexts import ActiveContexts
from gateway.auth.principal import Principal
from gateway.context_settings import ContextSettings, encode_settings
from gateway.core.snapshot import complete_history
from gateway.epochs import Epochs
from gateway.hearing import hearing
from gateway.hub import Hub
from gateway.stored_events import new_event
from protocol.codec import encode
from protocol.errors import ProtocolError
from protocol.frames import ContextChanged
from protocol.ids import is_id, new_id, rfc3339
from stores.ports import Bus, ContextStore, EventLog, NotFound, StoreError
from stores.records import ContextKey, ContextRecord, LogBatch, LogEvent

__all__ = ["Contexts", "EventPage", "context_json", "moment"]

_DELETED = "contexts-deleted"
_decode_key = msgspec.json.Decoder(tuple[str, str]).decode


class EventPage(Struct, frozen=True):
    """Frames, oldest first, and the `before` of the next older page."""

    events: Sequence[bytes]
    next: str | None


class Contexts:
    """All raise ProtocolError or StoreError; what is not one's own is not found."""

    def __init__(
        self, store: ContextStore, log: EventLog, epochs: Epochs, hub: Hub, active: ActiveContexts, bus: Bus
    ) -> None:
        self._store = store
        self._log = log
        self._epochs = epochs
        self._hub = hub
        self._active = active
        self._bus = bus

    def key(self, principal: Principal, context_id: str) -> ContextKey:
        if not is_id(context_id):
            raise ProtocolError("not_found", "there is no such context")
        return ContextKey(principal.owner, context_id)

    async def page(self, principal: Principal, after: str | None, limit: int) -> tuple[list[ContextRecord], str | None]:
        try:
            return await self._store.list_contexts(principal.owner, after, limit)
        except ValueError as error:
            raise ProtocolError("invalid_frame", "after is what `next` of a page said", path="after") from error

    async def create(
        self,
        principal: Principal,
        context_id: str | None,
        title: str | None,
        metadata: dict[str, object] | None,
        settings: ContextSettings | None = None,
    ) -> tuple[ContextRecord, bool]:
        """The context, and whether it is new: one that exists is left as it was."""
        key = ContextKey(principal.owner, context_id or new_id("conv_"))
        data = orjson.dumps(metadata) if metadata is not None else None
        made = encode_settings(settings) if settings is not None else None
        created = await self._store.create_context(key, title, data, made)
        return await self.read(key), created

    async def read(self, key: ContextKey) -> ContextRecord:
        record = await self._store.get_context(key)
        if record is None:
            raise NotFound(key.id)
        return record

    async def update(
        self,
        key: ContextKey,
        title: str | None,
        metadata: dict[str, object] | None,
        settings: ContextSettings | None = None,
        pinned: Sequence[str] | None = None,
    ) -> ContextRecord:
        """Set what is given and tell the context's followers. `settings` come in place of those before, `pinned` (ids
        of messages) of all that were pinned."""
        changed = ContextChanged(
            context_id=key.id,
            title=title,
            metadata=metadata,
            settings=to_builtins(settings) if settings is not None else None,
            pinned=list(pinned) if pinned is not None else None,
        )
        event = new_event(changed)
        data = orjson.dumps(metadata) if metadata is not None else None
        set_to = encode_settings(settings) if settings is not None else None
        try:
            await self._store.update_context(key, title, data, event, settings=set_to, pins=pinned)
        except NotFound:
            await self.read(key)
            raise ProtocolError("not_found", "one of these is no message of the context", path="pinned") from None
        await self._epochs.place(key, event)
        return await self.read(key)

    async def delete(self, key: ContextKey) -> None:
        """Delete the context with all that belongs to it, and tell its followers once it is gone."""
        head = await self._log.head(key)
        # What follows is done also for a context that is gone: an earlier call may have failed half-way.
        found = await self._store.delete_context(key)
        if head is not None:
            event = ContextChanged(context_id=key.id, deleted=True)
            last = LogEvent(event=event, body=encode(event), id=new_id("ctx_"))
            await self._log.append([LogBatch(key=key, epoch=head.epoch, writer=new_id("w_"), events=[last])])
        self._epochs.forget(key)
        await self._active.deleted(key)
        await self._log.drop(key)
        await self._hub.deleted(key)
        await self._bus.publish(_DELETED, msgspec.json.encode((key.owner, key.id)))
        if not found:
            raise NotFound(key.id)

    async def run(self) -> None:
        """Hear of contexts that other instances deleted, until cancelled."""
        async with hearing(self._bus, {_DELETED: self._gone_elsewhere}):
            await asyncio.Event().wait()

    def _gone_elsewhere(self, payload: bytes) -> None:
        """It is told at most once: whoever follows the context and did not hear of it will miss its log."""
        try:
            key = ContextKey(*_decode_key(payload))
        except msgspec.DecodeError:
            return
        self._epochs.forget(key)
        self._active.forget(key)
        self._hub.look(key)

    async def events(self, key: ContextKey, before: int | None, limit: int) -> EventPage:
        """A page of history, complete at any moment: the log is read first, then the store."""
        fold = None
        if before is None:
            try:
                fold = await self._log.fold(key)
            except StoreError:
                fold = None  # history is readable while the log is away
        page = await self._store.history(key, before, limit)
        if not page.rows and not page.unsequenced:
            await self.read(key)
        older = page.rows[0].seq if page.rows and page.has_more else None
        return EventPage(complete_history(page, fold), str(older) if older is not None else None)


def context_json(record: ContextRecord) -> dict[str, Any]:
    """A context as clients are shown it."""
    return {
        "id": record.key.id,
        "title": record.title,
        "metadata": orjson.loads(record.metadata) if record.metadata is not None else None,
        "settings": orjson.loads(record.settings) if record.settings is not None else None,
        "created_at": moment(record.created_at),
        "updated_at": moment(record.updated_at),
    }


def moment(seconds: float) -> str:
    """Seconds since 1970 as clients are told them."""
    return rfc3339(datetime.fromtimestamp(seconds, UTC))
