"""Hears channels of the bus while something is done."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from gateway.patience import patiently
from stores.ports import Bus

__all__ = ["hearing"]


@asynccontextmanager
async def hearing(bus: Bus, listeners: Mapping[str, Callable[[bytes], None]]) -> AsyncGenerator[None]:
    """Each listener hears its channel from the beginning to the end of the block; the beginning waits for the bus."""
    async with AsyncExitStack() as stack:
        for channel, listener in listeners.items():
            stack.push_async_callback(await patiently(lambda: bus.listen(channel, listener)))  # noqa: B023 - awaited
        yield
