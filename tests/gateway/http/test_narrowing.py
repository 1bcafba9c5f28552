"""One turn's part of a context, whatever its reader is given of it: its fold is that of the turn's history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.core.fold import Transcript
from gateway.http.narrowing import Narrowing
from gateway.http.told import Told, raw_events
from gateway.http.turn_fold import TurnFold
from protocol.codec import decode_server, encode, with_seq
from protocol.frames import DurableEvent, Event, Snapshot, ToolApproval, TurnEnd
from protocol.ids import Cursor
from tests.gateway.core.log_strategy import CONTEXT, logs, read_all
from tests.gateway.http.feeds import answered, asked, called, delta, ended, said, start

TURN = "t1"


def _told(event: Event, seq: int, epoch: int = 1) -> Told:
    return Told(replace(event, seq=seq), with_seq(encode(event), seq), f"{epoch}:{seq}")


def _snapshot(events: Sequence[Event], upto: int, epoch: int, last: int = 100) -> Told:
    transcript = read_all(events[:upto])
    frame = Snapshot(
        context_id=CONTEXT,
        epoch=str(epoch),
        seq=upto,
        events=transcript.events[-last:] if last else [],
        has_more=len(transcript.events) > last,
        partial=list(transcript.partial.values()),
        running=list(transcript.running.values()),
    )
    raw = [msgspec.Raw(with_seq(encode(replace(event, seq=0)), event.seq)) for event in frame.events]
    return Told(frame, encode(replace(frame, events=cast("Any", raw))), f"{epoch}:{upto}")


class _Client:
    """Folds what it is told of the turn, and keeps its cursor for the next time."""

    def __init__(self) -> None:
        self.transcript = Transcript(CONTEXT)
        self.cursor: Cursor | None = None
        self.fold = TurnFold()

    def take(self, told: Told) -> None:
        frame = decode_server(told.data)
        cursor = Cursor.parse(told.cursor)
        if isinstance(frame, Snapshot):
            self.transcript.snapshot(frame)
        else:
            assert isinstance(frame, Event)
            assert self.cursor is None or (frame.first or frame.seq) > self.cursor.seq or cursor.epoch > 1
            # What is not of the turn is left out, so only the order can be checked.
            self.transcript.cursor = Cursor(1, (frame.first or frame.seq) - 1)
            self.transcript.apply(frame)
        self.cursor = cursor
        self.fold.take(told)


def _expected(events: Sequence[Event]) -> tuple[list[DurableEvent], Transcript]:
    """The turn's durable events up to its end, and the context as it was then."""
    over = next((n for n, event in enumerate(events, 1) if isinstance(event, TurnEnd) and event.turn_id == TURN), None)
    transcript = read_all(events[:over])
    return [event for event in transcript.events if event.turn_id == TURN], transcript


@given(logs(), st.data())
def test_whatever_a_reader_is_given_it_ends_with_the_turn(events: list[Event], data: st.DataObject) -> None:
    client = _Client()
    narrowing = Narrowing(TURN, "t1", None)
    seq, epoch = 0, 1
    while seq < len(events) and not narrowing.over:
        step = data.draw(st.sampled_from(["event", "event", "event", "skip", "resume", "epoch"]))
        if step == "event":
            seq += 1
            told = _told(events[seq - 1], seq, epoch)
            if narrowing.event(told):
                client.take(told)
            continue
        if step == "resume":
            if client.cursor is not None and client.cursor.epoch == epoch:
                narrowing, seq = Narrowing(TURN, "t1", client.cursor), client.cursor.seq
            continue
        epoch += step == "epoch"
        seq = data.draw(st.integers(seq, len(events)))
        told = _snapshot(events, seq, epoch, last=data.draw(st.sampled_from([0, 1, 3, 100])))
        assert isinstance(told.frame, Snapshot)
        durable = [with_seq(encode(replace(e, seq=0)), e.seq) for e in read_all(events[:seq]).events]
        for one in narrowing.snapshot(told, durable if narrowing.lacks(told.frame) else None):
            client.take(one)
    expected, at_the_end = _expected(events)
    assert client.transcript.events == expected
    assert narrowing.over == any(isinstance(event, TurnEnd) for event in expected)
    assert narrowing.end == (expected[-1] if narrowing.over else None)
    document = b'{"events":[%b]}' % b",".join(with_seq(encode(replace(e, seq=0)), e.seq) for e in expected)
    assert raw_events(client.fold.document()) == raw_events(document)
    if not narrowing.over:
        mine = {key: one for key, one in at_the_end.partial.items() if one.turn_id == TURN}
        assert client.transcript.partial == mine
        running = {key: one for key, one in at_the_end.running.items() if one.call.turn_id == TURN}
        assert client.transcript.running == running
    else:
        assert not client.transcript.partial


def test_a_message_that_is_not_answered_is_one_event() -> None:
    alone = replace(asked("note", turn=None), context_id=CONTEXT)
    narrowing = Narrowing(None, "note", None)
    assert not narrowing.event(_told(asked("other", turn=None), 1))
    assert narrowing.event(_told(alone, 2))
    assert narrowing.over
    assert narrowing.end is None
    assert not narrowing.event(_told(alone, 3))
    from_history = Narrowing(None, "note", None).snapshot(_snapshot([asked("other", turn=None), alone], 2, 1))
    assert [one.cursor for one in from_history] == ["1:2"]


def test_a_turn_that_is_over_comes_from_history_as_events_and_after_a_cursor_as_the_rest() -> None:
    events: list[Event] = [asked(), start(), delta("hi"), said("hi"), ended()]
    turn = events[0].turn_id
    snapshot = _snapshot(events, 5, 1)
    assert [one.cursor for one in Narrowing(turn, "m", None).snapshot(snapshot)] == ["1:1", "1:4", "1:5"]
    assert [one.cursor for one in Narrowing(turn, "m", Cursor(1, 3)).snapshot(snapshot)] == ["1:4", "1:5"]
    # What a cursor of an epoch that is over stands for is not known: all is said again, as a snapshot.
    (again,) = Narrowing(turn, "m", Cursor(1, 3)).snapshot(_snapshot(events, 5, 2))
    assert isinstance(again.frame, Snapshot)
    assert again.cursor == "2:5"


def test_nothing_is_said_of_a_turn_that_a_snapshot_does_not_know() -> None:
    narrowing = Narrowing("t9", "t9", None)
    assert narrowing.snapshot(_snapshot([asked()], 1, 1)) == []
    assert not narrowing.over


def _fold_of(*events: Event) -> TurnFold:
    fold = TurnFold()
    for seq, event in enumerate(events, 1):
        fold.take(_told(event, seq))
    return fold


def test_a_turn_waits_for_a_person_only_when_nothing_else_goes_on() -> None:
    ask = called("c1", approval="required")
    approve = _approval("c1", approved=True)
    assert not _fold_of(asked(), start()).waits
    assert not _fold_of(asked(), start(), ask).waits  # the model may still talk
    assert _fold_of(asked(), start(), ask, said("")).waits
    assert not _fold_of(asked(), start(), ask, said(""), approve).waits  # it runs
    assert not _fold_of(asked(), start(), ask, said(""), _approval("c1", approved=False)).waits
    assert not _fold_of(asked(), start(), ask, called("c2"), said("")).waits  # another one runs
    assert _fold_of(asked(), start(), ask, called("c2"), said(""), answered("c2")).waits
    assert _fold_of(asked(), start(), called("c1", runs_on="client"), said("")).waits
    with_client = called("c1", runs_on="client", approval="required")
    assert _fold_of(asked(), start(), with_client, said(""), approve).waits
    assert not _fold_of(asked(), start(), ask, said(""), approve, answered("c1")).waits
    # After a restart the message that made the call may be torn: its runner closes it first.
    assert not _fold_of(asked(), ask).waits


def _approval(call: str, *, approved: bool) -> Event:
    return ToolApproval(context_id=CONTEXT, turn_id=asked().turn_id, tool_call_id=call, approved=approved)
