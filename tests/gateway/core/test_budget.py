from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.budget import Budget, Limit, Period, Spent, applies, day_of, decide, limits_of, month_of, renewal

NOW = datetime(2026, 2, 27, 13, 30, tzinfo=UTC).timestamp()
DAY_END = datetime(2026, 2, 28, tzinfo=UTC).timestamp()
MONTH_END = datetime(2026, 3, 1, tzinfo=UTC).timestamp()


def limit(used: int, of: int = 10, *, name: str = "b", period: Period = "day") -> Limit:
    return Limit(name=name, unit="tokens", period=period, limit=of, used=used, renews_at=renewal(period, NOW))


@pytest.mark.parametrize(
    ("budget", "meant"),
    [
        (Budget(name="b"), True),
        (Budget(name="b", subject="ann"), True),
        (Budget(name="b", subject="bob"), False),
        (Budget(name="b", tenant="acme"), True),
        (Budget(name="b", tenant="other"), False),
        (Budget(name="b", role="guest"), True),
        (Budget(name="b", role="admin"), False),
        (Budget(name="b", subject="ann", tenant="acme", role="guest"), True),
        (Budget(name="b", subject="ann", tenant="acme", role="admin"), False),
    ],
)
def test_whom_a_budget_is_for(budget: Budget, meant: bool) -> None:
    assert applies(budget, "acme", "ann", ("guest", "reader")) is meant


def test_a_role_budget_is_not_for_who_has_no_role() -> None:
    assert not applies(Budget(name="b", role="guest"), "acme", "ann", None)
    assert not applies(Budget(name="b", role="guest"), "acme", "ann", ())


def test_the_limits_of_a_budget() -> None:
    spent = Spent(day_tokens=1, day_cost=2, month_tokens=3, month_cost=4)
    whole = Budget(name="b", tokens_per_day=10, tokens_per_month=20, cost_per_day=30, cost_per_month=40)
    assert [(x.unit, x.period, x.limit, x.used, x.renews_at) for x in limits_of(whole, spent, NOW)] == [
        ("tokens", "day", 10, 1, DAY_END),
        ("tokens", "month", 20, 3, MONTH_END),
        ("cost", "day", 30, 2, DAY_END),
        ("cost", "month", 40, 4, MONTH_END),
    ]
    assert limits_of(Budget(name="b"), spent, NOW) == []
    assert [x.unit for x in limits_of(Budget(name="b", cost_per_day=0), spent, NOW)] == ["cost"]


def test_a_limit_forbids_what_comes_after_it_is_reached() -> None:
    assert decide([limit(9)]) is None
    assert decide([limit(10)]) == limit(10)
    assert decide([limit(0, of=0)]) is not None
    assert decide([]) is None


def test_of_several_the_one_that_holds_up_longest_is_told() -> None:
    open_, day, month = limit(1, name="open"), limit(11, name="day"), limit(11, name="month", period="month")
    assert decide([open_, day]) == day
    assert decide([day, month, open_]) == month
    assert decide([limit(11, name="one"), limit(12, name="two")]) == limit(11, name="one")


def test_days_and_months_are_of_utc() -> None:
    assert day_of(NOW) == "2026-02-27"
    assert month_of(NOW) == "2026-02-01"
    assert day_of(DAY_END) == "2026-02-28"
    assert day_of(DAY_END - 0.001) == "2026-02-27"


@given(st.integers(0, 4_000_000_000))
def test_a_period_ends_when_its_name_changes(now: int) -> None:
    for period, name in (("day", day_of), ("month", month_of)):
        end = renewal("day" if period == "day" else "month", now)
        assert end > now
        assert name(end - 1) == name(now)
        assert name(end) != name(now)
        assert renewal("day", end - 1) == end
