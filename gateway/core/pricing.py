"""What tokens cost, in whole millionths of the currency that the settings' prices are in."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import Final

from msgspec import Struct

from protocol.frames import Usage

__all__ = ["FREE", "MICRO", "MOST", "Price", "bounded", "cost", "decimal_text", "micro"]

MICRO: Final = 1_000_000
"""Micro-units in one unit of the currency, and tokens that a price is of: so a price is micro-units a token."""

MOST: Final = 1 << 40
"""The most tokens that one step is believed to have used, and the most micro-units that it is charged."""


class Price(Struct, frozen=True, kw_only=True):
    """Currency for a million tokens. `cached` None: as `input`."""

    input: float = 0.0
    output: float = 0.0
    cached: float | None = None


FREE: Final = Price()


def bounded(usage: Usage) -> Usage:
    """What can be believed of a provider's figures: none below 0, none beyond `MOST`, and no part above its whole."""
    input_tokens, output_tokens = _within(usage.input_tokens, MOST), _within(usage.output_tokens, MOST)
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=_within(usage.cached_tokens, input_tokens),
        reasoning_tokens=_within(usage.reasoning_tokens, output_tokens),
        cached_responses=_within(usage.cached_responses, MOST),
    )


def cost(usage: Usage, price: Price) -> int:
    """Micro-units for one step, `bounded`; reasoning is part of the output. A part of one counts as a whole one, so
    that nothing that has a price is free. What the gateway answered from its own cache is."""
    if usage.cached_responses:
        return 0
    fresh = usage.input_tokens - usage.cached_tokens
    cached = price.input if price.cached is None else price.cached
    exact = (
        fresh * _exact(price.input) + usage.cached_tokens * _exact(cached) + usage.output_tokens * _exact(price.output)
    )
    return min(int(exact.to_integral_value(ROUND_CEILING)), MOST)


def micro(amount: float) -> int:
    """An amount of the currency in micro-units."""
    return int((_exact(amount) * MICRO).to_integral_value(ROUND_CEILING))


def decimal_text(micros: int) -> str:
    """Micro-units (0 or more) as an amount of the currency: "0.001250"."""
    return f"{micros // MICRO}.{micros % MICRO:06}"


def _exact(amount: float) -> Decimal:
    # Through its text: 0.1 is meant as it was written, not as the float next to it.
    return Decimal(repr(amount))


def _within(count: int, most: int) -> int:
    return max(0, min(count, most))
