"""A small run of the load script for idle sessions, through its command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_twenty_sessions_with_a_gateway(tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    ran = _bench("connect", "--sessions", "20", "--at-once", "7", "--hold", "0.1", "--json", str(output))
    assert ran.returncode == 0, ran.stderr
    report = json.loads(output.read_text())
    assert report["results"]["sessions"] == report["results"]["still_open"] == 20
    assert report["results"]["ready_ms"].keys() == {"p50", "p90", "p99", "p99.9", "max"}
    assert report["results"]["server_uss_mib"]["before"] > 0
    assert report["parameters"] == {"sessions": 20, "at_once": 7, "hold": 0.1}
    assert report["machine"]["loop"] == "uvloop"
    assert "still open" in ran.stdout


def test_a_server_that_is_not_there() -> None:
    ran = _bench("connect", "--sessions", "1", "--url", "ws://127.0.0.1:1/v1/ws")
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
