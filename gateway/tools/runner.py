"""One run of a tool, from its parameters to its outcome: nothing that a tool does may hang or break a turn."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final

import msgspec
import structlog

from gateway.tools.meter import Meter, clean
from gateway.tools.port import Tool, ToolContext, ToolError, ToolOutcome
from protocol.ids import new_id

__all__ = ["ToolRunner"]

MAX_EXPLANATION: Final = 10_000

_log = structlog.stdlib.get_logger(__name__)


class ToolRunner:
    """Runs tools under their limits, and owns the tasks of those that don't stop when they are told to.

    A run that is over for its turn (timeout, cancel) is told to stop and given `grace` seconds. One that goes on is
    left behind: its task stays here until it ends, and what it returns or reports is dropped. While a tool has
    `max_abandoned` such runs its next ones are refused, so that a broken tool costs itself only. A plain function
    can't be stopped at all; its run ends at once for the turn, and keeps its thread (gateway/tools/threads.py).
    A tool's limits stand still while it waits for its user, `question_seconds` a question at most.
    """

    def __init__(
        self,
        max_result_bytes: int = 1_048_576,
        max_abandoned: int = 16,
        grace: float = 1.0,
        question_seconds: float = 600.0,
    ) -> None:
        self._max_result_bytes = max_result_bytes
        self._max_abandoned = max_abandoned
        self._grace = grace
        self._question_seconds = question_seconds
        self._abandoned: set[asyncio.Task[Any]] = set()
        self._abandoned_of: Counter[str] = Counter()
        self._closed = False

    @property
    def abandoned(self) -> int:
        """How many runs were left behind and have not ended."""
        return len(self._abandoned)

    async def run(self, tool: Tool, context: ToolContext, parameters: dict[str, Any]) -> ToolOutcome:
        """How the run ended; its `result` is plain JSON data, a sentence where it failed.

        `context` says who asked; its `report` is called from the event loop only, with numbers that are finite and
        not negative and a message of at most 1,000 characters, and not after the run's end. The tool may report from
        any thread; what it reports faster than the loop takes it is passed over for the latest. Its `ask` is called
        from the event loop, is cancelled where the tool waits no more, and not called after the run's end.
        Raises CancelledError when the caller is cancelled, and nothing else.
        """
        if self._closed or self._abandoned_of[tool.name] >= self._max_abandoned:
            reason = "the gateway is stopping" if self._closed else "too many earlier runs of it have not ended"
            return _failure(f"{tool.name} can't be run now: {reason}", code="unavailable")
        try:
            tool.validate(parameters)
        except ToolError as error:
            return _failure(str(error), code="invalid_frame")
        except Exception as error:  # noqa: BLE001 - the boundary to foreign code, as in _outcome
            return _crash(tool, error)
        meter = Meter(context, self._question_seconds)
        task = asyncio.create_task(_call(tool, meter.context, parameters), name=f"tool {tool.name}")
        late: str | None = None
        try:
            late = await _watch(task, tool, meter)
        finally:
            meter.close()
            # Reached undone by the caller's cancellation or a timeout.
            if task.done():
                _drop_result(task)
            else:
                await self._stop(task, tool, context, meter.context)
        if late is not None:
            return ToolOutcome(status="timeout", result=late)
        return self._outcome(task, tool)

    async def close(self) -> None:
        """Tell all that were left behind once more to stop, and wait for them, `grace` seconds at most."""
        self._closed = True
        left = set(self._abandoned)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=self._grace)
        if self._abandoned:
            _log.warning("tools_left_running", count=len(self._abandoned))

    async def _stop(self, task: asyncio.Task[Any], tool: Tool, *contexts: ToolContext) -> None:
        for context in contexts:
            context.cancel()
        task.cancel()
        try:
            await asyncio.wait({task}, timeout=self._grace)
        finally:
            # Also when the caller is cancelled a second time and waits no longer.
            if task.done():
                _drop_result(task)
            else:
                _log.warning("tool_ignores_cancellation", tool=tool.name)
                self._abandoned.add(task)
                self._abandoned_of[tool.name] += 1
                task.add_done_callback(lambda ended: self._forget(ended, tool.name))

    def _forget(self, task: asyncio.Task[Any], name: str) -> None:
        self._abandoned.discard(task)
        self._abandoned_of -= Counter([name])
        _drop_result(task)

    def _outcome(self, task: asyncio.Task[Any], tool: Tool) -> ToolOutcome:
        try:
            result = task.result()
        except ToolError as error:
            return _failure(str(error) or f"{tool.name} failed")
        # The boundary to foreign code: whatever a tool raises is its bug and ends its run only. It may be a
        # CancelledError of the tool's own making: nobody cancelled this task, and nothing is awaited here.
        except BaseException as error:  # noqa: BLE001
            return _crash(tool, error)
        try:
            encoded = msgspec.json.encode(result)
        # The same boundary: encoding reads attributes of the tool's own objects.
        except Exception as error:  # noqa: BLE001
            _log.warning("tool_result_not_json", tool=tool.name, exc_info=error)
            return _failure(f"{tool.name} returned something that can't be written as JSON")
        if len(encoded) > self._max_result_bytes:
            size, cap = f"{len(encoded):,}", f"{self._max_result_bytes:,}"
            return _failure(f"the result of {tool.name} has {size} bytes, the limit is {cap}", code="too_large")
        # As readers will see it, and no longer shared with the tool.
        return ToolOutcome(status="success", result=msgspec.json.decode(encoded))


async def _call(tool: Tool, context: ToolContext, parameters: dict[str, Any]) -> Any:
    try:
        return await tool.run(context, parameters)
    except SystemExit as error:
        # A task that ends with it would end the event loop.
        raise RuntimeError("the tool tried to exit the process") from error


async def _watch(task: asyncio.Task[Any], tool: Tool, meter: Meter) -> str | None:
    """Wait for the task's end; answers what to say where it took too long."""
    settings = tool.settings
    end = meter.now + settings.timeout
    while True:
        silent = meter.last + settings.idle_timeout
        if meter.asking:
            await meter.answered_or(task)
        else:
            await asyncio.wait({task}, timeout=max(0.0, min(end, silent) - meter.now))
        if task.done():
            return None
        if meter.now >= end:
            return f"{tool.name} did not end within {settings.timeout:g} s"
        if meter.now >= meter.last + settings.idle_timeout:
            return f"{tool.name} showed no progress for {settings.idle_timeout:g} s"


def _failure(text: str, code: Any = None) -> ToolOutcome:
    return ToolOutcome(status="error", result=clean(text, MAX_EXPLANATION), code=code)


def _crash(tool: Tool, error: BaseException) -> ToolOutcome:
    """For a bug of the tool: the traceback is logged under an id, which is all that the model and the user learn."""
    error_id = new_id("err_")
    _log.error("tool_failed", tool=tool.name, error_id=error_id, exc_info=error)
    return _failure(f"{tool.name} failed because of an error of its own ({error_id})", code="internal")


def _drop_result(task: asyncio.Task[Any]) -> None:
    """Mark the task's exception as seen: its run has another outcome already."""
    if not task.cancelled():
        task.exception()
