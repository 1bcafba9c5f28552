"""The load script for MCP servers: a small run through its command, and what it takes for a fault."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.mcp import McpParameters, Way, measure


def test_ten_calls_each_way(tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    command = [sys.executable, "-m", "bench", "mcp", "--calls", "10", "--warm-up", "2", "--json", str(output)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(output.read_text())
    results = report["results"]
    assert results["calls_each"] == 10
    assert results["faults"] == []
    for transport in ("stdio", "http"):
        sdk, host = results[f"{transport}_sdk_ms"], results[f"{transport}_host_ms"]
        assert sdk.keys() == host.keys() == {"p50", "p90", "p99", "p99.9", "max"}
        added = results[f"{transport}_added_p50_ms"]
        assert added == pytest.approx(host["p50"] - sdk["p50"], abs=0.001)
        assert results[f"{transport}_within_1_ms"] == (added <= 1)
        assert results[f"{transport}_host_over_sdk_p50"] == pytest.approx(host["p50"] / sdk["p50"], abs=0.001)
        assert f"{transport}_added_p50_cpu_ms" in results
    assert report["parameters"] == {"calls": 10, "warm_up": 2}
    assert "http added p50 ms" in ran.stdout


async def test_both_ways_in_turn_and_what_does_not_come_back() -> None:
    called: list[str] = []
    counted: list[None] = []
    faults: list[str] = []

    async def right(text: str) -> object:
        called.append(f"right {text}")
        return text

    async def wrong(text: str) -> object:
        called.append(f"wrong {text}")
        return {"content": []}

    sdk, host = Way(right), Way(wrong)
    await measure(McpParameters(calls=2, warm_up=1), sdk, host, faults, lambda: counted.append(None))
    assert called[2:] == ["wrong call 0", "right call 0", "right call 1", "wrong call 1"]
    assert sorted(called[:2]) == ["right warm-up 0", "wrong warm-up 0"]
    assert faults == ["call 0: {'content': []}", "call 1: {'content': []}"]
    assert len(counted) == 4
    assert len(sdk.seconds) == len(host.seconds) == len(sdk.cpu_seconds) == len(host.cpu_seconds) == 2
