"""Every frame of the wire protocol as a struct (docs/protocol.md, sections 1 to 3 and 5).

Three unions: `ClientFrame` is what a client sends, `Event` what belongs to a context's log, `ServerFrame` all that
a server sends. A field that is None, or at its default, is left out of the JSON.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from protocol.errors import ErrorCode
from protocol.ids import CURSOR_PATTERN, ID_PATTERN

__all__ = [
    "MIME_TYPE_PATTERN",
    "TOOL_NAME_PATTERN",
    "Ack",
    "AnswerTool",
    "ApproveTool",
    "Auth",
    "CallTool",
    "Cancel",
    "ClientFrame",
    "ClientInfo",
    "Content",
    "ContextChanged",
    "Delta",
    "DurableEvent",
    "Error",
    "ErrorBody",
    "Event",
    "Expiring",
    "GoAway",
    "Hello",
    "ImagePart",
    "Limits",
    "LiveEvent",
    "Message",
    "MessageStart",
    "Partial",
    "Ping",
    "Pong",
    "PromptUse",
    "Ready",
    "ResourcePart",
    "Role",
    "Running",
    "SendMessage",
    "ServerFrame",
    "Snapshot",
    "Subscribe",
    "Subscribed",
    "TextPart",
    "ToolApproval",
    "ToolCall",
    "ToolProgress",
    "ToolResponse",
    "ToolSpec",
    "TurnEnd",
    "Unsubscribe",
    "Usage",
    "WhenBusy",
]

MIME_TYPE_PATTERN = r"^image/[A-Za-z0-9.+\-]{1,64}$(?!\n)"
TOOL_NAME_PATTERN = r"^[A-Za-z0-9_\-]{1,64}$(?!\n)"

Id = Annotated[str, Meta(pattern=ID_PATTERN)]
CursorText = Annotated[str, Meta(pattern=CURSOR_PATTERN, description="<epoch>:<seq>")]
Timestamp = Annotated[datetime, Meta(tz=True)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Role = Literal["user", "assistant", "system"]
Channel = Literal["text", "reasoning"]
WhenBusy = Literal["queue", "interrupt", "steer", "reject"]
MessageStatus = Literal["complete", "truncated", "cancelled", "failed"]
ResponseStatus = Literal["success", "error", "timeout", "denied", "cancelled", "interrupted"]
TurnStatus = Literal["complete", "cancelled", "failed", "max_steps"]


class _Struct(Struct, kw_only=True, omit_defaults=True, frozen=True):
    pass


class _Frame(_Struct, tag_field="type", frozen=True):
    pass


class TextPart(_Frame, tag="text", frozen=True):
    text: str


class ImagePart(_Frame, tag="image", frozen=True):
    mime_type: Annotated[str, Meta(pattern=MIME_TYPE_PATTERN)]
    data: str


class ResourcePart(_Frame, tag="resource", frozen=True):
    uri: Annotated[str, Meta(min_length=1, max_length=2048)]


Content = str | Annotated[list[TextPart | ImagePart | ResourcePart], Meta(max_length=256)]


class ToolSpec(_Struct, frozen=True):
    """A tool that a client offers: `parameters` is a JSON Schema of an object, `approval` says that a person is asked
    before each call, or before the first of a context."""

    name: Annotated[str, Meta(pattern=TOOL_NAME_PATTERN)]
    description: Annotated[str, Meta(max_length=8192)]
    parameters: dict[str, Any]
    approval: Literal["always", "first"] | None = None


class ClientInfo(_Struct, frozen=True):
    name: Annotated[str, Meta(max_length=128)]
    version: Annotated[str, Meta(max_length=128)]


# ---- what a client sends


class Hello(_Frame, tag="hello", frozen=True):
    token: str | None = None
    session_id: Id | None = None
    attempt: Annotated[int, Meta(ge=0, lt=2**53)] | None = None
    cursors: Annotated[dict[Id, CursorText | None], Meta(max_length=1024)] | None = None
    client: ClientInfo | None = None
    tools: Annotated[list[ToolSpec], Meta(max_length=128)] | None = None


class PromptUse(_Struct, frozen=True):
    """A prompt of a server, which comes before the rest of the message."""

    name: Name
    arguments: Annotated[dict[Name, str], Meta(max_length=64)] | None = None


class SendMessage(_Frame, tag="message", frozen=True):
    id: Id
    content: Content
    role: Role = "user"
    context_id: Id | None = None
    timestamp: Timestamp | None = None
    model: Name | None = None
    tools: Annotated[list[Name], Meta(max_length=256)] | None = None
    resources: Annotated[list[str], Meta(max_length=64)] | None = None
    respond: bool = True
    when_busy: WhenBusy = "queue"
    parent_id: Id | None = None
    replaces: Id | None = None
    prompt: PromptUse | None = None
    metadata: dict[str, Any] | None = None


class CallTool(_Frame, tag="tool_call", frozen=True):
    id: Id
    tool: Name
    parameters: dict[str, Any]
    context_id: Id | None = None
    timestamp: Timestamp | None = None


class AnswerTool(_Frame, tag="tool_response", frozen=True):
    id: Id
    tool_call_id: Id
    context_id: Id
    result: Any
    status: Literal["success", "error", "timeout", "denied", "cancelled", "interrupted"]
    timestamp: Timestamp | None = None


class ApproveTool(_Frame, tag="tool_approval", frozen=True):
    id: Id
    tool_call_id: Id
    context_id: Id
    approved: bool
    parameters: dict[str, Any] | None = None
    reason: Annotated[str, Meta(max_length=4096)] | None = None
    remember: Literal["context"] | None = None


class Cancel(_Frame, tag="cancel", frozen=True):
    id: Id
    context_id: Id
    turn_id: Id | None = None
    tool_call_id: Id | None = None


class Subscribe(_Frame, tag="subscribe", frozen=True):
    id: Id
    context_id: Id
    cursor: CursorText | None = None


class Unsubscribe(_Frame, tag="unsubscribe", frozen=True):
    id: Id
    context_id: Id


class Auth(_Frame, tag="auth", frozen=True):
    id: Id
    token: str


class Ping(_Frame, tag="ping", frozen=True):
    id: Id


ClientFrame = Hello | SendMessage | CallTool | AnswerTool | ApproveTool | Cancel | Subscribe | Unsubscribe | Auth | Ping


# ---- the events of a context


class ErrorBody(_Struct, frozen=True):
    """The reason of a failure inside an event: `message` is for people."""

    code: ErrorCode
    message: str
    retryable: bool
    retry_after: float | None = None


class Usage(_Struct, frozen=True):
    """Tokens as the provider counted them; `input_tokens` includes the cached ones. `cached_responses` counts the steps
    that were answered from the gateway's own cache, for which no provider was asked."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cached_responses: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            cached_responses=self.cached_responses + other.cached_responses,
        )


class _Event(_Frame, frozen=True):
    """`seq` is 0 until the log has given one; `first` stands where the frame is a merged run."""

    context_id: str
    turn_id: str | None = None
    seq: int = 0
    first: int | None = None


class Message(_Event, tag="message", kw_only=True, frozen=True):
    id: str
    content: Content
    role: Role
    timestamp: str
    status: MessageStatus
    model: str | None = None
    usage: Usage | None = None
    parent_id: str | None = None
    replaces: str | None = None
    reads: str | None = None
    resources: list[str] | None = None
    metadata: dict[str, Any] | None = None


class MessageStart(_Event, tag="message_start", kw_only=True, frozen=True):
    id: str
    role: Role
    model: str
    attempt: int


class Delta(_Event, tag="delta", kw_only=True, frozen=True):
    message_id: str
    text: str
    channel: Channel = "text"


class ToolCall(_Event, tag="tool_call", kw_only=True, frozen=True):
    id: str
    tool: str
    parameters: dict[str, Any]
    timestamp: str
    runs_on: Literal["server", "client"]
    message_id: str | None = None
    session_id: str | None = None
    approval: Literal["required"] | None = None
    asked_by: str | None = None


class ToolApproval(_Event, tag="tool_approval", kw_only=True, frozen=True):
    tool_call_id: str
    approved: bool
    parameters: dict[str, Any] | None = None
    reason: str | None = None


class ToolProgress(_Event, tag="tool_progress", kw_only=True, frozen=True):
    tool_call_id: str
    progress: float
    total: float | None = None
    message: str | None = None


class ToolResponse(_Event, tag="tool_response", kw_only=True, frozen=True):
    id: str
    tool_call_id: str
    result: Any
    status: ResponseStatus
    timestamp: str
    error: ErrorBody | None = None


class TurnEnd(_Event, tag="turn_end", kw_only=True, frozen=True):
    status: TurnStatus
    steps: int
    usage: Usage
    error: ErrorBody | None = None


class ContextChanged(_Event, tag="context", kw_only=True, frozen=True):
    title: str | None = None
    metadata: dict[str, Any] | None = None
    settings: dict[str, Any] | None = None
    pinned: list[str] | None = None
    deleted: bool | None = None


DurableEvent = Message | ToolCall | ToolApproval | ToolResponse | TurnEnd | ContextChanged
LiveEvent = MessageStart | Delta | ToolProgress
Event = DurableEvent | LiveEvent


# ---- what a server sends besides


class Limits(_Struct, frozen=True):
    max_frame_bytes: int
    max_unacked: int
    messages_per_minute: int


class Ready(_Frame, tag="ready", frozen=True):
    session_id: str
    resumed: bool
    subject: str
    heartbeat: int
    limits: Limits
    models: list[str]
    default_model: str
    instance: str
    version: str


class Ack(_Frame, tag="ack", frozen=True):
    id: str
    context_id: str | None = None
    epoch: str | None = None
    seq: int | None = None
    duplicate: bool = False


class Error(_Frame, tag="error", frozen=True):
    code: ErrorCode
    message: str
    retryable: bool
    id: str | None = None
    retry_after: float | None = None
    path: str | None = None


class Pong(_Frame, tag="pong", frozen=True):
    id: str


class Subscribed(_Frame, tag="subscribed", frozen=True):
    context_id: str
    epoch: str
    seq: int
    id: str | None = None


class Partial(_Struct, frozen=True):
    """A message that is being written, with its text so far."""

    message_id: str
    turn_id: str
    model: str
    attempt: int
    text: str
    reasoning: str


class Running(_Struct, frozen=True):
    """A call without an answer, with its last progress."""

    call: ToolCall
    progress: float | None = None
    total: float | None = None
    message: str | None = None


class Snapshot(_Frame, tag="snapshot", frozen=True):
    context_id: str
    epoch: str
    seq: int
    events: list[DurableEvent]
    has_more: bool
    partial: list[Partial]
    running: list[Running]


class GoAway(_Frame, tag="goaway", frozen=True):
    reason: str
    retry_after: float


class Expiring(_Frame, tag="expiring", frozen=True):
    expires_in: int


ServerFrame = Event | Ready | Ack | Error | Pong | Subscribed | Snapshot | GoAway | Expiring
