"""From a URL to a store: the one place of this package that names concrete adapters."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

from stores.ports import ContextStore, KeyStore, OwnerStore, SearchStore, SessionStore, UsageStore
from stores.sqlite import SqliteStore
from stores.sqlite_file import StoreUrlError, migrate_file

__all__ = ["Store", "StoreUrlError", "migrate", "open_store"]

_SQLITE = "sqlite:///"


class Store(ContextStore, SessionStore, KeyStore, SearchStore, OwnerStore, UsageStore, Protocol):
    """All that is durable."""


async def open_store(url: str) -> Store:
    """The store at `url`, its schema brought up to date: `sqlite:///relative/file`, `sqlite:////absolute/file`.

    Raises StoreUrlError where the URL or what it names can't be used, Unavailable where it can't be opened now.
    """
    return await SqliteStore.open(_path(url))


async def migrate(url: str) -> list[str]:
    """Bring the store's schema up to date; the names of the migrations that were applied. Raises as `open_store`."""
    return await asyncio.to_thread(migrate_file, _path(url))


def _path(url: str) -> Path:
    if not url.startswith(_SQLITE) or not url.removeprefix(_SQLITE):
        # Not the URL itself, which may hold a password.
        raise StoreUrlError(f"store.url: expected {_SQLITE}FILE, not a URL that begins with {url.split(':')[0]!r}")
    return Path(url.removeprefix(_SQLITE))
