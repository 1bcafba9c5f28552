"""What the chat asks the gateway over HTTP (docs/protocol.md, section 6)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

import httpx
import msgspec

from gateway.client_errors import Refused
from protocol.errors import ErrorCode

__all__ = ["Api", "ContextLine", "Target", "ToolLine", "Unreachable", "local_token", "target_of"]

_SECONDS: Final = 10.0
_SHOWN: Final = 30
_T = TypeVar("_T")


class Unreachable(Exception):
    """The gateway did not answer, or not as a gateway does; the message is for the user."""


class Target(msgspec.Struct, frozen=True):
    """Where a gateway is: `url` without a ticket, and the ticket that stood in it."""

    url: str
    ticket: str | None


class ContextLine(msgspec.Struct, frozen=True):
    id: str
    updated_at: str
    title: str | None = None


class ToolLine(msgspec.Struct, frozen=True):
    name: str
    description: str = ""
    runs_on: str = "server"
    approval: str = "never"


class _Contexts(msgspec.Struct):
    contexts: list[ContextLine]


class _Tools(msgspec.Struct):
    tools: list[ToolLine]


class _Reason(msgspec.Struct):
    code: ErrorCode
    message: str


class _Failure(msgspec.Struct):
    error: _Reason


class _Facts(msgspec.Struct):
    """What the gateway's own page is told; `token` where the ticket was good."""

    local: bool = False
    token: str | None = None


def target_of(url: str) -> Target:
    """The gateway of a URL as `tidegate serve` prints it, or of its socket. Raises ValueError."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    if scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no URL of a gateway, such as http://127.0.0.1:8000")
    _ = parts.port  # raises ValueError where it is none
    path = parts.path.removesuffix("/v1/ws").rstrip("/")
    tickets = parse_qs(parts.query).get("ticket", [])
    return Target(urlunsplit((scheme, parts.netloc, path, "", "")), tickets[0] if tickets else None)


async def local_token(target: Target) -> str:
    """The secret that the gateway's page gets for the ticket that `tidegate serve` printed: good until the gateway
    ends, where the ticket itself is good once. Raises Refused `unauthenticated`, Unreachable."""
    async with httpx.AsyncClient(timeout=_SECONDS) as client:
        try:
            reply = await client.get(f"{target.url}/", params={"ticket": target.ticket or ""})
        except httpx.HTTPError as error:
            raise _unreachable(target.url, error) from error
    reader = _FactsReader()
    reader.feed(reply.text)
    try:
        facts = msgspec.json.decode(reader.text, type=_Facts)
    except msgspec.DecodeError as error:
        raise Unreachable(f"at {target.url} there is no page of a gateway") from error
    if not facts.local:
        raise Refused("unauthenticated", "this gateway's tickets are for the sockets of browsers")
    if facts.token is None:
        raise Refused("unauthenticated", "the ticket was used before, or is too old")
    return facts.token


class Api:
    """The gateway's lists, as the user of the token."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self._client = client
        self._url = url

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, token: str | None) -> AsyncGenerator[Api]:
        headers = {"authorization": f"Bearer {token}"} if token is not None else {}
        async with httpx.AsyncClient(headers=headers, timeout=_SECONDS) as client:
            yield cls(client, url)

    async def contexts(self) -> list[ContextLine]:
        """The newest of them. This and all that follow raise Refused, Unreachable."""
        return (await self._call("GET", f"/v1/contexts?limit={_SHOWN}", _Contexts)).contexts

    async def tools(self) -> list[ToolLine]:
        return (await self._call("GET", "/v1/tools", _Tools)).tools

    async def context(self, context_id: str) -> ContextLine:
        return await self._call("GET", f"/v1/contexts/{quote(context_id, safe='')}", ContextLine)

    async def rename(self, context_id: str, title: str) -> None:
        await self._call("PATCH", f"/v1/contexts/{quote(context_id, safe='')}", ContextLine, {"title": title})

    async def _call(self, method: str, path: str, answer: type[_T], body: dict[str, Any] | None = None) -> _T:
        try:
            reply = await self._client.request(method, self._url + path, json=body)
        except httpx.HTTPError as error:
            raise _unreachable(self._url, error) from error
        try:
            if reply.is_success:
                return msgspec.json.decode(reply.content, type=answer)
            failure = msgspec.json.decode(reply.content, type=_Failure).error
        except msgspec.DecodeError as error:
            raise Unreachable(f"the gateway answered {reply.status_code} to {method} {path}") from error
        raise Refused(failure.code, failure.message)


class _FactsReader(HTMLParser):
    """Finds the element `facts` of the gateway's page."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script" and ("id", "facts") in attrs

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.text += data


def _unreachable(url: str, error: Exception) -> Unreachable:
    return Unreachable(f"no gateway answers at {url}: {str(error) or type(error).__name__}")
