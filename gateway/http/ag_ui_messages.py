"""The messages of an AG-UI thread as its reader has them: what a MESSAGES_SNAPSHOT says again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from gateway.http.front_ends import result_text
from protocol.content import plain_text
from protocol.frames import (
    Content,
    DurableEvent,
    ImagePart,
    Message,
    ResourcePart,
    Snapshot,
    TextPart,
    ToolCall,
    ToolResponse,
)

try:
    from ag_ui import core as ag
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the format \"ag-ui\" needs an extra: pip install 'tidegate[ag-ui]'", name=error.name
    ) from error

__all__ = [
    "KEPT",
    "KEPT_BYTES",
    "Assistant",
    "Messages",
    "Reasoning",
    "ToolResult",
    "UserOrSystem",
    "ag",
    "arguments",
    "messages_of",
    "reasoning_id",
]

KEPT = 100
"""How many messages are known of a stream without an end: as many as a snapshot of ours has events."""


KEPT_BYTES = 8 * 1024 * 1024
"""How many bytes of them, about; the newest is known whatever its size."""


def reasoning_id(message_id: str, span: int) -> str:
    """The same for each try of a message, so that the reader's own copy can be emptied."""
    return f"{message_id}.reasoning.{span}"


def arguments(call: ToolCall) -> str:
    return msgspec.json.encode(call.parameters).decode()


@dataclass(slots=True)
class UserOrSystem:
    message: Message

    @property
    def id(self) -> str:
        return self.message.id

    def wire(self) -> ag.Message:
        content = self.message.content
        if self.message.role == "system":
            return ag.SystemMessage(id=self.id, content=plain_text(content))
        return ag.UserMessage(id=self.id, content=_content(content))


@dataclass(slots=True)
class Assistant:
    """`pieces` is its text so far; `calls` maps ids to names and arguments."""

    id: str
    pieces: list[str] = field(default_factory=list[str])
    calls: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])

    def wire(self) -> ag.Message:
        calls = [
            ag.ToolCall(id=id, function=ag.FunctionCall(name=name, arguments=text))
            for id, (name, text) in self.calls.items()
        ]
        return ag.AssistantMessage(id=self.id, content="".join(self.pieces), tool_calls=calls or None)


@dataclass(slots=True)
class Reasoning:
    id: str
    pieces: list[str] = field(default_factory=list[str])

    def wire(self) -> ag.Message:
        return ag.ReasoningMessage(id=self.id, content="".join(self.pieces))


@dataclass(slots=True)
class ToolResult:
    response: ToolResponse
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = len(result_text(self.response))

    @property
    def id(self) -> str:
        return self.response.id

    def wire(self) -> ag.Message:
        response = self.response
        failed = response.status != "success"
        return ag.ToolMessage(
            id=self.id,
            tool_call_id=response.tool_call_id,
            content=result_text(response),
            metadata={"status": response.status} if failed else None,
        )


Told = UserOrSystem | Assistant | Reasoning | ToolResult


class Messages:
    """`before` is the JSON of what the reader brought itself; `most` how many others are known at a time."""

    def __init__(self, before: Sequence[bytes] = (), most: int | None = None) -> None:
        self._before = before
        self._most = most
        self._told: list[Told] = []

    def __iter__(self) -> Iterator[Told]:
        return iter(self._told)

    def find(self, id: str) -> Told | None:
        return next((told for told in reversed(self._told) if told.id == id), None)

    def assistant(self, id: str) -> Assistant:
        """The assistant's message of that id, new where there is none."""
        found = self.find(id)
        if isinstance(found, Assistant):
            return found
        made = Assistant(id)
        self.add(made)
        return made

    def add(self, told: Told) -> None:
        self._told.append(told)
        self._trim(told)

    def answer(self, result: ToolResult) -> None:
        """Behind the message that called, as the reader puts it."""
        call_id = result.response.tool_call_id
        place = len(self._told)
        for n, told in enumerate(self._told):
            if isinstance(told, Assistant) and call_id in told.calls:
                place = n + 1
                while place < len(self._told) and isinstance(self._told[place], ToolResult):
                    place += 1
        self._told.insert(place, result)
        self._trim(result)

    def discard(self, id: str) -> None:
        self._told = [told for told in self._told if told.id != id]

    def _trim(self, newest: Told) -> None:
        """Forget the oldest beyond the bounds. Texts grow after they were added, so all are measured."""
        if self._most is None:
            return
        sizes = [0 if told is newest else _size(told) for told in self._told]
        excess = sum(sizes) + _size(newest) - KEPT_BYTES
        surplus = len(self._told) - self._most
        kept: list[Told] = []
        for told, size in zip(self._told, sizes, strict=True):
            if told is not newest and (surplus > 0 or excess > 0):
                surplus, excess = surplus - 1, excess - size
            else:
                kept.append(told)
        self._told = kept

    def snapshot(self) -> bytes:
        """The event's JSON. What the reader brought is said as it came, whatever was in it."""
        told = (one.wire().model_dump_json(by_alias=True).encode() for one in self._told)
        return b'{"type":"MESSAGES_SNAPSHOT","messages":[%b]}' % b",".join([*self._before, *told])


def _size(told: Told) -> int:
    """About how many bytes it takes: of what comes in any size, a character is one."""
    if isinstance(told, Assistant):
        return sum(map(len, told.pieces)) + sum(len(name) + len(text) for name, text in told.calls.values())
    if isinstance(told, Reasoning):
        return sum(map(len, told.pieces))
    if isinstance(told, ToolResult):
        return told.size
    content = told.message.content
    if isinstance(content, str):
        return len(content)
    return sum(_part_size(part) for part in content)


def _part_size(part: TextPart | ImagePart | ResourcePart) -> int:
    if isinstance(part, TextPart):
        return len(part.text)
    return len(part.data if isinstance(part, ImagePart) else part.uri)


def messages_of(frame: Snapshot) -> Messages:
    """The conversation that a snapshot holds."""
    messages = Messages(most=KEPT)
    for event in [*(one.call for one in frame.running), *frame.events]:
        _add(messages, event)
    for partial in frame.partial:
        if partial.reasoning:
            messages.add(Reasoning(reasoning_id(partial.message_id, 1), [partial.reasoning]))
        if partial.text:
            messages.assistant(partial.message_id).pieces.append(partial.text)
    return messages


def _add(messages: Messages, event: DurableEvent) -> None:
    match event:
        case Message(role="assistant"):
            messages.assistant(event.id).pieces.append(plain_text(event.content))
        case Message():
            messages.add(UserOrSystem(event))
        case ToolCall():
            messages.assistant(event.message_id or event.id).calls[event.id] = (event.tool, arguments(event))
        case ToolResponse():
            messages.answer(ToolResult(event))
        case _:
            pass


def _content(content: Content) -> str | list[ag.ContentPart]:
    if isinstance(content, str):
        return content
    parts: list[ag.ContentPart] = []
    for part in content:
        if isinstance(part, TextPart):
            parts.append(ag.TextPart(text=part.text))
        elif isinstance(part, ImagePart):
            parts.append(ag.ImagePart(source=ag.DataSource(value=part.data, mime_type=part.mime_type)))
        else:
            parts.append(ag.TextPart(text=f"[{part.uri}]"))
    return parts
