"""Things to do a little later, none of them once their owner is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec

__all__ = ["Timers"]

_P = ParamSpec("_P")


class Timers:
    def __init__(self) -> None:
        self._timers: set[asyncio.TimerHandle] = set()

    def after(self, seconds: float, work: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs) -> None:
        def run() -> None:
            self._timers.discard(timer)
            work(*args, **kwargs)

        timer = asyncio.get_running_loop().call_later(seconds, run)
        self._timers.add(timer)

    def cancel(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
