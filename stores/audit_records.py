"""What is recorded of tools and resources: who did what, who decided, how it ended (docs/audit.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

__all__ = ["AuditKind", "AuditPage", "AuditQuery", "AuditRecord", "AuditVia"]

AuditKind = Literal["decision", "call", "read"]
AuditVia = Literal["model", "client", "http", "mcp", "tool"]


class AuditRecord(Struct, frozen=True, kw_only=True):
    """One decision about a call, the outcome of one, or a reading of a resource by a request of its own.

    `id` is unique; `at` is in seconds since 1970. `outcome` of a decision is run, asked, denied or refused, where the
    gateway took it, else approved or rejected; of a call or a reading it is the status of the answer. `via` says how
    the call, the decision or the request came in, `by` who decided, or which session answered. `parameters_hash` is
    hexadecimal, `parameters` JSON. `seconds` is how long a call ran, where that is known. Texts hold no NUL, and
    nothing that UTF-8 can't.
    """

    id: str
    at: float
    tenant: str
    subject: str
    kind: AuditKind
    outcome: str
    via: AuditVia
    by: str | None = None
    tool: str | None = None
    uri: str | None = None
    context_id: str | None = None
    turn_id: str | None = None
    call_id: str | None = None
    parameters_hash: str | None = None
    parameters: bytes | None = None
    seconds: float | None = None


class AuditQuery(Struct, frozen=True, kw_only=True):
    """Which records are meant: those that have all that is given, from the moment `first` on, and before `end`."""

    subject: str | None = None
    tool: str | None = None
    kind: AuditKind | None = None
    outcome: str | None = None
    context_id: str | None = None
    call_id: str | None = None
    first: float = -math.inf
    end: float = math.inf

    @property
    def texts(self) -> dict[str, str]:
        """What is given of the fields that have to be equal, by name."""
        names = ("subject", "tool", "kind", "outcome", "context_id", "call_id")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class AuditPage(Struct, frozen=True):
    """Records, the newest first; `next` is the token of the page that follows, None where there is none."""

    records: Sequence[AuditRecord]
    next: str | None
