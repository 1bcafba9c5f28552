"""From URLs to adapters: the one place of this package that names concrete ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from stores.hot import Hot
from stores.memory import MemoryBus, MemoryCache, MemoryHeartbeats, MemoryLog
from stores.memory_leases import MemoryLeases
from stores.memory_limits import MemoryRateLimits
from stores.ports import Unavailable
from stores.shards import shard_urls
from stores.sqlite import SqliteStore
from stores.sqlite_file import migrate_file
from stores.store import Store
from stores.store_url import StoreUrlError

__all__ = ["Store", "StoreUrlError", "migrate", "open_hot", "open_store"]

_SQLITE = "sqlite:///"
_POSTGRES = ("postgresql://", "postgres://")
_PATIENCE = 20.0
_RETRY = 0.5
_CONNECT_SECONDS = 5.0

_T = TypeVar("_T")


async def open_store(urls: str | Sequence[str], *, connections: int = 10) -> Store:
    """The store at a URL, its schema brought up to date: `sqlite:///relative/file`, `sqlite:////absolute/file`,
    `postgresql://…` with so many `connections` at most. Several URLs are the shards of one store.

    A Postgres that is away is waited for a while, as it may be about to start. Raises StoreUrlError where a URL or what
    it names can't be used, Unavailable where it can't be opened.
    """
    named = shard_urls([urls] if isinstance(urls, str) else urls)
    if len(named) == 1:
        return await _open(next(iter(named.values())), connections)
    from stores.sharded import ShardedStore

    shards: dict[str, Store] = {}
    try:
        for name, url in named.items():
            shards[name] = await _open(url, connections)
    except BaseException:
        for shard in shards.values():
            await shard.close()
        raise
    return ShardedStore(shards)


async def _open(url: str, connections: int) -> Store:
    if not url.startswith(_POSTGRES):
        return await SqliteStore.open(_path(url))
    try:
        from stores.postgres import PostgresStore
    except ImportError as error:
        raise StoreUrlError("store.url: Postgres needs: pip install 'tidegate[postgres]'") from error
    return await _awaited(lambda: PostgresStore.open(url, connections=connections))


async def _awaited(call: Callable[[], Awaitable[_T]]) -> _T:
    """The call's answer; a server that is away may be about to start."""
    clock = asyncio.get_running_loop().time
    until = clock() + _PATIENCE
    while True:
        try:
            return await call()
        except Unavailable:
            if clock() > until:
                raise
        await asyncio.sleep(_RETRY)


async def migrate(urls: str | Sequence[str]) -> list[str]:
    """Bring the store's schema up to date; the names of the migrations that were applied. Raises as `open_store`."""
    applied: list[str] = []
    for url in shard_urls([urls] if isinstance(urls, str) else urls).values():
        if url.startswith(_POSTGRES):
            applied += await _migrate_postgres(url)
        else:
            applied += await asyncio.to_thread(migrate_file, _path(url))
    return applied


async def _migrate_postgres(url: str) -> list[str]:
    try:
        from stores.postgres_migrate import migrate_database
    except ImportError as error:
        raise StoreUrlError("store.url: Postgres needs: pip install 'tidegate[postgres]'") from error
    applied, _ = await _awaited(lambda: migrate_database(url, _CONNECT_SECONDS))
    return applied


def open_hot(url: str | None, *, prefix: str = "tidegate", max_bytes: int, ttl: float) -> Hot:
    """The hot ports at `url`, or (None) those of a single process. A context's log keeps `max_bytes` of its tail, and
    `ttl` seconds without use; `prefix` begins the names of all keys.

    Raises StoreUrlError where the URL can't be used. It is no error that the server is away.
    """
    if url is not None:
        return _open_redis(url, prefix, max_bytes, ttl)

    async def close() -> None: ...

    return Hot(
        log=MemoryLog(max_bytes=max_bytes, ttl=ttl),
        bus=MemoryBus(),
        heartbeats=MemoryHeartbeats(),
        cache=MemoryCache(),
        tickets=MemoryCache(),
        limits=MemoryRateLimits(),
        leases=MemoryLeases(),
        threads=None,
        tasks=(),
        close=close,
    )


def _open_redis(url: str, prefix: str, max_bytes: int, ttl: float) -> Hot:
    try:
        from stores.redis_cache import RedisCache
        from stores.redis_client import RedisClient, RedisUrlError
        from stores.redis_hot import RedisHot
        from stores.redis_leases import RedisLeases
        from stores.redis_limits import RedisRateLimits
        from stores.redis_threads import RedisThreadCache
    except ImportError as error:
        raise StoreUrlError("redis.url: Redis needs: pip install 'tidegate[redis]'") from error
    try:
        redis = RedisHot(url, prefix=prefix, max_bytes=max_bytes, ttl=ttl)
        client = RedisClient(url)
    except RedisUrlError as error:
        raise StoreUrlError(f"redis.url: {error}") from error

    async def close() -> None:
        await client.close()
        await redis.close()

    cache = RedisCache(client, prefix=prefix)
    return Hot(
        log=redis.log,
        bus=redis.bus,
        heartbeats=redis.heartbeats,
        cache=cache,
        tickets=cache,
        limits=RedisRateLimits(client, prefix=prefix),
        leases=RedisLeases(client, prefix=prefix),
        threads=RedisThreadCache(client, prefix=prefix),
        tasks=(redis.run,),
        close=close,
    )


def _path(url: str) -> Path:
    if not url.startswith(_SQLITE) or not url.removeprefix(_SQLITE):
        # Not the URL itself, which may hold a password.
        scheme = url.split(":", maxsplit=1)[0]
        raise StoreUrlError(
            f"store.url: expected {_SQLITE}FILE or {_POSTGRES[0]}…, not a URL that begins with {scheme!r}"
        )
    return Path(url.removeprefix(_SQLITE))
