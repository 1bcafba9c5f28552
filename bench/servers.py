"""Several gateways that share a Redis and a Postgres, all of our own, to put load on."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import psutil
from msgspec import Struct

from bench.client import Target
from bench.process import Gateway, GatewayFailed, make_key, serving, settings_text
from gateway.servers.postgres import run_postgres
from gateway.servers.valkey import ServerError, run_valkey

__all__ = ["Cluster", "Cpu", "cluster"]

_MORE = """\
[redis]
url = "{redis}"

[store]
url = "{postgres}"
"""


class Cluster(Struct, frozen=True):
    """`redis_url` is None where it is not known. `pids` are the processes by name, those that are ours."""

    gateways: tuple[Gateway, ...]
    redis_url: str | None
    pids: Mapping[str, int]

    def target(self, place: int) -> Target:
        """That of an instance; after the last one comes the first one."""
        return self.gateways[place % len(self.gateways)].target


@asynccontextmanager
async def cluster(
    targets: Sequence[Target], instances: int, delay_ms: float, redis_url: str | None = None
) -> AsyncGenerator[Cluster]:
    """The gateways at `targets`, whose Redis is `redis_url`; or without them so many new ones, with a Valkey and a
    Postgres of their own that keep what they acknowledge.

    `delay_ms` is the pace of their demo model, in milliseconds a word. Raises GatewayFailed.
    """
    if targets:
        yield Cluster(tuple(Gateway(target, None) for target in targets), redis_url, {})
        return
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(_folder())
        # Started in this thread, not in one of a pool: they end with it.
        try:
            valkey = stack.enter_context(run_valkey(folder / "redis"))
            postgres = stack.enter_context(run_postgres(folder / "postgres"))
        except ServerError as error:
            raise GatewayFailed(str(error)) from error
        config = folder / "tidegate.toml"
        config.write_text(settings_text(delay_ms, more=_MORE.format(redis=valkey.url, postgres=postgres.url)))
        started = [
            await stack.enter_async_context(serving(config, folder, f"gateway-{number}.log"))
            for number in range(instances)
        ]
        key = await asyncio.to_thread(make_key, config, folder)
        pids = {f"instance {number + 1}": pid for number, (_, pid) in enumerate(started)}
        pids["postgres"] = int((folder / "postgres" / "postmaster.pid").read_text().split("\n")[0])
        if valkey.pid is not None:
            pids["redis"] = valkey.pid
        yield Cluster(tuple(Gateway(Target(url=url, key=key), pid) for url, pid in started), valkey.url, pids)


@contextmanager
def _folder() -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # as root the Postgres runs as another user, who must get to its own
        yield folder


class Cpu:
    """CPU seconds (user and system) of processes with all their children, since it was made."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._before = {name: _seconds(pid) for name, pid in pids.items()}
        self._wall = time.perf_counter()

    def cores(self) -> dict[str, float]:
        """CPU seconds per wall second, by name."""
        wall = max(1e-9, time.perf_counter() - self._wall)
        return {name: round((_seconds(pid) - self._before[name]) / wall, 3) for name, pid in self._pids.items()}


def _seconds(pid: int) -> float:
    process = psutil.Process(pid)
    # What its children that have ended took is counted with its own.
    own = process.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            total += times.user + times.system
    return total
