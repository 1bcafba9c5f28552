"""The script of a fake Anthropic server: replies, made of steps, each an event of the stream of a message.

`Reply.of` makes a whole answer from its blocks. The shapes of calls are those recorded from Anthropic (an empty first
fragment, and for a call without arguments nothing else; fragments that end anywhere, in the middle of an escape too)
and from compatible servers: "whole" for those that send the arguments at once, "start" for those that send them with
the beginning of the block.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from gateway.testing.script_steps import CommonStep, Cut, Delay, Hold, Raw, ScriptedReply, Stall, split_words

__all__ = [
    "Block",
    "BlockStart",
    "BlockStop",
    "Call",
    "Cut",
    "Delay",
    "Delta",
    "Event",
    "Failure",
    "Hold",
    "MessageDelta",
    "MessageStart",
    "MessageStop",
    "Ping",
    "Raw",
    "Redacted",
    "Reply",
    "Said",
    "Shape",
    "Stall",
    "Step",
    "Thought",
    "Usage",
    "block_steps",
    "sign",
    "start_of",
    "words",
]

Json = dict[str, Any]
Shape = Literal["anthropic", "whole", "start"]


# ---- steps, each one event


class Usage(Struct, frozen=True):
    """Token counts: `input_tokens` are those that were neither read from the cache nor written to it."""

    input_tokens: int = 10
    output_tokens: int = 5
    cache_read: int = 0
    cache_creation: int = 0
    thinking_tokens: int | None = None


class MessageStart(Struct, frozen=True):
    """`message_start`, with the counts of the input."""

    usage: Usage = Usage()


class BlockStart(Struct, frozen=True):
    """`content_block_start`"""

    block: Json
    index: int = 0


class Delta(Struct, frozen=True):
    """`content_block_delta`: `field` is that of the text, which names the delta's type too."""

    text: str
    field: Literal["text", "thinking", "signature", "partial_json"] = "text"
    index: int = 0


class BlockStop(Struct, frozen=True):
    """`content_block_stop`"""

    index: int = 0


class Ping(Struct, frozen=True):
    """`ping`"""


class MessageDelta(Struct, frozen=True):
    """`message_delta`, with the reason of the end and the counts of the output."""

    stop_reason: str | None = "end_turn"
    usage: Usage = Usage()


class MessageStop(Struct, frozen=True):
    """`message_stop`"""


class Failure(Struct, frozen=True):
    """`error` in the middle of the stream."""

    type: str = "overloaded_error"
    message: str = ""


class Event(Struct, frozen=True):
    """Any JSON as an event of any name."""

    name: str
    value: Any


Step = MessageStart | BlockStart | Delta | BlockStop | Ping | MessageDelta | MessageStop | Failure | Event | CommonStep


# ---- blocks, each several events


class Said(Struct, frozen=True):
    """A block of text, a delta a word."""

    text: str


class Thought(Struct, frozen=True):
    """A block of thinking, a delta a word, then its signature; `text` is empty where the provider shows none."""

    text: str
    signature: str | None = None


class Redacted(Struct, frozen=True):
    """A block of thinking that is encrypted."""

    data: str = "c2VjcmV0"


class Call(Struct, frozen=True):
    """A call of a tool. `written` stands for the arguments where these are no JSON object."""

    tool: str
    arguments: Json = msgspec.field(default_factory=dict[str, Any])
    shape: Shape = "anthropic"
    id: str | None = None
    written: str | None = None


Block = Said | Thought | Redacted | Call


def sign(thinking: str) -> str:
    """The signature that the fake server gives to thinking and wants back with it."""
    return hashlib.sha256(f"signed:{thinking}".encode()).hexdigest()


def words(text: str, index: int = 0) -> list[Delta]:
    """A step a word; together they are exactly `text`."""
    return [Delta(word, "text", index) for word in split_words(text)]


def start_of(block: Block, index: int = 0) -> BlockStart:
    """The event that begins the block."""
    if isinstance(block, Said):
        return BlockStart({"type": "text", "text": ""}, index)
    if isinstance(block, Thought):
        return BlockStart({"type": "thinking", "thinking": "", "signature": ""}, index)
    if isinstance(block, Redacted):
        return BlockStart({"type": "redacted_thinking", "data": block.data}, index)
    given = block.arguments if block.shape == "start" else {}
    id = block.id or f"toolu_{index:024d}"
    return BlockStart({"type": "tool_use", "id": id, "name": block.tool, "input": given}, index)


def block_steps(block: Block, index: int = 0) -> list[Step]:
    """The whole block."""
    return [start_of(block, index), *_deltas(block, index), BlockStop(index)]


def _deltas(block: Block, index: int) -> list[Delta]:
    if isinstance(block, Said):
        return words(block.text, index)
    if isinstance(block, Thought):
        signature = sign(block.text) if block.signature is None else block.signature
        said = [Delta(word, "thinking", index) for word in split_words(block.text)]
        return [*said, Delta(signature, "signature", index)]
    if isinstance(block, Redacted) or block.shape == "start":
        return []
    # Escapes as ASCII, so that a fragment may end in one.
    written = json.dumps(block.arguments) if block.written is None else block.written
    if block.shape == "whole":
        return [Delta(written, "partial_json", index)]
    rest = "" if block.written is None and not block.arguments else written
    parts = [rest[start : start + 5] for start in range(0, len(rest), 5)]
    return [Delta(part, "partial_json", index) for part in ["", *parts]]


# ---- replies


class Reply(ScriptedReply[Step], kw_only=True):
    """One answer of the server (ScriptedReply), with ready-made ones."""

    @staticmethod
    def of(*blocks: Block, stop_reason: str | None = None, usage: Usage | None = None) -> Reply:
        """A whole answer of these blocks; its stop reason is by default that of its last block."""
        usage = usage or Usage()
        reason = stop_reason or ("tool_use" if blocks and isinstance(blocks[-1], Call) else "end_turn")
        steps: list[Step] = [MessageStart(usage), Ping()]
        for index, block in enumerate(blocks):
            steps += block_steps(block, index)
        return Reply(steps=[*steps, MessageDelta(reason, usage), MessageStop()])

    @staticmethod
    def text(text: str, *, stop_reason: str = "end_turn", usage: Usage | None = None) -> Reply:
        """A whole answer in words."""
        return Reply.of(Said(text), stop_reason=stop_reason, usage=usage)

    @staticmethod
    def failure(status: int, type: str = "", message: str = "", *, retry_after: str | None = None) -> Reply:
        """An error response with Anthropic's body."""
        return Reply(
            status=status,
            content_type="application/json",
            headers={} if retry_after is None else {"retry-after": retry_after},
            body=msgspec.json.encode({"type": "error", "error": {"type": type, "message": message}}),
        )

    @staticmethod
    def script(steps: Sequence[Step]) -> Reply:
        """A message that begins as every one does, then these steps."""
        return Reply(steps=[MessageStart(), *steps])
