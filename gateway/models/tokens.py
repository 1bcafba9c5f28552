"""Exact tokenizers, for models whose vocabulary is known and lies in a package; needs the extra `tokens`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, Final

from gateway.models.answer_parts import scalar

__all__ = ["token_counter"]

# The model alone, dated or in a size ("gpt-4o-2024-11-20", "gpt-4.1-mini"), and one that was tuned ("ft:gpt-4o:…").
_ENCODINGS: Final = tuple(
    (re.compile(rf"(?:ft:)?(?:{models})(?:[-:@].*)?", re.DOTALL), encoding)
    for models, encoding in (
        (r"gpt-4o|chatgpt-4o|gpt-4\.1|gpt-4\.5|gpt-5(?:\.\d+)?|o[134]", "o200k_base"),
        (r"gpt-4|gpt-3\.5|gpt-35", "cl100k_base"),
    )
)
# What no word, number or run of spaces is longer than in any text that people write. The tokenizer's time grows with
# the length of one, and it holds the interpreter's lock meanwhile.
_LONGEST: Final = 65_536


def token_counter(provider: str, model: str | None) -> Callable[[str], int] | None:
    """What counts a text's tokens as this model's provider does, at some 10 MB a second; None for a model that is not
    known, and without the extra."""
    encoding = _encoding(model) if provider == "openai" and model is not None else None
    return _counter(encoding) if encoding is not None else None


def _encoding(model: str) -> str | None:
    return next((encoding for names, encoding in _ENCODINGS if names.fullmatch(model)), None)


@cache
def _counter(encoding: str) -> Callable[[str], int] | None:
    """Reading a vocabulary takes half a second."""
    try:
        quicktok: Any = import_module("quicktok")
    except ModuleNotFoundError:
        return None
    encode: Any = quicktok.get_encoding(encoding)

    def count(text: str) -> int:
        return sum(int(encode.count(scalar(text[at : at + _LONGEST]))) for at in range(0, len(text), _LONGEST))

    return count
