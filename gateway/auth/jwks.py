"""The public keys of an identity provider, fetched from its `jwks_url` (RFC 7517)."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import jwt
import msgspec
import structlog

from gateway.auth.jwt_keys import ASYMMETRIC, JwtConfigError, PublicKey, algorithms_of
from protocol.errors import ProtocolError

__all__ = ["Jwks"]

REFRESH_AFTER: Final = 300.0
TRUST_FOR: Final = 3_600.0
RETRY_AFTER: Final = 10.0
FETCH_SECONDS: Final = 10.0
MAX_BYTES: Final = 1_048_576
MAX_KEYS: Final = 100

_log = structlog.stdlib.get_logger(__name__)


class _Key(msgspec.Struct, frozen=True):
    kid: str | None
    algorithms: tuple[str, ...]
    public: PublicKey


class Jwks:
    """Keys by id. They are fetched at first use, again after five minutes and for an unknown id, but never within ten
    seconds of the last try, so that forged ids can't make the gateway a flood. While the provider is away its keys are
    trusted for an hour; after that, and before the first answer, every token is refused as `unavailable`."""

    def __init__(
        self,
        url: str,
        *,
        client: httpx.AsyncClient | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises JwtConfigError for a URL that is neither https nor of this machine."""
        _check_url(url)
        self._url = url
        self._client = client or httpx.AsyncClient(timeout=5.0)
        self._clock = clock
        self._loading: asyncio.Task[None] | None = None
        self._keys: list[_Key] = []
        self._loaded_at: float | None = None
        self._tried_at: float | None = None

    async def key(self, kid: str | None, algorithm: str) -> PublicKey | None:
        """The key that verifies `algorithm` under this id; without an id the only key that could. None where there is
        none. Raises ProtocolError `unavailable` while no trusted keys are at hand."""
        found = self._find(kid, algorithm)
        if self._age() >= TRUST_FOR or found is None:
            loading = self._start()
            if loading is not None:
                # Shielded, so that clients which go away can't keep the others from the keys.
                await asyncio.shield(loading)
            found = self._find(kid, algorithm)
        elif self._age() >= REFRESH_AFTER:
            self._start()
        if self._age() >= TRUST_FOR:
            raise ProtocolError("unavailable", "credentials can't be checked now", retry_after=RETRY_AFTER)
        return found

    async def close(self) -> None:
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait({self._loading})
        await self._client.aclose()

    def _age(self) -> float:
        return math.inf if self._loaded_at is None else self._clock() - self._loaded_at

    def _find(self, kid: str | None, algorithm: str) -> PublicKey | None:
        able = [key for key in self._keys if algorithm in key.algorithms and kid in (None, key.kid)]
        return able[0].public if len(able) == 1 else None

    def _start(self) -> asyncio.Task[None] | None:
        """The load that is under way, or a new one; None within ten seconds of the last."""
        if self._loading is None or self._loading.done():
            now = self._clock()
            if self._tried_at is not None and now - self._tried_at < RETRY_AFTER:
                return None
            self._tried_at = now
            self._loading = asyncio.create_task(self._load(), name="jwks")
        return self._loading

    async def _load(self) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                self._keys = _parse(await self._fetch())
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError, RecursionError) as error:
            _log.warning("jwks_fetch_failed", url=self._url, error=type(error).__name__)
        else:
            self._loaded_at = self._clock()

    async def _fetch(self) -> bytes:
        async with self._client.stream("GET", self._url, headers={"Accept": "application/json"}) as response:
            response.raise_for_status()
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ValueError("the key set is too large")
            return bytes(body)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError as error:
        raise JwtConfigError("auth.jwt.jwks_url: expected an https URL") from error
    if parts.scheme == "https" and host:
        return
    if parts.scheme != "http" or not (host == "localhost" or _is_loopback(host)):
        raise JwtConfigError("auth.jwt.jwks_url: expected an https URL (http only for this machine)")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parse(body: bytes) -> list[_Key]:
    """The usable keys of a key set; those of other kinds and uses are passed over (RFC 7517, section 5)."""
    document = msgspec.json.decode(body, type=dict[str, Any])
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise ValueError("a key set has a list of keys")
    keys = [_parse_key(entry) for entry in msgspec.convert(entries, list[Any])[:MAX_KEYS]]
    return [key for key in keys if key is not None]


def _parse_key(entry: Any) -> _Key | None:
    try:
        jwk = msgspec.convert(entry, Mapping[str, Any])
        # A symmetric key ("oct") has no business in a public document.
        if jwk.get("use", "sig") != "sig" or jwk.get("kty") not in ("RSA", "EC", "OKP"):
            return None
        if jwk.get("alg", ASYMMETRIC[0]) not in ASYMMETRIC:
            return None
        public: Any = jwt.PyJWK(dict(jwk)).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    able = algorithms_of(public)
    if "alg" in jwk:
        able = tuple(algorithm for algorithm in able if algorithm == jwk["alg"])
    kid = jwk.get("kid")
    if not able or not (kid is None or isinstance(kid, str)):
        return None
    return _Key(kid, able, public)
