"""A model that needs no provider: deterministic, and says that it is a demo."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from itertools import chain

from gateway.models.demo_script import MAX_WORDS, script
from gateway.models.port import (
    AssistantInput,
    CallReady,
    Finish,
    ModelInput,
    ModelPiece,
    ModelRequest,
    TextInput,
    TextPiece,
)
from protocol.content import words_of
from protocol.frames import Usage

__all__ = ["DemoModel"]

_WORD = re.compile(r"\s{0,1024}\S{1,1024}\s{0,1024}|\s{1,1024}")


class DemoModel:
    """Echoes what it hears and calls tools on command (design, "Command line and settings").

    `delay` is in seconds a word: word n is due n delays after the start of the step, however long the words before it
    took. A token is a word here, in `context_window`, in `max_tokens` and in the usage. `clock` (seconds) and `sleep`
    default to the event loop's.
    """

    def __init__(
        self,
        name: str = "demo",
        delay: float = 0.02,
        context_window: int = 1_200_000,
        max_tokens: int = MAX_WORDS,
        *,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._name = name
        self._delay = delay
        self._context_window = context_window
        self._max_tokens = max_tokens
        self._clock = clock
        self._sleep = sleep

    @property
    def name(self) -> str:
        return self._name

    @property
    def context_window(self) -> int:
        return self._context_window

    @property
    def max_tokens(self) -> int:
        return self._max_tokens

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelPiece, None]:
        clock = self._clock or asyncio.get_running_loop().time
        start = clock()
        said = 0
        for piece in chain.from_iterable(_pieces(run) for run in script(request)):
            if isinstance(piece, CallReady):
                yield piece
                continue
            if said == self._max_tokens:
                yield Finish("length", _usage(request, said))
                return
            said += 1
            # The loop gets its turn even where the word is late or there is no delay.
            await self._sleep(max(0.0, start + said * self._delay - clock()))
            yield piece
        yield Finish("stop", _usage(request, said))

    async def close(self) -> None:
        """Nothing is held."""


def _pieces(run: str | CallReady) -> Iterator[TextPiece | CallReady]:
    """A text run word by word, so that the concatenation is exact; a call as it is."""
    if isinstance(run, CallReady):
        yield run
    else:
        for word in _WORD.finditer(run):
            yield TextPiece(word[0])


def _usage(request: ModelRequest, said: int) -> Usage:
    return Usage(input_tokens=sum(_words(item) for item in request.inputs), output_tokens=said)


def _words(item: ModelInput) -> int:
    if isinstance(item, TextInput):
        return len(words_of(item.content).split())
    if isinstance(item, AssistantInput):
        return len(item.content.split()) + len(item.calls)
    return len(item.content.split())
