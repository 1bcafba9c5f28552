"""Who a client is, once it has shown it."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from msgspec import Struct

__all__ = ["DEFAULT_TENANT", "Principal"]

DEFAULT_TENANT: Final = "default"
"""Whose are all that nobody said a tenant of."""


class Principal(Struct, frozen=True, kw_only=True):
    """The authenticated subject. `expires_at` is in seconds since 1970, None: never; `roles` None means that no role
    was given, so that everything of one's own and everything unrestricted is allowed."""

    tenant: str
    subject: str
    roles: tuple[str, ...] | None = None
    expires_at: float | None = None

    @property
    def owner(self) -> str:
        """The namespace of all that is this principal's; equal only for the same tenant and subject."""
        return f"{quote(self.tenant, safe='')}/{quote(self.subject, safe='')}"
