"""A terminal's bytes to keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.chat.keys import Key, Keys, Typed


def keys(*pieces: bytes) -> list[Typed | Key]:
    decoder = Keys()
    return [key for piece in pieces for key in decoder.feed(piece)]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\r", "enter"),
        (b"\x7f", "backspace"),
        (b"\x04", "eof"),
        (b"\x1b[A", "up"),
        (b"\x1bOB", "down"),
        (b"\x1b[1;5D", "word-left"),
        (b"\x1b[3~", "delete"),
        (b"\x17", "kill-word"),
    ],
)
def test_keys_have_names_however_they_arrive(data: bytes, name: str) -> None:
    assert keys(data) == [Key(name)]
    assert keys(*(data[i : i + 1] for i in range(len(data)))) == [Key(name)]


def test_characters_may_be_cut_anywhere() -> None:
    assert keys("é".encode()[:1], "é".encode()[1:]) == [Typed("é")]
    assert keys(b"ab\x1b[Dc\r") == [Typed("ab"), Key("left"), Typed("c"), Key("enter")]


def test_what_is_pasted_enters_nothing() -> None:
    pasted = b"\x1b[200~one\rtwo\r\nthree\x1b[31m\x03\x1b[201~\r"
    assert keys(pasted) == [Typed("one\ntwo\nthree[31m"), Key("enter")]
    typed = keys(*(pasted[i : i + 1] for i in range(len(pasted))))
    assert "".join(key.text for key in typed if isinstance(key, Typed)).replace("\n\n", "\n") == "one\ntwo\nthree[31m"
    assert typed[-1] == Key("enter")


def test_unknown_sequences_are_swallowed() -> None:
    assert keys(b"\x1b[99;99Xa\x1bqb") == [Typed("a"), Typed("b")]
    assert keys(b"\x1b[" + b"1" * 100) == [Typed("1" * 100)]
    assert keys(b"\xff") == [Typed("\ufffd")]


@given(st.binary(), st.integers(1, 9))
def test_any_bytes_are_taken_and_only_characters_come_out(data: bytes, size: int) -> None:
    for key in keys(*(data[i : i + size] for i in range(0, len(data), size))):
        if isinstance(key, Typed):
            assert not [c for c in key.text if c < " " and c not in "\n\t"]
