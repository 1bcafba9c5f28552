"""What the load script for several instances reckons, and a small run of it through its command."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.client import Closed
from bench.cluster import later
from bench.round_trips import RedisPing, repeat
from gateway.servers.valkey import run_valkey


def test_only_tokens_that_both_got_are_compared() -> None:
    assert later({1: 1.0, 2: 2.0, 4: 4.0}, {2: 2.5, 3: 3.0, 4: 3.5}) == [0.5, -0.5]


@pytest.mark.parametrize("unix", [True, False])
async def test_round_trips_of_a_redis_with_a_password(tmp_path: Path, unix: bool) -> None:
    with run_valkey(tmp_path, unix=unix, password="a b/c") as server:
        ping = await RedisPing.open(server.url)
        times: list[float] = []
        asking = asyncio.create_task(repeat(ping.ask, 0, times))
        async with asyncio.timeout(10):
            while len(times) < 3:
                await asyncio.sleep(0)
        asking.cancel()
        assert all(seconds > 0 for seconds in times)
        ping.close()


async def test_a_redis_that_refuses_and_one_that_goes_away(tmp_path: Path) -> None:
    with run_valkey(tmp_path, password="secret") as server:
        ping = await RedisPing.open(server.url.replace("secret", ""))
        with pytest.raises(Closed, match="NOAUTH"):
            await ping.ask()
        server.kill()
        with pytest.raises(Closed, match="lost"):
            await ping.ask()
    with pytest.raises(Closed, match="expected redis"):
        await RedisPing.open("http://127.0.0.1")


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "cluster", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_four_conversations_on_two_instances(tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    ran = _bench("-n", "4", "--seconds", "1", "--spread", "0.1", "--json", str(output))
    assert ran.returncode == 0, ran.stderr
    report = json.loads(output.read_text())
    results = report["results"]
    assert results["faults"] == []
    assert results["streams_whole"] == 4
    assert results["tokens"] >= 4 * 50
    assert results["turns_sent"] == {"instance 1": 2, "instance 2": 2}
    assert sum(results["turns_run"].values()) == 4
    points = {"p50", "p90", "p99", "p99.9", "max"}
    for name in ("other_minus_same_ms", "redis_round_trip_ms", "added_same_ms", "added_other_ms"):
        assert results[name].keys() == points
    assert results["socket_round_trip_ms"].keys() == {"instance 1", "instance 2"}
    assert isinstance(results["p50_within_a_redis_round_trip"], bool)
    assert report["parameters"]["instances"] == 2


def test_servers_that_are_not_there() -> None:
    ran = _bench("--url", "ws://127.0.0.1:1/v1/ws", "--url", "ws://127.0.0.1:2/v1/ws")
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
