"""The line that is being typed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from gateway.chat.editor import Line
from gateway.chat.keys import Key, Typed

NAMES = (
    *("enter", "backspace", "delete", "eof", "kill-start", "kill-end", "kill-word", "left", "right"),
    *("word-left", "word-right", "home", "end", "up", "down", "unknown"),
)
KEYS = st.one_of(st.sampled_from(NAMES).map(Key), st.text(max_size=5).map(Typed))


def typed(line: Line, *keys: str) -> str | None:
    """Names in angle brackets are keys, all else is typed."""
    entered: str | None = None
    for key in keys:
        entered = line.press(Key(key[1:-1]) if key.startswith("<") else Typed(key))
    return entered


def test_typing_and_correcting() -> None:
    line = Line()
    typed(line, "one two three", "<kill-word>", "<word-left>", "<kill-end>", "too", "<home>", "<right>", "<delete>")
    assert line.text == "oe too"
    typed(line, "<backspace>", "<end>", "!", "<left>", "<left>", "<kill-start>")
    assert line.text == "o!"
    assert typed(line, "<enter>") == "o!"
    assert (line.text, line.at) == ("", 0)


def test_what_was_entered_comes_back_and_a_draft_is_kept() -> None:
    line = Line()
    typed(line, "first", "<enter>", "second", "<enter>", "second", "<enter>", "draft", "<up>")
    assert line.text == "second"
    typed(line, "<up>", "<up>")
    assert line.text == "first"
    typed(line, "<down>", "<down>", "<down>")
    assert line.text == "draft"


def test_a_line_has_a_bound() -> None:
    line = Line()
    typed(line, "x" * 150_000, "y" * 150_000)
    assert len(line.text) == 200_000


@given(st.lists(KEYS), st.integers(2, 40))
def test_any_keys_leave_a_line_whose_window_fits(keys: list[Typed | Key], width: int) -> None:
    line = Line()
    for key in keys:
        line.press(key)
        assert 0 <= line.at <= len(line.text)
        window, cursor = line.window(width)
        assert cell_len(window) <= width
        assert 0 <= cursor <= width
