"""Single-use tickets, for sockets of browsers, which can't set headers (docs/protocol.md, sections 1 and 6)."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

import msgspec

from gateway.auth.principal import Principal
from protocol.errors import ProtocolError
from stores.ports import Cache

__all__ = ["TICKET_SECONDS", "Tickets"]

TICKET_SECONDS = 30
_MAX_LENGTH = 128
_decoder = msgspec.json.Decoder(Principal)


class Tickets:
    """Tickets over the cache of all instances, which holds no ticket, only its hash and the principal it stands for."""

    def __init__(self, cache: Cache, *, now: Callable[[], float] = time.time) -> None:
        self._cache = cache
        self._now = now

    async def issue(self, principal: Principal, ttl: float = TICKET_SECONDS) -> str:
        """A ticket for the principal, good once within `ttl` seconds. Raises ProtocolError `unavailable`."""
        ticket = secrets.token_urlsafe(32)
        if not await self._cache.add(_key(ticket), msgspec.json.encode(principal), ttl):
            raise ProtocolError("unavailable", "no ticket can be issued now")
        return ticket

    async def redeem(self, ticket: str) -> Principal | None:
        """Whom the ticket stands for; None where it is unknown, used, too old, or the principal's own time is over."""
        if not 0 < len(ticket) <= _MAX_LENGTH or not ticket.isascii():
            return None
        value = await self._cache.take(_key(ticket))
        if value is None:
            return None
        principal = _decoder.decode(value)
        expired = principal.expires_at is not None and principal.expires_at <= self._now()
        return None if expired else principal


def _key(ticket: str) -> str:
    return "ticket:" + hashlib.sha256(ticket.encode()).hexdigest()
