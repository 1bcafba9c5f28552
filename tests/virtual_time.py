"""An event loop in which waiting costs nothing: when nothing is ready, its clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["Deadlock", "run_virtually"]

_T = TypeVar("_T")


class Deadlock(Exception):
    """Nothing is ready and no timer is set: everybody waits for somebody."""


class _Selector(selectors.DefaultSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise Deadlock
        if not ready and timeout is not None:
            self.now += max(timeout, 0.0)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def run_virtually(main: Coroutine[Any, Any, _T]) -> _T:
    """As asyncio.run, without waiting. Nothing in it may do real I/O or use threads."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main)
