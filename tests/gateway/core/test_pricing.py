from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.pricing import FREE, MICRO, MOST, Price, bounded, cost, decimal_text, micro
from protocol.frames import Usage

COUNTS = st.integers(-(1 << 70), 1 << 70)
PRICES = st.floats(0, 1e9)


def usage(input: int = 0, output: int = 0, cached: int = 0, **more: int) -> Usage:
    return Usage(input_tokens=input, output_tokens=output, cached_tokens=cached, **more)


def test_a_million_tokens_cost_their_price() -> None:
    price = Price(input=2.5, output=10)
    assert cost(usage(input=MICRO), price) == 2_500_000
    assert cost(usage(output=MICRO), price) == 10 * MICRO
    assert cost(usage(input=400, output=30), price) == 1300


def test_cached_tokens_have_a_price_of_their_own_or_that_of_the_input() -> None:
    assert cost(usage(input=100, cached=60), Price(input=1, cached=0.5)) == 70
    assert cost(usage(input=100, cached=60), Price(input=1, cached=0)) == 40
    assert cost(usage(input=100, cached=60), Price(input=1)) == 100


def test_prices_are_meant_as_they_are_written() -> None:
    # In floats 3 * 0.1 is more than 0.3, and would be rounded up to 301.
    assert cost(usage(input=3000), Price(input=0.1)) == 300
    assert cost(usage(output=1000), Price(output=1.1)) == 1100


def test_nothing_that_has_a_price_is_free() -> None:
    assert cost(usage(output=1), Price(output=0.001)) == 1
    assert cost(usage(output=1), FREE) == 0


def test_an_answer_from_the_gateways_own_cache_costs_nothing() -> None:
    assert cost(usage(input=100, output=100, cached_responses=1), Price(input=1, output=1)) == 0


@given(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS)
def test_figures_that_lie_are_bounded(input: int, output: int, cached: int, reasoning: int, responses: int) -> None:
    lies = usage(input, output, cached, reasoning_tokens=reasoning, cached_responses=responses)
    counted = bounded(lies)
    assert 0 <= counted.cached_tokens <= counted.input_tokens <= MOST
    assert 0 <= counted.reasoning_tokens <= counted.output_tokens <= MOST
    assert 0 <= counted.cached_responses <= MOST
    assert bounded(counted) == counted


@given(st.integers(0, MOST), st.integers(0, MOST), PRICES, PRICES)
def test_a_cost_fits_into_a_store_whatever_it_is_of(input: int, output: int, one: float, other: float) -> None:
    assert 0 <= cost(usage(input, output), Price(input=one, output=other)) <= MOST


@pytest.mark.parametrize(
    ("amount", "micros", "text"),
    [(0, 0, "0.000000"), (0.1, 100_000, "0.100000"), (12.000001, 12_000_001, "12.000001"), (3, 3_000_000, "3.000000")],
)
def test_amounts_and_their_text(amount: float, micros: int, text: str) -> None:
    assert micro(amount) == micros
    assert decimal_text(micros) == text
