"""What others wrote, fit for a terminal."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from gateway.chat.words import one_line, printable, value_line
from protocol.content import words_of
from protocol.frames import ImagePart, ResourcePart, TextPart


@given(st.text())
def test_nothing_is_left_that_a_terminal_obeys(text: str) -> None:
    kept = printable(text)
    assert not [c for c in kept if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]
    assert printable(kept) == kept


def test_escape_codes_and_turned_writing_are_defused() -> None:
    assert printable("\x1b]0;x\x07a\x9b31mb\u202ec\r\n\td") == "]0;xa31mbc\n\td"


@given(st.text(), st.integers(1, 50))
def test_one_line_is_one_line_and_short(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert "\n" not in line


def test_what_is_cut_off_is_seen() -> None:
    assert one_line("a  b\n c", 5) == "a b c"
    assert one_line("a b c d", 5) == "a b …"
    assert one_line("a" + " " * 100, 5).endswith("…")


def test_values_and_contents() -> None:
    assert value_line("text") == "text"
    assert value_line({"a": [1, None]}) == '{"a":[1,null]}'
    parts = [TextPart(text="see"), ImagePart(mime_type="image/png", data=""), ResourcePart(uri="docs/a")]
    assert words_of(parts) == "see [image/png] [docs/a]"
    assert words_of("plain") == "plain"
