"""Makes the events of one turn: every one names its context and turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

from gateway.core.resources import READ_RESOURCE
from gateway.core.turn_effects import Route
from protocol.frames import (
    Delta,
    ErrorBody,
    Message,
    MessageStart,
    ToolCall,
    ToolProgress,
    ToolResponse,
    TurnEnd,
    Usage,
)

__all__ = ["NO_USAGE", "MessageStatus", "ResponseStatus", "TurnEvents", "TurnStatus"]

MessageStatus = Literal["complete", "truncated", "cancelled", "failed"]
ResponseStatus = Literal["success", "error", "timeout", "denied", "cancelled", "interrupted"]
TurnStatus = Literal["complete", "cancelled", "failed", "max_steps"]

NO_USAGE: Final = Usage(input_tokens=0, output_tokens=0)


class TurnEvents:
    """`mint(prefix)` gives new ids, `now()` timestamps."""

    def __init__(
        self, context_id: str, turn_id: str, model: str, mint: Callable[[str], str], now: Callable[[], str]
    ) -> None:
        self._context_id = context_id
        self._turn_id = turn_id
        self._model = model
        self._mint = mint
        self._now = now

    def start(self, message_id: str, attempt: int) -> MessageStart:
        return MessageStart(
            context_id=self._context_id,
            turn_id=self._turn_id,
            id=message_id,
            role="assistant",
            model=self._model,
            attempt=attempt,
        )

    def delta(self, message_id: str, text: str, channel: Literal["text", "reasoning"]) -> Delta:
        return Delta(
            context_id=self._context_id, turn_id=self._turn_id, message_id=message_id, text=text, channel=channel
        )

    def message(
        self,
        message_id: str,
        text: str,
        status: MessageStatus,
        usage: Usage | None,
        model: str | None = None,
        reads: str | None = None,
    ) -> Message:
        """`model` is the one that answered, where it is another than was asked; `reads` the last steering message that
        it was given, if any."""
        return Message(
            context_id=self._context_id,
            turn_id=self._turn_id,
            id=message_id,
            content=text,
            role="assistant",
            timestamp=self._now(),
            status=status,
            model=model or self._model,
            usage=usage,
            reads=reads,
        )

    def call(self, message_id: str, tool: str, parameters: dict[str, Any], route: Route) -> ToolCall:
        return ToolCall(
            context_id=self._context_id,
            turn_id=self._turn_id,
            id=self._mint("tool_"),
            tool=tool,
            parameters=parameters,
            timestamp=self._now(),
            runs_on=route.runs_on,
            session_id=route.session_id,
            message_id=message_id,
            approval="required" if route.ask else None,
        )

    def question(self, id: str, asking: ToolCall, parameters: dict[str, Any]) -> ToolCall:
        """What the running call `asking` wants to know of a person."""
        return ToolCall(
            context_id=self._context_id,
            turn_id=self._turn_id,
            id=id,
            tool=asking.tool,
            parameters=parameters,
            timestamp=self._now(),
            runs_on="server",
            approval="required",
            asked_by=asking.id,
        )

    def read(self, id: str, uri: str) -> ToolCall:
        """The call that reads a resource which a message names."""
        return ToolCall(
            context_id=self._context_id,
            turn_id=self._turn_id,
            id=id,
            tool=READ_RESOURCE,
            parameters={"uri": uri},
            timestamp=self._now(),
            runs_on="server",
        )

    def progress(self, call_id: str, progress: float, total: float | None, message: str | None) -> ToolProgress:
        return ToolProgress(
            context_id=self._context_id,
            turn_id=self._turn_id,
            tool_call_id=call_id,
            progress=progress,
            total=total,
            message=message,
        )

    def response(self, call_id: str, status: ResponseStatus, result: Any, error: ErrorBody | None) -> ToolResponse:
        return ToolResponse(
            context_id=self._context_id,
            turn_id=self._turn_id,
            id=self._mint("resp_"),
            tool_call_id=call_id,
            result=result,
            status=status,
            timestamp=self._now(),
            error=error,
        )

    def end(self, status: TurnStatus, steps: int, usage: Usage, error: ErrorBody | None) -> TurnEnd:
        return TurnEnd(
            context_id=self._context_id,
            turn_id=self._turn_id,
            status=status,
            steps=steps,
            usage=usage,
            error=error,
        )
