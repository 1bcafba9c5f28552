"""EventLog in Redis: each method is one script in one round trip, and carries the run_id of the server it goes to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from stores.ports import Follower, StoreError, Unavailable
from stores.records import ContextKey, Entry, Head, LogBatch, LogFold, Publication
from stores.redis_keys import PREFIX, checked_prefix
from stores.redis_link import Call, RedisLink, Script, load
from stores.redis_log_wire import (
    Names,
    answer_of,
    arguments_of,
    as_bytes,
    as_list,
    entries_of,
    fold_of,
    ids_of,
    names_of,
    publication_of,
)
from stores.redis_subscriber import Subscriber
from stores.redis_wire import Argument, Reply

__all__ = ["RedisLog"]

_APPEND, _BEGIN, _FOLD, _HEAD, _IDS, _READ, _RECORDED = (
    load("log", f"log_{name}") for name in ("append", "begin", "fold", "head", "ids", "read", "recorded")
)


class RedisLog:
    """EventLog of all instances. `max_bytes` bounds the tail of a context, `ttl` (seconds) is how long the log of a
    context is kept that nobody asks for or writes, `keep_ids` (seconds) how long an id after it was recorded.

    What `subscriber` hears is handed on while that runs; it is not this object's to close, and neither is `link`.
    """

    def __init__(
        self,
        link: RedisLink,
        subscriber: Subscriber,
        *,
        prefix: str = PREFIX,
        max_bytes: int = 1 << 20,
        ttl: float = 600.0,
        keep_ids: float = 3600.0,
    ) -> None:
        self._link = link
        self._subscriber = subscriber
        self._prefix = checked_prefix(prefix)
        self._max_bytes = max_bytes
        self._ttl = max(1, round(ttl * 1000))
        self._keep_ids = round(keep_ids)

    async def head(self, key: ContextKey) -> Head | None:
        return _head(await self._run(_HEAD, key, self._ttl))

    async def heads(self, keys: Sequence[ContextKey]) -> list[Head | None]:
        if not keys:
            return []
        replies = (await self._link.run([self._call(_HEAD, key, self._ttl) for key in keys])).replies
        return [_head(_taken(reply)) for reply in replies]

    async def begin(self, key: ContextKey, epoch: int, base: int) -> bool:
        return await self._run(_BEGIN, key, epoch, base, self._ttl) == 1

    async def append(self, batches: Sequence[LogBatch]) -> list[dict[str, int] | StoreError]:
        if not batches:
            return []
        calls: list[Call] = []
        for batch in batches:
            names = self._names(batch.key)
            arguments = arguments_of(batch, self._ttl, self._max_bytes, names.channel)
            calls.append(Call(_APPEND, names.keys, arguments))
        replies = (await self._link.run(calls)).replies
        return [answer_of(batch, reply) for batch, reply in zip(batches, replies, strict=True)]

    async def read(self, key: ContextKey, epoch: int, after: int, limit: int) -> list[Entry] | None:
        reply = await self._run(_READ, key, self._ttl, epoch, after, limit)
        return None if reply is None else entries_of([as_bytes(frame) for frame in as_list(reply)], after + 1)

    async def fold(self, key: ContextKey) -> LogFold | None:
        reply = await self._run(_FOLD, key, self._ttl)
        return None if reply is None else fold_of(reply)

    async def ids(self, key: ContextKey, epoch: int, upto: int) -> dict[str, int] | None:
        reply = await self._run(_IDS, key, self._ttl, epoch, upto)
        return None if reply is None else ids_of(reply)

    async def recorded(self, key: ContextKey, epoch: int, seq: int) -> None:
        await self._run(_RECORDED, key, epoch, seq, self._keep_ids)

    async def drop(self, key: ContextKey) -> None:
        await self._link.send("UNLINK", *self._names(key).keys)

    async def follow(self, key: ContextKey, follower: Follower) -> Callable[[], Awaitable[None]]:
        """Raises Unavailable where the server does not confirm the subscription in time."""
        return await self._subscriber.listen(
            self._names(key).channel, partial(publication_of, key), Publication(key, 0, []), follower
        )

    async def check(self) -> None:
        self._subscriber.check()
        await self._link.send("PING")

    def _names(self, key: ContextKey) -> Names:
        return names_of(self._prefix, key)

    def _call(self, script: Script, key: ContextKey, *arguments: Argument) -> Call:
        return Call(script, self._names(key).keys, arguments)

    async def _run(self, script: Script, key: ContextKey, *arguments: Argument) -> Reply:
        (reply,) = (await self._link.run([self._call(script, key, *arguments)])).replies
        return _taken(reply)


def _taken(reply: Reply | Unavailable) -> Reply:
    if isinstance(reply, Unavailable):
        raise reply
    return reply


def _head(reply: Reply) -> Head | None:
    if reply is None:
        return None
    epoch, seq = as_list(reply)
    return Head(int(as_bytes(epoch)), int(as_bytes(seq)))
