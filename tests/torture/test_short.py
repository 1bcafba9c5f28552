"""A short torture with a fixed seed: real processes, real faults, and nothing lost, double or hanging."""

from __future__ import annotations

import asyncio

import pytest

from tests.torture.report import table
from tests.torture.run import Torture, torture

# Of the whole run: the end has a bound of its own inside.
_SECONDS = 240.0
# With 16 of the 18 kinds of faults in 20 seconds, and none that lasts much longer.
_SEED = 165912


@pytest.mark.promise("1")
@pytest.mark.promise("2")
@pytest.mark.promise("3")
@pytest.mark.promise("4")
async def test_a_short_torture() -> None:
    async with asyncio.timeout(_SECONDS):
        report = await torture(Torture(seconds=20, seed=_SEED))
    assert not report.broken, table(report)
    assert report.figures["turns"] > 10
    assert sum(report.faults.values()) > 8
