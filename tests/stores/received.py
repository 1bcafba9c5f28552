"""What a callback was handed, and a way to wait for it."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

__all__ = ["Received"]

_T = TypeVar("_T")


class Received(Generic[_T]):
    """`items` in the order in which they came; the instance itself is the callback."""

    def __init__(self) -> None:
        self.items: list[_T] = []
        self._came = asyncio.Event()

    def __call__(self, item: _T) -> None:
        self.items.append(item)
        self._came.set()

    async def reach(self, count: int) -> list[_T]:
        """The items, once there are `count`."""
        async with asyncio.timeout(5):
            while len(self.items) < count:
                self._came.clear()
                await self._came.wait()
        return self.items
