"""Runs of the conformance suite, and what they found."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.e2e.npm_clients import installed, node

__all__ = ["NPM", "Found", "run"]

NPM = Path(__file__).parent / "npm"
_SECONDS = 300.0


class Found(NamedTuple):
    """`checks` are those that passed and those that did not, without warnings and what was skipped; `scenarios` those
    without a failed check, and the others."""

    exit_code: int
    scenarios: tuple[int, int]
    checks: tuple[int, int]
    told: str


async def run(role: str, revision: str, baseline: Path, results: Path, *options: str) -> Found:
    """One run of what a revision requires, and of what the suite runs besides."""
    script = installed(NPM) / "node_modules/@modelcontextprotocol/conformance/dist/index.js"
    command = [node(), str(script), role, "--requirements", revision, "--expected-failures", str(baseline)]
    process = await asyncio.create_subprocess_exec(
        *command, "--output-dir", str(results), *options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(_SECONDS):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    passed = [_checks(file) for file in sorted(results.rglob("checks.json"))]
    return Found(
        process.returncode,
        (sum(failed == 0 for _, failed in passed), sum(failed > 0 for _, failed in passed)),
        (sum(good for good, _ in passed), sum(failed for _, failed in passed)),
        out.decode(),
    )


def _checks(file: Path) -> tuple[int, int]:
    statuses: Sequence[str] = [check["status"] for check in json.loads(file.read_bytes())]
    return statuses.count("SUCCESS"), statuses.count("FAILURE")
