"""The final check of a context: what was promised against what is there (docs/protocol.md, section 4). Pure."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from msgspec import Struct

from tests.torture.frames import Frame, Violation, bare, key_of, text_of
from tests.torture.journal import Sent
from tests.torture.script import ONCE, calls_of, text_of_long
from tests.torture.transcript import Problem, Transcript

__all__ = ["Evidence", "judge"]


class Evidence(Struct, frozen=True, kw_only=True):
    """A context at the end. `history` is all of it, oldest first; `sent` what clients sent there; `titles` those whose
    change was answered; `runs` how often each call's tool began to run, of the whole run of the torture; `told` the
    durable events that clients without a transcript were told of, without their places, by key."""

    place: str
    history: Sequence[Frame]
    sent: Sequence[Sent] = ()
    titles: Sequence[str] = ()
    runs: Mapping[str, int] = {}
    told: Mapping[str, str] = {}
    readers: Sequence[Transcript] = ()


def judge(evidence: Evidence) -> list[Violation]:
    """All that is wrong with the context."""
    found = [Violation(problem.kind, evidence.place, "judge", problem.words) for problem in _history(evidence)]
    for reader in evidence.readers:
        name = reader.name
        found += [Violation(problem.kind, evidence.place, name, problem.words) for problem in _reader(evidence, reader)]
    return found


def _history(evidence: Evidence) -> Iterator[Problem]:
    yield from _order(evidence.history)
    yield from _promised(evidence)
    yield from _turns(evidence.history)
    yield from _calls(evidence)
    yield from _script(evidence)
    bodies = {key_of(event): bare(event) for event in evidence.history}
    for key, body in evidence.told.items():
        if bodies.get(key) != body:
            yield Problem("vanished", f"{key} was told as {body}; history has {bodies.get(key)}")


def _order(history: Sequence[Frame]) -> Iterator[Problem]:
    without = [key_of(event) for event in history if "seq" not in event]
    if without:
        yield Problem("unplaced", f"events without a seq: {without}")
    seqs = [event["seq"] for event in history if "seq" in event]
    for one, other in pairwise(seqs):
        if other <= one:
            yield Problem("order", f"{other} comes after {one}")
    for key, count in Counter(map(key_of, history)).items():
        if count > 1:
            yield Problem("double", f"{key} is there {count} times")


def _promised(evidence: Evidence) -> Iterator[Problem]:
    """Acknowledged means kept, refused means not stored, and nobody else's is there."""
    there = {key_of(event): event for event in evidence.history}
    expected: set[str] = set()
    for entry in evidence.sent:
        key = _key_of_sent(entry)
        if key is None:
            continue
        expected.add(key)
        if entry.state == "acknowledged" and key not in there:
            yield Problem("lost", f"{key} was acknowledged and is not there")
        if entry.state == "refused" and entry.type != "tool_approval" and key in there:
            yield Problem("refused", f"{key} was refused as {entry.code} and is there")
        if key in there:
            yield from _as_sent(entry, there[key])
    for key, event in there.items():
        ours = event["type"] == "message" and event["role"] != "assistant"
        direct = event["type"] == "tool_call" and event.get("message_id") is None
        if (ours or direct) and key not in expected:
            yield Problem("stranger", f"{key} was sent by nobody here")
    for title in evidence.titles:
        if f"context/{title}" not in there:
            yield Problem("lost", f"the title {title!r} was answered and is not there")


def _key_of_sent(entry: Sent) -> str | None:
    if entry.type in ("message", "tool_call", "tool_response"):
        return f"{entry.type}/{entry.id}"
    if entry.type == "tool_approval":
        return f"tool_approval/{entry.frame['tool_call_id']}"
    return None


def _as_sent(entry: Sent, event: Frame) -> Iterator[Problem]:
    names = {"message": ("content",), "tool_call": ("tool", "parameters")}.get(entry.type, ())
    for name in names:
        if event[name] != entry.frame[name]:
            yield Problem("changed", f"{entry.id} was sent with {entry.frame[name]!r}, and has {event[name]!r}")


def _turns(history: Sequence[Frame]) -> Iterator[Problem]:
    events: defaultdict[str, list[Frame]] = defaultdict(list)
    for event in history:
        if event.get("turn_id") is not None:
            events[event["turn_id"]].append(event)
    for turn_id, own in events.items():
        ends = [event for event in own if event["type"] == "turn_end"]
        if len(ends) != 1:
            yield Problem("hanging" if not ends else "double", f"the turn {turn_id} has {len(ends)} ends")
        elif own[-1] is not ends[0]:
            yield Problem("after_end", f"{key_of(own[-1])} comes after the end of {turn_id}")
        if ends and ends[0]["status"] == "failed":
            yield Problem("failed", f"the turn {turn_id} failed: {ends[0].get('error')}")
        if key_of(own[0]) not in (f"message/{turn_id}", f"tool_call/{turn_id}"):
            yield Problem("order", f"the turn {turn_id} begins with {key_of(own[0])}")


def _calls(evidence: Evidence) -> Iterator[Problem]:
    calls: dict[str, Frame] = {}
    answers: dict[str, Frame] = {}
    for event in evidence.history:
        if event["type"] == "tool_call":
            calls[event["id"]] = event
        elif event["type"] == "tool_response":
            call_id = event["tool_call_id"]
            if call_id not in calls:
                yield Problem("response", f"{event['id']} answers {call_id}, which is not before it")
            elif call_id in answers:
                yield Problem("double", f"{call_id} was answered twice")
            answers[call_id] = event
    for call_id, call in calls.items():
        runs, answer = evidence.runs.get(call_id, 0), answers.get(call_id)
        if answer is None:
            yield Problem("hanging", f"the call {call_id} of {call['tool']} has no response")
        if call["tool"] in ONCE:
            if runs > 1:
                yield Problem("ran_twice", f"{call['tool']} ran {runs} times for {call_id}")
            if answer is not None and answer["status"] == "success" and not runs:
                yield Problem("never_ran", f"{call_id} succeeded, and {call['tool']} never ran")
            if answer is not None and answer["status"] == "denied" and runs:
                yield Problem("denied", f"{call_id} was denied, and {call['tool']} ran")


def _script(evidence: Evidence) -> Iterator[Problem]:
    """The model is deterministic: no turn has more calls than its messages ask for, and one that completes has all."""
    said: defaultdict[str, list[str]] = defaultdict(list)
    made: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    told: defaultdict[str, list[str]] = defaultdict(list)
    status: dict[str, str] = {}
    for event in evidence.history:
        turn_id = event.get("turn_id")
        if turn_id is None:
            continue
        if event["type"] == "message":
            (told if event["role"] == "assistant" else said)[turn_id].append(event["content"])
        elif event["type"] == "tool_call":
            made[turn_id].append((event["tool"], json.dumps(event["parameters"], sort_keys=True)))
        elif event["type"] == "turn_end":
            status[turn_id] = event["status"]
    for turn_id, contents in said.items():
        expected = Counter(call for content in contents for call in calls_of(content))
        surplus = Counter(made[turn_id]) - expected
        if surplus:
            yield Problem("emitted_twice", f"the turn {turn_id} has calls beyond its messages: {dict(surplus)}")
        if len(contents) > 1 or status.get(turn_id) != "complete":
            continue
        missing = expected - Counter(made[turn_id])
        # One that was torn between its calls ends with what it had called.
        if missing.total() == expected.total() > 0:
            yield Problem("not_called", f"the turn {turn_id} is complete without {dict(missing)}")
        text = text_of_long(contents[0])
        # Before it there may be a report on what an earlier turn called and did not hear of.
        if text is not None and not (len(told[turn_id]) == 1 and told[turn_id][0].endswith(text)):
            yield Problem("text", f"the turn {turn_id} said {told[turn_id]!r}")


def _reader(evidence: Evidence, reader: Transcript) -> Iterator[Problem]:
    history = {event["seq"]: event for event in evidence.history if "seq" in event}
    last = max(history, default=0)
    if reader.cursor is None or reader.cursor.seq < last:
        yield Problem("behind", f"it stands at {reader.cursor}, the context at {last}")
        return
    for seq in sorted(history.keys() | reader.events.keys()):
        if seq < reader.since:
            continue
        one, other = reader.events.get(seq), history.get(seq)
        if (text_of(one) if one is not None else None) != (text_of(other) if other is not None else None):
            yield Problem("differs", f"at {seq} it has {one}, history has {other}")
            return
    bodies = {key_of(event): bare(event) for event in evidence.history}
    for key, body in reader.seen.items():
        if bodies.get(key) != body:
            yield Problem("vanished", f"it was told {key} as {body}; history has {bodies.get(key)}")
    if reader.partial or reader.running:
        yield Problem("open", f"it waits for {sorted(reader.partial)} and {sorted(reader.running)}")
