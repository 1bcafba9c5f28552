"""A small run of the load script for long conversations, through its command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_a_conversation_that_outgrows_its_window(tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    command = [sys.executable, "-m", "bench", "conversation", "-n", "60", "--words", "10", "--window", "200"]
    ran = subprocess.run([*command, "--json", str(output)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    results = json.loads(output.read_text())["results"]
    assert results["turns"] == 60
    assert results["faults"] == []
    assert list(results["first_token_ms"]) == [f"turns {n * 6 + 1} to {n * 6 + 6}" for n in range(10)]
    assert results["last_tenth_over_second_tenth"] > 0
