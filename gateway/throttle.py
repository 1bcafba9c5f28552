"""What one principal may do at a time: messages a minute, on all instances together; open sockets, on this one."""

from __future__ import annotations

from protocol.errors import ProtocolError
from stores.ports import RateLimits

__all__ = ["Connections", "Throttle"]


class Throttle:
    """A rate for each principal: a minute's worth may come at once, then `per_minute` in the long run."""

    def __init__(self, limits: RateLimits, per_minute: float) -> None:
        self._limits = limits
        self._per_minute = per_minute

    async def take(self, owner: str, n: float = 1) -> float:
        """Count `n` for the principal: 0 where it may, else the seconds until it may, and nothing is counted. Raises
        Unavailable."""
        return await self._limits.take(f"messages:{owner}", n, self._per_minute / 60, self._per_minute)

    async def admit(self, owner: str) -> None:
        """Count one. Raises ProtocolError `rate_limited` where it may not be, Unavailable."""
        if wait := await self.take(owner):
            raise ProtocolError("rate_limited", "too many messages a minute", retry_after=round(wait, 3))


class Connections:
    """How many sockets each principal has open; `limit` is the most."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[str, int] = {}

    def acquire(self, owner: str) -> bool:
        """Count one more socket; False, and nothing counted, at the limit."""
        count = self._open.get(owner, 0)
        if count >= self._limit:
            return False
        self._open[owner] = count + 1
        return True

    def release(self, owner: str) -> None:
        """The other end of an `acquire` that answered True. Raises RuntimeError where there was none."""
        count = self._open.get(owner, 0)
        if count == 0:
            raise RuntimeError("release without acquire")
        if count == 1:
            del self._open[owner]
        else:
            self._open[owner] = count - 1

    def count(self, owner: str) -> int:
        return self._open.get(owner, 0)
