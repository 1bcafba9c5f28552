"""Opens clients of a Redis or Valkey server for tests, and lets time go by in it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from stores.redis_client import RedisClient
from tests.servers.valkey import command, keys_of

__all__ = ["expire_sooner", "open_client"]


@asynccontextmanager
async def open_client(url: str, *, patience: float = 10.0, max_connections: int = 8) -> AsyncGenerator[RedisClient]:
    client = RedisClient(url, timeout=patience, max_connections=max_connections)
    try:
        yield client
    finally:
        await client.close()


def expire_sooner(url: str, prefix: str, seconds: float) -> None:
    """Bring the end of the prefix's keys so much nearer, as if time had passed."""
    for key in keys_of(url, prefix):
        left: int = command(url, "PTTL", key)
        assert left != -1, "a key that has no end"
        command(url, "PEXPIRE", key, max(0, left - round(seconds * 1000)))
