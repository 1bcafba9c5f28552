"""What people said in a turn: which of it a step was given, and what has to be read before a step is given it."""

from __future__ import annotations

from collections.abc import Callable, Container

from gateway.core.resources import uris_of
from protocol.frames import Message

__all__ = ["TurnSaid"]


class TurnSaid:
    """`read_id(message_id, place)` is the id of the call that reads the resource at that place of a message, the same
    for every runner of the turn."""

    def __init__(self, turn_id: str, read_id: Callable[[str, int], str]) -> None:
        self._turn_id = turn_id
        self._read_id = read_id
        self._steering: list[str] = []  # in the order in which they were stored
        self._given = 0  # how many of them a step was given
        self._reads: dict[str, dict[str, str]] = {}  # of each message: id of the call, URI

    def add(self, message: Message) -> None:
        if message.id != self._turn_id:
            self._steering.append(message.id)
        self._reads[message.id] = {self._read_id(message.id, n): uri for n, uri in enumerate(uris_of(message))}

    @property
    def unread(self) -> bool:
        """Whether a steering message was given to no step yet."""
        return self._given < len(self._steering)

    def note_given(self, reads: str | None) -> None:
        """A step was given the steering messages up to this one."""
        if reads in self._steering:
            self._given = max(self._given, self._steering.index(reads) + 1)

    def missing(self, called: Container[str]) -> list[tuple[str, str]]:
        """Id and URI of the reads that the next step needs, in order, without those that were called."""
        messages = [self._turn_id, *self._steering[self._given :]]
        reads = [read for message in messages for read in self._reads.get(message, {}).items()]
        return [read for read in reads if read[0] not in called]

    def give(self, called: Container[str]) -> str | None:
        """A step is given all up to the first message with a read that was not called; the last one, None for none."""
        for message in self._steering[self._given :]:
            if any(read not in called for read in self._reads[message]):
                break
            self._given += 1
        return self._steering[self._given - 1] if self._given else None
