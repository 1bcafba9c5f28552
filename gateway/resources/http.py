"""What HTTP servers have, as resources: URLs of an allow-list, and never an address of one's own network."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import urljoin, urlsplit

import httpx
from msgspec import Struct
from msgspec.structs import replace

from gateway.auth.principal import Principal
from gateway.resources.addresses import Resolve, look_up, resolved
from gateway.resources.allow_list import AllowList
from gateway.resources.http_caching import conditions, keeping
from gateway.resources.mime import BINARY, content_of, declared_type
from gateway.resources.port import (
    Change,
    NotFound,
    Refused,
    ResourceContent,
    ResourceInfo,
    TemplateInfo,
    TooLarge,
    Unavailable,
    Unchanged,
)
from gateway.resources.uris import canonical

__all__ = ["HttpResources"]

_MAX_REDIRECTS: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_GONE: Final = frozenset({404, 410})
_PORTS: Final = {"http": 80, "https": 443}
_ASTRAY: Final = "The resource leads to an address that is not allowed."


class _Answer(Struct, frozen=True, kw_only=True):
    status: int
    headers: dict[str, str]
    data: bytes = b""


class HttpResources:
    """The URLs that `allow` allows (gateway/resources/allow_list.py). Only GET is sent, with
    `headers`, over a connection to an address that was looked up and found public (or with `allow_private` any) before
    it was opened; TLS still asks for the host's name. Proxies of the environment are not used: they would look up the
    name again. A redirect is a new reading, with all checks.

    `listed` are URLs that a list names. Where the server does not say how long its answer is good, it is `ttl` seconds.
    """

    def __init__(
        self,
        name: str,
        allow: Sequence[str],
        *,
        listed: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        private: bool = False,
        allow_private: bool = False,
        ttl: float = 0.0,
        timeout: float = 10.0,
        permission: str | None = None,
        resolve: Resolve = look_up,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Raises InvalidUri for an URL that is none."""
        self.name = name
        self.permission = permission
        self._allow = AllowList(allow)
        self._listed = tuple(canonical(url) for url in listed)
        self._headers = dict(headers or {})
        self._private = private
        self._allow_private = allow_private
        self._ttl = ttl
        self._timeout = httpx.Timeout(timeout)
        self._resolve = resolve
        self._tls = tls or httpx.create_ssl_context()

    def private(self, uri: str | None) -> bool:
        return self._private

    async def list(self, principal: Principal) -> list[ResourceInfo]:
        return [ResourceInfo(uri=uri, name=uri.rstrip("/").rpartition("/")[2] or uri) for uri in self._listed]

    async def templates(self, principal: Principal) -> list[TemplateInfo]:
        templates = [f"{prefix.rstrip('/')}/{{+path}}" for prefix in self._allow.prefixes]
        return [TemplateInfo(uri_template=text, name=self.name, description="A page by its URL") for text in templates]

    async def covers(self, principal: Principal, uri: str) -> bool:
        return self._allow.allows(uri)

    async def read(
        self, principal: Principal, uri: str, *, etag: str | None, max_bytes: int
    ) -> ResourceContent | Unchanged:
        url, passed = uri, list[str]()
        while True:
            if not self._allow.allows(url):
                raise NotFound("There is no such resource.") if url == uri else Refused(_ASTRAY)
            # Of a redirect's end nothing is known: who it belongs to must say it anew.
            answer = await self._get(url, {} if passed else conditions(etag), max_bytes)
            if answer.status not in _REDIRECTS:
                break
            url = _target(url, answer.headers.get("location"))
            if len(passed) == _MAX_REDIRECTS or url in (uri, *passed):
                raise Refused("The resource leads from one address to the next without end.")
            passed.append(url)
        return self._content(uri, tuple(passed), answer)

    def on_change(self, listener: Callable[[Change], None]) -> None:
        """Nothing tells of changes."""

    async def close(self) -> None: ...

    def _content(self, uri: str, passed: tuple[str, ...], answer: _Answer) -> ResourceContent | Unchanged:
        kept = keeping(answer.headers, self._ttl)
        if answer.status == 304 and not passed:
            return Unchanged(ttl=kept.ttl)
        if answer.status in _GONE:
            raise NotFound("There is no such resource.")
        if answer.status in (401, 403):
            raise Refused(f"The server of the resource refused it ({answer.status}).")
        if answer.status != 200:
            raise Unavailable(f"The server of the resource answered {answer.status}.")
        mime_type, charset = declared_type(answer.headers.get("content-type", BINARY))
        content = content_of(
            uri,
            answer.data,
            None if mime_type == BINARY else mime_type,
            charset=charset,
            etag=None if passed else kept.etag,
            ttl=kept.ttl,
            private=kept.private or self._private,
        )
        return replace(content, via=passed)

    async def _get(self, url: str, headers: Mapping[str, str], max_bytes: int) -> _Answer:
        """Raises Refused, TooLarge, Unavailable."""
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        addresses = await resolved(host, port, self._resolve, private=self._allow_private)
        failure: Exception | None = None
        for address in addresses:
            try:
                return await self._get_from(address, url, headers, max_bytes)
            except httpx.ConnectError as error:
                failure = error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                failure = error
                break
        raise Unavailable("The server of the resource did not answer.") from failure

    async def _get_from(self, address: str, url: str, headers: Mapping[str, str], max_bytes: int) -> _Answer:
        parts = urlsplit(url)
        pinned = httpx.URL(url).copy_with(host=address)
        request = httpx.Request(
            "GET",
            pinned,
            headers={
                **self._headers,
                **headers,
                "host": parts.netloc,
                # What is packed could unpack to any size.
                "accept-encoding": "identity",
                "accept": "*/*",
                "connection": "close",
                "user-agent": "tidegate",
            },
            extensions={"timeout": self._timeout.as_dict(), "sni_hostname": parts.hostname},
        )
        # One transport a request: a connection that is kept would be found by its address, whatever host it is for.
        async with httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False) as transport:
            response = await transport.handle_async_request(request)
            try:
                said = {name.lower(): value for name, value in response.headers.items()}
                if response.status_code != 200:
                    return _Answer(status=response.status_code, headers=said)
                if said.get("content-encoding", "identity") != "identity":
                    raise Refused("The server of the resource sent it packed.")
                data = bytearray()
                async for chunk in response.aiter_raw():
                    data += chunk
                    if len(data) > max_bytes:
                        raise TooLarge(f"The resource has more than the {max_bytes} bytes that are allowed.")
                return _Answer(status=200, headers=said, data=bytes(data))
            finally:
                await response.aclose()


def _target(url: str, location: str | None) -> str:
    """Raises Refused where a redirect leads nowhere that could be read."""
    try:
        return canonical(urljoin(url, location or ""))
    except ValueError as error:
        raise Refused(_ASTRAY) from error
