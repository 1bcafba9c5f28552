"""Frames of a conversation to what is shown: nothing twice, nothing missing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.chat.shown import Anew, Asked, Called, Ended, Finished, Gone, Missed, Over, Piece, Said, Shown, Titled
from gateway.chat.view import View
from gateway.core.fold import Transcript
from protocol.frames import ContextChanged, ErrorBody, Event, Partial, Running, Snapshot, ToolApproval
from protocol.ids import Cursor
from tests.gateway.chat.events import call, delta, end, response, said, snapshot, start, step, whole


def take(view: View, *frames: Event | Snapshot) -> list[Shown]:
    return [shown for frame in frames for shown in view.take(frame)]


def text_of(shown: list[Shown], id: str) -> str:
    """What a reader of the screen takes for the message's text."""
    text = ""
    for one in shown:
        if one == Anew(id):
            text = ""
        elif isinstance(one, Piece) and one.message_id == id and one.channel == "text":
            text += one.text
    return text


def test_a_turn_is_shown_in_order() -> None:
    view = View()
    assert view.sending("t", "dig") == [Said("t", "dig", mine=True)]
    assert view.busy
    one, two = call("x", "t"), call("y", "t")
    shown = take(
        view,
        said("t", "dig"),
        start("t.1", "t"),
        delta("t.1", "t", "hm", "reasoning"),
        delta("t.1", "t", "I "),
        one,
        two,
        step("x", "t", 1, 3, "deep"),
    )
    assert shown == [
        Piece("t.1", "reasoning", "hm"),
        Piece("t.1", "text", "I "),
        Called(one),
        Called(two),
    ]
    assert view.running["x"] == Running(call=one, progress=1, total=3, message="deep")
    shown = take(view, delta("t.1", "t", "dig"), whole("t.1", "t", "I dig"), response("x", "t"), end("t"))
    assert shown == [Piece("t.1", "text", "dig"), Finished("t.1"), Ended(one, "success", "done"), Over("t", "complete")]
    assert list(view.running) == ["y"]
    assert not view.busy


def test_a_message_that_was_refused_is_not_waited_for() -> None:
    view = View()
    view.sending("t", "one")
    view.sending("u", "two")
    view.refused("u")
    view.refused("t")
    assert not view.busy


def test_what_is_said_while_an_answer_is_written_is_shown_with_its_own() -> None:
    view = View()
    view.sending("t", "one")
    take(view, said("t"), start("t.1", "t"))
    assert view.sending("u", "two") == []
    assert take(view, said("u"), said("v", "three"), delta("t.1", "t", "x")) == [Piece("t.1", "text", "x")]
    assert list(view.waiting) == ["u", "v"]
    assert take(view, end("t"), start("u.1", "u")) == [Over("t", "complete"), Said("u", "two", mine=True)]
    # The third one's turn failed before it began.
    assert take(view, end("u"), end("v", "cancelled")) == [
        Over("u", "complete"),
        Said("v", "three", mine=False),
        Over("v", "cancelled", "stopped"),
    ]
    assert not view.busy


def test_what_steers_is_shown_at_once() -> None:
    view = View()
    take(view, said("t"), start("t.1", "t"))
    assert take(view, said("s", "left!", turn_id="t")) == [Said("s", "left!", mine=False)]
    assert view.turn_id == "t"


def test_a_persons_own_call_is_no_answer() -> None:
    view = View()
    take(view, said("t"), start("t.1", "t"))
    own = call("x", "x", message_id=None)
    assert take(view, own, response("x", "x"), end("x")) == [
        Called(own),
        Ended(own, "success", "done"),
        Over("x", "complete"),
    ]
    assert view.turn_id == "t"


def test_a_restart_that_repeats_the_text_shows_only_what_is_new() -> None:
    view = View()
    shown = take(view, said("t"), start("a", "t"), delta("a", "t", "one two"), start("a", "t", 2))
    shown += take(view, delta("a", "t", "one "), delta("a", "t", "two thr"), delta("a", "t", "ee"))
    assert [one for one in shown if isinstance(one, Piece | Anew)] == [
        Piece("a", "text", "one two"),
        Piece("a", "text", " thr"),
        Piece("a", "text", "ee"),
    ]


def test_a_restart_that_differs_says_so() -> None:
    view = View()
    shown = take(view, said("t"), start("a", "t"), delta("a", "t", "one two"), start("a", "t", 2))
    shown += take(view, delta("a", "t", "one "), delta("a", "t", "bird"), whole("a", "t", "one bird"))
    assert Anew("a") in shown
    assert text_of(shown, "a") == "one bird"


def test_a_restart_that_is_shorter_than_what_was_shown_says_so() -> None:
    view = View()
    shown = take(view, said("t"), start("a", "t"), delta("a", "t", "one two"), start("a", "t", 2))
    shown += take(view, delta("a", "t", "one"), whole("a", "t", "one"))
    assert text_of(shown, "a") == "one"


def test_a_call_waits_for_a_person_until_somebody_decides() -> None:
    view = View()
    asked = call("x", "t", approval="required")
    assert take(view, said("t"), asked)[-1] == Asked(asked)
    assert list(view.asked) == ["x"]
    assert not view.running
    approval = ToolApproval(context_id="c", turn_id="t", tool_call_id="x", approved=True)
    assert take(view, approval) == [Called(asked)]
    assert (list(view.asked), list(view.running)) == ([], ["x"])
    denied = call("y", "t", approval="required")
    take(view, denied, replace(approval, tool_call_id="y", approved=False))
    assert take(view, response("y", "t", status="denied")) == [Ended(None, "denied", "done")]


def test_a_question_is_asked_and_answered_and_does_not_run() -> None:
    view = View()
    for name, approved in (("q", True), ("r", False)):
        asked = call(name, "t", message_id=None, approval="required", asked_by="x")
        assert take(view, asked) == [Asked(asked)]
        approval = ToolApproval(context_id="c", turn_id="t", tool_call_id=name, approved=approved)
        assert take(view, approval) == []
        assert take(view, response(name, "t", {}, "success" if approved else "denied")) == [
            Ended(asked, "success" if approved else "denied", {})
        ]
        assert not view.asked
        assert not view.running


def test_ends_give_their_reason() -> None:
    error = ErrorBody(code="provider_error", message="no answer", retryable=False)
    for frame, reason in (
        (end("t", "failed", error), "the answer failed: no answer"),
        (end("t", "failed"), "the answer failed"),
        (end("t", "max_steps"), "the model was stopped after 1 steps"),
    ):
        assert take(View(), frame) == [Over("t", frame.status, reason)]


def test_titles_and_deletion() -> None:
    view = View()
    changed = ContextChanged(context_id="c", seq=1, title="Tides")
    assert take(view, changed, replace(changed, seq=2)) == [Titled("Tides")]
    assert take(view, ContextChanged(context_id="c", seq=3, deleted=True)) == [Gone()]


# ---- snapshots


def test_the_first_snapshot_shows_one_path_and_no_question_that_was_answered() -> None:
    asked = replace(call("x", "u", approval="required"), seq=5)
    open_call = replace(call("y", "u", approval="required"), seq=6)
    view = View()
    shown = take(
        view,
        snapshot(
            replace(said("t", "first"), seq=1),
            replace(whole("t.1", "t", "old"), seq=2),
            replace(end("t"), seq=3),
            replace(said("u", "second", replaces="t"), seq=4),
            asked,
            open_call,
            replace(response("x", "u"), seq=7),
            running=(Running(call=open_call),),
            has_more=True,
        ),
    )
    assert shown == [Missed(), Said("u", "second", mine=False), Asked(open_call), Ended(asked, "success", "done")]
    assert list(view.asked) == ["y"]


def test_a_snapshot_in_the_middle_goes_on_where_the_text_was() -> None:
    view = View()
    running = call("x", "t")
    shown = take(view, said("t"), start("a", "t"), delta("a", "t", "one "))
    partial = Partial(message_id="a", turn_id="t", model="m", attempt=1, text="one two", reasoning="why")
    shown += take(
        view,
        snapshot(said("t"), running, partial=(partial,), running=(Running(call=running, progress=2),)),
        delta("a", "t", " three"),
        snapshot(said("t"), running, whole("a", "t", "one two three"), response("x", "t"), end("t")),
    )
    assert text_of(shown, "a") == "one two three"
    assert Anew("a") not in shown
    assert shown[-2:] == [Ended(running, "success", "done"), Over("t", "complete")]
    assert not view.running


def test_turns_that_ended_in_what_was_missed_are_not_waited_for() -> None:
    view = View()
    view.sending("t", "one")
    take(view, said("t"), start("a", "t"), call("x", "t"))
    view.sending("u", "two")
    shown = take(view, snapshot(said("v", "far later"), has_more=True))
    assert shown == [Missed(), Said("u", "two", mine=True), Said("v", "far later", mine=False)]
    assert not view.running
    assert view.turn_id == "v"


WORDS = st.lists(st.sampled_from(("a", "b ", "\n", "ab")), max_size=5)


@given(st.lists(st.tuples(WORDS, st.booleans()), min_size=1, max_size=4), st.data())
def test_whatever_is_skipped_the_text_is_the_messages(
    attempts: list[tuple[list[str], bool]], data: st.DataObject
) -> None:
    log: list[Event] = [said("t")]
    for number, (words, _) in enumerate(attempts, start=1):
        log += [start("a", "t", number), *(delta("a", "t", word) for word in words)]
    content = "".join(attempts[-1][0])
    log += [whole("a", "t", content), end("t")]
    log = [replace(event, seq=seq) for seq, event in enumerate(log, start=1)]
    transcript = Transcript("c")
    transcript.cursor = Cursor(1, 0)
    view, shown, behind = View(), list[Shown](), False
    for event in log:
        transcript.apply(event)
        last = event is log[-1]
        if data.draw(st.booleans()) and not last:
            behind = True
        elif behind:
            behind = False
            partial, running = tuple(transcript.partial.values()), tuple(transcript.running.values())
            shown += view.take(snapshot(*transcript.events, partial=partial, running=running))
        else:
            shown += view.take(event)
    assert text_of(shown, "a") == content
    assert sum(isinstance(one, Said) for one in shown) == 1
    assert sum(isinstance(one, Over) for one in shown) == 1
    assert not view.busy
