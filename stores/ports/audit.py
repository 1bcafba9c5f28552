"""Who used which tools and resources, who decided, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stores.audit_records import AuditPage, AuditQuery, AuditRecord

__all__ = ["AuditStore"]


class AuditStore(Protocol):
    """Records that are added, read and, in time, deleted: nothing changes one, and no deletion of contexts or of what
    an owner has takes any with it. The record of something that made an event is stored with the event
    (NewEvent.audit), in its transaction. All methods may raise Unavailable."""

    async def audit(self, owner: str, records: Sequence[AuditRecord]) -> None:
        """Store what an owner did that made no event; a record whose id is stored is passed over, so that this may be
        done again."""
        ...

    async def audits(self, tenant: str, query: AuditQuery, after: str | None, limit: int) -> AuditPage:
        """The newest `limit` records of a tenant that are meant, behind the place that `after` is the token of. Of one
        moment the highest id comes first. Raises ValueError for a text that is no token."""
        ...

    async def prune_audits(self, before: float, limit: int) -> int:
        """Delete records from before a moment, `limit` at most; how many those were."""
        ...
