"""Pages of audit records, which all adapters of AuditStore share: the newest first, of one moment the highest id."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from stores.audit_records import AuditPage, AuditRecord
from stores.list_pages import page_token

__all__ = ["audit_page", "merge_audits"]


def audit_page(found: Sequence[AuditRecord], limit: int) -> AuditPage:
    """The page of `limit` records, of one more that were looked for."""
    records = found[:limit]
    return AuditPage(records, page_token(*_place(records[-1])) if len(found) > limit else None)


def merge_audits(pages: Iterable[AuditPage], limit: int) -> AuditPage:
    """Of pages of several stores that began at the same place and were as long."""
    pages = list(pages)
    records = list(heapq.merge(*(page.records for page in pages), key=_place, reverse=True))
    more = len(records) > limit or any(page.next is not None for page in pages)
    return AuditPage(records[:limit], page_token(*_place(records[:limit][-1])) if more else None)


def _place(record: AuditRecord) -> tuple[float, str]:
    return record.at, record.id
