from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.core.fold import Gap, Transcript, event_key, merge
from gateway.core.snapshot import make_snapshot
from protocol.codec import decode_event, decode_server, encode
from protocol.frames import (
    ContextChanged,
    Delta,
    Event,
    Message,
    MessageStart,
    Partial,
    Running,
    Snapshot,
    ToolApproval,
    ToolCall,
    ToolProgress,
    ToolResponse,
    TurnEnd,
    Usage,
)
from protocol.ids import Cursor
from stores.records import Entry
from tests.gateway.core.conversations import turn
from tests.gateway.core.log_strategy import CONTEXT, entries_of, log_fold, logs, read_all, rows_of

NO_USAGE = Usage(input_tokens=0, output_tokens=0)


def message(id: str, seq: int = 0) -> Message:
    return Message(
        context_id=CONTEXT, id=id, content=id, role="user", timestamp="now", status="complete", seq=seq, turn_id=id
    )


def snapshot(seq: int, *events: Message, epoch: int = 1, has_more: bool = False, **live: Any) -> Snapshot:
    empty: dict[str, Any] = {"partial": [], "running": []}
    return Snapshot(
        context_id=CONTEXT,
        epoch=str(epoch),
        seq=seq,
        events=list(events),
        has_more=has_more,
        **{**empty, **live},
    )


def reader(seq: int = 0) -> Transcript:
    transcript = Transcript(CONTEXT)
    transcript.resume(Cursor(1, seq))
    return transcript


def state(transcript: Transcript) -> tuple[Any, ...]:
    return (
        transcript.cursor,
        copy(transcript.events),
        dict(transcript.partial),
        dict(transcript.running),
        transcript.has_more,
    )


def start(id: str = "m1", turn: str = "t1") -> MessageStart:
    return MessageStart(context_id=CONTEXT, turn_id=turn, id=id, role="assistant", model="m", attempt=1)


def delta(text: str, id: str = "m1", channel: Any = "text") -> Delta:
    return Delta(context_id=CONTEXT, turn_id="t1", message_id=id, text=text, channel=channel)


def progress(n: float, call: str = "c1") -> ToolProgress:
    return ToolProgress(context_id=CONTEXT, turn_id="t1", tool_call_id=call, progress=n)


def merged(*events: Event, max_text: int = 1 << 20) -> list[tuple[int, int, Event]]:
    return [(entry.first, entry.seq, decode_event(entry.data)) for entry in merge(entries_of(events), max_text)]


def texts(*events: Event, max_text: int = 1 << 20) -> list[str]:
    return [event.text for _, _, event in merged(*events, max_text=max_text) if isinstance(event, Delta)]


# ---- the contract


@given(logs(), st.data())
def test_however_a_log_is_read_its_fold_is_the_same(events: list[Event], data: st.DataObject) -> None:
    """Any partition into reads, merged or not, twice or not, and snapshots in place of any part of it."""
    entries = entries_of(events)
    transcript = reader()
    at = 0
    while at < len(entries):
        upto = data.draw(st.integers(at + 1, len(entries)), label="upto")
        way = data.draw(st.sampled_from(["plain", "merge", "merge twice", "snapshot"]), label="way")
        if way == "snapshot":
            recorded = data.draw(st.integers(0, len(entries)), label="recorded")
            history = rows_of(events, recorded)
            open_calls = [row for row in [*history.rows, *history.unsequenced] if row.type == "tool_call"]
            answered = {e.tool_call_id for e in events[: min(recorded, upto)] if isinstance(e, ToolResponse)}
            frame = make_snapshot(
                CONTEXT, log_fold(events, upto), history, [row for row in open_calls if row.id not in answered]
            )
            taken = decode_server(frame)
            assert isinstance(taken, Snapshot)
            transcript.snapshot(taken)
        else:
            run: Sequence[Entry] = entries[at:upto]
            if way != "plain":
                run = merge(run, data.draw(st.integers(0, 60), label="max_text"))
            if way == "merge twice":
                run = merge(run)
            for entry in run:
                transcript.apply(decode_event(entry.data))
        at = upto
    assert state(transcript) == state(read_all(events))


@given(logs(), st.integers(0, 60))
def test_merged_frames_are_contiguous_and_bounded(events: list[Event], max_text: int) -> None:
    last = 0
    for entry in merge(entries_of(events), max_text):
        event = decode_event(entry.data)
        assert entry.first == last + 1
        assert (entry.seq, entry.first) == (event.seq, event.seq if event.first is None else event.first)
        assert event.first != event.seq
        if entry.first != entry.seq and isinstance(event, Delta):
            assert len(event.text) <= max_text
        last = entry.seq
    assert last == len(events)


# ---- merge


def test_a_run_of_deltas_becomes_one() -> None:
    ((first, seq, event),) = merged(delta("a"), delta("b"), delta("c"))
    assert (first, seq, event) == (
        1,
        3,
        Delta(context_id=CONTEXT, turn_id="t1", message_id="m1", text="abc", seq=3, first=1),
    )


def test_nothing_is_joined_across_messages_channels_or_other_events() -> None:
    assert texts(delta("a"), delta("b", "m2"), delta("c", "m2")) == ["a", "bc"]
    assert texts(delta("a"), delta("b", channel="reasoning"), delta("c")) == ["a", "b", "c"]
    assert texts(delta("a"), start("m2"), delta("b")) == ["a", "b"]
    assert texts(delta("a"), progress(1), delta("b")) == ["a", "b"]


def test_a_run_of_progress_keeps_its_last_of_each_call() -> None:
    events = [progress(1), progress(2), progress(3, "c2"), progress(4)]
    assert [(first, seq, e.progress) for first, seq, e in merged(*events) if isinstance(e, ToolProgress)] == [
        (1, 2, 2),
        (3, 3, 3),
        (4, 4, 4),
    ]


def test_text_is_joined_up_to_the_bound() -> None:
    assert texts(delta("aa"), delta("bb"), delta("cc"), max_text=4) == ["aabb", "cc"]
    assert texts(delta("aa"), delta("bbb"), delta("c"), max_text=4) == ["aa", "bbbc"]
    assert texts(delta("long"), delta("er"), max_text=2) == ["long", "er"]


def test_frames_that_need_no_merging_are_handed_on_as_they_are() -> None:
    entries = entries_of([start(), delta("a"), message("u")])
    assert all(one is other for one, other in zip(merge(entries), entries, strict=True))
    assert merge([]) == []


# ---- the transcript


def test_only_the_next_frame_is_taken() -> None:
    transcript = reader(4)
    for wrong in (message("a", 4), message("b", 6), message("c", 3)):
        before = state(transcript)
        with pytest.raises(Gap):
            transcript.apply(wrong)
        assert state(transcript) == before
    transcript.apply(message("d", 5))
    assert transcript.cursor == Cursor(1, 5)


def test_a_merged_frame_is_taken_where_it_begins_at_the_next() -> None:
    transcript = reader()
    transcript.apply(decode_event(entries_of([start()])[0].data))
    late = Delta(context_id=CONTEXT, message_id="m1", text="cd", seq=4, first=3)
    with pytest.raises(Gap):
        transcript.apply(late)
    transcript.apply(Delta(context_id=CONTEXT, message_id="m1", text="ab", seq=4, first=2))
    assert transcript.cursor == Cursor(1, 4)


def test_a_delta_of_a_message_that_has_not_begun_leaves_all_as_it_was() -> None:
    transcript = reader()
    before = state(transcript)
    with pytest.raises(Gap, match="m1"):
        transcript.apply(Delta(context_id=CONTEXT, message_id="m1", text="x", seq=1))
    assert state(transcript) == before


def test_before_it_is_subscribed_nothing_follows() -> None:
    with pytest.raises(Gap):
        Transcript(CONTEXT).apply(message("a", 1))


def test_what_is_known_is_not_resumed_elsewhere() -> None:
    transcript = reader(3)
    transcript.resume(Cursor(2, 9))
    assert transcript.cursor == Cursor(1, 3)


def test_the_live_part_is_folded() -> None:
    call = ToolCall(
        context_id=CONTEXT, id="c1", tool="charge", parameters={}, timestamp="now", runs_on="server", turn_id="t1"
    )
    begun = [start(), delta("te"), delta("xt"), delta("why", channel="reasoning"), call, progress(1), progress(2)]
    transcript = read_all([*begun, progress(9, "unknown")])
    partial = Partial(message_id="m1", turn_id="t1", model="m", attempt=1, text="text", reasoning="why")
    assert transcript.partial == {"m1": partial}
    assert transcript.running["c1"].progress == 2
    response = ToolResponse(
        context_id=CONTEXT, id="r1", tool_call_id="c1", result=1, status="success", timestamp="now", turn_id="t1"
    )
    over = TurnEnd(context_id=CONTEXT, turn_id="t1", status="failed", steps=0, usage=NO_USAGE)
    transcript = read_all([start("m2", "t2"), *begun, response, over])
    assert (list(transcript.partial), transcript.running) == (["m2"], {})
    assert [type(event) for event in transcript.events] == [ToolCall, ToolResponse, TurnEnd]


def test_an_attempt_begins_the_text_anew() -> None:
    assert read_all([start(), delta("bad"), start(), delta("good")]).partial["m1"].text == "good"


# ---- snapshots


def test_a_snapshot_stands_for_everything() -> None:
    transcript = reader()
    transcript.apply(message("old", 1))
    call = ToolCall(context_id=CONTEXT, id="c1", tool="t", parameters={}, timestamp="now", runs_on="server", seq=4)
    partial = Partial(message_id="m1", turn_id="t1", model="m", attempt=1, text="so far", reasoning="")
    transcript.snapshot(snapshot(7, message("a", 2), epoch=2, partial=[partial], running=[Running(call=call)]))
    assert transcript.cursor == Cursor(2, 7)
    assert [event_key(event) for event in transcript.events] == ["a"]
    assert (list(transcript.partial), list(transcript.running), transcript.has_more) == (["m1"], ["c1"], False)


def test_older_events_are_kept_where_none_can_be_missing() -> None:
    transcript = reader()
    for seq in range(1, 4):
        transcript.apply(message(f"u{seq}", seq))
    transcript.snapshot(snapshot(9, message("u3", 3), message("u9", 9), has_more=True))
    assert [event.seq for event in transcript.events] == [1, 2, 3, 9]
    assert not transcript.has_more


def test_older_events_go_where_some_may_be_missing() -> None:
    for frame in (
        snapshot(9, message("u5", 5), has_more=True),
        snapshot(9, message("u3", 3), epoch=2, has_more=True),
    ):
        transcript = reader()
        for seq in range(1, 4):
            transcript.apply(message(f"u{seq}", seq))
        transcript.snapshot(frame)
        assert transcript.events == frame.events
        assert transcript.has_more


def test_that_there_is_more_before_is_not_forgotten() -> None:
    transcript = Transcript(CONTEXT)
    transcript.snapshot(snapshot(100, message("u100", 100), has_more=True))
    transcript.snapshot(snapshot(101, message("u101", 101), has_more=True))
    assert [event.seq for event in transcript.events] == [100, 101]
    assert transcript.has_more
    transcript.snapshot(snapshot(200, has_more=True))
    assert (transcript.events, transcript.has_more) == ([], True)


# ---- keys


def test_a_key_names_an_event_whatever_its_seq() -> None:
    end = TurnEnd(context_id=CONTEXT, turn_id="t1", status="failed", steps=0, usage=NO_USAGE, seq=1)
    approval = ToolApproval(context_id=CONTEXT, tool_call_id="c1", approved=True, seq=2)
    assert [event_key(event) for event in (message("u", 3), end, approval)] == ["u", "t1/end", "c1/approval"]
    assert event_key(ContextChanged(context_id=CONTEXT, title="t", seq=5)) == "5/ContextChanged"


def test_the_encoder_writes_the_tag_first() -> None:
    assert encode(delta("a")).startswith(b'{"type":"delta",')
    assert encode(progress(1)).startswith(b'{"type":"tool_progress",')


def test_a_transcript_shows_the_path_of_the_newest_message() -> None:
    transcript = Transcript("c")
    transcript.resume(Cursor(1, 0))
    kept, left, again = turn("t1"), turn("t2"), turn("t3", replaces="t2")
    for seq, event in enumerate([*kept, *left, *again], start=1):
        transcript.apply(replace(event, seq=seq))
    assert [event.turn_id for event in transcript.path] == ["t1"] * 3 + ["t3"] * 3
    assert len(transcript.events) == 9
