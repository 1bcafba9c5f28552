"""Refusals that a context remembers, so that an older copy of a frame does not do what a newer one was denied.

A client that lost its socket sends again what was not answered. Where the first copy was held up on its way through
another instance, the second may be refused as `busy` before the first is looked at, and the turn in its way ends in
between.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from stores.records import Sender

__all__ = ["note", "was_refused"]

_KEPT: Final = 32


class _Refusal(NamedTuple):
    id: str
    session_id: str
    attempt: int


_decode = msgspec.json.Decoder(list[_Refusal]).decode


def note(kept: bytes | None, id: str, sender: Sender) -> bytes:
    """`kept`, the newest 32 at most, and that the event `id` was refused."""
    refusals = [_Refusal(id, *sender), *(_decode(kept) if kept is not None else ())]
    return msgspec.json.encode(refusals[:_KEPT])


def was_refused(kept: bytes | None, id: str, sender: Sender | None) -> bool:
    """Whether a later socket of the sender's session was refused the event."""
    if kept is None or sender is None:
        return False
    return any(
        refusal.id == id and refusal.session_id == sender.session_id and refusal.attempt > sender.attempt
        for refusal in _decode(kept)
    )
