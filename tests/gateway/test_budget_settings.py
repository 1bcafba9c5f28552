from __future__ import annotations

from pathlib import Path

import pytest

from gateway.budget_settings import BudgetSettings, budget_of
from gateway.core.budget import Budget
from gateway.settings import SettingsError, load_settings


def load(folder: Path, text: str) -> dict[str, BudgetSettings]:
    path = folder / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, {}, {}).budgets


def test_budgets_of_a_file(tmp_path: Path) -> None:
    budgets = load(
        tmp_path,
        """
        [budgets.guests]
        role = "guest"
        tokens_per_day = 10_000
        [budgets.acme]
        tenant = "acme"
        per = "tenant"
        cost_per_month = 12.5
        tokens_per_month = 0
        [budgets.everyone]
        cost_per_day = 1
        """,
    )
    assert [budget_of(name, settings) for name, settings in budgets.items()] == [
        Budget(name="guests", role="guest", tokens_per_day=10_000),
        Budget(name="acme", tenant="acme", per="tenant", cost_per_month=12_500_000, tokens_per_month=0),
        Budget(name="everyone", cost_per_day=1_000_000),
    ]


def test_without_any_there_are_none(tmp_path: Path) -> None:
    assert load(tmp_path, "") == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[budgets.b]", "budgets.b: expected tokens or a cost, per day or per month"),
        ('[budgets.b]\nsubject = "ann"', "budgets.b: expected tokens or a cost, per day or per month"),
        ("[budgets.b]\ntokens_per_week = 1", "budgets.b.tokens_per_week: there is no such setting; did you mean"),
        ("[budgets.b]\ntokens_per_day = -1", "budgets.b.tokens_per_day: expected int >= 0"),
        ("[budgets.b]\ntokens_per_day = 1.5", "budgets.b.tokens_per_day: expected int"),
        ("[budgets.b]\ncost_per_day = inf", "budgets.b.cost_per_day: expected float <= 1000000000.0"),
        ("[budgets.b]\ncost_per_day = nan", "budgets.b.cost_per_day: expected float >= 0"),
        ('[budgets.b]\ncost_per_day = 1\nper = "role"', "budgets.b.per: invalid enum value 'role'"),
        ('[models.m]\nprovider = "demo"\ninput_price = inf', "models.m.input_price: expected a price of at most 1e+09"),
        ('[models.m]\nprovider = "demo"\ncached_price = inf', "models.m.cached_price: expected a price of at most"),
    ],
)
def test_a_wrong_budget_or_price(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    assert problem in str(caught.value)
