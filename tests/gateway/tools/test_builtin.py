from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.principal import Principal
from gateway.tools.builtin import TOOLS, Operation, calculator, clock, countdown
from gateway.tools.port import ToolContext, ToolError

NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**300), 10**300)
OPERATIONS: list[Operation] = ["add", "subtract", "multiply", "divide", "power"]


def context(reports: list[tuple[float, float | None, str | None]] | None = None) -> ToolContext:
    def report(progress: float, total: float | None, message: str | None) -> None:
        if reports is not None:
            reports.append((progress, total, message))

    return ToolContext(Principal(tenant="t", subject="s"), "conv_1", "tool_1", report)


def test_their_names() -> None:
    assert [tool.name for tool in TOOLS] == ["calculator", "countdown", "clock"]
    assert all(tool.settings.idempotent and tool.description for tool in TOOLS)


@pytest.mark.parametrize(
    ("operation", "a", "b", "result"),
    [
        ("multiply", 5, 3, 15),
        ("add", 1.5, 1.5, 3),
        ("add", 0.1, 0.2, 0.1 + 0.2),
        ("subtract", 3, 5, -2),
        ("divide", 7, 2, 3.5),
        ("divide", 6, 2, 3),
        ("power", 2, 10, 1024),
        ("power", 2, -1, 0.5),
        ("power", 2, 100, 2.0**100),
        ("multiply", -0.0, 1, 0),
    ],
)
async def test_calculates(operation: str, a: float, b: float, result: float) -> None:
    outcome = await calculator.run(context(), {"operation": operation, "a": a, "b": b})
    assert outcome == {"result": result}
    assert type(outcome["result"]) is type(result)


@pytest.mark.parametrize(
    ("operation", "a", "b", "words"),
    [
        ("divide", 1, 0, "division by zero"),
        ("power", 10, 10**9, "too large"),
        ("multiply", 1e308, 10, "too large"),
        ("power", -8, 0.5, "not a real number"),
        ("power", 0, -1, "not a real number"),
    ],
)
async def test_what_has_no_result_says_so(operation: str, a: float, b: float, words: str) -> None:
    with pytest.raises(ToolError, match=words):
        await calculator.run(context(), {"operation": operation, "a": a, "b": b})


@given(st.sampled_from(OPERATIONS), NUMBERS, NUMBERS)
async def test_every_calculation_ends_in_a_finite_number_or_words(operation: Operation, a: float, b: float) -> None:
    try:
        result = (await calculator.run(context(), {"operation": operation, "a": a, "b": b}))["result"]
    except ToolError:
        return
    assert result - result == 0


async def test_counts_down_with_progress() -> None:
    reports: list[tuple[float, float | None, str | None]] = []
    assert await countdown.run(context(reports), {"count": 3}) == {"counted": 3}
    assert reports == [(1, 3, None), (2, 3, None), (3, 3, None)]


@pytest.mark.parametrize("parameters", [{"count": 0}, {"count": 601}, {"count": 1.5}])
def test_counts_within_bounds(parameters: dict[str, Any]) -> None:
    with pytest.raises(ToolError, match="parameter 'count'"):
        countdown.validate(parameters)


async def test_tells_the_time_in_utc_and_elsewhere() -> None:
    here = await clock.run(context(), {})
    assert here["time"].endswith("Z")
    assert abs(datetime.fromisoformat(here["time"]) - datetime.now(UTC)) < timedelta(minutes=1)
    there = await clock.run(context(), {"timezone": "Etc/GMT-3"})
    assert there["time"].endswith("+03:00")
    assert there["timezone"] == "Etc/GMT-3"


@pytest.mark.parametrize("zone", ["Nowhere/Town", "", "../../etc/passwd", "/etc/passwd", "Europe", "a\0b", "Ä"])
async def test_an_unknown_time_zone_is_named(zone: str) -> None:
    with pytest.raises(ToolError, match="no time zone is named"):
        await clock.run(context(), {"timezone": zone})
