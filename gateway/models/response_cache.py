"""A model whose answers are kept for the same request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any, Final, Literal

import msgspec
import structlog
from msgspec import Struct

from gateway.models.port import CallReady, Finish, ModelClient, ModelPiece, ModelRequest, TextPiece
from gateway.models.response_key import request_key
from protocol.frames import Usage
from stores.ports import Cache, StoreError

__all__ = ["MAX_ENTRY_BYTES", "CachingModel"]

MAX_ENTRY_BYTES: Final = 256 << 10
"""A longer answer is not kept."""

_PIECE: Final = 256
_PATIENCE: Final = 1.0

_log = structlog.get_logger(__name__)


class _Said(Struct, frozen=True, tag="text", array_like=True):
    text: str
    channel: Literal["text", "reasoning"]


class _Called(Struct, frozen=True, tag="call", array_like=True):
    tool: str
    parameters: dict[str, Any]


_Part = _Said | _Called
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[_Part]).decode


class CachingModel:
    """`inner`, whose whole answers are kept in `cache` for so many `seconds`, for the same principal unless `shared`.
    `fingerprint` stands for the model's settings.

    Kept is what ended with "stop", said or called something, came from the model itself and no fallback, and has no
    call that was not well formed. A kept answer comes in pieces of moderate size, its usage says `cached_responses` 1.
    Of equal requests at the same time each is asked, and the last answer is kept. A cache that is away, slow or holds
    what is no answer is as good as none. A request without an owner is nobody's, and neither looked up nor kept. A
    fresh answer is kept in place of the one before.
    """

    def __init__(self, inner: ModelClient, cache: Cache, seconds: float, shared: bool, fingerprint: str) -> None:
        self._inner = inner
        self._cache = cache
        self._seconds = seconds
        self._shared = shared
        self._fingerprint = fingerprint

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def context_window(self) -> int:
        return self._inner.context_window

    @property
    def max_tokens(self) -> int:
        return self._inner.max_tokens

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelPiece, None]:
        key = self._key(request)
        kept = await self._look_up(key) if key is not None and not request.fresh else None
        if kept is not None:
            for piece in _pieces(kept):
                # Other turns get theirs between the pieces.
                await asyncio.sleep(0)
                yield piece
            yield Finish("stop", Usage(input_tokens=0, output_tokens=0, cached_responses=1))
            return
        answer = _Answer()
        async with aclosing(self._inner.stream(request)) as pieces:
            async for piece in pieces:
                if not isinstance(piece, Finish):
                    answer.add(piece)
                elif key is not None:
                    # Before the end is given on: who has it need not come back.
                    await self._keep(key, answer, piece)
                yield piece

    async def close(self) -> None:
        await self._inner.close()

    def _key(self, request: ModelRequest) -> str | None:
        if self._shared:
            return request_key(self.name, self._fingerprint, None, request)
        return request_key(self.name, self._fingerprint, request.owner, request) if request.owner else None

    async def _look_up(self, key: str) -> list[_Part] | None:
        try:
            async with asyncio.timeout(_PATIENCE):
                value = await self._cache.get(key)
            return _decode(value) if value is not None else None
        except ValueError:  # not JSON, not UTF-8, or of another shape
            self._complain("a kept answer can't be read")
        except (StoreError, TimeoutError):
            self._complain("no kept answer can be looked up")
        return None

    async def _keep(self, key: str, answer: _Answer, finish: Finish) -> None:
        if finish.reason != "stop" or finish.model is not None or not answer.whole:
            return
        value = _encode(answer.parts())
        if len(value) > MAX_ENTRY_BYTES:
            return
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._cache.set(key, value, self._seconds)
        except (StoreError, TimeoutError):
            self._complain("an answer can't be kept")

    def _complain(self, what: str) -> None:
        # Neither the key nor the error's words: both come of what was said.
        _log.warning(what, model=self.name)


class _Answer:
    """What of an answer is to be kept. Of one that is not to be, nothing is held."""

    def __init__(self) -> None:
        self._runs: list[tuple[Literal["text", "reasoning"], list[str]] | _Called] = []
        self._size = 0
        self._fit = True

    @property
    def whole(self) -> bool:
        return self._fit and any(isinstance(run, _Called) or run[0] == "text" for run in self._runs)

    def add(self, piece: TextPiece | CallReady) -> None:
        if not self._fit:
            return
        if isinstance(piece, TextPiece):
            self._size += len(piece.text)
            last = self._runs[-1] if self._runs else None
            if isinstance(last, tuple) and last[0] == piece.channel:
                last[1].append(piece.text)
            else:
                self._runs.append((piece.channel, [piece.text]))
        else:
            self._size += len(_encode(piece.parameters))
            self._runs.append(_Called(piece.tool, piece.parameters))
            self._fit = piece.problem is None
        if self._size > MAX_ENTRY_BYTES:
            self._fit = False
        if not self._fit:
            self._runs.clear()

    def parts(self) -> list[_Part]:
        return [run if isinstance(run, _Called) else _Said("".join(run[1]), run[0]) for run in self._runs]


def _pieces(parts: list[_Part]) -> Iterator[TextPiece | CallReady]:
    for part in parts:
        if isinstance(part, _Called):
            yield CallReady(part.tool, part.parameters)
        else:
            for start in range(0, len(part.text), _PIECE):
                yield TextPiece(part.text[start : start + _PIECE], part.channel)
