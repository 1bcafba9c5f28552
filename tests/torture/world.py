"""What all clients of the torture share: users, places, what is wrong, and what is counted."""

from __future__ import annotations

import random
import time
from collections import Counter

from msgspec import Struct, field

from tests.torture.cluster import Cluster
from tests.torture.frames import DURABLE, Frame, Violation, bare, key_of
from tests.torture.journal import Journal, Sent
from tests.torture.transcript import Meanings, Problem, Transcript

__all__ = ["Place", "User", "World"]

_REPORTED = 5
_LONGEST = 1500


class User(Struct, frozen=True):
    name: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"X-API-Key": self.key}


class Place(Struct):
    """A user's context. `open` are the turns that have been asked for and have not been seen to end, since when;
    `told` what readers without a transcript were told of durable events; `moved` when the last event came; `exists`
    whether it is known to have been made."""

    user: User
    context_id: str
    meanings: Meanings = field(default_factory=Meanings)
    open: dict[str, float] = field(default_factory=dict[str, float])
    told: dict[str, str] = field(default_factory=dict[str, str])
    moved: float = 0.0
    exists: bool = False

    @property
    def name(self) -> str:
        return f"{self.user.name}/{self.context_id}"


class World:
    """`quiet` is set when nothing new is to be sent. Every client has a random generator of its own, from the seed."""

    def __init__(self, cluster: Cluster, seed: int, users: list[User]) -> None:
        self.cluster = cluster
        self.seed = seed
        self.users = users
        self.journal = Journal()
        self.places: dict[str, Place] = {}
        self.readers: dict[str, list[Transcript]] = {}
        self.violations: list[Violation] = []
        self.counts: Counter[str] = Counter()
        self.quiet = False
        self.began = time.monotonic()
        self._reported: Counter[tuple[str, str]] = Counter()

    def rng(self, name: str) -> random.Random:
        return random.Random(f"{self.seed}/{name}")  # noqa: S311 - no secret

    def place(self, user: User, context_id: str) -> Place:
        name = f"{user.name}/{context_id}"
        if name not in self.places:
            self.places[name] = Place(user, context_id, moved=time.monotonic())
        return self.places[name]

    def transcript(self, place: Place, who: str) -> Transcript:
        made = Transcript(who, place.meanings)
        self.readers.setdefault(place.name, []).append(made)
        return made

    # ---- what is wrong

    def violate(self, kind: str, place: str, who: str, words: str, frames: tuple[str, ...] = ()) -> None:
        """The first ones of a kind and a reader are kept whole, all are counted."""
        self.counts["violations"] += 1
        self._reported[kind, who] += 1
        if self._reported[kind, who] <= _REPORTED:
            at = round(time.monotonic() - self.began, 2)
            cut = tuple(line[:_LONGEST] for line in frames)
            self.violations.append(Violation(kind, place, who, words[:_LONGEST], at, cut))

    def problems(self, found: list[Problem], place: Place, who: str, frames: tuple[str, ...]) -> None:
        for problem in found:
            self.violate(problem.kind, place.name, who, problem.words, frames)

    # ---- what happens

    def sent(self, place: Place, frame: Frame) -> Sent:
        entry = self.journal.add(place.name, frame)
        if frame["type"] == "tool_call" or (frame["type"] == "message" and frame.get("respond", True)):
            place.open.setdefault(frame["id"], time.monotonic())
        return entry

    def refused(self, place: Place, frame_id: str, code: str) -> None:
        self.journal.refuse(frame_id, code)
        place.open.pop(frame_id, None)

    def observe(self, place: Place, event: Frame) -> None:
        """A reader got an event: the turn goes on, or has ended, or took a message in."""
        place.moved = time.monotonic()
        if event["type"] == "turn_end":
            place.open.pop(event["turn_id"], None)
        elif event["type"] == "message" and event.get("turn_id") != event["id"]:
            place.open.pop(event["id"], None)

    def tell(self, place: Place, event: Frame, who: str) -> None:
        """A reader without a transcript was told of an event."""
        self.observe(place, event)
        if event["type"] in DURABLE:
            body = bare(event)
            if place.told.setdefault(key_of(event), body) != body:
                self.violate("changed", place.name, who, f"{key_of(event)} is {body}")

    def port(self, rng: random.Random) -> int:
        """Where to connect to next: whichever instance, whether it is well or not."""
        return rng.choice(self.cluster.instances).door.port
