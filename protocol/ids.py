"""Identifiers, cursors and timestamps as they stand on the wire (docs/protocol.md, section 1)."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from datetime import UTC, datetime
from typing import NamedTuple

__all__ = ["CURSOR_PATTERN", "ID_PATTERN", "Cursor", "derive_id", "is_id", "new_id", "rfc3339", "time_id"]

# `$` alone would let Python accept a trailing newline; `(?!\n)` closes that and means the same in ECMAScript.
ID_PATTERN = r"^[A-Za-z0-9_.:\-]{1,128}$(?!\n)"
CURSOR_PATTERN = r"^[0-9]{1,18}:[0-9]{1,18}$(?!\n)"
_ID = re.compile(ID_PATTERN)
_CURSOR = re.compile(CURSOR_PATTERN)
_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"


class Cursor(NamedTuple):
    """How far a reader has come: a `seq` within one life (`epoch`) of a context's log."""

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read `"<epoch>:<seq>"`; raises ValueError on anything else."""
        if _CURSOR.match(text) is None:
            raise ValueError("a cursor is <epoch>:<seq>")
        epoch, _, seq = text.partition(":")
        return cls(int(epoch), int(seq))


def is_id(text: str) -> bool:
    """Whether `text` may be an id: 1 to 128 of `A-Z a-z 0-9 _ . : -`."""
    return _ID.match(text) is not None


def _base32(number: int) -> str:
    return "".join(_BASE32[(number >> shift) & 31] for shift in range(125, -5, -5))


def time_id(prefix: str, milliseconds: int, tail: int) -> str:
    """An id of 128 bits: 48 of milliseconds since 1970, which order it, then 80 of `tail`."""
    return prefix + _base32((milliseconds & ((1 << 48) - 1)) << 80 | tail & ((1 << 80) - 1))


def new_id(prefix: str) -> str:
    """A new, unguessable, time-ordered id such as `msg_01k…`."""
    return time_id(prefix, time.time_ns() // 1_000_000, secrets.randbits(80))


def derive_id(prefix: str, *parts: str) -> str:
    """The same id for the same parts, for whoever has to meet it again (no time in it)."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(4, "big") + data)
    return prefix + _base32(int.from_bytes(digest.digest(), "big"))


def rfc3339(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds and `Z`; `moment` must know its time zone."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
