"""All that is durable, as one port."""

from __future__ import annotations

from typing import Protocol

from stores.ports import ContextStore, KeyStore, OwnerStore, SearchStore, SessionStore, UsageStore

__all__ = ["Store"]


class Store(ContextStore, SessionStore, KeyStore, SearchStore, OwnerStore, UsageStore, Protocol):
    """All that is durable."""
