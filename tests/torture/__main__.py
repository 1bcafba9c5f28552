"""`python -m tests.torture --seconds N --seed S`: nothing may be lost, double or hanging, whatever breaks."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from pathlib import Path

import uvloop

from tests.torture.cluster import Options
from tests.torture.report import table, write_report
from tests.torture.run import Torture, say_aloud, torture

__all__: list[str] = []


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults are injected")
    parser.add_argument("--seed", type=int, default=None, help="of the schedule and of all that clients do")
    parser.add_argument("--instances", type=int, default=3)
    parser.add_argument("--redis", choices=("valkey", "redis7"), default="valkey")
    parser.add_argument("--sqlite", action="store_true", help="one instance over SQLite, without Redis")
    parser.add_argument("--report", type=Path, default=None, help="a file for the report as JSON")
    given = parser.parse_args()
    instances = 1 if given.sqlite else given.instances
    options = Options(instances=instances, cluster=not given.sqlite, redis=given.redis)
    seed = given.seed if given.seed is not None else random.randrange(1 << 31)  # noqa: S311 - no secret
    say_aloud(f"seed {seed}")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(torture(Torture(seconds=given.seconds, seed=seed, options=options), say_aloud))
    say_aloud(table(report))
    if given.report is not None:
        write_report(report, given.report)
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
