"""What is a word, what a query asks, and which piece of a text is shown."""

from __future__ import annotations

import sys
import unicodedata
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.frames import ImagePart, TextPart
from stores.search_text import MAX_TEXT, Segment, Term, parse_query, searchable, snippet, terms_of


def shown(text: str, query: str) -> str:
    """The snippet with what matched in brackets."""
    pieces = snippet(text, parse_query(query))
    return "".join(f"[{piece.text}]" if piece.match else piece.text for piece in pieces)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The cat, the CAT; the_cat", {"the", "cat"}),
        ("Café CAFÉ cafe\u0301 Ｃａｆｅ", {"cafe"}),
        ("Straße", {"strasse"}),
        ("3.5 GB", {"3", "5", "gb"}),
        ("東京都", {"東京", "京都", "都"}),
        ("ガ", {"ガ"}),  # its mark is part of the letter, not an accent
        ("iPhoneを買う", {"iphone", "を買", "買う", "う"}),
        ("한국어", {"한국", "국어", "어"}),
        ("हिन्दी में", {"हिन्दी", "में"}),
        ("שָׁלוֹם", {"שלום"}),
        ("x" * 100, {"x" * 48}),
        ("<b>&amp;\0\ud800*\"'", {"b", "amp"}),
        ("", set[str]()),
    ],
)
def test_terms(text: str, terms: set[str]) -> None:
    assert terms_of(text) == terms


def test_the_last_word_may_be_the_beginning_of_one() -> None:
    assert parse_query("big ca").terms == [Term("big"), Term("ca", prefix=True)]
    assert parse_query("plan b").terms == [Term("plan"), Term("b")]
    assert parse_query("京").terms == [Term("京", prefix=True)]
    assert parse_query("東京都").terms == [Term("東京"), Term("京都")]


@pytest.mark.parametrize("text", ["", " ", '"', "*", "(((", "\0", "-:^+~", "\ud800", "—…»"])
def test_a_query_without_words_asks_nothing(text: str) -> None:
    assert parse_query(text).terms == []


def test_a_query_is_bounded() -> None:
    assert len(parse_query("a b c d e f g h i j k l m n o p q r s t u v w x y z").terms) == 16
    assert len(parse_query("".join(map(chr, range(0x4E00, 0x5E00)))).terms) == 16
    assert parse_query("x" * 1_000_000).terms == [Term("x" * 48, prefix=True)]


def test_what_is_searchable() -> None:
    parts = [TextPart(text="one"), ImagePart(mime_type="image/png", data=""), TextPart(text="two")]
    assert searchable("user", "hello") == "hello"
    assert searchable("assistant", parts) == "one\ntwo"
    assert searchable("system", "rules") is None
    assert searchable("user", "") is None
    assert len(searchable("user", "x" * (MAX_TEXT + 1)) or "") == MAX_TEXT


def test_snippets() -> None:
    assert shown("Meet me in Berlin.", "berl") == "Meet me in [Berlin]."
    assert shown("Un café, deux cafés", "cafe") == "Un [café], deux [cafés]"
    assert shown("我在東京都。", "東京") == "我在[東京]都。"
    assert shown("nothing here", "absent") == "nothing here"
    assert shown("<b>bold</b>", "bold") == "<b>[bold]</b>"
    long = shown("word " * 100 + "needle " + "word " * 100, "needle")
    assert long.startswith("…word ")
    assert "[needle]" in long
    assert long.endswith("…")
    assert len(long) < 220


@given(st.text(max_size=400), st.text(max_size=20))
def test_a_snippet_is_a_piece_of_the_text_and_nothing_else(text: str, query: str) -> None:
    pieces = list(snippet(text, parse_query(query)))
    if pieces and pieces[0] == Segment("…"):
        del pieces[0]
    if pieces and pieces[-1] == Segment("…"):
        del pieces[-1]
    assert "".join(piece.text for piece in pieces) in text
    assert all(piece.text for piece in pieces)


@given(st.text(max_size=60))
def test_every_text_is_found_by_itself(text: str) -> None:
    terms = terms_of(text)
    for term in parse_query(text).terms:
        assert term.text in terms or (term.prefix and any(known.startswith(term.text) for known in terms))


@pytest.mark.parametrize(
    "text",
    [
        "a" + "\u0301\u0316" * 40_000,
        ("\u3099" * 30 + "\u034f") * 4000,  # what separates the runs is taken out later
        "\u0f40" + "\u0f73" * 40_000,  # no mark itself, but decomposed to two
        "\uff76" + "\uff9e" * 40_000,
        "क" + "\u093c\u094d" * 40_000,
    ],
    ids=["marks", "joined", "decomposed", "halfwidth", "letters"],
)
def test_marks_without_end_are_not_put_in_order(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _longest_run(text, monkeypatch) <= 64


def test_every_mark_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    marks = [mark for mark in map(chr, range(0x80, sys.maxunicode + 1)) if _marks(mark.casefold())]
    assert len(marks) > 900
    assert _longest_run("".join("a" + mark * 100 for mark in marks), monkeypatch) <= 64


def _marks(letter: str) -> int:
    """How many marks it is decomposed to, at its beginning."""
    decomposed = unicodedata.normalize("NFKD", letter)
    return next((n for n, part in enumerate(decomposed) if not unicodedata.combining(part)), len(decomposed))


def _longest_run(text: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Of marks in what is normalised: the time that takes grows with its square."""
    normalize = unicodedata.normalize
    given: list[str] = []

    def watched(form: Literal["NFC", "NFKD"], text: str) -> str:
        given.append(text)
        return normalize(form, text)

    with monkeypatch.context() as watching:
        watching.setattr(unicodedata, "normalize", watched)
        terms_of(text)
        snippet(text, parse_query("absent"))
    longest = run = 0
    for one in given:
        run = 0
        for letter in one:
            marks = _marks(letter)
            run = run + marks if marks else 0
            longest = max(longest, run)
    return longest
