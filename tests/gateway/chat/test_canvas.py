"""What is drawn, read back through a terminal's emulation."""

from __future__ import annotations

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.chat.canvas import Canvas, Run, Style, fit

WORDS = st.text(alphabet="abcé 漢\n", max_size=12)
STYLES = st.sampled_from(("plain", "dim", "bold", "bad"))


def screen_of(*written: str, columns: int = 20, rows: int = 12) -> list[str]:
    screen = pyte.Screen(columns, rows)
    stream = pyte.Stream(screen)
    for data in written:
        stream.feed(data)
    return [line.rstrip() for line in screen.display]


def test_words_that_meet_the_edge_go_to_the_next_row() -> None:
    canvas = Canvas(10)
    written = [canvas.draw([Run(piece)], ["> "], 2) for piece in ("one two th", "re", "e four ", "abcdefghijklmnop")]
    assert screen_of(*written, columns=10, rows=7) == ["one two", "three", "four", "abcdefghi", "jklmnop", ">", ""]


def test_rows_are_drawn_below_and_leave_nothing_behind() -> None:
    canvas = Canvas(20)
    first = canvas.draw([Run("streaming")], ["bar 1/3", "bar 2/3", "> "], 2)
    second = canvas.draw([Run(" on\n")], ["> typed"], 7)
    assert screen_of(first)[:4] == ["streaming", "bar 1/3", "bar 2/3", ">"]
    assert screen_of(first, second)[:4] == ["streaming on", "> typed", "", ""]
    assert canvas.fresh_line
    assert screen_of(first, second, canvas.draw([], [], 0))[:3] == ["streaming on", "", ""]


def test_the_cursor_stands_in_the_last_row() -> None:
    screen = pyte.Screen(20, 5)
    pyte.Stream(screen).feed(Canvas(20).draw([Run("text")], ["bar", "> abc"], 3))
    assert (screen.cursor.y, screen.cursor.x) == (2, 3)


def test_at_the_bottom_the_text_scrolls_and_the_rows_stay() -> None:
    canvas = Canvas(20)
    written = [canvas.draw([Run(f"line {n}\n")], ["bar", "> "], 2) for n in range(20)]
    assert screen_of(*written, rows=6) == ["line 16", "line 17", "line 18", "line 19", "bar", ">"]


@pytest.mark.parametrize("colour", [True, False])
def test_styles(colour: bool) -> None:
    drawn = Canvas(20, colour=colour).draw([Run("wrong", "bad"), Run("thought", "dim")], [], 0)
    assert ("\x1b[31m" in drawn) is colour
    assert "\x1b[2mthought\x1b[0m" in drawn


def test_after_another_size_the_text_goes_on() -> None:
    canvas = Canvas(20)
    canvas.draw([Run("some words")], ["> "], 2)
    canvas.resize(10)
    assert "more" in canvas.draw([Run("more")], ["> "], 2)


@settings(deadline=None)
@given(st.lists(st.tuples(WORDS, STYLES, st.integers(1, 3)), max_size=12), st.integers(6, 30))
def test_however_it_comes_the_text_is_whole_and_the_rows_are_once(
    pieces: list[tuple[str, Style, int]], width: int
) -> None:
    canvas = Canvas(width)
    written = [
        canvas.draw([Run(text, style)], [f"r{n}"[: width - 1] for n in range(rows)], 1) for text, style, rows in pieces
    ]
    lines = screen_of(*written, columns=width, rows=200)
    rows = pieces[-1][2] if pieces else 0
    shown = "".join("".join(lines).split())
    expected = "".join("".join(text for text, _, _ in pieces).split()) + "".join(f"r{n}" for n in range(rows))
    assert shown == expected


@given(st.text(), st.integers(0, 20))
def test_what_is_fitted_fits(text: str, width: int) -> None:
    from rich.cells import cell_len

    assert cell_len(fit(text, width)) <= width
    assert fit("short", 5) == "short"
