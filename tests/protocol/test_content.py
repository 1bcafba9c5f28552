from __future__ import annotations

from protocol.content import plain_text, words_of
from protocol.frames import ImagePart, ResourcePart, TextPart

PARTS = [TextPart(text="see "), ImagePart(mime_type="image/png", data="AAAA"), ResourcePart(uri="docs/a")]


def test_a_string_is_what_it_is() -> None:
    assert plain_text("plain") == words_of("plain") == "plain"


def test_of_parts_the_text_alone() -> None:
    assert plain_text([*PARTS, TextPart(text="this")]) == "see this"


def test_of_parts_the_text_with_the_names_of_the_rest() -> None:
    assert words_of(PARTS) == "see  [image/png] [docs/a]"
