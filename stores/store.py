"""All that is durable, as one port."""

from __future__ import annotations

from typing import Protocol

from stores.ports import (
    AuditStore,
    ContextStore,
    KeyStore,
    OwnerStore,
    SearchStore,
    SecretStore,
    SessionStore,
    UsageStore,
)

__all__ = ["Store"]


class Store(
    ContextStore, SessionStore, KeyStore, SearchStore, OwnerStore, UsageStore, SecretStore, AuditStore, Protocol
):
    """All that is durable."""
