"""A turn's frames and text, through snapshots and restarts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client_errors import Lost
from gateway.client_follow import PlainText, Restarted, TextDelta, TextFollower, TurnFollower
from protocol.frames import (
    Delta,
    DurableEvent,
    Event,
    ImagePart,
    MessageStart,
    Partial,
    Snapshot,
    TextPart,
    TurnEnd,
    Usage,
)
from tests.gateway.client_rig import message, partial


def _start(attempt: int = 1, id: str = "a") -> MessageStart:
    return MessageStart(context_id="c", turn_id="t", id=id, role="assistant", model="m", attempt=attempt)


def _delta(text: str, channel: str = "text") -> Delta:
    return Delta(context_id="c", turn_id="t", message_id="a", text=text, channel=channel)  # type: ignore[arg-type]


def _end(turn_id: str = "t") -> TurnEnd:
    usage = Usage(input_tokens=1, output_tokens=1)
    return TurnEnd(context_id="c", turn_id=turn_id, seq=9, status="complete", steps=1, usage=usage)


def _snapshot(*events: DurableEvent, partials: tuple[Partial, ...] = (), has_more: bool = False) -> Snapshot:
    return Snapshot(
        context_id="c",
        epoch="1",
        seq=9,
        events=list(events),
        has_more=has_more,
        partial=list(partials),
        running=[],
    )


def _plain(*frames: Event | Snapshot) -> str:
    text, plain = TextFollower(), PlainText()
    return "".join(plain.take(update) for frame in frames for update in text.take(frame, "t"))


def test_frames_of_other_turns_are_not_the_turns() -> None:
    turn = TurnFollower("t")
    assert turn.take(message("c", "t", 1))
    assert not turn.take(message("c", "u", 2))
    assert not turn.take(_end("u"))
    assert turn.end is None
    assert turn.take(_end())
    assert turn.end == _end()


def test_a_steering_message_joins_the_turn_that_runs() -> None:
    turn = TurnFollower("m")
    assert turn.take(message("c", "m", 1, turn_id="running"))
    assert turn.take(_end("running"))
    assert turn.end is not None


def test_a_snapshot_may_hold_the_end() -> None:
    turn = TurnFollower("t")
    assert turn.take(_snapshot(message("c", "t", 1), _end(), has_more=True))
    assert turn.end == _end()


def test_a_snapshot_that_does_not_reach_back_loses_the_turn() -> None:
    turn = TurnFollower("t")
    turn.take(message("c", "t", 1))
    turn.take(message("c", "answer", 2, turn_id="t", role="assistant"))
    turn.take(_snapshot(message("c", "answer", 2, turn_id="t", role="assistant"), has_more=True))
    with pytest.raises(Lost, match="the turn t"):
        turn.take(_snapshot(message("c", "later", 99, turn_id="t"), has_more=True))


def test_updates_of_a_plain_answer() -> None:
    text = TextFollower()
    frames = [
        _start(),
        _delta("hm", "reasoning"),
        _delta("a"),
        _delta("b"),
        message("c", "a", 4, "ab", role="assistant"),
    ]
    updates = [update for frame in frames for update in text.take(frame, "t")]
    assert updates == [TextDelta("a", "a"), TextDelta("a", "b")]


def test_a_snapshot_gives_what_was_missed_and_no_more() -> None:
    known = (_start(), _delta("one "))
    assert _plain(*known, _snapshot(partials=(partial("a", "t", "one two "),)), _delta("three")) == "one two three"
    assert _plain(*known, _snapshot(message("c", "a", 4, "one two", role="assistant", turn_id="t"))) == "one two"
    assert _plain(*known, _snapshot(message("c", "x", 4, "other", role="assistant", turn_id="u"))) == "one "
    assert _plain(_snapshot(partials=(partial("a", "u", "other"),))) == ""


def test_parts_are_their_text() -> None:
    parts = [TextPart(text="a"), ImagePart(mime_type="image/png", data=""), TextPart(text="b")]
    assert _plain(message("c", "a", 1, parts, role="assistant")) == "ab"  # type: ignore[arg-type]


def test_a_restart_is_marked() -> None:
    text = TextFollower()
    frames = [_start(), _delta("one"), _start(2), _delta("two")]
    updates = [update for frame in frames for update in text.take(frame, "t")]
    assert updates == [TextDelta("a", "one"), Restarted("a"), TextDelta("a", "two")]


def test_plain_text_leaves_out_what_is_repeated() -> None:
    assert _plain(_start(), _delta("one two"), _start(2), _delta("one"), _delta(" two th"), _delta("ree")) == (
        "one two three"
    )
    assert _plain(_start(), _delta("one two"), _start(2), _delta("one")) == "one two"


def test_plain_text_begins_a_line_where_the_new_attempt_differs() -> None:
    assert _plain(_start(), _delta("one two"), _start(2), _delta("one "), _delta("more"), _delta("!")) == (
        "one two\none more!"
    )


PIECES = st.lists(st.text(alphabet="ab", max_size=3), max_size=6)


@given(st.lists(PIECES, min_size=1, max_size=4), st.randoms())
def test_updates_make_the_message_whatever_happened(attempts: list[list[str]], random: object) -> None:
    text = TextFollower()
    built = ""
    for number, pieces in enumerate(attempts, 1):
        frames: list[Event | Snapshot] = [_start(number)]
        so_far = ""
        for piece in pieces:
            so_far += piece
            missed = random.random() < 0.4  # type: ignore[attr-defined]
            frames.append(_snapshot(partials=(partial("a", "t", so_far, number),)) if missed else _delta(piece))
        for frame in frames:
            for update in text.take(frame, "t"):
                built = "" if isinstance(update, Restarted) else built + update.text
    final = "".join(attempts[-1])
    for update in text.take(message("c", "a", 9, final, role="assistant"), "t"):
        built = "" if isinstance(update, Restarted) else built + update.text
    assert built == final
