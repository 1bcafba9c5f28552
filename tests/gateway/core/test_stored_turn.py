"""What a runner knows of its turn's rows, and when that is all that is new in the context."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.stored_turn import StoredTurn
from stores.records import CancelRequest, Claimed, ContextKey, EventRow, NewEvent, Turn, TurnRows, TurnState, Written

KEY = ContextKey("t/ann", "conv")


def row(order: int) -> EventRow:
    return EventRow(id=f"e{order}", type="message", body=b"{}", order=order, turn_id="t1")


def event(id: str) -> NewEvent:
    return NewEvent(id=id, type="message", body=b"{}", turn_id="t1")


def claimed(orders: Sequence[int], newest: int, cancels: Sequence[int] = ()) -> StoredTurn:
    turn = Turn(key=KEY, id="t1", kind="message", state=TurnState.RUNNING, request=b"{}", fence=1, created_at=0)
    asked = [CancelRequest(id=f"c{order}", turn_id="t1", call_id="x", order=order) for order in cancels]
    rows = TurnRows(turn=turn, events=[row(order) for order in orders], calls={}, cancels=asked)
    return StoredTurn(Claimed(rows=rows, newest=newest, born=1))


def since(stored: StoredTurn, order: int) -> list[int] | None:
    rows = stored.since(order)
    return None if rows is None else [row.order for row in rows]


def test_only_the_turns_own_rows_are_new() -> None:
    assert since(claimed([5], 5), 4) == [5]


def test_who_is_further_back_lacks_what_the_turn_does_not_know() -> None:
    assert since(claimed([5], 5), 3) is None


def test_something_else_came_after_the_turns_rows() -> None:
    assert since(claimed([5], 6), 4) is None


def test_a_cancel_of_the_turn_takes_an_order_and_is_no_event() -> None:
    assert since(claimed([5], 6, cancels=[6]), 4) == [5]


def test_nothing_is_new_to_who_has_everything() -> None:
    assert since(claimed([5], 5), 5) == []


def test_who_knows_of_more_than_the_turn_is_not_told_less() -> None:
    assert since(claimed([5], 5), 6) is None


def test_all_that_is_known_comes_in_order_whenever_it_was_read() -> None:
    stored = claimed([5, 9], 9)
    stored.read([row(7), row(5)], [])
    assert [row.order for row in stored.rows] == [5, 7, 9]


def test_what_the_runner_wrote_is_known() -> None:
    stored = claimed([5], 5)
    stored.wrote("t1", [event("a"), event("b")], Written(passed=(), newest=7))
    assert since(stored, 5) == [6, 7]
    assert stored.newest == 7


def test_what_others_wrote_in_between_is_not() -> None:
    stored = claimed([5], 5)
    stored.wrote("t1", [event("a")], Written(passed=(), newest=7))
    assert since(stored, 5) is None
    assert since(stored, 6) == [7]


def test_what_was_passed_over_takes_no_order() -> None:
    stored = claimed([5], 5)
    stored.wrote("t1", [event("a"), event("b")], Written(passed=["a"], newest=6))
    assert [found.id for found in stored.since(5) or ()] == ["b"]


def test_a_write_of_nothing_new_tells_how_far_the_context_is() -> None:
    stored = claimed([5], 5)
    stored.wrote("t1", [event("a")], Written(passed=["a"], newest=9))
    assert stored.newest == 9


def test_rows_that_are_read_again_count_once() -> None:
    stored = claimed([5], 5)
    stored.read([row(5), row(6)], ())
    stored.read([row(6)], [CancelRequest(id="c", turn_id="t1", call_id=None, order=5)])
    assert since(stored, 4) == [5, 6]


@given(st.sets(st.integers(1, 30)), st.integers(0, 31), st.integers(0, 31))
def test_known_are_exactly_the_gapless_ends(orders: set[int], newest: int, order: int) -> None:
    stored = claimed(sorted(orders), newest)
    top = max([newest, *orders])
    wanted = set(range(order + 1, top + 1)) if order <= top else None
    found = since(stored, order)
    assert found == (sorted(wanted) if wanted is not None and wanted <= orders else None)
