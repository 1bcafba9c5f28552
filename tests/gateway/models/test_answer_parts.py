from __future__ import annotations

import pytest

from gateway.models.answer_parts import Channel, read_call, scalar
from gateway.models.port import CallReady, TextPiece


def test_halves_of_a_character_are_joined() -> None:
    channel = Channel("reasoning")
    pieces = [piece for text in ("a\ud83d", "", "\ude00\ude00", "\ud83d") for piece in channel.add(text)]
    assert [*pieces, *channel.end(), *channel.end()] == [
        TextPiece("a", "reasoning"),
        TextPiece("😀�", "reasoning"),
        TextPiece("�", "reasoning"),
    ]


def test_scalar_text_stays_as_it_is() -> None:
    assert scalar("aé😀") == "aé😀"


@pytest.mark.parametrize("written", ["", " \n", "{}"])
def test_no_arguments_are_an_empty_object(written: str) -> None:
    assert read_call("f", written) == CallReady("f", {})
