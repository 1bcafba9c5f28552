"""Tools that the client offers: which calls are its own to answer, and their runs."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, Literal

import structlog
from msgspec import Struct
from msgspec.structs import replace

from gateway.auth.principal import Principal
from gateway.client_errors import Disconnected, Refused
from gateway.core.approval import When
from gateway.tools.port import Tool, ToolContext
from gateway.tools.runner import ToolRunner
from protocol.frames import AnswerTool, Event, Snapshot, ToolApproval, ToolCall, ToolResponse, ToolSpec
from protocol.ids import derive_id

__all__ = ["CallBook", "Start", "Stop", "ToolServer", "spec"]

_log = structlog.get_logger(__name__)
_REMEMBERED: Final = 4096
_MAX_RESULT: Final = 256 * 1024

Key = tuple[str, str]
_Status = Literal["success", "error", "timeout", "cancelled", "interrupted"]


class Start(Struct, frozen=True):
    """Run the call, once, with these parameters. One that is `inherited` an earlier client of the session may have run,
    whole or in part."""

    call: ToolCall
    parameters: dict[str, Any]
    inherited: bool = False


class Stop(Struct, frozen=True):
    """The call was answered: what runs for it runs in vain."""

    context_id: str
    call_id: str


class _Outcome(Struct, frozen=True):
    status: _Status
    result: Any


class CallBook:
    """Which calls are to be run by the client of a session. No I/O.

    Each is started once, however often it is seen: as an event, and in the `running` of any number of snapshots. One
    that needs a person's approval is started when that is seen, with the parameters that the person gave. What a
    snapshot shows of the session's time before this client is inherited.
    """

    def __init__(self) -> None:
        self._started: OrderedDict[Key, None] = OrderedDict()
        self._asked: dict[Key, ToolCall] = {}

    def observe(
        self, frame: Event | Snapshot, session_id: str | None, *, inherited: bool = False
    ) -> list[Start | Stop]:
        """What a frame asks of the client of this session; `inherited` where an earlier client had the session before
        the frame was made."""
        if not isinstance(frame, Snapshot):
            return self._event(frame, session_id)
        effects: list[Start | Stop] = []
        for running in frame.running:
            effects += self._call(running.call, session_id)
        for event in frame.events:
            if not isinstance(event, ToolCall):
                effects += self._event(event, session_id)
        if inherited:
            return [Start(e.call, e.parameters, inherited=True) if isinstance(e, Start) else e for e in effects]
        return effects

    def _event(self, event: Event, session_id: str | None) -> list[Start | Stop]:
        match event:
            case ToolCall():
                return self._call(event, session_id)
            case ToolApproval():
                call = self._asked.pop((event.context_id, event.tool_call_id), None)
                if call is None or not event.approved:
                    return []
                return self._start(call, call.parameters if event.parameters is None else event.parameters)
            case ToolResponse():
                key = (event.context_id, event.tool_call_id)
                self._asked.pop(key, None)
                return [Stop(*key)] if key in self._started else []
            case _:
                return []

    def _call(self, call: ToolCall, session_id: str | None) -> list[Start | Stop]:
        key = (call.context_id, call.id)
        if call.runs_on != "client" or call.session_id != session_id or key in self._started:
            return []
        if call.approval is None:
            return self._start(call, call.parameters)
        self._asked[key] = call
        return []

    def _start(self, call: ToolCall, parameters: dict[str, Any]) -> list[Start | Stop]:
        self._started[call.context_id, call.id] = None
        if len(self._started) > _REMEMBERED:
            self._started.popitem(last=False)
        return [Start(call, parameters)]


class ToolServer:
    """Runs the calls of `CallBook`, `at_once` at a time, and answers them.

    `request` sends an answer until it is acknowledged; `spawn` owns the tasks, one a call.
    """

    def __init__(
        self,
        tools: Iterable[Tool],
        request: Callable[[AnswerTool], Awaitable[object]],
        spawn: Callable[[Coroutine[None, None, None]], asyncio.Task[None]],
        *,
        at_once: int = 16,
    ) -> None:
        """Raises ValueError where two tools have one name, or one asks for approval under conditions."""
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            if tool.name in self._tools:
                raise ValueError(f"there are two tools named {tool.name!r}")
            if not isinstance(tool.settings.approval, str):
                raise ValueError(
                    f"{tool.name!r}: a client's tool asks 'always', 'first' or 'never'; conditions are settings"
                )
            self._tools[tool.name] = tool
        self._request = request
        self._spawn = spawn
        self._slots = asyncio.Semaphore(at_once)
        self._book = CallBook()
        self._runner = ToolRunner(_MAX_RESULT)
        self._running: dict[Key, asyncio.Task[None]] = {}

    @property
    def specs(self) -> list[ToolSpec]:
        return [spec(tool) for tool in self._tools.values()]

    def observe(
        self, frame: Event | Snapshot, session_id: str | None, subject: str, *, inherited: bool = False
    ) -> None:
        """Take in a frame of any context that is followed; `inherited` as in `CallBook.observe`."""
        for effect in self._book.observe(frame, session_id, inherited=inherited):
            if isinstance(effect, Start):
                key = (effect.call.context_id, effect.call.id)
                self._running[key] = self._spawn(self._serve(effect, key, subject))
            elif (task := self._running.pop((effect.context_id, effect.call_id), None)) is not None:
                task.cancel()

    async def close(self) -> None:
        await self._runner.close()

    async def _serve(self, start: Start, key: Key, subject: str) -> None:
        call = start.call
        async with self._slots:
            outcome = await self._run(start, subject)
        try:
            await self._answer(call, outcome.status, outcome.result)
        except Refused as error:
            _log.warning("an answer was refused", tool=call.tool, code=error.code)
        except Disconnected:
            return
        finally:
            self._running.pop(key, None)

    async def _answer(self, call: ToolCall, status: _Status, result: Any) -> None:
        """Once: another answer of the same id is the same one."""
        answer = AnswerTool(
            id=derive_id("resp_", call.context_id, call.id),
            tool_call_id=call.id,
            context_id=call.context_id,
            result=result,
            status=status,
        )
        try:
            await self._request(answer)
        except Refused as error:
            if error.code != "too_large":
                raise
            await self._request(replace(answer, result="The result is larger than the gateway takes.", status="error"))

    async def _run(self, start: Start, subject: str) -> _Outcome:
        call = start.call
        tool = self._tools.get(call.tool)
        if tool is None:
            return _Outcome("error", f"This client has no tool {call.tool!r}.")
        if start.inherited and not tool.settings.idempotent:
            return _Outcome("interrupted", None)
        # The client knows its subject only, and the protocol has no frame for a client's progress.
        principal = Principal(tenant="", subject=subject)
        context = ToolContext(principal, call.context_id, call.id, lambda progress, total, message: None)
        outcome = await self._runner.run(tool, context, start.parameters)
        return _Outcome(outcome.status, outcome.result)


def spec(tool: Tool) -> ToolSpec:
    """How `hello` declares the tool."""
    rule = tool.settings.approval
    approval = None if isinstance(rule, When) or rule == "never" else rule
    return ToolSpec(name=tool.name, description=tool.description, parameters=tool.parameters, approval=approval)
