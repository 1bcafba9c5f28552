"""What the gateway asks of authorization servers: bounded requests that follow no redirects, and what failures mean."""

from __future__ import annotations

import asyncio
from typing import Final
from urllib.parse import urlsplit

import httpx2

from gateway.mcp.oauth_settings import is_loopback
from gateway.mcp.settings import shown_url
from gateway.mcp.transports import ServerAway

__all__ = ["NeedsAuthorization", "NotNow", "ProviderRefused", "Wire", "acceptable"]

_SECONDS: Final = 10.0
_MAX_BYTES: Final = 256 * 1024


class NeedsAuthorization(ServerAway):
    """The user must authorize the gateway (again); the words say how."""


class NotNow(ServerAway):
    """What is asked for can't be had at the moment; trying again may help."""


class ProviderRefused(ServerAway):
    """An authorization server refuses for good, or says what can't be accepted. `code` is its `error`, if any."""

    def __init__(self, words: str, code: str | None = None) -> None:
        super().__init__(words)
        self.code = code


def acceptable(url: str, near: str) -> bool:
    """Whether the gateway asks `url`, which somebody else named, for the server at `near`: over TLS, or on this machine
    where the server is on it too."""
    parts = urlsplit(url)
    if parts.username is not None or not parts.hostname:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(url) and is_loopback(near))


class Wire:
    """Requests that have `seconds` to be answered in full, with 256 KiB at most."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._client = httpx2.AsyncClient(follow_redirects=False, timeout=seconds)

    async def send(self, request: httpx2.Request, *, most: int = _MAX_BYTES) -> httpx2.Response:
        """The answer, read. Raises NotNow where there is none."""
        where = shown_url(str(request.url))
        try:
            async with asyncio.timeout(self._seconds):
                response = await self._client.send(request, stream=True)
                try:
                    content = await self._read(response, most)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise NotNow(f"{where} did not answer within {self._seconds:g} seconds") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            raise NotNow(f"{where} can't be reached ({type(error).__name__})") from error
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _BODILY]
        return httpx2.Response(response.status_code, headers=headers, content=content, request=request)

    async def challenge(self, url: str) -> httpx2.Response:
        """What a server answers to somebody whom it does not know: the head alone, as the body may never end."""
        headers = {"accept": "application/json, text/event-stream"}
        answer = await self.send(httpx2.Request("GET", url, headers=headers), most=0)
        if answer.status_code in (401, 403):
            return answer
        # Some look at who asks only where there is a message, such as the first that matters.
        return await self.send(httpx2.Request("POST", url, headers=headers, json=_LISTING), most=0)

    async def close(self) -> None:
        await self._client.aclose()

    async def _read(self, response: httpx2.Response, most: int) -> bytes:
        data = bytearray()
        if most:
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > most:
                    raise httpx2.StreamError("the answer is too long")
        return bytes(data)


_LISTING: Final = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
# They are about the body as it came.
_BODILY: Final = ("content-encoding", "content-length", "transfer-encoding")
