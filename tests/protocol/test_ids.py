from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import CURSOR_PATTERN, ID_PATTERN, Cursor, derive_id, is_id, new_id, rfc3339, time_id

numbers = st.integers(0, 10**18 - 1)


@given(numbers, numbers)
def test_a_cursor_reads_what_it_writes(epoch: int, seq: int) -> None:
    cursor = Cursor(epoch, seq)
    assert Cursor.parse(str(cursor)) == cursor
    assert re.match(CURSOR_PATTERN, str(cursor))


@pytest.mark.parametrize(
    "text", ["", ":", "1", "1:", ":1", "1:2:3", "-1:2", "1:2\n", " 1:2", "1:x", "٣:1", "1:" + "1" * 19, "1_0:2"]
)
def test_what_is_not_a_cursor(text: str) -> None:
    with pytest.raises(ValueError, match="a cursor is <epoch>:<seq>"):
        Cursor.parse(text)


def test_cursors_order_by_epoch_first() -> None:
    assert Cursor(1, 9) < Cursor(2, 1) < Cursor(2, 3)


@pytest.mark.parametrize("text", ["a", "msg_123abc", "A.b:c-d_9", "x" * 128])
def test_ids(text: str) -> None:
    assert is_id(text)
    assert re.match(ID_PATTERN, text)


@pytest.mark.parametrize("text", ["", "x" * 129, "a b", "a\n", "é", "a/b", "\x00", "\ud800"])
def test_what_is_not_an_id(text: str) -> None:
    assert not is_id(text)


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**48 - 1), st.integers(0, 2**80 - 1), st.integers(0, 2**80 - 1))
def test_ids_order_by_time_then_tail(one: int, other: int, tail: int, other_tail: int) -> None:
    ids = time_id("msg_", one, tail), time_id("msg_", other, other_tail)
    assert (ids[0] < ids[1]) == ((one, tail) < (other, other_tail))
    assert all(is_id(text) and len(text) == 30 for text in ids)


def test_new_ids_differ() -> None:
    assert len({new_id("conv_") for _ in range(100)}) == 100


@given(st.lists(st.text(st.characters(codec="utf-8")), max_size=4), st.lists(st.text(st.characters(codec="utf-8"))))
def test_derived_ids_are_equal_for_equal_parts_only(one: list[str], other: list[str]) -> None:
    assert (derive_id("conv_", *one) == derive_id("conv_", *other)) == (one == other)
    assert is_id(derive_id("conv_", *one))


def test_the_border_between_parts_counts() -> None:
    assert derive_id("c_", "ab", "c") != derive_id("c_", "a", "bc")


def test_timestamps_are_utc_with_milliseconds() -> None:
    moment = datetime(2023, 9, 15, 14, 34, 56, 789_999, tzinfo=timezone(timedelta(hours=2)))
    assert rfc3339(moment) == "2023-09-15T12:34:56.789Z"
