"""What instances tell each other: wake-up calls, and that they live."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

__all__ = ["Bus", "Heartbeats"]


class Bus(Protocol):
    """Wake-up calls between instances: at most once, in no order. Whoever needs more rereads the store."""

    async def publish(self, channel: str, payload: bytes) -> None: ...

    async def listen(self, channel: str, listener: Callable[[bytes], None]) -> Callable[[], Awaitable[None]]: ...


class Heartbeats(Protocol):
    """Which instances are alive."""

    async def beat(self, instance: str, ttl: float) -> None: ...

    async def stop(self, instance: str) -> None: ...

    async def alive(self) -> frozenset[str] | None:
        """The instances whose heartbeat is not over; None while that can't be judged."""
        ...
