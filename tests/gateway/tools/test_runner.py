from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import Struct
from structlog.testing import capture_logs

from gateway import ToolContext, ToolError, tool
from gateway.auth.principal import Principal
from gateway.tools.native import NativeTool
from gateway.tools.port import ToolOutcome, ToolSettings
from gateway.tools.runner import ToolRunner

Report = tuple[float, float | None, str | None]


class Told(ToolContext):
    """Sets an event when it is cancelled."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.told = asyncio.Event()

    def cancel(self) -> None:
        super().cancel()
        self.told.set()


class Broken(NativeTool[[], None]):
    def __init__(self) -> None:
        super().__init__(lambda: None, "broken", ToolSettings())

    def validate(self, parameters: dict[str, Any]) -> None:
        raise KeyError("secret")


class Asked:
    """A context, what it was told, and an event for it."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.threads: set[int] = set()
        self.reported = asyncio.Event()
        self.context = Told(Principal(tenant="t", subject="s"), "conv_1", "tool_1", self._report)

    def _report(self, *report: Any) -> None:
        self.reports.append(report)
        self.threads.add(threading.get_ident())
        self.reported.set()


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def asked() -> Asked:
    return Asked()


async def run(tool: Any, asked: Asked, parameters: dict[str, Any] | None = None, **limits: Any) -> ToolOutcome:
    async with asyncio.timeout(30):
        return await ToolRunner(**limits).run(tool, asked.context, parameters or {})


async def test_success_is_plain_json_data(asked: Asked) -> None:
    class Point(Struct):
        x: int

    @tool
    async def give(n: int) -> Any:
        return {"point": Point(n), 1: (1, 2)}

    outcome = await run(give, asked, {"n": 3})
    assert outcome == ToolOutcome(status="success", result={"point": {"x": 3}, "1": [1, 2]})


async def test_parameters_that_do_not_fit(asked: Asked) -> None:
    @tool
    async def give(n: int) -> int:
        return n

    outcome = await run(give, asked, {"n": "3"})
    assert (outcome.status, outcome.code) == ("error", "invalid_frame")
    assert outcome.result == "parameter 'n': expected `int`, got `str`"


@pytest.mark.parametrize(
    ("said", "told"), [("no \ud800 money", "no ? money"), ("", "fail failed"), ("x" * 20_000, "x" * 10_000)]
)
async def test_a_tools_own_failure_is_told_in_its_words(asked: Asked, said: str, told: str) -> None:
    @tool
    def fail() -> None:
        raise ToolError(said)

    assert await run(fail, asked) == ToolOutcome(status="error", result=told)


@pytest.mark.parametrize("error", [RuntimeError("secret"), SystemExit(1), asyncio.CancelledError(), GeneratorExit()])
async def test_a_bug_is_told_by_its_id_and_logged(asked: Asked, logs: list[Any], error: BaseException) -> None:
    @tool
    async def fail() -> None:
        raise error

    outcome = await run(fail, asked)
    assert (outcome.status, outcome.code) == ("error", "internal")
    assert "secret" not in outcome.result
    (entry,) = logs
    assert entry["error_id"] in outcome.result
    assert entry["exc_info"] is not None


async def test_a_bug_in_validation_is_a_bug_of_the_tool(asked: Asked, logs: list[Any]) -> None:
    outcome = await run(Broken(), asked)
    assert (outcome.status, outcome.code) == ("error", "internal")
    assert logs[0]["error_id"] in outcome.result


async def test_an_exit_in_a_thread_ends_neither_loop_nor_thread(asked: Asked) -> None:
    @tool
    def leave() -> None:
        raise SystemExit(3)

    assert (await run(leave, asked)).code == "internal"


def loop_of_lists() -> Any:
    endless: list[Any] = []
    endless.append(endless)
    return endless


@pytest.mark.parametrize("result", [object(), "\ud800", {None: 1}, loop_of_lists(), threading.Lock()])
async def test_a_result_that_is_no_json(asked: Asked, result: Any) -> None:
    @tool
    async def give() -> Any:
        return result

    outcome = await run(give, asked)
    assert outcome.status == "error"
    assert outcome.result == "give returned something that can't be written as JSON"


async def test_a_result_that_is_too_large_says_how_large(asked: Asked) -> None:
    @tool
    async def give(n: int) -> str:
        return "x" * n

    assert (await run(give, asked, {"n": 998}, max_result_bytes=1_000)).status == "success"
    outcome = await run(give, asked, {"n": 1_999}, max_result_bytes=1_000)
    assert (outcome.status, outcome.code) == ("error", "too_large")
    assert outcome.result == "the result of give has 2,001 bytes, the limit is 1,000"


async def test_progress_is_cleaned(asked: Asked) -> None:
    @tool
    async def work(ctx: ToolContext) -> None:
        await ctx.progress(1, 2, "m" * 2_000)
        await ctx.progress(math.nan, math.inf, "\ud800")
        await ctx.progress(-1, -1)
        await ctx.progress(10**400, 10**20)
        await ctx.progress(0.5)

    await run(work, asked)
    assert asked.reports == [(1, 2, "m" * 1_000), (0, None, "?"), (0, None, None), (0, 1e20, None), (0.5, None, None)]
    assert [type(report[0]) for report in asked.reports[::4]] == [int, float]


async def test_a_thread_may_report(asked: Asked) -> None:
    @tool
    def work(ctx: ToolContext) -> None:
        for step in range(1_000):
            ctx.report(step, 1_000)

    await run(work, asked)
    assert asked.reports[-1] == (999, 1_000, None)
    assert [report[0] for report in asked.reports] == sorted({report[0] for report in asked.reports})
    assert asked.threads == {threading.get_ident()}


async def test_a_thread_that_reports_faster_than_the_loop_takes_it_keeps_the_latest(asked: Asked) -> None:
    done = threading.Event()

    @tool
    def work(ctx: ToolContext) -> None:
        for step in range(1_000):
            ctx.report(step)
        done.set()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        task = group.create_task(ToolRunner().run(work, asked.context, {}))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert done.wait(30)
        assert await task
    assert len(asked.reports) < 1_000
    assert asked.reports[-1] == (999, None, None)


async def test_silence_ends_the_run_and_its_progress(asked: Asked) -> None:
    stopped = asyncio.Event()

    @tool(idle_timeout=0.05)
    async def hang(ctx: ToolContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            if ctx.cancelled:
                stopped.set()
            ctx.report(9)

    outcome = await run(hang, asked)
    assert outcome == ToolOutcome(status="timeout", result="hang showed no progress for 0.05 s")
    assert stopped.is_set()
    assert asked.context.cancelled
    assert asked.reports == []


async def test_progress_resets_silence_but_not_the_cap(asked: Asked) -> None:
    @tool(idle_timeout=0.2, timeout=0.6)
    async def work(ctx: ToolContext) -> None:
        while True:
            await asyncio.sleep(0.01)
            await ctx.progress(1)

    outcome = await run(work, asked)
    assert outcome == ToolOutcome(status="timeout", result="work did not end within 0.6 s")


async def test_a_plain_function_times_out_and_is_told(asked: Asked) -> None:
    told = threading.Event()
    go = threading.Event()

    @tool(timeout=0.05)
    def hang(ctx: ToolContext) -> None:
        go.wait(30)
        if ctx.cancelled:
            told.set()

    assert (await run(hang, asked)).status == "timeout"
    go.set()
    assert await asyncio.to_thread(told.wait, 30)


async def start(runner: ToolRunner, tool: Any, asked: Asked) -> asyncio.Task[ToolOutcome]:
    """A run that has reported once."""
    task = asyncio.create_task(runner.run(tool, asked.context, {}))
    await asked.reported.wait()
    return task


async def test_cancelling_the_caller_cancels_the_tool(asked: Asked) -> None:
    cleaned = asyncio.Event()

    @tool
    async def work(ctx: ToolContext) -> None:
        await ctx.progress(1)
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    async with asyncio.timeout(30):
        runner = ToolRunner()
        task = await start(runner, work, asked)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert cleaned.is_set()
    assert runner.abandoned == 0


async def test_a_tool_that_fails_while_it_is_cancelled_is_still_cancelled(asked: Asked) -> None:
    @tool
    async def work(ctx: ToolContext) -> None:
        await ctx.progress(1)
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("in the clean-up")

    async with asyncio.timeout(30):
        task = await start(ToolRunner(), work, asked)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_caller_that_is_cancelled_as_the_tool_ends_is_cancelled(asked: Asked) -> None:
    @tool
    async def work(ctx: ToolContext) -> None:
        await ctx.progress(1)
        task.cancel()
        raise RuntimeError("dropped")

    async with asyncio.timeout(30):
        task = asyncio.create_task(ToolRunner().run(work, asked.context, {}))
        with pytest.raises(asyncio.CancelledError):
            await task


def stubborn(release: asyncio.Event) -> Any:
    @tool(timeout=0.05)
    async def stubborn(ctx: ToolContext) -> None:
        await ctx.progress(1)
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        raise RuntimeError("nobody hears it")

    return stubborn


async def ended(name: str) -> None:
    """Wait for the runs of this tool that were left behind."""
    await asyncio.wait({task for task in asyncio.all_tasks() if task.get_name() == f"tool {name}"})


async def test_a_tool_that_ignores_cancellation_is_left_behind_and_owned(asked: Asked, logs: list[Any]) -> None:
    release = asyncio.Event()
    runner = ToolRunner(grace=0.01, max_abandoned=1)
    broken = stubborn(release)

    @tool
    async def fine() -> int:
        return 1

    async with asyncio.timeout(30):
        assert (await runner.run(broken, asked.context, {})).status == "timeout"
        assert runner.abandoned == 1
        refused = await runner.run(broken, asked.context, {})
        assert (refused.status, refused.code) == ("error", "unavailable")
        assert (await runner.run(fine, asked.context, {})).result == 1
        await runner.close()
        assert (await runner.run(fine, asked.context, {})).code == "unavailable"
        release.set()
        await ended("stubborn")
        assert runner.abandoned == 0
    assert [entry["event"] for entry in logs] == ["tool_ignores_cancellation", "tools_left_running"]


async def test_a_tool_may_be_run_again_when_its_earlier_runs_have_ended(asked: Asked) -> None:
    release = asyncio.Event()
    runner = ToolRunner(grace=0.01, max_abandoned=1)
    broken = stubborn(release)
    async with asyncio.timeout(30):
        await runner.run(broken, asked.context, {})
        release.set()
        await ended("stubborn")
        assert runner.abandoned == 0
        assert (await runner.run(broken, asked.context, {})).code == "internal"
        await runner.close()


async def test_a_caller_that_is_cancelled_twice_does_not_wait_for_the_grace(asked: Asked) -> None:
    release = asyncio.Event()
    runner = ToolRunner(grace=3_600)
    async with asyncio.timeout(30):
        task = await start(runner, stubborn(release), asked)
        task.cancel()
        await asked.context.told.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert runner.abandoned == 1
        release.set()
        await runner.close()
    assert runner.abandoned == 0
