"""`GET /v1/audit`: who used which tools and resources, for whoever may know it of the whole tenant (docs/audit.md)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, get_args

import orjson
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth.principal import Principal
from gateway.contexts import moment
from gateway.core.policy import Policy
from gateway.http.replies import Guard, json_reply, page_size
from protocol.errors import ProtocolError
from stores.audit_records import AuditKind, AuditQuery, AuditRecord
from stores.ports import AuditStore

__all__ = ["audit_routes"]


def audit_routes(guard: Guard, policy: Policy, store: AuditStore) -> list[Route]:
    async def audit(request: Request, principal: Principal) -> Response:
        if not policy.may(principal, "audit:read"):
            raise ProtocolError("forbidden", "the audit needs the permission 'audit:read'")
        query, limit = _query(request), page_size(request, 100)
        try:
            page = await store.audits(principal.tenant, query, request.query_params.get("after"), limit)
        except ValueError as error:
            raise ProtocolError("invalid_frame", "after is the 'next' of a page", path="after") from error
        return json_reply({"records": [_shown(record) for record in page.records], "next": page.next})

    return [Route("/v1/audit", guard(audit), methods=["GET"])]


def _shown(record: AuditRecord) -> dict[str, Any]:
    """Its fields, but for those that it has not, and the tenant, which is the reader's own."""
    shown: dict[str, Any] = {
        "id": record.id,
        "at": moment(record.at),
        "subject": record.subject,
        "kind": record.kind,
        "outcome": record.outcome,
        "via": record.via,
        "by": record.by,
        "tool": record.tool,
        "uri": record.uri,
        "context_id": record.context_id,
        "turn_id": record.turn_id,
        "call_id": record.call_id,
        "parameters_hash": record.parameters_hash,
        "parameters": orjson.Fragment(record.parameters) if record.parameters is not None else None,
        "seconds": round(record.seconds, 3) if record.seconds is not None else None,
    }
    return {name: value for name, value in shown.items() if value is not None}


def _query(request: Request) -> AuditQuery:
    asked = request.query_params.get
    query = AuditQuery(
        subject=asked("subject"),
        tool=asked("tool"),
        kind=_kind(request),
        outcome=asked("outcome"),
        context_id=asked("context_id"),
        call_id=asked("call_id"),
    )
    first, end = _moment(request, "from"), _moment(request, "to")
    if first is not None:
        query = replace(query, first=first)
    return replace(query, end=end) if end is not None else query


def _kind(request: Request) -> AuditKind | None:
    text = request.query_params.get("kind")
    for kind in get_args(AuditKind):
        if text == kind:
            return kind
    if text is None:
        return None
    raise ProtocolError("invalid_frame", f"kind is one of {', '.join(get_args(AuditKind))}", path="kind")


def _moment(request: Request, name: str) -> float | None:
    """Seconds since 1970 of a moment, or of the beginning of a day, in UTC where it names no zone."""
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    except ValueError as error:
        raise ProtocolError("invalid_frame", f"{name} is a moment, such as 2026-01-31T12:00:00Z", path=name) from error
