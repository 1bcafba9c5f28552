"""Budgets against a real store: what counts, how fresh it is, and that no budget asks nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.auth.principal import Principal
from gateway.budgets import Budgets
from gateway.core.budget import Budget
from protocol.ids import new_id
from stores.ports import Unavailable
from stores.records import ContextKey, NewUsage, UsageBy, UsagePage
from stores.sqlite import SqliteStore

ANN = Principal(tenant="acme", subject="ann", roles=("guest",))
BOB = Principal(tenant="acme", subject="bob")
SMALL = Budget(name="small", tokens_per_day=100)


class Clock:
    now = datetime(2026, 3, 31, 23, 59, tzinfo=UTC).timestamp()

    def __call__(self) -> float:
        return self.now


class Counting:
    """A store of usage that counts how often it is asked, and may be away or held up."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.asked = 0
        self.away = False
        self.read = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def add_usage(self, key: ContextKey, id: str, usage: NewUsage) -> bool:
        return await self._store.add_usage(key, id, usage)

    async def usage(
        self, tenant: str, owner: str | None, first: str, last: str, by: UsageBy, after: str | None, limit: int
    ) -> UsagePage:
        self.asked += 1
        if self.away:
            raise Unavailable("away")
        page = await self._store.usage(tenant, owner, first, last, by, after, limit)
        self.read.set()
        await self.open.wait()
        return page


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Counting]:
    opened = await SqliteStore.open(tmp_path / "store.db")
    yield Counting(opened)
    await opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def used(who: Principal, tokens: int, day: str = "2026-03-31", cost: int = 0) -> NewUsage:
    return NewUsage(
        tenant=who.tenant,
        subject=who.subject,
        day=day,
        model="m",
        input_tokens=tokens,
        output_tokens=0,
        cost=cost,
    )


async def use(store: Counting, who: Principal, tokens: int, day: str = "2026-03-31", cost: int = 0) -> None:
    """As another instance would: past the budgets' own notice."""
    assert await store.add_usage(ContextKey(who.owner, "chat"), new_id("call_"), used(who, tokens, day, cost))


async def test_without_a_budget_the_store_is_not_asked(store: Counting, clock: Clock) -> None:
    for budgets in (
        Budgets([], store, clock),
        Budgets([Budget(name="b", subject="cy", tokens_per_day=0)], store, clock),
    ):
        assert await budgets.check(ANN) is None
        assert await budgets.limits(ANN) == []
    assert store.asked == 0


async def test_the_refusal_says_which_how_much_and_until_when(store: Counting, clock: Clock) -> None:
    budgets = Budgets([SMALL], store, clock)
    await use(store, ANN, 120)
    refused = await budgets.check(ANN)
    assert refused is not None
    assert refused.code == "rate_limited"
    assert refused.message == (
        "the budget 'small' of 100 tokens a day is used up, with 120 tokens so far; it renews at 2026-04-01T00:00:00Z"
    )
    assert refused.retry_after == 60
    assert not refused.retryable
    assert await budgets.check(BOB) is None


async def test_costs_are_told_as_amounts(store: Counting, clock: Clock) -> None:
    await use(store, ANN, 1, cost=1_500_000)
    refused = await Budgets([Budget(name="b", cost_per_month=1_000_000)], store, clock).check(ANN)
    assert refused is not None
    assert "of a cost of 1.000000 a month is used up, with a cost of 1.500000 so far" in refused.message


async def test_a_day_and_a_month_count_their_own(store: Counting, clock: Clock) -> None:
    await use(store, ANN, 5, "2026-02-28")
    await use(store, ANN, 40, "2026-03-01")
    await use(store, ANN, 2, "2026-03-31")
    budgets = Budgets([Budget(name="b", tokens_per_day=50, tokens_per_month=50)], store, clock)
    assert [limit.used for limit in await budgets.limits(ANN)] == [2, 42]
    clock.now += 60  # a new day, and a new month
    assert [limit.used for limit in await budgets.limits(ANN)] == [0, 0]


async def test_a_tenants_budget_counts_all_of_its_principals(store: Counting, clock: Clock) -> None:
    budgets = Budgets([Budget(name="b", tenant="acme", per="tenant", tokens_per_day=100)], store, clock)
    await use(store, BOB, 100)
    assert await budgets.check(ANN) is not None
    assert await budgets.check(Principal(tenant="other", subject="ann")) is None


async def test_what_this_instance_stores_is_seen_at_once_and_others_within_a_second(
    store: Counting, clock: Clock
) -> None:
    budgets = Budgets([SMALL], store, clock)
    assert await budgets.check(ANN) is None
    budgets.used(BOB, used(BOB, 200))
    budgets.used(ANN, used(ANN, 99))
    assert await budgets.check(ANN) is None
    budgets.used(ANN, used(ANN, 1))
    assert await budgets.check(ANN) is not None
    assert store.asked == 1, "what is stored here need not be read"
    clock.now += 1
    assert await budgets.check(ANN) is None, "what the store says counts"
    assert store.asked == 2
    await use(store, ANN, 100)
    clock.now += 0.5
    assert await budgets.check(ANN) is None
    clock.now += 0.5
    assert await budgets.check(ANN) is not None
    assert store.asked == 3
    clock.now -= 30  # set back
    await budgets.check(ANN)
    assert store.asked == 4


async def test_what_is_used_on_another_day_is_read_anew(store: Counting, clock: Clock) -> None:
    budgets = Budgets([SMALL], store, clock)
    await budgets.check(ANN)
    budgets.used(ANN, used(ANN, 500, "2026-04-01"))
    assert await budgets.check(ANN) is None
    assert store.asked == 2


async def test_many_at_once_ask_the_store_once(store: Counting, clock: Clock) -> None:
    budgets = Budgets([SMALL], store, clock)
    await use(store, ANN, 100)
    refused = await asyncio.gather(*(budgets.check(ANN) for _ in range(50)))
    assert None not in refused
    assert store.asked == 1


async def test_what_is_stored_while_the_store_is_read_is_seen_next(store: Counting, clock: Clock) -> None:
    budgets = Budgets([SMALL], store, clock)
    store.open.clear()
    asking = asyncio.create_task(budgets.check(ANN))
    await store.read.wait()
    await use(store, ANN, 100)
    budgets.used(ANN, used(ANN, 100))
    store.open.set()
    assert await asking is None
    assert await budgets.check(ANN) is not None


async def test_who_asks_and_goes_away_takes_nobody_with_him(store: Counting, clock: Clock) -> None:
    budgets = Budgets([SMALL], store, clock)
    store.open.clear()
    first, second = (asyncio.create_task(budgets.check(ANN)) for _ in range(2))
    await store.read.wait()
    first.cancel()
    store.open.set()
    assert await second is None
    assert store.asked == 2


async def test_a_store_that_is_away_decides_nothing(store: Counting, clock: Clock) -> None:
    budgets = Budgets([SMALL], store, clock)
    store.away = True
    with pytest.raises(Unavailable):
        await budgets.check(ANN)
    store.away = False
    assert await budgets.check(ANN) is None


async def test_the_sums_that_are_kept_are_bounded(
    store: Counting, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.budgets._KEPT", 2)
    budgets = Budgets([SMALL], store, clock)
    for who in (ANN, BOB, Principal(tenant="acme", subject="cy"), ANN):
        assert await budgets.check(who) is None
    assert store.asked == 4
