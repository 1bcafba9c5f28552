"""Threads for tools that are plain functions: their own, so that a stuck tool delays no other use of threads."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar, cast

__all__ = ["ToolThreads"]

_T = TypeVar("_T")


class ToolThreads:
    """Runs functions in at most `size` threads, which start as they are needed.

    Where all are busy a call waits its turn, under its tool's own timeouts. A thread can't be stopped from outside: a
    call that was given up keeps its thread until it returns. The threads are daemons, because one that never returns
    must not keep the process from ending (as those of concurrent.futures do).
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unfinished = 0

    async def run(self, function: Callable[[], _T]) -> _T:
        """The function's result, or what it raises; it sees the caller's context variables. Cancelled while it waits
        its turn, it never runs."""
        outcome: Future[_Outcome] = Future()
        context = contextvars.copy_context()
        with self._lock:
            self._unfinished += 1
            grow = self._threads < min(self._unfinished, self._size)
            self._threads += grow
        self._jobs.put((outcome, partial(context.run, function)))
        if grow:
            threading.Thread(target=self._work, name=f"tidegate-tool-{self._threads}", daemon=True).start()
        result, error = await asyncio.wrap_future(outcome)
        if error is not None:
            raise error
        return cast("_T", result)

    def _work(self) -> None:
        while True:
            outcome, function = self._jobs.get()
            done = _call(function) if outcome.set_running_or_notify_cancel() else None
            with self._lock:
                self._unfinished -= 1
            if done is not None:
                outcome.set_result(done)
            # While it waits for the next job the thread must not keep this one's result alive.
            del outcome, function, done


_Outcome = tuple[Any, BaseException | None]
_Job = tuple[Future[_Outcome], Callable[[], Any]]


def _call(function: Callable[[], Any]) -> _Outcome:
    try:
        return function(), None
    # The boundary between two threads: whatever it is (a StopIteration, which no future holds, or a SystemExit, which
    # would end this thread), the caller raises it, and whoever called the tool logs it.
    except BaseException as error:  # noqa: BLE001
        return None, error
