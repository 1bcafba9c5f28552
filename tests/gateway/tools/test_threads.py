from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

import pytest

from gateway.tools.threads import ToolThreads

WHO: ContextVar[str] = ContextVar("WHO", default="nobody")


async def test_runs_elsewhere_and_sees_the_callers_context_variables() -> None:
    WHO.set("me")
    assert await ToolThreads(1).run(lambda: (WHO.get(), threading.current_thread().daemon)) == ("me", True)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1)])
async def test_what_it_raises_is_raised_to_the_caller(error: BaseException) -> None:
    threads = ToolThreads(1)

    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        await threads.run(fail)
    assert await threads.run(lambda: 1) == 1


async def test_a_stop_iteration_reaches_the_caller_too() -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await ToolThreads(1).run(lambda: next(iter(())))


async def test_at_most_size_run_at_once_and_the_others_wait() -> None:
    threads = ToolThreads(2)
    go = threading.Event()
    names: set[str] = set()

    def work() -> None:
        names.add(threading.current_thread().name)
        go.wait(30)

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        tasks = [group.create_task(threads.run(work)) for _ in range(6)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
        go.set()
    assert len(names) == 2


async def test_cancelled_while_it_waits_it_never_runs() -> None:
    threads = ToolThreads(1)
    go, ran = threading.Event(), threading.Event()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        first = group.create_task(threads.run(lambda: go.wait(30)))
        second = group.create_task(threads.run(ran.set))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait({second})
        go.set()
        assert await first
        await threads.run(lambda: None)
    assert not ran.is_set()
