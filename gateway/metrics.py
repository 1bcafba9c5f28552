"""What the gateway tells of itself to Prometheus. Each gateway has a registry of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from protocol.frames import DurableEvent, TurnEnd
from stores.records import NewUsage

__all__ = ["Stats", "timed"]

_T = TypeVar("_T")
_QUICK = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
_SLOW = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Stats:
    """Counters and timings. `observe` names what is looked up when somebody scrapes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.frames_in = Counter("tidegate_frames_in", "Frames received.", registry=self.registry)
        self.sockets = Gauge("tidegate_sockets", "Open sockets.", registry=self.registry)
        self._ended = Counter("tidegate_turns_ended", "Turns ended.", ["status"], registry=self.registry)
        self._fenced = Counter("tidegate_turns_fenced", "Turns lost to another runner.", registry=self.registry)
        self._tokens = Counter("tidegate_tokens", "Tokens of model calls.", ["model", "kind"], registry=self.registry)
        self.takeovers = Counter("tidegate_takeovers", "Turns taken over.", registry=self.registry)
        self._first_token = Histogram(
            "tidegate_first_token_seconds",
            "From a step's model call to its first piece.",
            buckets=_SLOW,
            registry=self.registry,
        )
        self.tool_seconds = Histogram(
            "tidegate_tool_seconds", "Runs of tools.", ["tool", "status"], buckets=_SLOW, registry=self.registry
        )
        self.store_seconds = Histogram(
            "tidegate_store_seconds", "Calls of the context store.", ["call"], buckets=_QUICK, registry=self.registry
        )
        self.log_seconds = Histogram(
            "tidegate_log_seconds", "Calls of the event log.", ["call"], buckets=_QUICK, registry=self.registry
        )

    def observe(self, name: str, help: str, read: Callable[[], float]) -> None:
        """A gauge that is read at each scrape."""
        Gauge(name, help, registry=self.registry).set_function(read)

    def turn_ended(self, event: DurableEvent) -> None:
        if isinstance(event, TurnEnd):
            self._ended.labels(event.status).inc()

    def used(self, usage: NewUsage) -> None:
        """A model call's figures; cached tokens are input tokens too, and those of reasoning output tokens."""
        for kind in ("input", "output", "cached", "reasoning"):
            self._tokens.labels(usage.model, kind).inc(getattr(usage, f"{kind}_tokens"))

    def fenced(self) -> None:
        self._fenced.inc()

    @contextmanager
    def step(self) -> Generator[Callable[[], None]]:
        """Around a model call; what it gives is called for each piece and notes when the first one came."""
        started: float | None = time.perf_counter()

        def piece() -> None:
            nonlocal started
            if started is not None:
                self._first_token.observe(time.perf_counter() - started)
                started = None

        yield piece

    def scrape(self) -> bytes:
        return generate_latest(self.registry)


def timed(port: _T, histogram: Histogram) -> _T:
    """`port` with the time of each of its coroutine methods observed in `histogram`, by the method's name."""
    return cast("_T", _Timed(port, histogram))


class _Timed:
    def __init__(self, port: Any, histogram: Histogram) -> None:
        self._port = port
        self._histogram = histogram

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)
        observe = self._histogram.labels(name).observe

        async def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return await method(*args, **kwargs)
            finally:
                observe(time.perf_counter() - started)

        # Found by name from now on.
        setattr(self, name, call)
        return call
