"""Resources that are read outside of a turn: each reading is counted, and recorded before it is told."""

from __future__ import annotations

import asyncio

from gateway.auditing import Auditor
from gateway.auth.principal import Principal
from gateway.resources.port import ResourceContent, ResourceError, Unavailable
from gateway.resources.reader import ResourceReader
from gateway.throttle import Throttle
from stores.audit_records import AuditVia

__all__ = ["ResourceReading"]


class ResourceReading:
    """A reading counts as a message in `throttle`: it may go out to other servers. What `auditor` can't record is not
    told."""

    def __init__(self, reader: ResourceReader, throttle: Throttle, auditor: Auditor | None = None) -> None:
        self.reader = reader
        self._throttle = throttle
        self._auditor = auditor or Auditor()

    async def read(self, principal: Principal, uri: str, via: AuditVia) -> ResourceContent:
        """Raises ProtocolError `rate_limited`, ResourceError, and the store's Unavailable."""
        await self._throttle.admit(principal.owner)
        now = asyncio.get_running_loop().time
        began = now()

        async def note(outcome: str) -> None:
            record = self._auditor.read(principal, uri, outcome, via, seconds=now() - began)
            await self._auditor.note(principal, record)

        try:
            content = await self.reader.read(principal, uri)
        except ResourceError:
            await note("error" if await self._may_read(principal, uri) else "denied")
            raise
        await note("success")
        return content

    async def _may_read(self, principal: Principal, uri: str) -> bool:
        try:
            return await self.reader.may_read(principal, uri)
        except Unavailable:
            return True
