"""Which of several stores has what, and how all of them are asked."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

import structlog

from stores.ports import Unavailable
from stores.store_url import StoreUrlError, without_secrets

__all__ = ["Shards", "shard_urls"]

_S = TypeVar("_S")
_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


def shard_urls(urls: Sequence[str]) -> dict[str, str]:
    """Of each URL the name of its shard, and the URL to open.

    A shard's name is what follows `#` in its URL, else the URL itself without user, password and options: so neither
    the order of the URLs nor a new password moves anything. Whoever moves a database to another host keeps its name by
    writing that behind `#`. A single URL is left as it is. Raises StoreUrlError where two have the same name.
    """
    if len(urls) == 1:
        return {urls[0]: urls[0]}
    named: dict[str, str] = {}
    for number, url in enumerate(urls, start=1):
        bare, _, given = url.partition("#")
        try:
            name = given or without_secrets(bare)
        except ValueError as error:
            raise StoreUrlError(f"store.url: the one at place {number} is no URL") from error
        if name in named:
            raise StoreUrlError(f"store.url: the one at place {number} names the same store as one before")
        named[name] = bare
    return named


class Shards(Generic[_S]):
    """Stores by their names. Everything that is looked for is named by texts, and is on the store that scores the
    highest with them (rendezvous hashing): another store, wherever it stands in the order, takes an even part of every
    store's names and moves nothing else."""

    def __init__(self, stores: Mapping[str, _S]) -> None:
        """Raises ValueError where there are none."""
        if not stores:
            raise ValueError("expected one store at least")
        self._stores = list(stores.values())
        self._hashes = [hashlib.blake2b(name.encode(), digest_size=16) for name in stores]
        self._away: set[int] = set()

    def __len__(self) -> int:
        return len(self._stores)

    def place(self, *name: str | bytes) -> int:
        """Where what has this name belongs: a position in the mapping's order."""
        parts = [part.encode() if isinstance(part, str) else part for part in name]
        # With their lengths, so that ("a", "bc") and ("ab", "c") are two names.
        text = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        scores: list[bytes] = []
        for hash in self._hashes:
            score = hash.copy()
            score.update(b"\0" + text)
            scores.append(score.digest())
        return scores.index(max(scores))

    def of(self, *name: str | bytes) -> _S:
        return self._stores[self.place(*name)]

    async def all(self, ask: Callable[[_S], Awaitable[_T]]) -> list[_T]:
        """What every store answers. Where one of them fails, the others have been asked all the same; then raises what
        the first that failed raised."""
        answers, failed = await self.settled(ask)
        if failed:
            raise failed[min(failed)]
        return answers

    async def those_there(self, ask: Callable[[_S], Awaitable[_T]]) -> list[_T]:
        """What the stores answer that are not Unavailable. That one is, or is not any more, is logged once. Raises
        Unavailable where all of them are."""
        answers, failed = await self.settled(ask)
        for number, error in failed.items():
            if number not in self._away:
                _log.warning("shard away", shard=number, shards=len(self), error=type(error).__name__)
        for number in self._away - failed.keys():
            _log.info("shard back", shard=number, shards=len(self))
        self._away = set(failed)
        if len(failed) == len(self):
            raise failed[min(failed)]
        return answers

    async def settled(self, ask: Callable[[_S], Awaitable[_T]]) -> tuple[list[_T], dict[int, Unavailable]]:
        """What those answer that are there, and by their numbers, from 1 on, what the others raised."""
        outcomes = await asyncio.gather(*(ask(store) for store in self._stores), return_exceptions=True)
        answers: list[_T] = []
        failed: dict[int, Unavailable] = {}
        for number, outcome in enumerate(outcomes, start=1):
            if isinstance(outcome, Unavailable):
                failed[number] = outcome
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                answers.append(outcome)
        return answers, failed
