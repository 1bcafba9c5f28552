"""Many conversations at once: how late does each token come, and does all of it come?"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from array import array
from collections.abc import Callable

from bench.client import Closed, Frame, Target
from bench.machine import Usage, machine, usage
from bench.pace import Pace
from bench.percentiles import percentiles
from bench.process import Gateway, gateway
from bench.session import Session, open_session

__all__ = ["Stream", "StreamParameters", "added_latencies", "run_stream"]


class StreamParameters(Pace, frozen=True, kw_only=True):
    """Each context gets `rate` tokens a second for `seconds`; they begin evenly spread over `spread` seconds."""

    contexts: int = 200
    spread: float = 1.0


class Stream:
    """One turn as its sender sees it. `faults` are the promises of protocol.md, section 4, that were broken."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.frame_id = f"bench-{os.getpid()}-{number}"
        self.arrivals = array("d")
        self.sent = self.acknowledged = 0.0
        self.merged = 0
        self.faults: list[str] = []
        self._last: int | None = None
        self._text: list[str] = []
        self._message_id: str | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def hear(self, frame: Frame, now: float) -> None:
        if frame.type == "ack":
            self.acknowledged = now
            self._last = frame.seq - 1 if frame.seq is not None else None
            return
        if frame.seq is None or frame.type == "subscribed":
            if frame.type in ("error", "goaway"):
                self._fail(f"{frame.type} {frame.code}")
                self._end()
            return
        if frame.type == "snapshot":
            self._fail("a snapshot in the middle of the stream")
            self._last = frame.seq
            return
        first = frame.first if frame.first is not None else frame.seq
        if self._last is not None and first != self._last + 1:
            self._fail(f"seq {first} came after {self._last}")
        self._last = frame.seq
        self._event(frame, frame.seq - first + 1, now)

    def lost(self) -> None:
        """The connection is over."""
        if not self.ended.done():
            self._fail("the connection was closed in the middle of the turn")
            self._end()

    def _event(self, frame: Frame, count: int, now: float) -> None:
        if frame.type == "delta":
            self._text.append(frame.text or "")
            self.arrivals.extend((now,) * count)
            self.merged += count > 1
        elif frame.type == "message_start":
            self._message_id = frame.id
            self._text.clear()
        elif frame.type == "message" and frame.role == "assistant":
            if frame.id != self._message_id or frame.content != "".join(self._text):
                self._fail("the message is not what its deltas make")
        elif frame.type == "turn_end":
            if frame.status != "complete":
                self._fail(f"the turn ended {frame.status}")
            self._end()

    def _fail(self, what: str) -> None:
        if len(self.faults) < 10:
            self.faults.append(f"stream {self.number}: {what}")

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def added_latencies(arrivals: array[float], period: float) -> list[float]:
    """How late each token of one stream came, in seconds.

    Token k is scheduled at t0 + k * period, where t0 is the least arrival(k) - k * period of the stream: the schedule
    is the latest one that no token comes before. So the token that was carried fastest counts as 0, and a delay that
    all tokens share does not show (docs/bench.md).
    """
    offsets = [arrival - number * period for number, arrival in enumerate(arrivals)]
    least = min(offsets, default=0.0)
    return [offset - least for offset in offsets]


async def run_stream(
    parameters: StreamParameters, target: Target | None, progress: Callable[[int], None]
) -> dict[str, object]:
    """Run all streams to their ends. `progress` gets the number of tokens that came. Raises Closed, GatewayFailed."""
    async with gateway(target, delay_ms=1000 * parameters.period) as server:
        sessions = [await open_session(server.target) for _ in range(parameters.contexts)]
        # The first turn opens what is opened at the first use.
        await _run_streams(sessions[:1], [Stream(-1)], StreamParameters(contexts=1, seconds=0.2), _silent)
        results = await _measure(parameters, server, sessions, progress)
        for session in sessions:
            session.client.abort()
    return {"benchmark": "stream", "machine": machine(), "parameters": parameters, "results": results}


async def _measure(
    parameters: StreamParameters, server: Gateway, sessions: list[Session], progress: Callable[[int], None]
) -> dict[str, object]:
    streams = [Stream(number) for number in range(parameters.contexts)]
    frames, size = _received(sessions)
    cpu, own = usage(server.pid), Usage(os.getpid())
    start = time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        await _run_streams(sessions, streams, parameters, progress)
    finally:
        gc.enable()
    wall = time.perf_counter() - start
    server_cores, own_cores = cpu.cores() if cpu is not None else None, own.cores()
    frames, size = (now - before for now, before in zip(_received(sessions), (frames, size), strict=True))
    heard = [stream for stream in streams if stream.arrivals]
    tokens = sum(len(stream.arrivals) for stream in heard)
    period = parameters.period
    return {
        "wall_seconds": round(wall, 3),
        "tokens": tokens,
        "tokens_per_second": round(_throughput(heard), 1),
        "tokens_per_second_asked": parameters.contexts * parameters.rate,
        "added_ms": percentiles([late for stream in heard for late in added_latencies(stream.arrivals, period)]),
        "ack_ms": percentiles([stream.acknowledged - stream.sent for stream in heard]),
        "first_token_ms": percentiles([stream.arrivals[0] - stream.sent for stream in heard]),
        "frames": frames,
        "frames_merged": sum(stream.merged for stream in streams),
        "bytes": size,
        "server_cpu_per_second": server_cores,
        "generator_cpu_per_second": own_cores,
        "streams_whole": sum(not stream.faults for stream in streams),
        "faults": [fault for stream in streams for fault in stream.faults][:20],
    }


def _throughput(streams: list[Stream]) -> float:
    """Tokens a second while all streams run; 0 where they never did at the same time."""
    if not streams:
        return 0.0
    start, end = max(stream.arrivals[0] for stream in streams), min(stream.arrivals[-1] for stream in streams)
    if end <= start:
        return 0.0
    return sum(start < arrival <= end for stream in streams for arrival in stream.arrivals) / (end - start)


def _received(sessions: list[Session]) -> tuple[int, int]:
    return sum(s.client.frames for s in sessions), sum(s.client.bytes for s in sessions)


async def _run_streams(
    sessions: list[Session], streams: list[Stream], parameters: StreamParameters, progress: Callable[[int], None]
) -> None:
    async with asyncio.TaskGroup() as group:
        showing = group.create_task(_show(streams, progress))
        async with asyncio.TaskGroup() as running:
            for session, stream in zip(sessions, streams, strict=True):
                running.create_task(_run(session, stream, parameters))
        showing.cancel()


async def _run(session: Session, stream: Stream, parameters: StreamParameters) -> None:
    await asyncio.sleep(parameters.spread * max(0, stream.number) / parameters.contexts)
    client = session.client
    if client.closed.done():
        raise Closed("the server closed a session before its stream began")
    session.on_event = stream.hear
    client.closed.add_done_callback(lambda _: stream.lost())
    stream.sent = time.perf_counter()
    client.send(type="message", id=stream.frame_id, context_id=stream.frame_id, content=f"long {parameters.words}")
    await stream.ended


async def _show(streams: list[Stream], progress: Callable[[int], None]) -> None:
    while True:
        await asyncio.sleep(0.5)
        progress(sum(len(stream.arrivals) for stream in streams))


def _silent(done: int) -> None:
    """The warm-up is not shown."""
