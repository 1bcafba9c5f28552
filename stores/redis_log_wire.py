"""The live log's events on their way to Redis, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import msgspec

from protocol.frames import Delta, Event, Message, MessageStart, ToolProgress, ToolResponse, TurnEnd
from stores.ports import EpochOver, StaleFence, StoreError, Unavailable
from stores.records import ContextKey, Entry, LogBatch, LogFold, OpenMessage, Progress, Publication
from stores.redis_keys import context_tag
from stores.redis_wire import Argument, Reply

__all__ = [
    "Names",
    "answer_of",
    "arguments_of",
    "as_bytes",
    "as_list",
    "entries_of",
    "fold_of",
    "ids_of",
    "names_of",
    "publication_of",
]

_REFUSALS: dict[bytes, type[StoreError]] = {b"E": EpochOver, b"S": StaleFence}

_open_messages: msgspec.msgpack.Decoder[list[tuple[str, str, str, str]]] = msgspec.msgpack.Decoder(
    list[tuple[str, str, str, str]]
)
_progress: msgspec.json.Decoder[Progress] = msgspec.json.Decoder(Progress)
_encode = msgspec.json.Encoder().encode


class Names(NamedTuple):
    """A context's keys, in the order in which the scripts take them, and its channel."""

    keys: tuple[bytes, bytes, bytes, bytes, bytes]
    channel: bytes


def names_of(prefix: str, key: ContextKey) -> Names:
    base = f"{prefix}:log:{context_tag(key)}".encode()
    return Names((base + b":meta", base + b":tail", base + b":ids", base + b":text", base + b":turns"), base)


def arguments_of(batch: LogBatch, ttl: int, max_bytes: int, channel: bytes) -> list[Argument]:
    """ARGV[2…] of log_append.lua."""
    arguments: list[Argument] = [
        batch.epoch,
        batch.writer,
        batch.turn_id or "",
        batch.fence,
        ttl,
        max_bytes,
        channel,
    ]
    for event in batch.events:
        arguments += (event.id or b"", event.body[:-1], *_fold_of(event.event))
    return arguments


def _fold_of(event: Event) -> tuple[Argument, ...]:
    """What the event does to the fold, so that the script parses no JSON."""
    if isinstance(event, Delta):
        return (b"d", ("t" if event.channel == "text" else "r") + event.message_id, event.text)
    if isinstance(event, MessageStart):
        return (b"s", event.id, event.turn_id or b"", event.model, event.attempt)
    if isinstance(event, Message):
        return (b"m", event.id)
    if isinstance(event, ToolProgress):
        progress = Progress(
            call_id=event.tool_call_id, progress=event.progress, total=event.total, message=event.message
        )
        return (b"p", event.tool_call_id, _encode(progress))
    if isinstance(event, ToolResponse):
        return (b"r", event.tool_call_id)
    if isinstance(event, TurnEnd):
        return (b"e", event.turn_id or b"")
    return (b"-",)


def answer_of(batch: LogBatch, reply: Reply | Unavailable) -> dict[str, int] | StoreError:
    if isinstance(reply, Unavailable):
        return reply
    text = as_bytes(reply)
    if text in _REFUSALS:
        return _REFUSALS[text]()
    ids = [event.id for event in batch.events if event.id is not None]
    return dict(zip(ids, map(int, text[1:].split(b",")), strict=True)) if ids else {}


def entries_of(frames: Sequence[bytes], first: int) -> list[Entry]:
    return [Entry(seq, frame, seq) for seq, frame in enumerate(frames, first)]


def publication_of(key: ContextKey, payload: bytes) -> Publication:
    """`payload` is "<epoch> <first seq>", then a frame in each line: JSON has no line breaks of its own."""
    head, *frames = payload.split(b"\n")
    epoch, first = head.split(b" ")
    return Publication(key, int(epoch), entries_of(frames, int(first)))


def ids_of(reply: Reply) -> dict[str, int]:
    return {event_id.decode(): int(seq) for event_id, seq in _pairs(reply)}


def fold_of(reply: Reply) -> LogFold:
    epoch, head, opened, meta, ids, text = as_list(reply)
    said = _said(as_bytes(text))
    return LogFold(
        epoch=int(as_bytes(epoch)),
        seq=int(as_bytes(head)),
        ids=ids_of(ids),
        open=[
            OpenMessage(
                message_id=message_id,
                turn_id=turn_id,
                model=model,
                attempt=int(attempt),
                text=said.get("t" + message_id, ""),
                reasoning=said.get("r" + message_id, ""),
            )
            for message_id, turn_id, model, attempt in _open_messages.decode(as_bytes(opened) or b"\x90")
        ],
        progress={
            field[1:].decode(): _progress.decode(value)
            for field, value in _pairs(meta)
            if field.startswith(b"p")  # no other field of meta does
        },
    )


def _said(text: bytes) -> dict[str, str]:
    """What was said in each channel of each message, from pieces in the order in which they came."""
    pieces: dict[bytes, list[bytes]] = {}
    for piece in text.split(b"\xff")[1:]:
        name, _, words = piece.partition(b"\xfe")
        pieces.setdefault(name, []).append(words)
    return {name.decode(): b"".join(words).decode() for name, words in pieces.items()}


def _pairs(reply: Reply) -> Iterator[tuple[bytes, bytes]]:
    flat = iter(as_list(reply))
    return ((as_bytes(one), as_bytes(other)) for one, other in zip(flat, flat, strict=True))


def as_bytes(reply: Reply) -> bytes:
    if not isinstance(reply, bytes):
        raise Unavailable("redis: a reply of another kind")
    return reply


def as_list(reply: Reply) -> list[Reply]:
    if not isinstance(reply, list):
        raise Unavailable("redis: a reply of another kind")
    return cast("list[Reply]", reply)
