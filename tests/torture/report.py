"""What a run came to, for people and as JSON."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from tests.torture.frames import Violation

__all__ = ["Report", "table", "write_report"]


class Report(Struct, kw_only=True):
    """`faults` by kind, `figures` of everything that was counted, `violations` the first of each kind and reader;
    `broken` how many there were. `folder` holds the logs of all processes where something was wrong."""

    seed: int
    seconds: float
    instances: int
    redis: str | None
    faults: dict[str, int]
    skipped: int
    figures: dict[str, int]
    broken: int
    violations: list[Violation]
    folder: str | None = None


def table(report: Report) -> str:
    lines = [f"seed {report.seed}, {report.seconds:.0f} s, {report.instances} instances, Redis: {report.redis}"]
    lines.append(f"faults: {sum(report.faults.values())}, {report.skipped} left out")
    lines += [f"  {name:28} {count:8}" for name, count in sorted(report.faults.items())]
    lines += [f"{name:30} {count:8}" for name, count in report.figures.items()]
    lines.append(f"{'violations':30} {report.broken:8}")
    for violation in report.violations:
        lines.append(
            f"  {violation.at:8.2f} s  {violation.kind}  {violation.place}  {violation.who}: {violation.words}"
        )
        lines += [f"      {line[:400]}" for line in violation.frames[-4:]]
    if report.folder is not None:
        lines.append(f"the logs of all processes: {report.folder}")
    return "\n".join(lines)


def write_report(report: Report, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
