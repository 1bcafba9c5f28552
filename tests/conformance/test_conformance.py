"""The official conformance suite against `/mcp` of a gateway and against its MCP host, for both eras (docs/mcp.md).

The suite ends with 0 where nothing fails but what the baselines list, and nothing that they list passes.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.conformance.client import answering
from tests.conformance.offered import offered
from tests.conformance.suite import run

HERE = Path(__file__).parent
REVISIONS = ("2025-11-25", "2026-07-28")


async def test_the_gateway_as_a_server(tmp_path: Path) -> None:
    async with offered(tmp_path) as url:
        old, new = await asyncio.gather(
            *(
                run("server", revision, HERE / f"server-{revision}.yaml", tmp_path / revision, "--url", url)
                for revision in REVISIONS
            )
        )
    assert old.exit_code == 0, old.told
    assert new.exit_code == 0, new.told
    # So that a suite that has run nothing is not taken for one that has found nothing.
    assert (old.scenarios, old.checks) == ((19, 14), (47, 14))
    assert (new.scenarios, new.checks) == ((23, 27), (116, 53))


async def test_the_host_as_a_client(tmp_path: Path) -> None:
    place = tmp_path / "asked"
    command = f"{sys.executable} -S {HERE / 'ask.py'} {place}"
    # One after the other: the suite begins all scenarios of a run at once.
    async with answering(place):
        old, new = [
            await run(
                "client",
                revision,
                HERE / f"client-{revision}.yaml",
                tmp_path / revision,
                "--command",
                command,
                "--timeout",
                "60000",
            )
            for revision in REVISIONS
        ]
    assert old.exit_code == 0, old.told
    assert new.exit_code == 0, new.told
    assert (old.scenarios, new.scenarios) == ((18, 7), (31, 8))
    # How often a server is asked, and so how many checks pass, differs from run to run.
    assert old.checks[0] > 200
    assert new.checks[0] > 300
