"""All sockets are cut at once, and every client comes back to another instance: how long does it take?"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from bench.client import Closed, Frame, Target
from bench.follower import Follower, differences
from bench.machine import Usage, machine
from bench.pace import Pace
from bench.percentiles import percentiles
from bench.servers import Cluster, Cpu, cluster
from bench.session import Session, open_session
from bench.stream import added_latencies

__all__ = ["Device", "StormParameters", "run_storm"]

_AT_ONCE = 100
_CREATED_AT_ONCE = 32
# As gateway/client.py: how long a try may take, and the longest wait after the first one that failed; it doubles.
_OPEN_SECONDS = 10.0
_BASE_WAIT, _LONGEST_WAIT = 0.5, 30.0
_PATIENCE = 120.0
_MOST_REASONS = 5
# After the last event, for those who have not read it yet.
_LAST_SECONDS = 20.0


class StormParameters(Pace, frozen=True, kw_only=True):
    """`sessions` follow `contexts`, evenly, of which `running` have an answer that runs, of `rate` tokens a second for
    `seconds`. All sockets are cut `lead` seconds after those began; each client waits a random time, of `wait` seconds
    at most. Where no gateways are given, there are `instances`."""

    sessions: int = 2000
    contexts: int = 300
    running: int = 50
    rate: float = 10.0
    seconds: float = 30.0
    lead: float = 3.0
    wait: float = 0.0
    instances: int = 2


class Device:
    """One session, which follows one context through all its connections. `head` says how far that has come, as far as
    anybody was told. Times are of `time.perf_counter`, in seconds."""

    def __init__(self, number: int, context_id: str, place: int, head: Callable[[], int] | None = None) -> None:
        self.place = place
        self.follower = Follower(context_id, f"session {number}")
        self.session: Session
        self.tries = 0
        self.failed: list[str] = []
        self.refused = 0
        self.resumed = self.moved = False
        self.ready = self.caught_up = 0.0
        self.missed = 0
        self.by_snapshot = False
        self._head = head
        self._session_id: str | None = None
        self._caught_up: asyncio.Future[float] | None = None
        self._cut: Session | None = None

    async def open(self, target: Target) -> None:
        """Connect, and follow from where it stands. Raises Closed, OSError."""
        self.tries += 1
        follower = self.follower
        self.session = session = await open_session(
            target,
            self._hear,
            session_id=self._session_id,
            attempt=self.tries,
            cursors={follower.context_id: follower.cursor},
        )
        self._session_id = session.greeting.session_id
        session.client.closed.add_done_callback(lambda closed: self._lost(session, closed.result()))

    def cut(self) -> None:
        """As a network does that goes away."""
        self._cut = self.session
        self.session.client.abort()

    async def come_back(self, target: Target, wait: float) -> None:
        """Connect again until it works (protocol.md, section 5), and catch up."""
        before, snapshots, tries = self.session.greeting.instance, self.follower.snapshots, self.tries
        self._caught_up = asyncio.get_running_loop().create_future()
        await asyncio.sleep(random.uniform(0, wait))  # noqa: S311 - spreads only
        while True:
            try:
                async with asyncio.timeout(_OPEN_SECONDS):
                    await self.open(target)
                break
            except (Closed, OSError) as error:
                # A reset or refused connection has an address and a port in its words, each its own.
                self.failed.append(str(error) if isinstance(error, Closed) else type(error).__name__)
                await asyncio.sleep(_backoff(self.tries - tries - 1))
        self.ready = self.session.ready
        greeting = self.session.greeting
        self.resumed, self.moved = greeting.resumed, greeting.instance != before
        self.caught_up = await self._caught_up
        self.by_snapshot = self.follower.snapshots > snapshots

    def _hear(self, frame: Frame, now: float) -> None:
        follower = self.follower
        if frame.type == "error" and frame.code == "unavailable":
            self._ask_again()
            return
        seq = follower.seq or 0
        follower.hear(frame, now)
        caught_up = self._caught_up
        if frame.type == "subscribed" and caught_up is not None and not caught_up.done():
            # What was published by now, without us.
            goal = max(seq, self._head() if self._head is not None else 0)
            self.missed = goal - seq
            follower.reaches(goal, now).add_done_callback(lambda reached: _pass_on(reached, caught_up))

    def _ask_again(self) -> None:
        """It was refused as something that may be tried again."""
        self.refused += 1
        name = f"again-{self.refused}"
        follower = self.follower
        asyncio.get_running_loop().call_later(
            _backoff(self.refused - 1),
            lambda: self.session.client.send(
                type="subscribe", id=name, context_id=follower.context_id, cursor=follower.cursor
            ),
        )

    def _lost(self, session: Session, code: int | None) -> None:
        if session is self.session and session is not self._cut:
            self.follower.fail(f"it was closed with {code}")


def _pass_on(reached: asyncio.Future[float], to: asyncio.Future[float]) -> None:
    if not reached.cancelled() and not to.done():
        to.set_result(reached.result())


def _backoff(failures: int) -> float:
    return random.uniform(0, min(_LONGEST_WAIT, _BASE_WAIT * 2 ** min(failures, 8)))  # noqa: S311 - spreads only


async def run_storm(
    parameters: StormParameters, targets: Sequence[Target], progress: Callable[[int], None]
) -> dict[str, object]:
    """Open the sessions, cut them, and let them come back. `progress` gets the number that has caught up. Raises
    Closed, GatewayFailed."""
    async with cluster(targets, parameters.instances, 1000 * parameters.period) as servers:
        names = [f"bench-{os.getpid()}-{number}" for number in range(parameters.contexts)]
        await _create(servers.target(0), names)
        # Whoever waits for a running answer stays: what they were told is how far it has come.
        askers = [Device(-1 - place, name, place) for place, name in enumerate(names[: parameters.running])]
        devices = [_device(number, names, askers) for number in range(parameters.sessions)]
        await _open([*devices, *askers], servers)
        results = await _measure(parameters, servers, devices, askers, progress)
        for device in (*devices, *askers):
            device.cut()
    return {"benchmark": "storm", "machine": machine(), "parameters": parameters, "results": results}


def _device(number: int, names: Sequence[str], askers: Sequence[Device]) -> Device:
    place = number % len(names)
    # Those of one context are on all instances.
    instance = number + number // len(names)
    if place >= len(askers):
        return Device(number, names[place], instance)
    asked = askers[place].follower
    return Device(number, names[place], instance, lambda: asked.seq or 0)


async def _create(target: Target, names: Sequence[str]) -> None:
    """Contexts with one message each, which nobody answers. Raises Closed."""
    waiting: dict[str, asyncio.Future[None]] = {}

    def hear(frame: Frame, now: float) -> None:
        future = waiting.get(frame.id or "")
        if future is None or future.done() or frame.type not in ("ack", "error"):
            return
        if frame.type == "ack":
            future.set_result(None)
        else:
            future.set_exception(Closed(f"{frame.code} in place of a context: {frame.message}"))

    session = await open_session(target, hear)
    loop = asyncio.get_running_loop()
    try:
        for start in range(0, len(names), _CREATED_AT_ONCE):
            waiting = {f"{name}-made": loop.create_future() for name in names[start : start + _CREATED_AT_ONCE]}
            for name in names[start : start + _CREATED_AT_ONCE]:
                session.client.send(type="message", id=f"{name}-made", context_id=name, content="Hello.", respond=False)
            async with asyncio.timeout(_PATIENCE):
                await asyncio.gather(*waiting.values())
    finally:
        session.client.abort()


async def _open(devices: Sequence[Device], servers: Cluster) -> None:
    """All of them, until each has its snapshot."""
    rest = iter(devices)

    async def open_some() -> None:
        for device in rest:
            reached = device.follower.reaches(0, 0.0)
            await device.open(servers.target(device.place))
            await reached

    async with asyncio.timeout(_PATIENCE + len(devices) * _OPEN_SECONDS / _AT_ONCE), asyncio.TaskGroup() as group:
        for _ in range(min(_AT_ONCE, len(devices))):
            group.create_task(open_some())


async def _measure(
    parameters: StormParameters,
    servers: Cluster,
    devices: Sequence[Device],
    askers: Sequence[Device],
    progress: Callable[[int], None],
) -> dict[str, object]:
    words = f"long {parameters.words}"
    for asker in askers:
        name = asker.follower.context_id
        asker.session.client.send(type="message", id=f"{name}-asked", context_id=name, content=words)
    await asyncio.sleep(parameters.lead)
    running = sum(not asker.follower.ended.done() for asker in askers)
    cpu, own = Cpu(servers.pids), Usage(os.getpid())
    gc.collect()
    gc.disable()
    try:
        cut = time.perf_counter()
        for device in devices:
            device.cut()
        await _come_back(devices, servers, parameters, progress)
    finally:
        gc.enable()
    server_cores, own_cores = cpu.cores(), own.cores()
    back = [device for device in devices if device.caught_up]
    last = max((device.caught_up for device in back), default=cut)
    await _finish(devices, askers, parameters.seconds)
    return {
        "sessions": len(devices),
        "back": len(back),
        "seconds": round(last - cut, 3),
        "ready_ms": percentiles([device.ready - cut for device in devices if device.ready]),
        "caught_up_ms": percentiles([device.caught_up - cut for device in back]),
        "sessions_a_second": round(len(back) / max(1e-9, last - cut), 1),
        "answers_running": running,
        "missed_events": sum(device.missed for device in back),
        "by_cursor": sum(not device.by_snapshot for device in back),
        "by_snapshot": sum(device.by_snapshot for device in back),
        "sessions_resumed": sum(device.resumed for device in back),
        "on_another_instance": sum(device.moved for device in back),
        "tries": sum(device.tries - 1 for device in devices),
        "tries_failed": dict(Counter(why for device in devices for why in device.failed).most_common(_MOST_REASONS)),
        "subscriptions_refused": sum(device.refused for device in devices),
        "stayed_added_ms": percentiles(list(_late(askers, parameters.period, cut, last))),
        "server_cpu_per_second": server_cores,
        "generator_cpu_per_second": own_cores,
        "faults": _faults(devices, askers)[:20],
    }


async def _come_back(
    devices: Sequence[Device], servers: Cluster, parameters: StormParameters, progress: Callable[[int], None]
) -> None:
    done = 0

    async def one(device: Device) -> None:
        nonlocal done
        try:
            async with asyncio.timeout(_PATIENCE + parameters.wait):
                await device.come_back(servers.target(device.place + 1), parameters.wait)
        except TimeoutError:
            device.follower.fail("it did not catch up in time")
        done += 1

    async def show() -> None:
        while True:
            await asyncio.sleep(0.2)
            progress(done)

    async with asyncio.TaskGroup() as group:
        showing = group.create_task(show())
        async with asyncio.TaskGroup() as coming:
            for device in devices:
                coming.create_task(one(device))
        showing.cancel()
    progress(done)


async def _finish(devices: Sequence[Device], askers: Sequence[Device], seconds: float) -> None:
    """Until the answers are over and everybody has all of them; who has not is found by comparing."""
    if not askers:
        return
    await asyncio.wait([asker.follower.ended for asker in askers], timeout=seconds + _PATIENCE)
    heads = {asker.follower.context_id: asker.follower.seq or 0 for asker in askers}
    followers = [device.follower for device in devices if device.follower.context_id in heads]
    waiting = [follower.reaches(heads[follower.context_id], time.perf_counter()) for follower in followers]
    if waiting:
        await asyncio.wait(waiting, timeout=_LAST_SECONDS)


def _late(askers: Sequence[Device], period: float, start: float, end: float) -> Iterable[float]:
    """How late the tokens of this time came to those who stayed, in seconds (bench/stream.py, added_latencies)."""
    for asker in askers:
        arrivals = array("d", asker.follower.arrivals.values())
        late = added_latencies(arrivals, period)
        yield from (seconds for seconds, arrival in zip(late, arrivals, strict=True) if start <= arrival <= end)


def _faults(devices: Sequence[Device], askers: Sequence[Device]) -> list[str]:
    faults: list[str] = []
    contexts: dict[str, list[Follower]] = {}
    for device in (*askers, *devices):
        contexts.setdefault(device.follower.context_id, []).append(device.follower)
        faults += device.follower.faults
        if not device.follower.ended.done() and device in askers:
            faults.append(f"{device.follower.name}: the answer did not end")
    for followers in contexts.values():
        faults += differences(followers)
    return faults
