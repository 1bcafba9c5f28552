"""ThreadCache in Redis."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stores.ports import Unavailable
from stores.records import ContextKey, ContextRecord, EventRow, Pin, Summary, ThreadRows
from stores.redis_client import RedisClient, Reply
from stores.redis_keys import PREFIX, checked_prefix, context_tag, digest

__all__ = ["RedisThreadCache"]


class _About(msgspec.Struct, frozen=True):
    """What is kept of a thread besides its events."""

    context: ContextRecord
    summaries: Sequence[Summary]
    pins: Sequence[Pin]


_Row = tuple[str, str, bytes, int, str | None]

# To be raised where the same fields come to mean something else, or are written in another way.
_FORMAT = 1
_FIELDS = [name for kind in (ContextRecord, Summary) for name in kind.__struct_fields__]
# In the name of each key: instances of two versions, side by side during an update, don't read each other's.
_VERSION = digest(str(_FORMAT), *_FIELDS, *Pin._fields)[:8]

_encoder = msgspec.msgpack.Encoder()
_about_decoder = msgspec.msgpack.Decoder(_About)
_row_decoder = msgspec.msgpack.Decoder(_Row)


class RedisThreadCache:
    """ThreadCache of all instances, in keys `<prefix>:thread:<version>:{<digest>}`. Rows come back without `seq`, and
    the oldest are dropped beyond `max_bytes`; what does not fit with one row is not kept. It is forgotten `ttl` seconds
    after it was used last. `extend` is not sent twice: Unavailable leaves open whether it was done."""

    def __init__(
        self, client: RedisClient, *, prefix: str = PREFIX, max_bytes: int = 512 << 10, ttl: float = 3600.0
    ) -> None:
        self._client = client
        self._prefix = f"{checked_prefix(prefix)}:thread:{_VERSION}:"
        self._max_bytes = max_bytes
        self._ttl = max(1, round(ttl * 1000))

    async def load(self, key: ContextKey) -> tuple[ThreadRows, int] | None:
        reply = await self._client.run("load_thread", [self._key(key)], [self._ttl], resend=True)
        if reply == []:
            return None
        try:
            found, newest = _decoded(reply)
        except (msgspec.MsgspecError, ValueError):
            await self.forget(key)
            return None
        return (found, newest) if found.context.key == key else None

    async def save(self, key: ContextKey, rows: ThreadRows, newest: int) -> None:
        about = _encoder.encode(_About(rows.context, rows.summaries, rows.pins))
        kept: list[bytes] = []
        size = 0
        for row in reversed(rows.rows):
            data = _encoded(row)
            if size + len(data) + len(about) > self._max_bytes:
                break
            kept.append(data)
            size += len(data)
        if len(about) > self._max_bytes or (rows.rows and not kept):
            await self.forget(key)
            return
        more = rows.more or len(kept) < len(rows.rows)
        state = f"{rows.context.born} {newest} {size} {int(more)}"
        elements = [self._ttl, state, about, *reversed(kept)]
        await self._client.run("save_thread", [self._key(key)], elements, resend=True)

    async def extend(self, key: ContextKey, born: int, rows: Sequence[EventRow], before: int, newest: int) -> bool:
        arguments = [born, before, newest, self._max_bytes, self._ttl, *map(_encoded, rows)]
        return await self._client.run("extend_thread", [self._key(key)], arguments, resend=False) == 1

    async def forget(self, key: ContextKey) -> None:
        await self._client.call("DEL", self._key(key), resend=True)

    def _key(self, key: ContextKey) -> str:
        return self._prefix + context_tag(key)


def _encoded(row: EventRow) -> bytes:
    return _encoder.encode((row.id, row.type, row.body, row.order, row.turn_id))


def _decoded(reply: Reply) -> tuple[ThreadRows, int]:
    """Raises ValueError, MsgspecError."""
    if not isinstance(reply, list):
        raise Unavailable("redis: not a thread")
    state, packed, *elements = (element for element in reply if isinstance(element, bytes))
    about = _about_decoder.decode(packed)
    rows: list[EventRow] = []
    for element in elements:
        id, type, body, order, turn_id = _row_decoder.decode(element)
        rows.append(EventRow(id=id, type=type, body=body, order=order, turn_id=turn_id))
    born, newest, _, more = map(int, state.split())
    if born != about.context.born:
        raise ValueError("the state is another context's")
    return ThreadRows(about.context, rows, about.summaries, about.pins, bool(more)), newest
