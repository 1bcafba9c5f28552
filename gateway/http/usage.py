"""`GET /v1/usage`: what model calls used and cost, and how the budgets stand (docs/usage.md)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import date
from typing import Any, get_args

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth.principal import Principal
from gateway.budgets import Budgets
from gateway.contexts import moment
from gateway.core.budget import Limit, day_of
from gateway.core.policy import Policy
from gateway.core.pricing import decimal_text
from gateway.http.replies import Guard, json_reply, page_size
from protocol.errors import ProtocolError
from stores.ports import UsageStore
from stores.records import UsageBy, UsageRow

__all__ = ["usage_routes"]

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOST_DAYS = 366


def usage_routes(
    guard: Guard, policy: Policy, store: UsageStore, budgets: Budgets, clock: Callable[[], float] = time.time
) -> list[Route]:
    async def usage(request: Request, principal: Principal) -> Response:
        by, owner = _by(request), principal.owner
        if _scope(request) == "tenant":
            if not policy.may(principal, "usage:tenant"):
                raise ProtocolError("forbidden", "a tenant's usage needs the permission 'usage:tenant'", path="scope")
            if by == "context":
                # A context's id belongs to its owner alone.
                raise ProtocolError("invalid_frame", "a tenant's usage is by day, model or subject", path="by")
            owner = None
        first, last = _days(request, clock())
        after = request.query_params.get("after")
        found = await store.usage(principal.tenant, owner, first, last, by, after, page_size(request, 100))
        limits = await budgets.limits(principal)
        return json_reply(
            {
                "from": first,
                "to": last,
                "usage": [{by: row.name or None, **_figures(row)} for row in found.rows],
                "total": _figures(found.total),
                "next": found.rows[-1].name if found.has_more else None,
                "budgets": [_shown(limit) for limit in limits],
            }
        )

    return [Route("/v1/usage", guard(usage), methods=["GET"])]


def _figures(row: UsageRow) -> dict[str, Any]:
    return {
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "cached_tokens": row.cached_tokens,
        "reasoning_tokens": row.reasoning_tokens,
        "cached_responses": row.cached_responses,
        "steps": row.steps,
        "estimated_steps": row.estimated_steps,
        "cost": decimal_text(row.cost),
    }


def _shown(limit: Limit) -> dict[str, Any]:
    def amount(value: int) -> int | str:
        return value if limit.unit == "tokens" else decimal_text(value)

    return {
        "name": limit.name,
        "unit": limit.unit,
        "period": limit.period,
        "limit": amount(limit.limit),
        "used": amount(limit.used),
        "renews_at": moment(limit.renews_at),
    }


def _by(request: Request) -> UsageBy:
    text = request.query_params.get("by", "day")
    for by in get_args(UsageBy):
        if text == by:
            return by
    raise ProtocolError("invalid_frame", f"by is one of {', '.join(get_args(UsageBy))}", path="by")


def _scope(request: Request) -> str:
    text = request.query_params.get("scope", "own")
    if text not in ("own", "tenant"):
        raise ProtocolError("invalid_frame", "scope is own or tenant", path="scope")
    return text


def _days(request: Request, now: float) -> tuple[str, str]:
    """The first and last day that are asked for: without `to` today, without `from` the first of its month."""
    last = _day(request, "to") or day_of(now)
    first = _day(request, "from") or f"{last[:8]}01"
    days = (date.fromisoformat(last) - date.fromisoformat(first)).days
    if not 0 <= days < _MOST_DAYS:
        raise ProtocolError("invalid_frame", f"from is before to, by less than {_MOST_DAYS} days", path="from")
    return first, last


def _day(request: Request, name: str) -> str | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text).isoformat()
    except ValueError:
        pass
    raise ProtocolError("invalid_frame", f"{name} is a day, YYYY-MM-DD", path=name)
