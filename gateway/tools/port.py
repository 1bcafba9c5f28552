"""The port between turns and tools: what a tool declares, what it is given, how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct

from gateway.auth.principal import Principal
from gateway.core.approval import Rule
from protocol.errors import ErrorCode

__all__ = [
    "Answer",
    "Ask",
    "Question",
    "Report",
    "Tool",
    "ToolContext",
    "ToolError",
    "ToolOutcome",
    "ToolSettings",
    "ToolSource",
]

Report = Callable[[float, float | None, str | None], None]


class Question(Struct, frozen=True):
    """What a running tool wants to know of its user: in words, as a form (the JSON Schema of an object), or by what the
    user does at a URL."""

    message: str
    schema: dict[str, Any] | None = None
    url: str | None = None


class Answer(Struct, frozen=True):
    """`content` is the filled form of an "accept", as the user sent it: nobody has compared it with the schema. A
    "cancel" says that nobody decided: there was nobody to ask, or no answer in time, or the call is over."""

    action: Literal["accept", "decline", "cancel"]
    content: dict[str, Any] | None = None


Ask = Callable[[Question], Awaitable[Answer]]


class ToolError(Exception):
    """A tool's own failure, in words that the model and the user may read."""


class ToolSettings(Struct, frozen=True, kw_only=True):
    """What a tool declares about its runs. `timeout` is the absolute cap and `idle_timeout` the longest silence,
    which progress ends, both in seconds; `approval` says which calls wait for a person (gateway/core/approval.py);
    `permission` is what a role needs to use it (None: nothing)."""

    idempotent: bool = False
    timeout: float = 300.0
    idle_timeout: float = 60.0
    approval: Rule = "never"
    permission: str | None = None


class ToolContext:
    """One run of a tool: who asked, where, how to report progress, and how to ask back (`ask` None: nobody is there
    to answer)."""

    def __init__(
        self, principal: Principal, context_id: str, call_id: str, report: Report, ask: Ask | None = None
    ) -> None:
        self.principal = principal
        self.context_id = context_id
        self.call_id = call_id
        self._report = report
        self._ask = ask
        self._cancelled = asyncio.Event()

    @property
    def cancelled(self) -> bool:
        """Whether the run is to stop. A thread has to look; a coroutine is cancelled as well."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        self._cancelled.set()

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Show how far the run is, and reset its idle limit. From a thread, use `report`."""
        self._report(progress, total, message)
        # A tool that reports in a tight loop must let others run, and be told to stop.
        await asyncio.sleep(0)

    async def ask(self, message: str, schema: dict[str, Any] | None = None, url: str | None = None) -> Answer:
        """Ask the user, and wait for the answer: the run's limits stand still meanwhile. `schema` is the JSON Schema of
        an object, as a form to fill in; clients show one whose properties are strings, numbers, booleans and enums.
        `url` (http or https) is shown to the user, never opened by itself. For coroutines only."""
        if self._ask is None:
            return Answer("cancel")
        return await self._ask(Question(message, schema, url))

    def report(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """`progress` for a tool that is a plain function: safe from its thread."""
        self._report(progress, total, message)


class ToolOutcome(Struct, frozen=True, kw_only=True):
    """How a run ended; `result` is any JSON value, an explanation where it failed."""

    status: Literal["success", "error", "timeout", "cancelled"]
    result: Any
    code: ErrorCode | None = None


class Tool(Protocol):
    """Something that a model or a user may call. `parameters` is the JSON Schema of an object."""

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def parameters(self) -> dict[str, Any]: ...

    @property
    def settings(self) -> ToolSettings: ...

    def validate(self, parameters: dict[str, Any]) -> None:
        """Raises ToolError, naming the parameter, where they do not fit."""
        ...

    async def run(self, context: ToolContext, parameters: dict[str, Any]) -> Any:
        """The result, any JSON value. Raises ToolError for its own failures; anything else is a bug of the tool."""
        ...


class ToolSource(Protocol):
    """Tools that come and go, and may be other ones for every principal: those of MCP servers."""

    async def tools(self, principal: Principal) -> Sequence[Tool]:
        """All that there are for the principal, as far as that is known within a few seconds; those of a server that
        is away are left out, or listed as they were. Raises nothing."""
        ...

    async def find(self, principal: Principal, name: str) -> Tool | None:
        """The tool of that name, as `tools` would list it. Raises nothing."""
        ...
