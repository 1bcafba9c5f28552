from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.thread import Incomplete, Thread, chosen_path
from gateway.core.tokens import Weight, rough_count
from protocol.frames import ContextChanged, DurableEvent, Usage
from tests.gateway.core.conversations import answer, call, end, message, said, turn, user

Rows = list[tuple[int, DurableEvent]]


def numbered(*turns: Sequence[DurableEvent]) -> Rows:
    return list(enumerate(chain.from_iterable(turns), start=1))


def loaded(rows: Rows) -> Thread:
    thread = Thread()
    thread.older(rows, reaches=True)
    return thread


def ids(thread: Thread, of: str) -> list[str]:
    """The path to a turn, oldest first."""
    return [node.id for node in thread.path(of)][::-1]


def one(id: str, *, parent_id: str | None = None, replaces: str | None = None) -> list[DurableEvent]:
    return turn(id, parent_id=parent_id, replaces=replaces)


# ---- the order of a conversation that never branches


def test_turns_come_as_they_ended_and_the_current_one_last() -> None:
    first, second = turn("t1"), turn("t2")
    thread = loaded(
        numbered(first[:1], [message("now", "now")], second[:1], [message("note", None)], second[1:], first[1:])
    )
    assert ids(thread, "now") == ["note", "t2", "t1", "now"]
    assert thread.last is thread["t1"]


def test_what_is_not_for_the_model_is_left_out() -> None:
    direct = [call("direct", "direct", None), answer("direct", "direct"), end("direct")]
    changed = ContextChanged(context_id="c", title="new")
    thread = loaded(numbered(direct, turn("t1"), [changed, message("waits", "waits")], direct[:0], [message("n", "n")]))
    assert ids(thread, "n") == ["t1", "n"]
    assert ids(loaded(numbered(direct, [message("n", "n")])), "n") == ["n"]


def test_a_turn_that_ended_keeps_its_place() -> None:
    thread = loaded(numbered(turn("t1"), turn("t2")))
    assert ids(thread, "t1") == ["t1"]
    assert ids(thread, "t2") == ["t1", "t2"]


def test_what_was_stored_since_is_added_and_what_is_known_passed_over() -> None:
    renamed = ContextChanged(context_id="c", title="new")
    rows = numbered(turn("t1"), turn("t2"), [message("now", "now"), renamed])
    thread = loaded([])
    thread.newer(rows[:4])
    thread.newer(rows)
    assert ids(thread, "now") == ["t1", "t2", "now"]
    assert (thread.oldest, thread.newest) == (1, 8)
    assert [len(thread[id].events) for id in ("t1", "t2", "now")] == [3, 3, 1]


# ---- branches


def test_a_message_after_an_earlier_one_leaves_out_what_came_between() -> None:
    thread = loaded(numbered(turn("t1"), turn("t2"), one("now", parent_id="t1a")))
    assert ids(thread, "now") == ["t1", "now"]


def test_a_message_in_place_of_another_comes_after_what_that_came_after() -> None:
    thread = loaded(numbered(turn("t1"), turn("t2"), turn("t3"), one("again", replaces="t2"), turn("next")))
    assert ids(thread, "again") == ["t1", "again"]
    assert ids(thread, "next") == ["t1", "again", "next"]
    assert ids(thread, "t3") == ["t1", "t2", "t3"]


def test_an_answer_may_be_replaced_too_and_a_replacement_again() -> None:
    thread = loaded(
        numbered(
            turn("t1"), turn("t2"), one("r1", replaces="t2a"), one("r2", replaces="r1"), one("first", replaces="t1")
        )
    )
    assert ids(thread, "r2") == ["t1", "r2"]
    assert ids(thread, "first") == ["first"]


def test_a_replacement_of_what_had_a_parent_has_it_too() -> None:
    thread = loaded(
        numbered(turn("t1"), turn("t2"), turn("t3"), one("side", parent_id="t1"), one("again", replaces="side"))
    )
    assert ids(thread, "again") == ["t1", "again"]


def test_what_had_not_ended_was_not_before() -> None:
    """It was stored before and waits behind: a message that interrupts goes ahead of the queue."""
    waits = turn("waits")
    rows = numbered(turn("t1"), waits[:1], one("now", parent_id="waits"), waits[1:])
    assert ids(loaded(rows[:-2]), "now") == ["t1", "now"]
    thread = loaded(rows)
    assert ids(thread, "now") == ["t1", "now"]
    assert ids(thread, "waits") == ["t1", "now", "waits"]


def test_a_name_that_nothing_has_any_more_is_no_branch() -> None:
    assert ids(loaded(numbered(turn("t1"), one("now", parent_id="gone"))), "now") == ["t1", "now"]


def test_a_turn_whose_beginning_does_not_exist_is_passed_over() -> None:
    assert ids(loaded(numbered(turn("cut")[1:], turn("t1"))), "t1") == ["t1"]


def test_what_a_reader_shows_is_the_newest_path_and_what_people_did_beside_it() -> None:
    direct = [call("direct", "direct", None), answer("direct", "direct"), end("direct")]
    changed = ContextChanged(context_id="c", title="new")
    kept = [*turn("t1"), *direct, changed]
    edited = one("again", replaces="t2")
    assert chosen_path([*kept, *turn("t2"), *edited]) == [*kept, *edited]
    assert chosen_path([*kept, *turn("t2"), edited[0]]) == [*kept, edited[0]]
    assert chosen_path([changed]) == [changed]


def test_a_page_of_history_that_begins_in_the_middle_of_a_turn_shows_from_the_next_on() -> None:
    assert chosen_path([*turn("t1")[1:], *turn("t2")]) == turn("t2")


# ---- loading


def test_older_events_are_asked_for_where_the_path_leads_to_them() -> None:
    rows = numbered(turn("t1"), turn("t2"), one("now", replaces="t1"))
    for cut in range(1, len(rows)):
        thread = Thread()
        thread.older(rows[cut:], reaches=False)
        with pytest.raises(Incomplete):
            ids(thread, "now")
        thread.older(rows[:cut], reaches=True)
        assert ids(thread, "now") == ["now"]
        assert ids(thread, "t2") == ["t1", "t2"]


def test_a_path_goes_as_far_as_is_loaded() -> None:
    thread = Thread()
    thread.older(numbered(turn("t1"), turn("t2"), [message("now", "now")])[3:], reaches=False)
    path = thread.path("now")
    assert [next(path).id, next(path).id] == ["now", "t2"]
    with pytest.raises(Incomplete):
        next(path)
    thread.older([], reaches=True)
    assert ids(thread, "now") == ["t2", "now"]


def test_a_turn_that_is_loaded_by_half_is_no_end_of_a_path() -> None:
    thread = Thread()
    thread.older(numbered(turn("t1"), [message("now", "now")])[1:], reaches=False)
    path = thread.path("now")
    next(path)
    with pytest.raises(Incomplete):
        next(path)
    with pytest.raises(Incomplete):
        next(thread.path("t1"))


def test_a_turn_that_is_not_loaded_is_asked_for() -> None:
    rows = numbered([message("now", "now")], turn("t1"))
    thread = Thread()
    thread.older(rows[1:], reaches=False)
    with pytest.raises(Incomplete):
        ids(thread, "now")
    thread.older(rows[:1], reaches=True)
    assert ids(thread, "now") == ["t1", "now"]
    with pytest.raises(KeyError):
        ids(thread, "nothing")


def test_older_events_may_end_nothing() -> None:
    rows = numbered(turn("t1"), [message("now", "now")])
    thread = Thread()
    thread.older(rows[2:], reaches=False)
    thread.older(rows[1:2], reaches=False)
    thread.older([(0, ContextChanged(context_id="c", title="new")), rows[0]], reaches=True)
    assert ids(thread, "now") == ["t1", "now"]
    assert thread["t1"].events == turn("t1")


@given(st.data())
def test_in_whatever_pieces_it_is_loaded_the_paths_are_the_same(data: st.DataObject) -> None:
    turns: list[list[DurableEvent]] = []
    for place in range(data.draw(st.integers(1, 7))):
        named = data.draw(st.none() | st.sampled_from([f"t{before}" for before in range(place)] or [None]))
        field = data.draw(st.sampled_from(["parent_id", "replaces"]))
        turns.append(turn(f"t{place}", **{field: named}))
    rows = numbered(*turns)
    whole = loaded(rows)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows)), max_size=4)))
    pieces = Thread()
    newest = cuts[-1] if cuts else 0
    for since, until in zip([0, *cuts][::-1][1:], cuts[::-1], strict=True):
        pieces.older(rows[since:until], reaches=since == 0)
    pieces.newer(rows[newest:])
    if not cuts:
        pieces.older([], reaches=True)
    for node in turns:
        id = node[0].turn_id or ""
        assert ids(pieces, id) == ids(whole, id)
        assert pieces[id].events == node


# ---- what a turn weighs


def test_what_a_model_wrote_weighs_what_was_counted_then() -> None:
    usage = Usage(input_tokens=10, output_tokens=50, reasoning_tokens=20)
    counted = [message("t", "t"), message("a", "t", "assistant", "word " * 40, usage=usage), end("t")]
    weight = loaded(numbered(counted))["t"].weight(rough_count)
    assert weight.known == 30
    assert 0 < weight.guessed < 50


def test_what_was_not_counted_is_guessed() -> None:
    node = loaded(numbered(turn("t")))["t"]
    assert node.weight(rough_count).known == 0
    silent = Usage(input_tokens=10, output_tokens=0)
    events = [message("t", "t"), message("a", "t", "assistant", "x" * 4000, usage=silent), end("t")]
    assert loaded(numbered(events))["t"].weight(rough_count).guessed > 500


def test_a_figure_that_counts_much_more_than_was_written_is_not_believed() -> None:
    """Some providers count their thinking as text."""
    usage = Usage(input_tokens=10, output_tokens=3_000)
    events = [message("t", "t"), message("a", "t", "assistant", "Yes.", usage=usage), end("t")]
    weight = loaded(numbered(events))["t"].weight(rough_count)
    assert weight.known == 0
    assert weight.guessed < 50


def test_a_weight_is_of_what_is_there_now() -> None:
    rows = numbered(turn("t"))
    thread = Thread()
    thread.newer(rows[:1])
    before = thread["t"].weight(rough_count)
    assert thread["t"].weight(rough_count) is before
    thread.newer(rows)
    assert thread["t"].weight(rough_count).guessed > before.guessed
    assert thread["t"].weight(len) != Weight()


# ---- a turn that runs


def test_a_running_turn_shows_its_next_step_what_it_is_given_and_all_once_it_has_ended() -> None:
    thread = Thread()
    thread.give("t", None)
    thread.newer([(1, message("t", "t")), (2, message("s", "t"))])
    assert thread["t"].inputs == [user("t")]
    thread.give("t", "s")
    thread.give("t", "s")
    assert thread["t"].inputs == [user("t"), user("s")]
    thread.newer([(3, message("a", "t", "assistant", reads="s")), (4, message("late", "t")), (5, end("t"))])
    assert thread["t"].inputs == [user("t"), user("s"), said("a"), user("late")]
