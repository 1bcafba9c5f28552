"""Budgets as values: whom one is for, how far it is used up, and when that is over. Days and months are UTC's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from msgspec import Struct

__all__ = [
    "Budget",
    "Limit",
    "Period",
    "Spent",
    "Unit",
    "applies",
    "day_of",
    "decide",
    "limits_of",
    "month_of",
    "renewal",
]

Period = Literal["day", "month"]
Unit = Literal["tokens", "cost"]


class Budget(Struct, frozen=True, kw_only=True):
    """For whoever has this `subject`, this `tenant` and this `role`, as far as they are given; `per` says whose use is
    added up: each principal's own, or that of its whole tenant. Costs are micro-units; None: no limit."""

    name: str
    subject: str | None = None
    tenant: str | None = None
    role: str | None = None
    per: Literal["principal", "tenant"] = "principal"
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    cost_per_day: int | None = None
    cost_per_month: int | None = None


class Spent(Struct, frozen=True, kw_only=True):
    """Tokens and micro-units since the day and since the month began."""

    day_tokens: int = 0
    day_cost: int = 0
    month_tokens: int = 0
    month_cost: int = 0


class Limit(Struct, frozen=True, kw_only=True):
    """One limit of a budget as it stands. `limit` and `used` are tokens or micro-units, `renews_at` is in seconds since
    1970."""

    name: str
    unit: Unit
    period: Period
    limit: int
    used: int
    renews_at: float

    @property
    def reached(self) -> bool:
        return self.used >= self.limit


def applies(budget: Budget, tenant: str, subject: str, roles: Sequence[str] | None) -> bool:
    """Whether the budget is for this principal. A budget of a role is not for who was given no roles at all."""
    return (
        budget.subject in (None, subject)
        and budget.tenant in (None, tenant)
        and (budget.role is None or budget.role in (roles or ()))
    )


def limits_of(budget: Budget, spent: Spent, now: float) -> list[Limit]:
    """The budget's limits at `now`, seconds since 1970."""
    found: list[tuple[Unit, Period, int | None, int]] = [
        ("tokens", "day", budget.tokens_per_day, spent.day_tokens),
        ("tokens", "month", budget.tokens_per_month, spent.month_tokens),
        ("cost", "day", budget.cost_per_day, spent.day_cost),
        ("cost", "month", budget.cost_per_month, spent.month_cost),
    ]
    return [
        Limit(name=budget.name, unit=unit, period=period, limit=limit, used=used, renews_at=renewal(period, now))
        for unit, period, limit, used in found
        if limit is not None
    ]


def decide(limits: Iterable[Limit]) -> Limit | None:
    """The limit that forbids another step, None where all allow it. Of several that are reached it is the one that
    renews last, the first of them: nothing goes on before that."""
    return max((limit for limit in limits if limit.reached), key=lambda limit: limit.renews_at, default=None)


def day_of(now: float) -> str:
    """YYYY-MM-DD."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")


def month_of(now: float) -> str:
    """The month's first day, YYYY-MM-DD."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-01")


def renewal(period: Period, now: float) -> float:
    """When the next day or month begins, in seconds since 1970."""
    midnight = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return (midnight + timedelta(days=1)).timestamp()
    # From whichever day, 31 days after the first one lie in the next month.
    return (midnight.replace(day=1) + timedelta(days=31)).replace(day=1).timestamp()
