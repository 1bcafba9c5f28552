"""What the clients sent and what they were told of it: the promises that the judge holds the gateway to."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from tests.torture.frames import Frame

__all__ = ["Journal", "Sent"]

State = Literal["waiting", "acknowledged", "refused"]


class Sent(Struct):
    """A frame of a user's client, in `place` (`<user>/<context>`), the code of its refusal, how often it was written,
    and whether more than one of the clients has it."""

    place: str
    frame: Frame
    state: State = "waiting"
    code: str | None = None
    written: int = 0
    shared: bool = False

    @property
    def id(self) -> str:
        return self.frame["id"]

    @property
    def type(self) -> str:
        return self.frame["type"]


class Journal:
    """All frames by id; ids are used once in a run. `titles` are those whose change was answered, by place."""

    def __init__(self) -> None:
        self.sent: dict[str, Sent] = {}
        self.titles: dict[str, list[str]] = {}

    def add(self, place: str, frame: Frame) -> Sent:
        entry = self.sent.get(frame["id"])
        if entry is None:
            entry = self.sent[frame["id"]] = Sent(place, frame)
        else:
            entry.shared = True
        return entry

    def acknowledge(self, frame_id: str) -> None:
        entry = self.sent.get(frame_id)
        if entry is not None:
            entry.state, entry.code = "acknowledged", None

    def refuse(self, frame_id: str, code: str) -> None:
        """For good; an acknowledgement that came before, or comes to another device, counts."""
        entry = self.sent.get(frame_id)
        if entry is not None and entry.state == "waiting":
            entry.state, entry.code = "refused", code

    def count(self, state: State, type: str) -> int:
        return sum(entry.state == state and entry.type == type for entry in self.sent.values())
