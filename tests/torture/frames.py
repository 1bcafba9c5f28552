"""Words that all parts of the torture share: frames as they came, what tells an event, what is wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from msgspec import Struct

__all__ = ["DURABLE", "LIVE", "Cursor", "Frame", "Violation", "bare", "digest", "key_of", "text_of"]

Frame = dict[str, Any]
DURABLE = frozenset({"message", "tool_call", "tool_approval", "tool_response", "turn_end", "context"})
LIVE = frozenset({"message_start", "delta", "tool_progress"})


class Cursor(NamedTuple):
    """How far a reader has come (docs/protocol.md, Words)."""

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        epoch, _, seq = text.partition(":")
        return cls(int(epoch), int(seq))


class Violation(Struct, frozen=True):
    """A promise that was broken: which, where (a principal's context), for whom (a reader, or the judge), how, and the
    frames that the reader got last."""

    kind: str
    place: str
    who: str
    words: str
    at: float = 0.0
    frames: Sequence[str] = ()


def text_of(frame: Frame) -> str:
    """A frame as one line, which keeps the order of its fields: what "byte for byte" is about."""
    return json.dumps(frame, ensure_ascii=False, separators=(",", ":"))


def bare(frame: Frame) -> str:
    """An event without its place, which it may get anew under another epoch."""
    return text_of({name: value for name, value in frame.items() if name not in ("seq", "first")})


def digest(frame: Frame) -> bytes:
    """What an event is, in 8 bytes, however much was merged into it. A durable one is its bytes, a live one what they
    say: whoever merges writes it anew."""
    line = text_of({name: value for name, value in frame.items() if name != "first"})
    if frame["type"] in LIVE:
        said = {name: float(value) if isinstance(value, int) else value for name, value in frame.items()}
        line = text_of({name: said[name] for name in sorted(said) if name != "first"})
    return hashlib.blake2b(line.encode(), digest_size=8).digest()


def key_of(event: Frame) -> str:
    """What tells a durable event from all others of its context. Titles of the torture are used once."""
    kind = event["type"]
    if kind in ("message", "tool_call", "tool_response"):
        return f"{kind}/{event['id']}"
    if kind == "turn_end":
        return f"turn_end/{event['turn_id']}"
    if kind == "tool_approval":
        return f"tool_approval/{event['tool_call_id']}"
    return f"context/{event.get('title')}"
