"""A Valkey server for the tests that ask for one, and for each test a place in it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from itertools import count
from typing import Any, Protocol, cast

import pytest
from redis import Redis

from gateway.servers.valkey import ValkeyServer, run_valkey

__all__ = ["age_heartbeats", "age_leases", "command", "fresh_prefix", "keys_of", "valkey"]

_prefixes = count(1)


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Generator[ValkeyServer]:
    """One server for all: a test keeps to keys of its own prefix."""
    with run_valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


def fresh_prefix() -> str:
    return f"test{next(_prefixes)}"


class _Client(Protocol):
    def execute_command(self, *command: bytes | str | int) -> Any: ...

    def close(self) -> None: ...


def command(url: str, *words: bytes | str | int) -> Any:
    """The reply to one command."""
    with closing(cast("_Client", Redis.from_url(url, decode_responses=False))) as client:  # pyright: ignore[reportUnknownMemberType]
        return client.execute_command(*words)


def keys_of(url: str, prefix: str) -> list[bytes]:
    return sorted(command(url, "KEYS", f"{prefix}:*"))


def age_heartbeats(url: str, prefix: str, seconds: float) -> None:
    """Bring the ends of the prefix's heartbeats nearer, as if time had passed."""
    for member in command(url, "ZRANGE", f"{prefix}:heartbeats", 0, -1):
        command(url, "ZINCRBY", f"{prefix}:heartbeats", -round(seconds * 1000), member)


def age_leases(url: str, prefix: str, seconds: float) -> None:
    """Bring the ends of the prefix's leases nearer, as if time had passed."""
    for key in keys_of(url, f"{prefix}:lease"):
        for member in command(url, "ZRANGE", key, 0, -1):
            command(url, "ZINCRBY", key, -round(seconds * 1000), member)
