"""Carries the faults of a schedule out, so that there is always somebody left who could make progress soon."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from tests.torture.cluster import Cluster, Instance
from tests.torture.device import Device
from tests.torture.proxy import Proxy
from tests.torture.schedule import Fault

__all__ = ["Faults"]

_T = TypeVar("_T")
_LAST_WORDS = 60.0
_MAX_SKEW = 90.0


class Faults:
    """`counts` are those that were carried out, by kind; a fault that would leave nobody for long strikes later, or
    is left out."""

    def __init__(self, cluster: Cluster, devices: Sequence[Device]) -> None:
        self.counts: Counter[str] = Counter()
        self.skipped = 0
        self.log: list[str] = []
        self._cluster = cluster
        self._devices = devices
        self._servers = asyncio.Lock()
        self._struck: set[int] = set()
        self._began = time.monotonic()
        self._work: dict[str, Callable[[Fault], Awaitable[None]]] = {
            "client cut": self._client_cut,
            "door cut": self._door_cut,
            "client pause": self._client_pause,
            "door slow": self._door_slow,
            "kill": self._kill,
            "freeze": self._freeze,
            "stall": self._stall,
            "rolling restart": self._rolling,
            "redis reply cut": self._redis_reply_cut,
            "redis silent": self._redis_silent,
            "redis slow": self._redis_slow,
            "redis restart": self._redis_restart,
            "redis wiped": self._redis_wiped,
            "redis rolled back": self._redis_rolled_back,
            "postgres reply cut": self._postgres_reply_cut,
            "postgres silent": self._postgres_silent,
            "postgres restart": self._postgres_restart,
            "postgres crash": self._postgres_crash,
        }

    async def run(self, faults: Sequence[Fault]) -> None:
        """Strike at the times of the schedule; returns when all faults are over and everything is well again."""
        self._began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await asyncio.sleep(max(0.0, self._began + fault.at - time.monotonic()))
                group.create_task(self._strike(fault))
        for instance in self._cluster.instances:
            instance.thaw()
            for proxy in (instance.door, instance.redis, instance.postgres):
                if proxy is not None:
                    proxy.heal()

    async def _strike(self, fault: Fault) -> None:
        self.log.append(f"{time.monotonic() - self._began:8.2f} {fault.kind} #{fault.number % 997} {fault.seconds} s")
        await self._work[fault.kind](fault)

    def _done(self, kind: str) -> None:
        self.counts[kind] += 1

    # ---- clients

    async def _client_cut(self, fault: Fault) -> None:
        _pick(self._devices, fault).cut()
        self._done(fault.kind)

    async def _client_pause(self, fault: Fault) -> None:
        self._done(fault.kind)
        await _pick(self._devices, fault).pause(fault.seconds)

    async def _door_cut(self, fault: Fault) -> None:
        door = _pick(self._cluster.instances, fault).door
        # Some are cut at once, some in the middle of what comes next.
        if fault.amount < 0.4:
            door.cut()
        else:
            door.cut_after(int(fault.amount * 3000))
        self._done(fault.kind)

    async def _door_slow(self, fault: Fault) -> None:
        await self._slow(_pick(self._cluster.instances, fault).door, fault, 1500.0)

    async def _slow(self, proxy: Proxy, fault: Fault, rate: float) -> None:
        self._done(fault.kind)
        if fault.amount < 0.5:
            proxy.delay = 0.02 + fault.amount * 0.4
        else:
            proxy.rate = rate + fault.amount * 4 * rate
        await asyncio.sleep(fault.seconds)
        proxy.delay, proxy.rate = 0.0, None

    # ---- instances

    async def _on_instance(self, fault: Fault, work: Callable[[Instance], Awaitable[None]]) -> None:
        """Strike one that is well, while another one is or while there is no other."""
        instances = self._cluster.instances
        for _ in range(10):
            well = [instance for instance in instances if instance.well and instance.number not in self._struck]
            if len(well) > 1 or (well and len(instances) == 1):
                struck = _pick(well, fault)
                self._struck.add(struck.number)
                self._done(fault.kind)
                try:
                    await work(struck)
                finally:
                    self._struck.discard(struck.number)
                return
            await asyncio.sleep(0.5)
        self.skipped += 1

    async def _kill(self, fault: Fault) -> None:
        async def work(instance: Instance) -> None:
            if fault.amount < 0.5:
                instance.skew = 0.0
            else:
                instance.skew = (fault.amount - 0.75) * 4 * _MAX_SKEW
                self._done("start with a wrong clock")
            await instance.hold(signal.SIGKILL, fault.seconds)
            await instance.ready.wait()

        await self._on_instance(fault, work)

    async def _freeze(self, fault: Fault) -> None:
        async def work(instance: Instance) -> None:
            instance.freeze()
            await asyncio.sleep(fault.seconds)
            instance.thaw()

        await self._on_instance(fault, work)

    async def _stall(self, fault: Fault) -> None:
        async def work(instance: Instance) -> None:
            instance.stall(fault.seconds)
            await asyncio.sleep(fault.seconds)

        await self._on_instance(fault, work)

    async def _rolling(self, fault: Fault) -> None:
        """Each one drains and comes back before the next one goes."""
        self._done(fault.kind)
        for instance in self._cluster.instances:
            while not instance.well or instance.number in self._struck:
                await asyncio.sleep(0.1)
            self._struck.add(instance.number)
            try:
                await instance.hold(signal.SIGTERM, 0)
                await instance.ready.wait()
            finally:
                self._struck.discard(instance.number)

    # ---- between instances and servers

    async def _redis_reply_cut(self, fault: Fault) -> None:
        proxy = _pick(self._cluster.instances, fault).redis
        assert proxy is not None
        proxy.cut_after(int(fault.amount**2 * 5000))
        self._done(fault.kind)

    async def _postgres_reply_cut(self, fault: Fault) -> None:
        proxy = _pick(self._cluster.instances, fault).postgres
        assert proxy is not None
        proxy.cut_after(int(fault.amount**2 * 5000))
        self._done(fault.kind)

    async def _redis_silent(self, fault: Fault) -> None:
        await self._on_instance(fault, lambda instance: _silence(instance.redis, fault.seconds))

    async def _postgres_silent(self, fault: Fault) -> None:
        await self._on_instance(fault, lambda instance: _silence(instance.postgres, fault.seconds))

    async def _redis_slow(self, fault: Fault) -> None:
        proxy = _pick(self._cluster.instances, fault).redis
        assert proxy is not None
        await self._slow(proxy, fault, 20_000.0)

    # ---- servers

    async def _redis_restart(self, fault: Fault) -> None:
        valkey = self._cluster.valkey
        assert valkey is not None
        async with self._servers:
            self._done(fault.kind)
            await valkey.stop(signal.SIGTERM if fault.amount < 0.5 else signal.SIGKILL)
            await asyncio.sleep(fault.seconds)
            await valkey.start()
            await asyncio.sleep(1)

    async def _redis_wiped(self, fault: Fault) -> None:
        valkey = self._cluster.valkey
        assert valkey is not None
        async with self._servers:
            self._done(fault.kind)
            await valkey.stop(signal.SIGKILL)
            valkey.wipe()
            await asyncio.sleep(fault.seconds)
            await valkey.start()
            await asyncio.sleep(1)

    async def _redis_rolled_back(self, fault: Fault) -> None:
        """What it took in the last seconds is lost."""
        valkey = self._cluster.valkey
        assert valkey is not None
        async with self._servers:
            await asyncio.to_thread(valkey.copy)
            await asyncio.sleep(fault.seconds)
            self._done(fault.kind)
            await valkey.stop(signal.SIGKILL)
            await asyncio.to_thread(valkey.put_back)
            await valkey.start()
            await asyncio.sleep(1)

    async def _postgres_restart(self, fault: Fault) -> None:
        await self._end_postgres(fault, signal.SIGINT)

    async def _postgres_crash(self, fault: Fault) -> None:
        await self._end_postgres(fault, signal.SIGQUIT)

    async def _end_postgres(self, fault: Fault, number: signal.Signals) -> None:
        """SIGINT is what it calls a fast shutdown, SIGQUIT an immediate one, which recovers as after a crash."""
        postgres = self._cluster.postgres
        assert postgres is not None
        async with self._servers:
            self._done(fault.kind)
            await postgres.stop(number)
            await asyncio.sleep(fault.seconds)
            await postgres.start()
            await asyncio.sleep(1)


async def _silence(proxy: Proxy | None, seconds: float) -> None:
    assert proxy is not None
    proxy.silent = True
    await asyncio.sleep(seconds)
    proxy.heal()


def _pick(things: Sequence[_T], fault: Fault) -> _T:
    return things[fault.number % len(things)]
