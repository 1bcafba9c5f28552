"""What was measured on."""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import time
from pathlib import Path

import psutil

__all__ = ["Usage", "machine", "memory_bytes", "raise_file_limit", "usage"]


def machine() -> dict[str, object]:
    """The machine and the software that the numbers depend on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "loop": type(asyncio.get_running_loop()).__module__.partition(".")[0],
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def raise_file_limit(wanted: int) -> int:
    """Allow this process, and those that it starts, so many open files if that is possible; how many it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
        return reachable
    return soft


class Usage:
    """CPU seconds (user and system) of a process since it was made, and the wall seconds."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._cpu = self._cpu_seconds()
        self._wall = time.perf_counter()

    def _cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system

    def cores(self) -> float:
        """CPU seconds per wall second."""
        return (self._cpu_seconds() - self._cpu) / max(1e-9, time.perf_counter() - self._wall)


def usage(pid: int | None) -> Usage | None:
    return Usage(pid) if pid is not None else None


def memory_bytes(pid: int) -> dict[str, int]:
    """Resident memory, and the part of it that no other process shares."""
    info = psutil.Process(pid).memory_full_info()
    return {"rss": info.rss, "uss": info.uss}
