"""The port between turns and language models: a request in, typed pieces of an answer out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct

from gateway.core.inputs import AssistantInput, CallInput, ModelInput, TextInput, ToolResultInput
from protocol.errors import ErrorCode
from protocol.frames import ToolSpec, Usage

__all__ = [
    "AssistantInput",
    "CallInput",
    "CallReady",
    "Finish",
    "ModelClient",
    "ModelError",
    "ModelInput",
    "ModelPiece",
    "ModelRequest",
    "TextInput",
    "TextPiece",
    "ToolResultInput",
]


class ModelRequest(Struct, frozen=True, kw_only=True):
    """One step: `inputs` oldest first; every call in them is followed by its answer before anything else is said.
    `owner` is the namespace of the principal who asks, for what may be kept for them alone. `fresh`: an answer that
    was kept will not do, as it is another one that is wanted."""

    inputs: Sequence[ModelInput]
    tools: Sequence[ToolSpec] = ()
    owner: str = ""
    fresh: bool = False


class TextPiece(Struct, frozen=True):
    """The next piece of the answer; never empty."""

    text: str
    channel: Literal["text", "reasoning"] = "text"


class CallReady(Struct, frozen=True):
    """A tool call that is complete. `parameters` is what the model wrote if that is a JSON object; otherwise
    `problem` says, in words for the model, what is wrong with it, and `parameters` is empty."""

    tool: str
    parameters: dict[str, Any]
    problem: str | None = None


class Finish(Struct, frozen=True):
    """The answer is over, and why: "stop" (also after calls), or "length" (the provider's limit). Always last.
    `model` is the name of the one that answered, where it is another than was asked."""

    reason: Literal["stop", "length"]
    usage: Usage | None = None
    model: str | None = None


ModelPiece = TextPiece | CallReady | Finish


class ModelError(Exception):
    """The provider failed, in words for the user. `retryable` says that the same request may succeed later,
    `retry_after` (seconds) when the provider says so."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        retryable: bool,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message
        self.retryable = retryable
        self.retry_after = retry_after


class ModelClient(Protocol):
    """A configured model. `name` is its name in the settings, `context_window` its size in tokens, `max_tokens` the
    longest answer it gives."""

    @property
    def name(self) -> str: ...

    @property
    def context_window(self) -> int: ...

    @property
    def max_tokens(self) -> int: ...

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelPiece, None]:
        """One answer, piece by piece, ended by exactly one Finish. Raises ModelError, at any point, and nothing else
        that the provider caused. Closing the iterator (or cancelling its task) ends the request at the provider."""
        ...

    async def close(self) -> None: ...
