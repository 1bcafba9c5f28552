"""What a client has not taken yet, for outlets that hold it themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.transport.port import HIGH_WATER, LOW_WATER

__all__ = ["Backlog"]


class Backlog:
    """Counts bytes. `flowing` is False from HIGH_WATER of them until they are down to LOW_WATER; `since` is when there
    began to be any, or when the client last took some."""

    __slots__ = ("_loop", "_since", "flowing", "on_flow", "size")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._since = 0.0
        self.size = 0
        self.flowing = True
        self.on_flow: Callable[[], None] | None = None
        """Called when it flows again."""

    @property
    def since(self) -> float | None:
        return self._since if self.size else None

    def add(self, size: int) -> None:
        if not self.size:
            self._since = self._loop.time()
        self.size += size
        if self.size > HIGH_WATER:
            self.flowing = False

    def take(self, size: int) -> None:
        """The client has taken so much."""
        self.size = max(0, self.size - size)
        self._since = self._loop.time()
        if not self.flowing and self.size <= LOW_WATER:
            self.flowing = True
            if self.on_flow is not None:
                self.on_flow()

    def clear(self) -> None:
        """Nothing is kept any more; nobody is told."""
        self.size = 0
