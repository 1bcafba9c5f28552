"""One reader's fold of a context, which checks every frame against docs/protocol.md, section 3. Pure."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import NamedTuple

from msgspec import Struct

from tests.torture.frames import Cursor, Frame, bare, digest, key_of

__all__ = ["Meanings", "Problem", "Stream", "Transcript"]

_REMEMBERED = 20_000


class Problem(NamedTuple):
    kind: str
    words: str


class Stream(Enum):
    """What a reader expects next of a context."""

    CLOSED = "closed"  # nothing: it has not subscribed on this socket
    ACKED = "acked"  # its message subscribed it: a snapshot, or the events from the ack's seq on
    SNAPSHOT = "snapshot"  # a snapshot, since what it was subscribed to is not where it stands
    OPEN = "open"  # the event after its cursor, or a snapshot


class Meanings:
    """What each seq of a context's epochs meant to whoever read it first, the newest ones of all readers together."""

    def __init__(self) -> None:
        self._of: OrderedDict[tuple[int, int], tuple[bytes, str]] = OrderedDict()
        self._began: set[tuple[int, str]] = set()
        self.without_beginning: set[str] = set()

    def note(self, epoch: int, frame: Frame, who: str) -> str | None:
        """Take in an event; where it is another one than was read at this place, the words for it. Merged deltas say
        nothing of their single seqs, merged progress is its last one."""
        if frame["type"] == "delta" and frame.get("first", frame["seq"]) != frame["seq"]:
            return None
        if frame["type"] == "message_start":
            self._began.add((epoch, frame["id"]))
        place, meant = (epoch, frame["seq"]), digest(frame)
        known = self._of.setdefault(place, (meant, who))
        if known[0] != meant:
            return f"{epoch}:{frame['seq']} was another event for {known[1]}"
        if len(self._of) > _REMEMBERED:
            self._of.popitem(last=False)
        return None

    def began(self, epoch: int, message_id: str) -> bool:
        """Whether the message began under the epoch; that it did not is kept."""
        if (epoch, message_id) in self._began:
            return True
        self.without_beginning.add(message_id)
        return False


class _Open(Struct):
    """A message that is being written."""

    turn_id: str
    attempt: int
    text: str
    reasoning: str


class Transcript:
    """`events` are the durable ones by seq, whole from `since` on: what is older was left out by a snapshot under
    another epoch. `seen` are all durable events that it was ever told, without their places."""

    def __init__(self, name: str, meanings: Meanings) -> None:
        self.name = name
        self.cursor: Cursor | None = None
        self.stream = Stream.CLOSED
        self.since = 1
        self.events: dict[int, Frame] = {}
        self.seen: dict[str, str] = {}
        self.partial: dict[str, _Open] = {}
        self.running: dict[str, Frame] = {}
        self.snapshots = 0
        self._meanings = meanings
        self._keys: set[str] = set()
        self._ended: set[str] = set()
        self._answered: set[str] = set()
        self._acked: Cursor | None = None
        self._expected: Cursor | None = None

    # ---- streams

    def lost(self) -> None:
        """The socket is gone."""
        self.stream = Stream.CLOSED

    def subscribed(self, at: Cursor) -> list[Problem]:
        """The answer to a subscription that named the cursor, if there is one."""
        if at == self.cursor:
            self.stream = Stream.OPEN
            return []
        self.stream, self._expected = Stream.SNAPSHOT, at
        return self._not_back(at, "subscribed")

    def resumed(self) -> None:
        """A response that needs no answer: it goes on after the cursor, or begins with a snapshot."""
        self._expected = None
        self.stream = Stream.OPEN if self.cursor is not None else Stream.SNAPSHOT

    def acknowledged(self, epoch: int, seq: int | None) -> None:
        """An `ack` that subscribed its sender, with the place of its frame, if it has one."""
        if self.stream is Stream.CLOSED:
            self.stream, self._acked = Stream.ACKED, Cursor(epoch, seq) if seq is not None else None

    def _not_back(self, at: Cursor, what: str) -> list[Problem]:
        if self.cursor is not None and at < self.cursor:
            return [Problem("went_back", f"{what} {at} is before the cursor {self.cursor}")]
        return []

    # ---- snapshots

    def snapshot(self, frame: Frame) -> list[Problem]:
        """Take in a snapshot: it stands for everything up to its seq."""
        at = Cursor(int(frame["epoch"]), frame["seq"])
        problems: list[Problem] = []
        if self.stream is Stream.CLOSED:
            problems.append(Problem("not_subscribed", f"a snapshot {at} without a subscription"))
        if self.stream is Stream.SNAPSHOT and self._expected is not None and at != self._expected:
            problems.append(Problem("snapshot", f"{at} where subscribed said {self._expected}"))
        problems += self._not_back(at, "a snapshot")
        problems += self._take_events(frame, at)
        problems += self._take_open(frame, at)
        self.cursor, self.stream = at, Stream.OPEN
        self.snapshots += 1
        return problems

    def _take_events(self, frame: Frame, at: Cursor) -> list[Problem]:
        problems: list[Problem] = []
        events: list[Frame] = frame["events"]
        seqs = [event["seq"] for event in events]
        if seqs != sorted(set(seqs)) or (seqs and seqs[-1] > at.seq):
            problems.append(Problem("snapshot", f"its events are out of order: {seqs} in {at}"))
        oldest = seqs[0] if seqs else at.seq + 1
        known = self.cursor
        if known is not None and known.epoch == at.epoch:
            problems += self._compare(events, known.seq, oldest if frame["has_more"] else 1)
        if not frame["has_more"]:
            self.events, self.since = {}, 1
        elif known is not None and known.epoch == at.epoch and known.seq >= oldest - 1:
            self.events = {seq: event for seq, event in self.events.items() if seq < oldest}
        else:
            self.events, self.since = {}, oldest
        for event in events:
            self.events[event["seq"]] = event
            problems += self._remember(event)
        self._keys = {key_of(event) for event in self.events.values()}
        if len(self._keys) != len(self.events):
            problems.append(Problem("twice", f"a snapshot {at} holds an event twice"))
        self._ended = {event["turn_id"] for event in self.events.values() if event["type"] == "turn_end"}
        self._answered = {e["tool_call_id"] for e in self.events.values() if e["type"] == "tool_response"}
        return problems

    def _compare(self, events: list[Frame], known: int, oldest: int) -> list[Problem]:
        """Under one epoch a snapshot holds what was read before, in the same places."""
        told = {event["seq"]: event for event in events}
        problems: list[Problem] = []
        low = max(oldest, self.since)
        for seq in sorted(seq for seq in told.keys() | self.events.keys() if low <= seq <= known):
            if told.get(seq) != self.events.get(seq):
                words = f"at {seq} a snapshot has {told.get(seq)}, not {self.events.get(seq)}"
                problems.append(Problem("snapshot", words))
        return problems

    def _take_open(self, frame: Frame, at: Cursor) -> list[Problem]:
        problems: list[Problem] = []
        before, same = self.partial, self.cursor is not None and self.cursor.epoch == at.epoch
        self.partial = {
            p["message_id"]: _Open(p["turn_id"], p["attempt"], p["text"], p["reasoning"]) for p in frame["partial"]
        }
        for message_id, opened in self.partial.items():
            old = before.get(message_id)
            if old is None or not same:
                continue
            shorter = old.attempt == opened.attempt and not opened.text.startswith(old.text)
            if old.attempt > opened.attempt or shorter:
                problems.append(Problem("snapshot", f"the text of {message_id} is not what was read before"))
        self.running = {one["call"]["id"]: one["call"] for one in frame["running"]}
        unanswered = {e["id"] for e in self.events.values() if e["type"] == "tool_call"} - self._answered
        wrong = (unanswered - self.running.keys()) | (self._answered & self.running.keys())
        if wrong:
            problems.append(Problem("snapshot", f"running is wrong about the calls {sorted(wrong)} in {at}"))
        return problems

    # ---- events

    def event(self, frame: Frame, epoch: int | None = None) -> list[Problem]:
        """Take in the next event; `epoch` where the stream says it with each."""
        first, seq = frame.get("first", frame["seq"]), frame["seq"]
        if self.stream is Stream.ACKED and self._acked is not None and first == self._acked.seq:
            self.cursor, self.stream, self.since = Cursor(self._acked.epoch, first - 1), Stream.OPEN, first
        if self.stream is not Stream.OPEN or self.cursor is None:
            return [Problem("not_subscribed", f"an event {seq} while a reader's stream is {self.stream.value}")]
        if epoch is not None and epoch != self.cursor.epoch:
            return [Problem("epoch", f"an event of epoch {epoch} under {self.cursor.epoch}, without a snapshot")]
        if first != self.cursor.seq + 1 or seq < first:
            return [Problem("gap", f"{first}…{seq} does not follow {self.cursor}")]
        self.cursor = Cursor(self.cursor.epoch, seq)
        problems: list[Problem] = []
        other = self._meanings.note(self.cursor.epoch, frame, self.name)
        if other is not None:
            problems.append(Problem("two_meanings", other))
        if frame.get("turn_id") in self._ended:
            problems.append(Problem("after_end", f"{frame['type']} {seq} comes after the end of {frame['turn_id']}"))
        return problems + self._fold(frame)

    def _fold(self, frame: Frame) -> list[Problem]:
        kind = frame["type"]
        if kind == "message_start":
            return self._start(frame)
        if kind == "delta":
            return self._delta(frame)
        if kind == "tool_progress":
            if frame["tool_call_id"] in self.running:
                return []
            return [Problem("progress", f"progress {frame['seq']} of a call that does not run")]
        key = key_of(frame)
        if key in self._keys:
            return [Problem("twice", f"{key} came twice, the second time at {frame['seq']}")]
        self._keys.add(key)
        self.events[frame["seq"]] = frame
        return self._remember(frame) + self._durable(frame)

    def _start(self, frame: Frame) -> list[Problem]:
        problems: list[Problem] = []
        old = self.partial.get(frame["id"])
        if old is not None and frame["attempt"] <= old.attempt:
            problems.append(Problem("attempt", f"attempt {frame['attempt']} of {frame['id']} after {old.attempt}"))
        if f"message/{frame['id']}" in self._keys:
            problems.append(Problem("after_message", f"{frame['id']} begins at {frame['seq']}, but it is finished"))
        self.partial[frame["id"]] = _Open(frame["turn_id"], frame["attempt"], "", "")
        return problems

    def _delta(self, frame: Frame) -> list[Problem]:
        opened = self.partial.get(frame["message_id"])
        if opened is None:
            return [Problem("delta", f"a delta {frame['seq']} of {frame['message_id']}, which is not open")]
        if frame.get("channel", "text") == "text":
            opened.text += frame["text"]
        else:
            opened.reasoning += frame["text"]
        return []

    def _durable(self, frame: Frame) -> list[Problem]:
        kind = frame["type"]
        if kind == "message" and frame["role"] == "assistant":
            opened = self.partial.pop(frame["id"], None)
            if opened is None and self.cursor is not None and not self._meanings.began(self.cursor.epoch, frame["id"]):
                return []  # the log was lost after the message was stored: there are no deltas to compare with
            if opened is None:
                return [Problem("message", f"{frame['id']} is finished at {frame['seq']}, but did not begin")]
            if opened.text != frame["content"]:
                words = f"{frame['id']} at {frame['seq']} is {frame['content']!r}, its deltas are {opened.text!r}"
                return [Problem("message", words)]
        elif kind == "tool_call":
            self.running[frame["id"]] = frame
        elif kind == "tool_response":
            self._answered.add(frame["tool_call_id"])
            if self.running.pop(frame["tool_call_id"], None) is None:
                return [Problem("response", f"a response {frame['seq']} to a call that does not run")]
        elif kind == "turn_end":
            return self._end(frame)
        return []

    def _end(self, frame: Frame) -> list[Problem]:
        turn_id = frame["turn_id"]
        self._ended.add(turn_id)
        left = [call_id for call_id, call in self.running.items() if call.get("turn_id") == turn_id]
        left += [message_id for message_id, opened in self.partial.items() if opened.turn_id == turn_id]
        if left and frame["status"] != "failed":
            return [Problem("open_at_end", f"the turn {turn_id} ends at {frame['seq']} with {left} open")]
        return []

    def _remember(self, event: Frame) -> list[Problem]:
        key, body = key_of(event), bare(event)
        if self.seen.setdefault(key, body) != body:
            return [Problem("changed", f"{key} was {self.seen[key]} and is {body}")]
        return []
