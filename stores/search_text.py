"""What of a text can be searched for, what a query asks, and where a text answers it: pure, the same for all adapters.

Words are compared without case, accents and compatibility forms ("Ｃａｆé" is "cafe"). Scripts that put no spaces
between words (Chinese, Japanese, Thai, …, and Korean, whose particles stick to the word) are cut into overlapping pairs
of characters: the words people look for there have two as a rule, too few for trigrams to find.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from msgspec import Struct

from protocol.frames import TextPart

__all__ = ["MAX_TEXT", "Query", "Segment", "Term", "parse_query", "searchable", "snippet", "terms_of"]

MAX_TEXT = 131_072
"""Characters of one text that are searchable: those at its beginning."""

_MAX_QUERY = 512
_MAX_TERMS = 16
_MAX_TERM = 48
_BEFORE = 48
_WINDOW = 200

_ACCENTS = re.compile("[\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf-\u05c7\u064b-\u065f\u0670]+")
# Marks that belong to a word though Python does not count them as letters, block by block.
_WORD = re.compile("[\\w\u0900-\u0963\u0966-\u0dff\u0e00-\u109f\u1780-\u17ff\u3099\u309a]+")
# A run of combining marks is put in order by normalisation, in a time that grows with its square. No script stacks as
# many; Unicode itself counts on 30 at most (UAX #15, section 13).
_MAX_MARKS = 30
# Those that begin no letter: by their combining class, or because all that they are decomposed to has one.
_LAST_MARK = 0x1F000
_MARKS = (
    "".join(re.escape(mark) for mark in map(chr, range(0x300, _LAST_MARK)) if unicodedata.combining(mark))
    + "\u0f73\u0f75\u0f81\uff9e\uff9f"
)
_MANY_MARKS = re.compile(f"([{_MARKS}]{{{_MAX_MARKS}}})[{_MARKS}]+")
_ASCII_WORD = re.compile("[a-z0-9]+")
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUNS = re.compile(f"[{_UNSPACED}]+|[^{_UNSPACED}]+")
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")


class Segment(Struct, frozen=True, omit_defaults=True):
    """A piece of a snippet, plain text; `match` where it is what was looked for."""

    text: str
    match: bool = False


class Term(Struct, frozen=True):
    text: str
    prefix: bool = False


class Query(Struct, frozen=True):
    """All `terms` must be in one text; without any, nothing is found. `words` are what is marked in a snippet."""

    terms: Sequence[Term]
    words: Sequence[Term]


def searchable(role: str, content: str | Sequence[Any]) -> str | None:
    """The text of a message that can be searched for: what people and models said to each other."""
    if role not in ("user", "assistant"):
        return None
    if isinstance(content, str):
        text = content
    else:
        text = "\n".join(part.text for part in content if isinstance(part, TextPart))
    return text[:MAX_TEXT] or None


def terms_of(text: str) -> set[str]:
    """The terms under which the text is found."""
    folded = _fold(text[:MAX_TEXT])
    if not _IS_UNSPACED.search(folded):
        return {word[:_MAX_TERM] for word in _words(folded)}
    found: set[str] = set()
    for word in _words(folded):
        for run in _RUNS.findall(word):
            if _IS_UNSPACED.match(run):
                # The last character alone too: so each one begins a term, and can be looked for by itself.
                found.update(run[place : place + 2] for place in range(len(run)))
            else:
                found.add(run[:_MAX_TERM])
    return found


def parse_query(text: str) -> Query:
    """The words of `text`, the first 16 in its first 512 characters; nothing in it is an operator. The last word may
    be the beginning of one."""
    words: list[Term] = []
    terms: list[Term] = []
    runs = [run for word in _words(_fold(text[:_MAX_QUERY])) for run in _RUNS.findall(word)][:_MAX_TERMS]
    for place, run in enumerate(runs):
        if not _IS_UNSPACED.match(run):
            # One letter begins too many words to be a beginning.
            word = Term(run[:_MAX_TERM], place == len(runs) - 1 and len(run) > 1)
            words.append(word)
            terms.append(word)
        else:
            words.append(Term(run))
            pairs = [Term(run[at : at + 2]) for at in range(len(run) - 1)] or [Term(run, prefix=True)]
            terms += pairs
    return Query(list(dict.fromkeys(terms))[:_MAX_TERMS], words)


def snippet(text: str, query: Query) -> list[Segment]:
    """A piece of the text around the first word that was looked for; the beginning where there is none."""
    spots = _spots(text[:MAX_TEXT], query)
    first = next(spots, None)
    start = 0 if first is None else max(0, first[0] - _BEFORE)
    if start:
        # Begin with a whole word, where one is near.
        space = text.find(" ", start, first[0] if first else start)
        start = space + 1 if space >= 0 else start
    end = min(len(text), start + _WINDOW)
    segments = [Segment("…")] if start else []
    place = start
    while first is not None and first[0] < end:
        if first[0] > place:
            segments.append(Segment(text[place : first[0]]))
        stop = min(first[1], end)
        segments.append(Segment(text[first[0] : stop], match=True))
        place = stop
        first = next(spots, None)
    if place < end:
        segments.append(Segment(text[place:end]))
    return [*segments, Segment("…")] if end < len(text) else segments


def _spots(text: str, query: Query) -> Iterator[tuple[int, int]]:
    """Where the query's words stand, in order, none within another."""
    for found in _WORD.finditer(text.replace("_", " ")):
        start = found.start()
        for run in _RUNS.findall(found.group()):
            folded = _fold(run)
            if not _IS_UNSPACED.match(run):
                cut = folded[:_MAX_TERM]
                if any(cut.startswith(word.text) if word.prefix else cut == word.text for word in query.words):
                    yield start, start + len(run)
            elif len(folded) == len(run):  # else its places are not the original's
                yield from ((start + one, start + other) for one, other in _within(folded, query))
            start += len(run)


def _within(run: str, query: Query) -> Iterator[tuple[int, int]]:
    places = sorted(
        (found.start(), found.end())
        for word in query.words
        if _IS_UNSPACED.match(word.text)
        for found in re.finditer(re.escape(word.text), run)
    )
    reached = 0
    for start, end in places:
        if start >= reached:
            reached = end
            yield start, end


def _words(folded: str) -> list[str]:
    if folded.isascii():
        return _ASCII_WORD.findall(folded)
    return _WORD.findall(folded.replace("_", " "))


def _fold(text: str) -> str:
    if text.isascii():
        return text.lower()
    bare = _ACCENTS.sub("", _normalized("NFKD", text.casefold()))
    return _normalized("NFC", bare)


def _normalized(form: Literal["NFC", "NFKD"], text: str) -> str:
    """The text in that form, with no more than 30 marks in a row: it costs what is proportional to its length."""
    return unicodedata.normalize(form, _MANY_MARKS.sub(r"\1", text))
