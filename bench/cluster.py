"""Conversations that are followed on two instances: how much later does a token come on the other one?"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import time
from array import array
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
from msgspec import Struct

from bench.client import Closed, Frame, Target
from bench.follower import Follower, differences
from bench.machine import Usage, machine
from bench.percentiles import percentiles
from bench.round_trips import RedisPing, SocketPing, repeat
from bench.servers import Cluster, Cpu, cluster
from bench.session import Session, open_session
from bench.stream import StreamParameters, added_latencies

__all__ = ["ClusterParameters", "later", "run_cluster"]

_PATIENCE = 60.0
# No multiple or part of a usual period of tokens, so that pings don't always meet the same moment of it.
_PING_SECONDS = 0.037
_ENDED = re.compile(r'^tidegate_turns_ended_total\{status="complete"\} ([0-9.e+]+)$', re.MULTILINE)


class ClusterParameters(StreamParameters, frozen=True, kw_only=True):
    """As StreamParameters; the turns run on all `instances` evenly, and each has a follower on its own instance and one
    on the next."""

    contexts: int = 50
    instances: int = 2


class _Stream:
    """One turn on the instance `place`, and who follows it there (`same`) and on the next (`other`). Whoever asks for
    it goes away then, so that each instance has one socket to write to."""

    def __init__(self, number: int, place: int) -> None:
        self.number = number
        self.place = place
        self.context_id = f"bench-{os.getpid()}-{number}"
        self.same, self.other = (Follower(self.context_id, f"stream {number}, {who}") for who in ("same", "other"))
        self._asker: Session
        self._acknowledged: asyncio.Future[None]

    @property
    def followers(self) -> tuple[Follower, ...]:
        return self.same, self.other

    async def open(self, servers: Cluster, instances: Sequence[str | None]) -> list[Session]:
        """The context, and all sessions; those that follow have their snapshots. Raises Closed, OSError."""
        self._asker = await open_session(servers.target(self.place), self._hear)
        self._asker.client.closed.add_done_callback(lambda closed: self._asker_lost(closed.result()))
        await self._say("Hello.", respond=False)
        sessions = [self._asker]
        for place, follower in enumerate(self.followers, self.place):
            reached = follower.reaches(0, 0.0)
            session = await open_session(servers.target(place), follower.hear, cursors={self.context_id: None})
            if session.greeting.instance != instances[place % len(instances)]:
                follower.fail("its session is on another instance than that of the first session there")
            session.client.closed.add_done_callback(lambda closed, hurt=follower: _lost(hurt, closed.result()))
            sessions.append(session)
            await reached
        return sessions

    async def run(self, wait: float, words: int) -> None:
        """Ask, and wait until both have the end. Raises Closed where it is refused."""
        await asyncio.sleep(wait)
        await self._say(f"long {words}")
        self._asker.client.abort()
        await asyncio.wait([follower.ended for follower in self.followers])

    async def _say(self, content: str, **fields: object) -> None:
        self._acknowledged = asyncio.get_running_loop().create_future()
        frame_id = f"{self.context_id}-{content.split()[0]}"
        self._asker.client.send(type="message", id=frame_id, context_id=self.context_id, content=content, **fields)
        await self._acknowledged

    def _hear(self, frame: Frame, now: float) -> None:
        if self._acknowledged.done():
            return
        if frame.type == "ack":
            self._acknowledged.set_result(None)
        elif frame.type == "error":
            self._acknowledged.set_exception(Closed(f"{frame.code} in place of an ack: {frame.message}"))

    def _asker_lost(self, code: int | None) -> None:
        if not self._acknowledged.done():
            self._acknowledged.set_exception(Closed(f"closed with {code} in place of an ack"))


def _lost(follower: Follower, code: int | None) -> None:
    """It is over; a follower that has the end does not mind."""
    if not follower.ended.done():
        follower.fail(f"it was closed with {code} in the middle of the turn")
        follower.ended.set_result(None)


def later(same: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    """How much later each token came to the other follower, in seconds; less than 0 where it came sooner."""
    return [other[seq] - arrival for seq, arrival in same.items() if seq in other]


async def run_cluster(
    parameters: ClusterParameters, targets: Sequence[Target], redis_url: str | None, progress: Callable[[int], None]
) -> dict[str, object]:
    """Run all streams to their ends. `progress` gets the number of tokens that came. Raises Closed, GatewayFailed."""
    async with (
        cluster(targets, parameters.instances, 1000 * parameters.period, redis_url) as servers,
        _pings(servers) as pings,
    ):
        instances = [ping.session.greeting.instance for ping in pings.sockets]
        if len(set(instances)) < max(2, len(instances)):
            raise Closed("expected two instances or more, each at a URL of its own")
        # The first turn on each opens what is opened at the first use.
        warm = [_Stream(-1 - place, place) for place in range(len(instances))]
        streams = [_Stream(number, number % len(instances)) for number in range(parameters.contexts)]
        sessions: list[Session] = []
        for stream in (*warm, *streams):
            async with asyncio.timeout(_PATIENCE):
                sessions += await stream.open(servers, instances)
        async with asyncio.timeout(_PATIENCE):
            await asyncio.gather(*(stream.run(0, 10) for stream in warm))
        results = await _measure(parameters, servers, streams, pings, progress)
        for session in sessions:
            session.client.abort()
    return {"benchmark": "cluster", "machine": machine(), "parameters": parameters, "results": results}


class _Pings(Struct, frozen=True):
    redis: RedisPing | None
    sockets: list[SocketPing]


@asynccontextmanager
async def _pings(servers: Cluster) -> AsyncGenerator[_Pings]:
    async with AsyncExitStack() as stack:
        redis = None
        if servers.redis_url is not None:
            redis = await RedisPing.open(servers.redis_url)
            stack.callback(redis.close)
        sockets: list[SocketPing] = []
        for server in servers.gateways:
            sockets.append(await SocketPing.open(server.target))
            stack.callback(sockets[-1].close)
        yield _Pings(redis, sockets)


async def _measure(
    parameters: ClusterParameters,
    servers: Cluster,
    streams: Sequence[_Stream],
    pings: _Pings,
    progress: Callable[[int], None],
) -> dict[str, object]:
    redis: list[float] = []
    sockets: list[list[float]] = [[] for _ in pings.sockets]
    ended = await _turns_ended(servers)
    cpu, own = Cpu(servers.pids), Usage(os.getpid())
    start = time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        async with asyncio.TaskGroup() as beside:
            work = [beside.create_task(_show(streams, progress))]
            if pings.redis is not None:
                work.append(beside.create_task(repeat(pings.redis.ask, _PING_SECONDS, redis)))
            for ping, times in zip(pings.sockets, sockets, strict=True):
                work.append(beside.create_task(repeat(ping.ask, _PING_SECONDS, times)))
            await _run_all(streams, parameters)
            for task in work:
                task.cancel()
    finally:
        gc.enable()
    wall = time.perf_counter() - start
    server_cores, own_cores = cpu.cores(), own.cores()
    here = [now - before for now, before in zip(await _turns_ended(servers), ended, strict=True)]
    tokens = sum(len(stream.same.arrivals) for stream in streams)
    followers = [follower for stream in streams for follower in stream.followers]
    difference = percentiles([late for s in streams for late in later(s.same.arrivals, s.other.arrivals)])
    round_trip = percentiles(redis)
    faults = [fault for follower in followers for fault in follower.faults]
    faults += [fault for stream in streams for fault in differences(stream.followers)]
    return {
        "wall_seconds": round(wall, 3),
        "tokens": tokens,
        "tokens_per_second": round(_throughput(streams), 1),
        "tokens_per_second_asked": parameters.contexts * parameters.rate,
        "other_minus_same_ms": difference,
        "redis_round_trip_ms": round_trip,
        "socket_round_trip_ms": {f"instance {n + 1}": percentiles(times) for n, times in enumerate(sockets)},
        **_claim(difference, round_trip),
        "added_same_ms": percentiles(_added([stream.same for stream in streams], parameters.period)),
        "added_other_ms": percentiles(_added([stream.other for stream in streams], parameters.period)),
        "frames_merged": sum(follower.merged for follower in followers),
        "snapshots_unasked": sum(follower.snapshots - 1 for follower in followers),
        "turns_sent": _by_instance([sum(s.place == place for s in streams) for place in range(len(pings.sockets))]),
        "turns_run": _by_instance(here),
        "server_cpu_per_second": server_cores,
        "generator_cpu_per_second": own_cores,
        "streams_whole": sum(not any(f.faults for f in s.followers) for s in streams),
        "faults": faults[:20],
    }


def _claim(difference: Mapping[str, float], round_trip: Mapping[str, float]) -> dict[str, object]:
    """Whether, in the median, the other follower waits no longer than a round trip of Redis."""
    if not difference or not round_trip:
        return {}
    ratio = difference["p50"] / round_trip["p50"]
    return {"p50_in_redis_round_trips": round(ratio, 2), "p50_within_a_redis_round_trip": ratio <= 1}


def _added(followers: Sequence[Follower], period: float) -> list[float]:
    return [late for f in followers for late in added_latencies(array("d", f.arrivals.values()), period)]


def _by_instance(counts: Sequence[int]) -> dict[str, int]:
    return {f"instance {place + 1}": count for place, count in enumerate(counts)}


async def _turns_ended(servers: Cluster) -> list[int]:
    """How many turns each instance has run to a good end; empty where the gateways are not ours alone."""
    if any(server.pid is None for server in servers.gateways):
        return []
    counts: list[int] = []
    async with httpx.AsyncClient(trust_env=False) as client:
        for server in servers.gateways:
            url = server.target.url.replace("ws://", "http://").replace("/v1/ws", "/metrics")
            found = _ENDED.search((await client.get(url)).text)
            counts.append(round(float(found[1])) if found else 0)
    return counts


def _throughput(streams: Sequence[_Stream]) -> float:
    """Tokens a second while all streams run, each counted once; 0 where they never did at the same time."""
    arrivals = [list(stream.same.arrivals.values()) for stream in streams if stream.same.arrivals]
    if not arrivals:
        return 0.0
    start, end = max(times[0] for times in arrivals), min(times[-1] for times in arrivals)
    if end <= start:
        return 0.0
    return sum(start < arrival <= end for times in arrivals for arrival in times) / (end - start)


async def _run_all(streams: Sequence[_Stream], parameters: ClusterParameters) -> None:
    try:
        async with (
            asyncio.timeout(parameters.spread + 2 * parameters.seconds + _PATIENCE),
            asyncio.TaskGroup() as group,
        ):
            for stream in streams:
                group.create_task(stream.run(parameters.spread * stream.number / len(streams), parameters.words))
    except TimeoutError:
        for follower in (follower for stream in streams for follower in stream.followers):
            if not follower.ended.done():
                follower.fail("the turn did not end in time")


async def _show(streams: Sequence[_Stream], progress: Callable[[int], None]) -> None:
    while True:
        await asyncio.sleep(0.5)
        progress(sum(len(stream.same.arrivals) for stream in streams))
