"""What a response is told of a context: a frame, its bytes, and the cursor after it."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from protocol.frames import Event, Snapshot

__all__ = ["Told", "raw_events"]


class Told(NamedTuple):
    """`data` are the bytes that a socket is sent, `cursor` (`<epoch>:<seq>`) is where a reader goes on after them."""

    frame: Event | Snapshot
    data: bytes
    cursor: str


class _Events(msgspec.Struct):
    events: list[msgspec.Raw]


_decode = msgspec.json.Decoder(_Events).decode


def raw_events(snapshot: bytes) -> list[bytes]:
    """The events of a snapshot's JSON as they stand in it."""
    return [bytes(raw) for raw in _decode(snapshot).events]
