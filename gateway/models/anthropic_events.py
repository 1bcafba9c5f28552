"""From the events of a streamed Anthropic message to the pieces of an answer; pure.

The shapes are those of "Streaming messages" (Anthropic API reference) with every field optional, because compatible
servers leave some out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, cast

import msgspec
from msgspec import Struct, field

from gateway.models.answer_parts import MAX_ARGUMENTS, Channel, cut_call, read_call, scalar, too_long_call
from gateway.models.port import AssistantInput, CallInput, CallReady, Finish, ModelPiece, TextPiece
from gateway.models.provider_errors import failed, refused
from protocol.frames import Usage

__all__ = ["MAX_KEPT", "Answer", "Event", "read_event"]

Json = dict[str, Any]

MAX_KEPT: Final = 1 << 20
"""Characters of an answer that are kept to be sent back; of a longer one, none are."""

# "pause_turn" is the provider's limit on how often its own tools may be used in an answer.
_CUT = ("max_tokens", "model_context_window_exceeded", "pause_turn")


class Block(Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    name: str | None = None
    input: Any = None


class Delta(Struct):
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class OutputDetails(Struct):
    thinking_tokens: int | None = None


class EventUsage(Struct):
    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None
    output_tokens_details: OutputDetails | None = None


class StartedMessage(Struct):
    usage: EventUsage | None = None


class Event(Struct):
    type: str = ""
    message: StartedMessage | None = None
    index: int | None = None
    content_block: Block | None = None
    delta: Delta | None = None
    usage: EventUsage | None = None
    error: Any = None


_KNOWN = (
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
    "error",
)


def read_event(value: object) -> Event:
    """The event from its JSON; of a type that we don't know, the type alone. Raises msgspec.ValidationError."""
    if isinstance(value, dict) and (kind := cast("Json", value).get("type")) not in _KNOWN:
        return Event(str(kind))
    return msgspec.convert(value, Event)


class _Open(Struct):
    """The block whose parts are coming. `parts` are of its text, its thinking or its arguments."""

    index: int | None
    type: str
    tool: str = ""
    whole: Any = None
    parts: list[str] = field(default_factory=list[str])
    size: int = 0
    signature: str = ""
    data: str = ""

    def add_arguments(self, part: str) -> None:
        self.size += len(part)
        if self.size <= MAX_ARGUMENTS:
            self.parts.append(part)

    def call(self) -> CallReady:
        if self.size > MAX_ARGUMENTS:
            return too_long_call(self.tool)
        written = "".join(self.parts)
        if not written.strip() and self.whole is not None:
            written = self.whole if isinstance(self.whole, str) else json.dumps(self.whole)
        return read_call(self.tool, written)


class Answer(Struct):
    """One answer: `feed` it every event, then `finish` it. `begun` says that a piece or a part of a call came.

    `blocks` is the answer as it must be sent back, None where it can't be. `step` is what comes back of it.
    """

    model: str
    begun: bool = False
    reason: str | None = None
    blocks: list[Json] | None = field(default_factory=list[Json])
    _usage: EventUsage | None = None
    _open: _Open | None = None
    _bare: CallReady | None = None  # a call that ended without arguments: it has none, or the limit cut them off
    _kept: int = 0
    _said: list[str] = field(default_factory=list[str])
    _calls: list[CallReady] = field(default_factory=list[CallReady])
    _text: Channel = field(default_factory=lambda: Channel("text"))
    _reasoning: Channel = field(default_factory=lambda: Channel("reasoning"))

    @property
    def thought(self) -> bool:
        """Whether there are thinking blocks among those kept."""
        return any("thinking" in block["type"] for block in self.blocks or ())

    @property
    def step(self) -> AssistantInput:
        return AssistantInput("".join(self._said), [CallInput("", call.tool, call.parameters) for call in self._calls])

    def feed(self, event: Event) -> Iterator[ModelPiece]:
        """The pieces that are complete with this event. Raises ModelError where the provider gave up."""
        for piece in self._feed(event):
            self.begun = True
            yield self._note(piece)

    def finish(self) -> Iterator[ModelPiece]:
        """What is left, and the Finish. Raises ModelError where the answer was not whole or was withheld."""
        if self.reason is None:
            raise failed(f"The model {self.model} broke off its answer before the end.")
        if self.reason == "refusal":
            raise refused(f"The model {self.model} had its answer stopped by the provider's safety filter.")
        for piece in (*self._end(), *self._text.end(), *self._reasoning.end()):
            yield self._note(piece)
        yield Finish("length" if self.reason in _CUT else "stop", _counted(self._usage))

    def _note(self, piece: TextPiece | CallReady) -> TextPiece | CallReady:
        if isinstance(piece, CallReady):
            self._calls.append(piece)
        elif piece.channel == "text" and self.blocks is not None:
            self._said.append(piece.text)
        return piece

    def _feed(self, event: Event) -> Iterator[TextPiece | CallReady]:
        if event.type == "message_start":
            self._count(event.message.usage if event.message else None)
        elif event.type == "content_block_start":
            yield from self._end_block()
            yield from self._end_bare()
            yield from self._start(event.index, event.content_block or Block())
        elif event.type == "content_block_delta":
            yield from self._delta(event.index, event.delta or Delta())
        elif event.type == "content_block_stop":
            yield from self._end_block()
        elif event.type == "message_delta":
            self._count(event.usage)
            if event.delta and event.delta.stop_reason:
                self.reason = event.delta.stop_reason
                yield from self._end()

    def _end(self) -> Iterator[TextPiece | CallReady]:
        if self.reason == "refusal":
            self._open = self._bare = None
        yield from self._end_block()
        yield from self._end_bare()

    def _start(self, index: int | None, block: Block) -> Iterator[TextPiece | CallReady]:
        tool = block.name or ""
        if block.type == "tool_use":
            self.begun = True
            if not tool:
                raise failed(f"The model {self.model} called a tool without a name.")
        self._open = _Open(index, block.type, tool, block.input or None, data=block.data or "")
        delta = Delta(text=block.text, thinking=block.thinking, signature=block.signature)
        yield from self._delta(index, delta)

    def _delta(self, index: int | None, delta: Delta) -> Iterator[TextPiece | CallReady]:
        if self._open is None or (index is not None and self._open.index is not None and index != self._open.index):
            # A compatible server may forget to begin a block; text tells by itself what it belongs to.
            yield from self._end_block()
            yield from self._end_bare()
            if delta.partial_json:
                raise failed(f"The model {self.model} called a tool without a name.")
            self._open = _Open(index, "text" if delta.thinking is None else "thinking")
        block = self._open
        if delta.signature and self._keep(delta.signature):
            block.signature += delta.signature
        if delta.thinking:
            if self._keep(delta.thinking):
                block.parts.append(delta.thinking)
            yield from self._reasoning.add(delta.thinking)
        if delta.text:
            if self._keep(delta.text):
                block.parts.append(delta.text)
            yield from self._text.add(delta.text)
        if delta.partial_json and block.type == "tool_use":
            self.begun = True
            block.add_arguments(delta.partial_json)

    def _end_block(self) -> Iterator[CallReady]:
        block, self._open = self._open, None
        if block is None:
            return
        if block.type == "tool_use":
            call = block.call()
            self._keep("".join(block.parts))
            self._keep_block({"type": "tool_use", "id": "", "name": call.tool, "input": call.parameters})
            if block.size or block.whole:
                yield call
            else:
                self._bare = call
        elif block.type == "text":
            text = scalar("".join(block.parts))
            if text.strip():
                self._keep_block({"type": "text", "text": text})
        elif block.type == "thinking":
            thinking = scalar("".join(block.parts))
            self._keep_block({"type": "thinking", "thinking": thinking, "signature": scalar(block.signature)})
        elif block.type == "redacted_thinking":
            self._keep(block.data)
            self._keep_block({"type": "redacted_thinking", "data": scalar(block.data)})
        else:
            # What the provider's own tools write can't be sent back from what we know of it.
            self.blocks = None

    def _end_bare(self) -> Iterator[CallReady]:
        call, self._bare = self._bare, None
        if call is not None:
            yield cut_call(call.tool) if self.reason in _CUT else call

    def _keep(self, part: str) -> bool:
        """Whether `part` is kept: nothing is, once the answer got too long for that."""
        self._kept += len(part)
        if self._kept > MAX_KEPT:
            self.blocks = None
            self._said.clear()
        return self.blocks is not None

    def _keep_block(self, block: Json) -> None:
        if self.blocks is not None:
            self.blocks.append(block)

    def _count(self, usage: EventUsage | None) -> None:
        """The counts in a stream are totals; a later one may leave out what it does not change."""
        if usage is None:
            return
        known = self._usage = self._usage or EventUsage()
        for name in usage.__struct_fields__:
            value = getattr(usage, name)
            if value is not None:
                setattr(known, name, value)


def _counted(usage: EventUsage | None) -> Usage | None:
    if usage is None:
        return None
    cached = usage.cache_read_input_tokens or 0
    details = usage.output_tokens_details
    return Usage(
        # The API counts what was read from its cache, and what was written to it, apart from the rest.
        input_tokens=(usage.input_tokens or 0) + (usage.cache_creation_input_tokens or 0) + cached,
        output_tokens=usage.output_tokens or 0,
        cached_tokens=cached,
        reasoning_tokens=(details and details.thinking_tokens) or 0,
    )
