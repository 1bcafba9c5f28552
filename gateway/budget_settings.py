"""One `[budgets.<name>]` section of the settings."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from gateway.core.budget import Budget
from gateway.core.pricing import micro

__all__ = ["BudgetSettings", "budget_of"]

_Tokens = Annotated[int, Meta(ge=0, lt=2**53)]
_Cost = Annotated[float, Meta(ge=0, le=1e9)]


class BudgetSettings(Struct, frozen=True, kw_only=True):
    """For whoever has this `subject`, this `tenant` and this `role`; without any of them for everyone. `per` says
    whose use counts: each principal's own, or that of its whole tenant. Tokens are input and output together, costs
    are in the currency of the models' prices; days and months are UTC's."""

    subject: str | None = None
    tenant: str | None = None
    role: str | None = None
    per: Literal["principal", "tenant"] = "principal"
    tokens_per_day: _Tokens | None = None
    tokens_per_month: _Tokens | None = None
    cost_per_day: _Cost | None = None
    cost_per_month: _Cost | None = None

    @property
    def limits_nothing(self) -> bool:
        limits = (self.tokens_per_day, self.tokens_per_month, self.cost_per_day, self.cost_per_month)
        return all(limit is None for limit in limits)


def budget_of(name: str, settings: BudgetSettings) -> Budget:
    return Budget(
        name=name,
        subject=settings.subject,
        tenant=settings.tenant,
        role=settings.role,
        per=settings.per,
        tokens_per_day=settings.tokens_per_day,
        tokens_per_month=settings.tokens_per_month,
        cost_per_day=None if settings.cost_per_day is None else micro(settings.cost_per_day),
        cost_per_month=None if settings.cost_per_month is None else micro(settings.cost_per_month),
    )
