"""Pages of audit records, which all adapters of AuditStore share: the newest first, of one moment the highest id."""

from __future__ import annotations

import base64
import binascii
import heapq
import math
from collections.abc import Iterable, Sequence

from stores.audit_records import AuditPage, AuditRecord

__all__ = ["audit_page", "audit_place", "audit_token", "merge_audits"]


def audit_token(last: AuditRecord) -> str:
    """The token of the page that follows one that ended with this record."""
    return base64.urlsafe_b64encode(f"{last.at!r} {last.id}".encode()).decode()


def audit_place(token: str | None) -> tuple[float, str]:
    """The moment and id below which the page lies, above all that there are for None. Raises ValueError for a text that
    is no token."""
    if token is None:
        return math.inf, ""
    try:
        moment, separator, id = base64.b64decode(token.encode(), b"-_", validate=True).decode().partition(" ")
    except (binascii.Error, UnicodeError) as error:
        raise ValueError("not a token of a page") from error
    if not separator or not math.isfinite(float(moment)) or "\0" in id:
        raise ValueError("not a token of a page")
    return float(moment), id


def audit_page(found: Sequence[AuditRecord], limit: int) -> AuditPage:
    """The page of `limit` records, of one more that were looked for."""
    records = found[:limit]
    return AuditPage(records, audit_token(records[-1]) if len(found) > limit else None)


def merge_audits(pages: Iterable[AuditPage], limit: int) -> AuditPage:
    """Of pages of several stores that began at the same place and were as long."""
    pages = list(pages)
    records = list(heapq.merge(*(page.records for page in pages), key=_place, reverse=True))
    more = len(records) > limit or any(page.next is not None for page in pages)
    return AuditPage(records[:limit], audit_token(records[:limit][-1]) if more else None)


def _place(record: AuditRecord) -> tuple[float, str]:
    return record.at, record.id
