"""An AuditStore of a plain dictionary: the port's contract (stores/ports) in its shortest form."""

from __future__ import annotations

from stores.audit_pages import audit_page
from stores.audit_records import AuditPage, AuditQuery, AuditRecord
from stores.list_pages import page_place

__all__ = ["ReferenceAudit"]


class ReferenceAudit:
    def __init__(self) -> None:
        self._records: dict[str, AuditRecord] = {}

    def add(self, record: AuditRecord) -> None:
        self._records.setdefault(record.id, record)

    def page(self, tenant: str, query: AuditQuery, after: str | None, limit: int) -> AuditPage:
        below = page_place(after)
        found = [
            record
            for record in sorted(self._records.values(), key=lambda record: (record.at, record.id), reverse=True)
            if record.tenant == tenant and query.first <= record.at < query.end and (record.at, record.id) < below
            if all(getattr(record, name) == value for name, value in query.texts.items())
        ]
        return audit_page(found, limit)

    def prune(self, before: float, limit: int) -> int:
        old = [id for id, record in self._records.items() if record.at < before][:limit]
        for id in old:
            del self._records[id]
        return len(old)
