"""The hot ports of a server, running for a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from stores.redis_hot import RedisHot

__all__ = ["running"]


@asynccontextmanager
async def running(hot: RedisHot) -> AsyncGenerator[RedisHot]:
    task = asyncio.create_task(hot.run())
    try:
        yield hot
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await hot.close()
