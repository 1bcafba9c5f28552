"""All that a principal owns as one JSON document, made piece by piece (docs/data.md)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import orjson

from gateway.auth.principal import Principal
from gateway.contexts import context_json, moment
from gateway.patience import patiently
from protocol.codec import with_seq
from protocol.ids import rfc3339
from stores.ports import OwnerStore
from stores.records import ContextRecord, KeyRecord, Remembered, SessionRecord

__all__ = ["Exports", "Section"]

_PAGE = 100
_PAGE_BYTES = 64 * 1024
_PIECE_BYTES = 32 * 1024

Section = Callable[[Principal], AsyncIterator[bytes]]
"""The JSON of what a principal has of one kind, item by item."""


class Exports:
    """`sections` come as lists of their names beside contexts, sessions and keys: whatever else the gateway keeps of
    its users."""

    def __init__(self, store: OwnerStore, sections: Mapping[str, Section] | None = None) -> None:
        self._store = store
        self._sections: dict[str, Section] = {
            "contexts": self._contexts,
            "sessions": self._sessions,
            "keys": self._keys,
            **(sections or {}),
        }

    async def document(self, principal: Principal) -> AsyncGenerator[bytes]:
        """The document's pieces. A page of one context, or one event that is larger, is held at a time, and between
        two pieces nothing of the store is. What is stored or deleted meanwhile may or may not be in it."""
        piece = bytearray()
        async for part in self._parts(principal):
            piece += part
            if len(piece) > _PIECE_BYTES:
                yield bytes(piece)
                piece.clear()
        yield bytes(piece)

    async def _parts(self, principal: Principal) -> AsyncGenerator[bytes]:
        head = {"tenant": principal.tenant, "subject": principal.subject, "exported_at": rfc3339(datetime.now(UTC))}
        yield orjson.dumps(head)[:-1]
        for name, section in self._sections.items():
            yield b',"%b":[' % name.encode()
            # Some items come in pieces: the section puts its commas itself where it begins another one.
            async for part in section(principal):
                yield part
            yield b"]"
        yield b"}\n"

    async def _contexts(self, principal: Principal) -> AsyncGenerator[bytes]:
        # By id and not by `updated_at`: a context that is written to meanwhile keeps its place.
        after, comma = "", b""
        while True:
            place = after
            page = await patiently(lambda place=place: self._store.contexts_after(principal.owner, place, _PAGE))
            for record in page:
                yield comma + orjson.dumps(context_json(record))[:-1] + b',"events":['
                async for part in self._events(record):
                    yield part
                remembered = await patiently(lambda key=record.key: self._store.all_remembered(key))
                yield b'],"remembered":' + orjson.dumps([_remembered(decision) for decision in remembered]) + b"}"
                after, comma = record.key.id, b","
            if not page:
                return

    async def _events(self, record: ContextRecord) -> AsyncGenerator[bytes]:
        seq, comma = 0, b""
        while True:
            place = seq
            page = await patiently(lambda place=place: self._store.events_after(record.key, place, _PAGE_BYTES))
            for row in (*page.rows, *page.unsequenced):
                yield comma + (with_seq(row.body, row.seq) if row.seq is not None else row.body)
                seq, comma = row.seq or seq, b","
            if not page.has_more:
                return

    async def _sessions(self, principal: Principal) -> AsyncGenerator[bytes]:
        comma = b""
        for record in await patiently(lambda: self._store.all_sessions(principal.owner)):
            yield comma + orjson.dumps(_session(record))
            comma = b","

    async def _keys(self, principal: Principal) -> AsyncGenerator[bytes]:
        comma = b""
        for record in await patiently(lambda: self._store.keys_of(principal.tenant, principal.subject)):
            yield comma + orjson.dumps(_key(record))
            comma = b","


def _remembered(decision: Remembered) -> dict[str, Any]:
    return {"tool": decision.definition.rpartition("@")[0], "approved": decision.approved}


def _session(record: SessionRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "expires_at": moment(record.expires_at),
        "contexts": list(record.contexts),
        "tools": msgspec.json.decode(record.tools),
    }


def _key(record: KeyRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "role": record.role,
        "created_at": moment(record.created_at),
        "revoked_at": moment(record.revoked_at) if record.revoked_at is not None else None,
    }
