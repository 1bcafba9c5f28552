"""How many tokens a model will count: a guess, made better by what its provider says that it counted."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from gateway.core.inputs import AssistantInput, ModelInput, TextInput
from protocol.frames import ImagePart, ResourcePart

__all__ = ["Calibration", "Count", "Weight", "guess", "rough_count"]

Count = Callable[[str], int]
"""The tokens of a text, exactly or roughly."""

_MESSAGE: Final = 6  # what a message costs besides its text
_CALL: Final = 12
_IMAGE: Final = 1024
_LEAST, _MOST = 0.2, 8.0
_PIECES: Final = re.compile(r"[^\W\d_]+|\d|[^\w\s]|_|\n")
_LOOKED_AT: Final = 8_192  # characters


def rough_count(text: str) -> int:
    """For a model whose tokenizer is not known: as tokenizers for byte pairs do on average, most words are one token,
    long ones more, digits and signs one each. Of a long text its beginning and end are looked at."""
    if len(text) <= 2 * _LOOKED_AT:
        return _rough_count(text)
    sample = text[:_LOOKED_AT] + text[-_LOOKED_AT:]
    return _rough_count(sample) * len(text) // len(sample)


def _rough_count(text: str) -> int:
    tokens = 0
    for piece in _PIECES.findall(text):
        tokens += 1 + len(piece) // 8 if piece.isascii() else (len(piece.encode()) + 2) // 3
    return tokens


class Weight(NamedTuple):
    """Tokens that a provider counted before, and tokens that we guess it will count."""

    known: float = 0.0
    guessed: float = 0.0

    def plus(self, other: Weight) -> Weight:
        return Weight(self.known + other.known, self.guessed + other.guessed)


def guess(item: ModelInput, count: Count) -> float:
    """The tokens of one input, roughly."""
    if isinstance(item, TextInput):
        return _MESSAGE + _content(item, count)
    if isinstance(item, AssistantInput):
        calls = sum(
            _CALL + count(call.tool) + count(msgspec.json.encode(call.parameters).decode()) for call in item.calls
        )
        return _MESSAGE + count(item.content) + calls
    return _MESSAGE + count(item.content) + _IMAGE * len(item.images)


def _content(item: TextInput, count: Count) -> int:
    if isinstance(item.content, str):
        return count(item.content)
    tokens = 0
    for part in item.content:
        if isinstance(part, ImagePart):
            tokens += _IMAGE
        else:
            tokens += count(part.uri if isinstance(part, ResourcePart) else part.text)
    return tokens


class Calibration:
    """How many of a provider's tokens one guessed token is, learnt from its own figures.

    `rate` is how much the latest figure counts (1: it alone); the first one counts whole. A figure that can't be
    true is passed over.
    """

    __slots__ = ("_rate", "learnt", "ratio")

    def __init__(self, rate: float = 1.0, ratio: float = 1.0) -> None:
        self.ratio = ratio
        self.learnt = False
        self._rate = rate

    def observe(self, weight: Weight, tokens: int) -> None:
        """The provider counted `tokens` for what we weighed so."""
        if weight.guessed <= 0:
            return
        ratio = (tokens - weight.known) / weight.guessed
        if not _LEAST <= ratio <= _MOST:
            return
        self.ratio += (ratio - self.ratio) * (self._rate if self.learnt else 1.0)
        self.learnt = True

    def too_low(self) -> None:
        """The provider found too long what we took to fit."""
        self.ratio = min(_MOST, self.ratio * 1.25)
        self.learnt = True

    def tokens(self, weight: Weight) -> float:
        return weight.known + self.ratio * weight.guessed
