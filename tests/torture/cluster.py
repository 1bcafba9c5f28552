"""The processes of the torture: instances behind proxies, a Redis and a Postgres behind proxies of each instance."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
from msgspec import Struct

from gateway.servers.process import die_with_parent
from tests.torture.proxy import Proxy
from tests.torture.servers import Postgres, ServerFailed, Valkey, free_port

__all__ = ["Cluster", "Instance", "Options", "running"]

ROOT = Path(__file__).resolve().parents[2]
_STARTING_SECONDS = 60.0
_CONFIG = """\
[server]
drain_seconds = 2

[auth]
local = false

[models.demo]
provider = "demo"
delay = {delay}

[tools]
modules = ["tests.torture.tools"]

[limits]
messages_per_minute = 1000000
connections_per_principal = 1000
heartbeat = 5

[log]
max_bytes = 131072

[store]
url = "{store}"
"""
_REDIS = """
[redis]
url = "{redis}"
"""


class Options(Struct, frozen=True, kw_only=True):
    """`cluster`: over Redis and Postgres; else one instance over SQLite. `delay` is the model's, in ms a word."""

    instances: int = 3
    cluster: bool = True
    redis: str = "valkey"
    delay: int = 20


class Instance:
    """One `tidegate serve`, which is started again whenever it ends, unless it is `held`. Clients reach it through
    `door`, it reaches its servers through `redis` and `postgres`."""

    def __init__(self, number: int, folder: Path, died: Callable[[Instance, int], None]) -> None:
        self.number = number
        self.folder = folder
        self.port = free_port()
        self.door = Proxy(self.port)
        self.redis: Proxy | None = None
        self.postgres: Proxy | None = None
        self.skew = 0.0
        self.starts = 0
        self.frozen = False
        self.ready = asyncio.Event()
        self._config = folder / "tidegate.toml"
        self._died = died
        self._free = asyncio.Event()
        self._free.set()
        self._asked = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return f"instance {self.number}"

    @property
    def well(self) -> bool:
        """Whether nothing keeps it from serving now."""
        silent = any(proxy.silent for proxy in (self.redis, self.postgres) if proxy is not None)
        return self.ready.is_set() and not self.frozen and not silent and not self.door.silent

    def configure(self, text: str) -> None:
        self.folder.mkdir(exist_ok=True)
        self._config.write_text(text)

    @property
    def place(self) -> list[str]:
        return ["--config", str(self._config), "--data", str(self.folder)]

    async def run(self, ledger: Path) -> None:
        """Start the process whenever there is none, until cancelled."""
        try:
            while True:
                await self._free.wait()
                await self._once(ledger)
        finally:
            self._signal(signal.SIGKILL)
            if self._process is not None:
                await asyncio.to_thread(self._process.wait)

    async def _once(self, ledger: Path) -> None:
        env = {
            **os.environ,
            "TORTURE_SKEW": str(self.skew),
            "TORTURE_STALL": str(self.folder / "stall"),
            "TORTURE_LEDGER": str(ledger),
        }
        command = [sys.executable, "-m", "tests.torture.instance", "serve", *self.place, "--port", str(self.port)]
        self._asked, self.frozen, began = False, False, time.monotonic()
        with (self.folder / "gateway.log").open("ab") as log:
            self._process = process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
        self.starts += 1
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
            while process.poll() is None:
                # One that does not get ready is no use to anybody, as a supervisor would find too.
                if not self.ready.is_set() and time.monotonic() - began > _STARTING_SECONDS and not self.frozen:
                    process.kill()
                if not self.ready.is_set() and not self.frozen and await self._serves(client):
                    self.ready.set()
                await asyncio.sleep(0.05)
        was_ready = self.ready.is_set()
        self.ready.clear()
        if was_ready and not self._asked:
            self._died(self, process.returncode)
        await asyncio.sleep(0 if self._asked else 0.5)

    async def _serves(self, client: httpx.AsyncClient) -> bool:
        try:
            return (await client.get(f"http://127.0.0.1:{self.port}/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    async def hold(self, number: signal.Signals, seconds: float) -> None:
        """End it by the signal, for so long at least."""
        self._asked = True
        self._free.clear()
        self._signal(number)
        await self._gone()
        await asyncio.sleep(seconds)
        self._free.set()

    async def _gone(self, seconds: float = 30.0) -> None:
        process = self._process
        began = time.monotonic()
        while process is not None and process.poll() is None:
            if time.monotonic() - began > seconds:
                process.kill()
            await asyncio.sleep(0.02)
        self.ready.clear()

    def freeze(self) -> None:
        self.frozen = True
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)
        self.frozen = False

    def stall(self, seconds: float) -> None:
        """Let its event loop do nothing for so long."""
        (self.folder / "stall").write_text(str(seconds))
        self._signal(signal.SIGUSR1)


class Cluster:
    """`well_since` is when it began that an instance and all servers were well (`time.monotonic`), None while they are
    not."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.folder = folder
        self.options = options
        self.ledger = folder / "ledger"
        self.valkey: Valkey | None = None
        self.postgres: Postgres | None = None
        self.deaths: list[str] = []
        self.figures: Counter[str] = Counter()
        self.well_since: float | None = None
        self.instances = [
            Instance(number, folder / f"instance{number}", self._on_death) for number in range(options.instances)
        ]
        self._scraped: dict[tuple[int, int, str], float] = {}

    def _on_death(self, instance: Instance, status: int) -> None:
        self.deaths.append(f"{instance.name} ended by itself with {status}")

    @property
    def well(self) -> bool:
        servers = [server for server in (self.valkey, self.postgres) if server is not None]
        return all(server.up for server in servers) and any(instance.well for instance in self.instances)

    async def watch(self) -> None:
        """Keep `well_since` and the instances' own figures, until cancelled."""
        async with httpx.AsyncClient(trust_env=False, timeout=1) as client:
            while True:
                for _ in range(8):
                    self.well_since = (self.well_since or time.monotonic()) if self.well else None
                    await asyncio.sleep(0.25)
                for instance in self.instances:
                    if instance.well:
                        await self._scrape(client, instance)

    async def _scrape(self, client: httpx.AsyncClient, instance: Instance) -> None:
        try:
            text = (await client.get(f"http://127.0.0.1:{instance.port}/metrics")).text
        except httpx.HTTPError:
            return
        for line in text.splitlines():
            name, _, value = line.rpartition(" ")
            if name in ("tidegate_takeovers_total", "tidegate_epochs_begun", "tidegate_turns_fenced_total"):
                place = (instance.number, instance.starts, name)
                self.figures[name] += round(float(value) - self._scraped.get(place, 0.0))
                self._scraped[place] = float(value)

    async def make_key(self, subject: str) -> str:
        command = [sys.executable, "-m", "gateway.cli", "keys", "create", "--subject", subject]
        made = await asyncio.to_thread(
            subprocess.run, [*command, *self.instances[0].place], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if made.returncode != 0:
            raise ServerFailed(made.stderr[-2000:])
        return made.stdout.strip()

    async def all_ready(self, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            for instance in self.instances:
                await instance.ready.wait()


@asynccontextmanager
async def running(folder: Path, options: Options) -> AsyncGenerator[Cluster]:
    """All processes, and their end. Raises ServerFailed, TimeoutError."""
    cluster = Cluster(folder, options)
    async with AsyncExitStack() as stack:
        if options.cluster:
            cluster.valkey = Valkey(folder / "redis", options.redis)
            stack.callback(cluster.valkey.kill)
            cluster.postgres = Postgres(folder / "postgres")
            stack.callback(cluster.postgres.kill)
            await cluster.valkey.start()
            await cluster.postgres.start()
        for instance in cluster.instances:
            await stack.enter_async_context(instance.door.serving())
            store, redis = f"sqlite:///{folder / 'tidegate.db'}", ""
            if cluster.valkey is not None and cluster.postgres is not None:
                instance.redis, instance.postgres = Proxy(cluster.valkey.port), Proxy(cluster.postgres.port)
                await stack.enter_async_context(instance.redis.serving())
                await stack.enter_async_context(instance.postgres.serving())
                store = f"postgresql://postgres@127.0.0.1:{instance.postgres.port}/postgres"
                redis = _REDIS.format(redis=f"redis://127.0.0.1:{instance.redis.port}")
            instance.configure(_CONFIG.format(delay=options.delay, store=store) + redis)
        tasks: list[asyncio.Task[None]] = []
        try:
            # The first one brings the store's schema up to date for all.
            for instance in cluster.instances:
                tasks.append(asyncio.create_task(instance.run(cluster.ledger)))
                if instance.number == 0:
                    await _first_ready(instance, tasks[0])
            await cluster.all_ready(60)
            tasks.append(asyncio.create_task(cluster.watch()))
            yield cluster
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _first_ready(instance: Instance, task: asyncio.Task[None]) -> None:
    ready = asyncio.create_task(instance.ready.wait())
    try:
        await asyncio.wait({ready, task}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        if not instance.ready.is_set():
            raise ServerFailed((instance.folder / "gateway.log").read_text(errors="replace")[-4000:])
    finally:
        ready.cancel()
