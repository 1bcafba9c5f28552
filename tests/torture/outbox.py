"""What a device has to have answered, however many sockets that takes, and what of it is under way on this one. No
I/O."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

from tests.torture.frames import Frame
from tests.torture.journal import Sent

__all__ = ["Outbox", "may_be_refused"]

# Refusals that a client can't be blamed for, by what it sent.
_ALLOWED = {
    "message": {"busy"},
    "tool_call": {"busy"},
    "tool_approval": {"conflict", "not_found"},
    "tool_response": {"conflict"},
    "cancel": {"not_found"},
}
_IN_FLIGHT = 32
_TWICE = 0.05


def may_be_refused(type: str, code: str) -> bool:
    return code in _ALLOWED.get(type, ())


class Outbox:
    """Frames wait in order. A frame is `fresh` between its first writing and its answer: nothing that it causes may
    come before that."""

    def __init__(self, rng: random.Random) -> None:
        self.fresh: set[str] = set()
        self._rng = rng
        self._pending: dict[str, Sent] = {}
        self._asked: Counter[str] = Counter()
        self._later: set[str] = set()

    @property
    def unanswered(self) -> list[str]:
        return list(self._pending)

    def get(self, frame_id: str) -> Sent | None:
        return self._pending.get(frame_id)

    def add(self, entry: Sent) -> None:
        self._pending[entry.id] = entry

    def settle(self, frame_id: str) -> Sent | None:
        """It needs no answer any more."""
        return self._pending.pop(frame_id, None)

    def begin(self) -> None:
        """There is a new socket, on which nothing was written."""
        self.fresh.clear()
        self._asked.clear()
        self._later.clear()

    def to_write(self) -> Iterator[Frame]:
        """What may be written now; some of it twice, as whoever is not sure that it was does."""
        for frame_id, entry in tuple(self._pending.items()):
            if self._asked[frame_id] or frame_id in self._later or len(self._asked) >= _IN_FLIGHT:
                continue
            if entry.written == 0 and not entry.shared:
                self.fresh.add(frame_id)
            times = 2 if entry.type != "subscribe" and self._rng.random() < _TWICE else 1
            entry.written += times
            self._asked[frame_id] += times
            for _ in range(times):
                yield entry.frame

    def ask(self, frame_id: str) -> None:
        """A frame that is of use on this socket only is written."""
        self._asked[frame_id] += 1

    def answered(self, frame_id: str) -> bool:
        """Whether the answer was asked for."""
        if not self._asked[frame_id]:
            return False
        self._asked[frame_id] -= 1
        if not self._asked[frame_id]:
            del self._asked[frame_id]
        self.fresh.discard(frame_id)
        return True

    def postpone(self, frame_id: str) -> None:
        self._later.add(frame_id)

    def again(self, frame_id: str) -> None:
        self._later.discard(frame_id)
