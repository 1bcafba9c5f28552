"""What instances share besides the store, and may lose: the live log, signals, caches, limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence

from msgspec import Struct

from stores.ports import Bus, Cache, EventLog, Heartbeats, Leases, RateLimits, ThreadCache

__all__ = ["Hot"]


class Hot(Struct, frozen=True, kw_only=True):
    """The hot ports of one gateway. `tickets` is a cache that nothing else crowds; `threads` None: there are no other
    instances to leave them to. `tasks` must run while it is used; `close` comes after them."""

    log: EventLog
    bus: Bus
    heartbeats: Heartbeats
    cache: Cache
    tickets: Cache
    limits: RateLimits
    leases: Leases
    threads: ThreadCache | None
    tasks: Sequence[Callable[[], Coroutine[None, None, None]]]
    close: Callable[[], Awaitable[None]]
