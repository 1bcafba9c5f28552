"""Many sessions that say hello and then nothing: what does one cost?"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable

from msgspec import Struct

from bench.client import Target
from bench.machine import machine, memory_bytes, usage
from bench.percentiles import percentiles
from bench.process import Gateway, gateway
from bench.session import Session, open_session

__all__ = ["ConnectParameters", "run_connect"]

# So many come and go first, that what is loaded or cached at the first use is not counted.
_WARM_UP = 50


class ConnectParameters(Struct, frozen=True, kw_only=True):
    """`at_once` sessions are being opened at any time; memory is read `hold` seconds after the last one is ready."""

    sessions: int = 2000
    at_once: int = 100
    hold: float = 3.0


async def run_connect(
    parameters: ConnectParameters, target: Target | None, progress: Callable[[int], None]
) -> dict[str, object]:
    """Open the sessions and hold them. `progress` gets the number that is ready. Raises Closed, GatewayFailed."""
    async with gateway(target, delay_ms=20) as server:
        for session in await _open(server, min(_WARM_UP, parameters.sessions), parameters.at_once, _silent):
            session.client.close()
            await session.client.closed
        await asyncio.sleep(parameters.hold)
        results = await _measure(parameters, server, progress)
    return {
        "benchmark": "connect",
        "machine": machine(),
        "parameters": parameters,
        "results": results,
    }


async def _measure(
    parameters: ConnectParameters, server: Gateway, progress: Callable[[int], None]
) -> dict[str, object]:
    before = memory_bytes(server.pid) if server.pid is not None else None
    cpu = usage(server.pid)
    start = time.perf_counter()
    sessions = await _open(server, parameters.sessions, parameters.at_once, progress)
    seconds = max(session.ready for session in sessions) - start
    busy = cpu.cores() if cpu is not None else None
    await asyncio.sleep(parameters.hold)
    idle = usage(server.pid)
    await asyncio.sleep(parameters.hold)
    results: dict[str, object] = {
        "sessions": len(sessions),
        "seconds": round(seconds, 3),
        "accepts_per_second": round(len(sessions) / seconds, 1),
        "upgrade_ms": percentiles([session.connected - session.dialled for session in sessions]),
        "ready_ms": percentiles([session.ready - session.dialled for session in sessions]),
        "still_open": sum(not session.client.closed.done() for session in sessions),
    }
    if server.pid is not None and before is not None and idle is not None:
        after = memory_bytes(server.pid)
        results["server_cpu_per_second"] = {"opening": busy, "idle": idle.cores()}
        results["server_uss_mib"] = {"before": before["uss"] / 2**20, "after": after["uss"] / 2**20}
        for kind in ("uss", "rss"):
            results[f"{kind}_kib_per_session"] = round((after[kind] - before[kind]) / 1024 / len(sessions), 2)
    for session in sessions:
        session.client.abort()
    return results


async def _open(server: Gateway, count: int, at_once: int, progress: Callable[[int], None]) -> list[Session]:
    sessions: list[Session] = []
    numbers = iter(range(count))

    async def open_some() -> None:
        for _ in numbers:
            sessions.append(await open_session(server.target))
            progress(len(sessions))

    gc.disable()
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, count)):
                group.create_task(open_some())
    finally:
        gc.enable()
    return sessions


def _silent(done: int) -> None:
    """The warm-up is not shown."""
