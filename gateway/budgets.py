"""Budgets as they stand: what principals have used of them, read from the store and kept for a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from gateway.auth.principal import Principal
from gateway.core.budget import Budget, Limit, Spent, applies, day_of, decide, limits_of, month_of
from gateway.core.pricing import decimal_text
from protocol.errors import ProtocolError
from stores.ports import UsageStore
from stores.records import NewUsage

__all__ = ["Budgets"]

_FRESH_SECONDS = 1.0
_KEPT = 10_000
_DAYS = 31

Scope = tuple[str, str | None]
"""Whose use is added up: a tenant, and one owner in it or all of it (None)."""


class Budgets:
    """Checked before a message that wants an answer is stored, and before each step; `clock` is in seconds since 1970.

    A step that was let begin is finished, whatever it uses. So what is used ends above a limit by no more than the
    steps that ran when it was reached, and those that began within a second of another instance's reaching it: what
    this instance stores is seen at once (`used`), what others store within a second.
    """

    def __init__(self, budgets: Sequence[Budget], store: UsageStore, clock: Callable[[], float] = time.time) -> None:
        self._budgets = tuple(budgets)
        self._store = store
        self._clock = clock
        self._sums: dict[Scope, _Sum] = {}

    async def check(self, principal: Principal) -> ProtocolError | None:
        """The refusal of the principal's next step, None where it may begin. Raises Unavailable.

        It is not `retryable`, though it says when that would help: a client that waits on its own would be silent
        until then.
        """
        reached = decide(await self.limits(principal))
        if reached is None:
            return None
        wait = max(1.0, reached.renews_at - self._clock())
        return ProtocolError("rate_limited", _words(reached), retry_after=round(wait, 3), retryable=False)

    async def limits(self, principal: Principal) -> list[Limit]:
        """All that limits the principal, in the order of the settings. Raises Unavailable."""
        found: list[Limit] = []
        now = self._clock()
        for budget in self._budgets:
            if applies(budget, principal.tenant, principal.subject, principal.roles):
                owner = principal.owner if budget.per == "principal" else None
                found += limits_of(budget, await self._spent((principal.tenant, owner), now), now)
        return found

    def used(self, principal: Principal, usage: NewUsage) -> None:
        """This was stored for the principal."""
        for scope in ((principal.tenant, principal.owner), (principal.tenant, None)):
            kept = self._sums.get(scope)
            if kept is None:
                continue
            if kept.lock.locked() or kept.day != usage.day:
                kept.stale = True  # whether the answer that is on its way has it nobody knows
            else:
                kept.add(usage)

    async def _spent(self, scope: Scope, now: float) -> Spent:
        if scope not in self._sums:
            if len(self._sums) == _KEPT:
                del self._sums[next(iter(self._sums))]
            self._sums[scope] = _Sum()
        kept = self._sums[scope]
        today = day_of(now)
        # One asks the store, the others that come meanwhile wait for its answer.
        async with kept.lock:
            # A clock that was set back makes nothing fresh.
            if kept.stale or kept.day != today or not 0 <= now - kept.read_at < _FRESH_SECONDS:
                # Before the store is asked: what is stored while it answers makes the answer stale again.
                kept.stale = False
                try:
                    page = await self._store.usage(*scope, month_of(now), today, "day", None, _DAYS)
                except BaseException:
                    kept.stale = True
                    raise
                days = {row.name: row for row in page.rows}
                this = days.get(today)
                kept.spent = Spent(
                    day_tokens=this.input_tokens + this.output_tokens if this is not None else 0,
                    day_cost=this.cost if this is not None else 0,
                    month_tokens=page.total.input_tokens + page.total.output_tokens,
                    month_cost=page.total.cost,
                )
                kept.day, kept.read_at = today, now
            return kept.spent


class _Sum:
    """What was used in a scope, as it was read; `stale` says that more has been stored since."""

    __slots__ = ("day", "lock", "read_at", "spent", "stale")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.stale = True
        self.day = ""
        self.read_at = 0.0
        self.spent = Spent()

    def add(self, usage: NewUsage) -> None:
        tokens, spent = usage.input_tokens + usage.output_tokens, self.spent
        self.spent = Spent(
            day_tokens=spent.day_tokens + tokens,
            day_cost=spent.day_cost + usage.cost,
            month_tokens=spent.month_tokens + tokens,
            month_cost=spent.month_cost + usage.cost,
        )


def _words(reached: Limit) -> str:
    def shown(amount: int) -> str:
        return f"{amount} tokens" if reached.unit == "tokens" else f"a cost of {decimal_text(amount)}"

    renews = datetime.fromtimestamp(reached.renews_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return (
        f"the budget {reached.name!r} of {shown(reached.limit)} a {reached.period} is used up,"
        f" with {shown(reached.used)} so far; it renews at {renews}"
    )
