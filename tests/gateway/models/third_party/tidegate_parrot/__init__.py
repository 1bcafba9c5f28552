"""A provider that says the same word, `extra.word`, to whatever it hears."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

from gateway.models.port import Finish, ModelClient, ModelPiece, ModelRequest, TextPiece
from gateway.models.settings import ModelSettings, ModelSettingsError

__all__ = ["WORD", "build"]

WORD = "word"


class Parrot:
    max_tokens = 10

    def __init__(self, name: str, word: str, context_window: int) -> None:
        self.name = name
        self.context_window = context_window
        self._word = word

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelPiece, None]:
        yield TextPiece(self._word)
        yield Finish("stop")

    async def close(self) -> None:
        """Nothing is held."""


def build(name: str, spec: ModelSettings, environ: Mapping[str, str]) -> ModelClient:
    if WORD not in spec.extra:
        raise ModelSettingsError(f"models.{name}.extra.word: is missing; expected what to say")
    return Parrot(name, spec.extra[WORD].upper() + environ.get("PARROT", ""), spec.context_window or 4096)
