"""Several gateway processes over one Valkey and one Postgres, for tests that know one gateway."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import cycle
from pathlib import Path

from tests.e2e.gateways import GatewayProcess
from tests.servers.postgres import database
from tests.servers.valkey import fresh_prefix

__all__ = ["Cluster", "balanced", "running_cluster"]

_SHARED = """
[redis]
url = "{redis}"
prefix = "{prefix}"
[store]
url = "{store}"
connections = 4
"""


class Cluster(GatewayProcess):
    """As one gateway, of which each new connection is another instance's: `url`, `ws` and `port` go round.

    What is done to it is done to all `members`; one of them is a gateway of its own for what is done to one. `redis`
    and `store` are the URLs of what they share.
    """

    def __init__(
        self,
        folder: Path,
        *,
        redis: str,
        store: str,
        config: str = "",
        script: list[str] | None = None,
        instances: int = 2,
    ) -> None:
        self.redis, self.store, self.prefix = redis, store, fresh_prefix()
        config += _SHARED.format(redis=redis, prefix=self.prefix, store=store)
        super().__init__(folder, config=config)
        self.members: list[GatewayProcess] = []
        for number in range(instances):
            place = folder / f"instance{number}"
            place.mkdir()
            self.members.append(GatewayProcess(place, config=config, script=script))
        self._round = cycle(self.members)

    @property
    def port(self) -> int:
        return next(self._round).port

    @property
    def processes(self) -> Sequence[subprocess.Popen[bytes]]:
        return [process for member in self.members for process in member.processes]

    async def start(self, **env: str) -> None:
        """Start those that don't run."""
        await asyncio.gather(*(member.start(**self.env, **env) for member in self.members if not member.alive))

    async def ready(self, seconds: float = 30) -> None:
        await asyncio.gather(*(member.ready(seconds) for member in self.members))

    def kill(self) -> None:
        for member in self.members:
            member.kill()

    async def died(self, seconds: float = 30) -> int:
        return max(await asyncio.gather(*(member.died(seconds) for member in self.members)), key=abs)

    def terminate(self) -> None:
        for member in self.members:
            member.terminate()

    def log(self) -> str:
        return "".join(member.log() for member in self.members)


@asynccontextmanager
async def running_cluster(
    folder: Path,
    *,
    redis: str,
    config: str = "",
    script: list[str] | None = None,
    instances: int = 2,
    env: Mapping[str, str] | None = None,
) -> AsyncGenerator[Cluster]:
    """Instances that run, over a database of their own; `env` is added to their environment."""
    async with database() as store:
        cluster = Cluster(folder, redis=redis, store=store, config=config, script=script, instances=instances)
        cluster.env.update(env or {})
        try:
            await cluster.start()
            yield cluster
        finally:
            cluster.kill()


@asynccontextmanager
async def balanced(cluster: Cluster) -> AsyncGenerator[str]:
    """A URL behind which connections go round the instances that take them, as behind a load balancer."""
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_pass_on(cluster, reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            open_now = list(tasks)
            for task in open_now:
                task.cancel()
            await asyncio.gather(*open_now, return_exceptions=True)


async def _pass_on(cluster: Cluster, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        for _ in cluster.members:
            with suppress(OSError):
                upstream, out = await asyncio.open_connection("127.0.0.1", cluster.port)
                try:
                    await asyncio.gather(_copy(reader, out), _copy(upstream, writer))
                finally:
                    out.transport.abort()
                return
    finally:
        writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()
