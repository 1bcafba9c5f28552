"""Reads resources for principals: who may, from which provider, how large, and what was read before."""

from __future__ import annotations

import asyncio
import heapq
import time
from bisect import bisect_right
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Final, Protocol, TypeVar

import structlog
from msgspec import Struct

from gateway.auth.principal import Principal
from gateway.resources.cache import ContentCache, Kept, Key
from gateway.resources.flights import Flights
from gateway.resources.port import (
    Change,
    NotFound,
    ResourceContent,
    ResourceInfo,
    ResourceProvider,
    TemplateInfo,
    TooLarge,
    Unavailable,
    Unchanged,
)
from gateway.resources.uri_templates import InvalidTemplate, UriTemplate
from gateway.resources.uris import InvalidUri, canonical, loose

__all__ = ["Listing", "MayRead", "ReaderLimits", "ResourceReader"]

_T = TypeVar("_T")

_log = structlog.stdlib.get_logger(__name__)
# How long a provider's list is shown without asking for it again, and how many readings it does at a time.
_LIST_SECONDS: Final = 2.0
_AT_A_TIME: Final = 16


class MayRead(Protocol):
    """Whether the principal has the permission `subject` (`resource:<uri>`), and `restriction` besides."""

    def __call__(self, principal: Principal, subject: str, restriction: str | None, /) -> bool: ...


class ReaderLimits(Struct, frozen=True, kw_only=True):
    """`seconds` are those of one reading, its wait for a place included, and of each provider's list."""

    max_bytes: int = 262_144
    cache_bytes: int = 33_554_432
    seconds: float = 20.0


class Listing(Struct, frozen=True, kw_only=True):
    """A page of resources by their URIs; `next` is what the following one comes after."""

    resources: list[ResourceInfo]
    next: str | None = None


class _Found(Struct, frozen=True):
    """What a reading gave, and whose it was."""

    content: ResourceContent
    owner: str


class ResourceReader:
    """All resources of a gateway. Of providers that cover the same URI the first one counts.

    What a principal may not read does not exist for it: it is in no list, and reading it is NotFound. Readers of one
    resource that come together share one reading, and later ones what it gave, as long as that is fresh; but what is
    private is of one principal only, in both.
    """

    def __init__(
        self,
        providers: Sequence[ResourceProvider],
        may_read: MayRead,
        limits: ReaderLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._providers = tuple(providers)
        self._may = may_read
        self._limits = limits or ReaderLimits()
        self._clock = clock
        self._cache = ContentCache(self._limits.cache_bytes)
        self._readings: Flights[Key, _Found] = Flights()
        self._listings: Flights[tuple[str, str | None], Sequence[ResourceInfo]] = Flights()
        self._lists: dict[str, tuple[Sequence[ResourceInfo], float]] = {}
        self._places = {provider.name: asyncio.Semaphore(_AT_A_TIME) for provider in self._providers}
        # How many changes of each provider were told: a reading that began before the last one is not kept.
        self._changes = {provider.name: 0 for provider in self._providers}
        for provider in self._providers:
            provider.on_change(self._listener(provider.name))

    @property
    def configured(self) -> bool:
        """Whether there is any provider."""
        return bool(self._providers)

    async def list(self, principal: Principal, after: str | None = None, limit: int = 100) -> Listing:
        """What the principal may read of what can be listed, in the order of the URIs, after the URI `after`. A
        provider that fails is left out."""
        listed = await asyncio.gather(*(self._listed(provider, principal) for provider in self._providers))
        page: list[ResourceInfo] = []
        rows = [_after(infos, after, place) for place, infos in enumerate(listed)]
        for info, place in heapq.merge(*rows, key=lambda row: (row[0].uri, row[1])):
            if (page and page[-1].uri == info.uri) or not self._allowed(principal, self._providers[place], info.uri):
                continue
            if len(page) == limit:
                return Listing(resources=page, next=page[-1].uri)
            page.append(info)
        return Listing(resources=page)

    async def templates(self, principal: Principal) -> list[TemplateInfo]:
        """Those of which the principal may read an expansion with values that nothing is known of. A provider that
        fails is left out."""

        async def of(provider: ResourceProvider) -> Sequence[TemplateInfo]:
            return await self._or_nothing(provider, provider.templates(principal))

        found = await asyncio.gather(*(of(provider) for provider in self._providers))
        return [
            template
            for provider, templates in zip(self._providers, found, strict=True)
            for template in templates
            if self._shows(principal, provider, template)
        ]

    async def may_read(self, principal: Principal, uri: str) -> bool:
        """Whether `read` would ask a provider for it; nothing is read. Raises Unavailable."""
        try:
            return await self._provider(principal, canonical(uri)) is not None
        except InvalidUri:
            return False

    async def read(self, principal: Principal, uri: str) -> ResourceContent:
        """The resource, under its canonical URI. Raises the errors of gateway/resources/port.py."""
        try:
            wanted = canonical(uri)
        except InvalidUri as error:
            raise NotFound(f"There is no such resource: {error}.") from error
        async with _within(self._limits.seconds):
            provider = await self._provider(principal, wanted)
            if provider is None:
                raise NotFound("There is no such resource.")
            content = await self._read(provider, principal, wanted)
        if not all(self._allowed(principal, provider, passed) for passed in content.via):
            raise NotFound("There is no such resource.")
        return content

    async def run(self) -> None:
        """Until it is cancelled; then what is being read is ended, and the providers are closed."""
        try:
            await asyncio.Event().wait()
        finally:
            await self._readings.close()
            await self._listings.close()
            for provider in self._providers:
                await provider.close()

    # ---- who may

    async def _provider(self, principal: Principal, uri: str) -> ResourceProvider | None:
        for provider in self._providers:
            # Whoever may not read it does not make a provider look for it.
            if self._allowed(principal, provider, uri) and await provider.covers(principal, uri):
                return provider
        return None

    def _allowed(self, principal: Principal, provider: ResourceProvider, uri: str) -> bool:
        spellings = {uri, loose(uri)}
        return all(self._may(principal, f"resource:{spelling}", provider.permission) for spelling in spellings)

    def _shows(self, principal: Principal, provider: ResourceProvider, template: TemplateInfo) -> bool:
        try:
            parsed = UriTemplate(template.uri_template)
            uri = canonical(parsed.expand(dict.fromkeys(parsed.names, "x")))
        except (InvalidTemplate, InvalidUri):
            return False
        return self._allowed(principal, provider, uri)

    # ---- readings

    async def _read(self, provider: ResourceProvider, principal: Principal, uri: str) -> ResourceContent:
        own = Key(provider.name, principal.owner, uri)
        everyones = Key(provider.name, None, uri)
        for key in (own, everyones):
            kept = self._cache.get(key)
            if kept is not None and self._clock() < kept.fresh_until:
                return kept.content
        if not provider.private(uri):
            found = await self._readings.join(everyones, lambda: self._fetch(provider, principal, uri))
            if not found.content.private or found.owner == principal.owner:
                return found.content
            # It turned out to be another's alone.
        return (await self._readings.join(own, lambda: self._fetch(provider, principal, uri))).content

    async def _fetch(self, provider: ResourceProvider, principal: Principal, uri: str) -> _Found:
        owner, name = principal.owner, provider.name
        own, everyones = Key(name, owner, uri), Key(name, None, uri)
        most = self._limits.max_bytes
        async with _within(self._limits.seconds), self._places[name]:
            before = self._changes[name]
            kept = self._cache.get(own) or self._cache.get(everyones)
            etag = kept.content.etag if kept is not None else None
            answer = await provider.read(principal, uri, etag=etag, max_bytes=most)
        if isinstance(answer, Unchanged):
            if kept is None:
                raise Unavailable(f"{name} answered what it was not asked.")
            content, ttl = kept.content, answer.ttl
        else:
            content, ttl = answer, answer.ttl
        if len(content.data) > most:
            raise TooLarge(f"The resource has {len(content.data)} bytes; {most} are allowed.")
        mine = content.private or provider.private(uri)
        self._cache.drop(own)
        self._cache.drop(everyones)
        if before == self._changes[name] and (ttl > 0 or content.etag is not None):
            self._cache.put(own if mine else everyones, Kept(content, self._clock() + ttl))
        return _Found(content, owner)

    def _listener(self, name: str) -> Callable[[Change], None]:
        def changed(change: Change) -> None:
            self._changes[name] += 1
            self._cache.forget(name, change)
            self._readings.part(lambda key: key.provider == name)
            self._listings.part(lambda key: key[0] == name)
            self._lists.pop(name, None)

        return changed

    # ---- lists

    async def _listed(self, provider: ResourceProvider, principal: Principal) -> Sequence[ResourceInfo]:
        """In the order of the URIs. Lists of one principal's own are not kept: whoever has them keeps them."""
        owner = principal.owner if provider.private(None) else None
        kept = self._lists.get(provider.name)
        if owner is None and kept is not None and self._clock() < kept[1]:
            return kept[0]
        return await self._listings.join((provider.name, owner), lambda: self._list(provider, principal, owner))

    async def _list(
        self, provider: ResourceProvider, principal: Principal, owner: str | None
    ) -> Sequence[ResourceInfo]:
        before = self._changes[provider.name]
        found = sorted(await self._or_nothing(provider, provider.list(principal)), key=lambda info: info.uri)
        if owner is None and before == self._changes[provider.name]:
            self._lists[provider.name] = found, self._clock() + _LIST_SECONDS
        return found

    async def _or_nothing(self, provider: ResourceProvider, asked: Awaitable[Sequence[_T]]) -> Sequence[_T]:
        try:
            async with _within(self._limits.seconds):
                return await asked
        except Unavailable as error:
            _log.warning("a provider's resources are left out", provider=provider.name, reason=str(error))
        except Exception:  # noqa: BLE001 - the boundary to a provider: its bug costs its own resources only
            _log.exception("a provider's resources are left out", provider=provider.name)
        return ()


def _after(infos: Sequence[ResourceInfo], uri: str | None, place: int) -> Iterator[tuple[ResourceInfo, int]]:
    begin = 0 if uri is None else bisect_right(infos, uri, key=lambda info: info.uri)
    return ((info, place) for info in islice(infos, begin, None))


@asynccontextmanager
async def _within(seconds: float) -> AsyncGenerator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise Unavailable(f"The resource did not come within {seconds:g} s.") from error
