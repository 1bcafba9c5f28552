"""API keys: `tg_<id>_<secret>`. The store keeps the SHA-256 of the whole key and nothing else of its secret.

A plain hash is enough, because the secret is 256 random bits: there is nothing to guess that a slow hash would slow.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from gateway.auth.principal import DEFAULT_TENANT, Principal
from protocol.ids import new_id
from stores.ports import KeyStore
from stores.records import KeyRecord

__all__ = ["KEY_PREFIX", "ApiKeys", "create_key"]

KEY_PREFIX = "tg_"
_KEY = re.compile(r"tg_[0-9a-z]{26}_[a-z2-7]{52}")


async def create_key(
    store: KeyStore,
    subject: str,
    tenant: str = DEFAULT_TENANT,
    role: str | None = None,
    *,
    now: Callable[[], float] = time.time,
) -> str:
    """A new key for the subject, which nobody can be shown again. Raises ValueError for an empty name."""
    if not subject or not tenant or role == "":
        raise ValueError("subject, tenant and role are not empty")
    key_id = new_id("")
    secret = base64.b32encode(secrets.token_bytes(32)).decode().rstrip("=").lower()
    key = f"{KEY_PREFIX}{key_id}_{secret}"
    await store.add_key(
        KeyRecord(id=key_id, digest=_digest(key), tenant=tenant, subject=subject, role=role, created_at=now())
    )
    return key


class ApiKeys:
    """Tells whose a key is. A key that was found is remembered for `cache_seconds`, which is also how long a revoked
    one may go on; at most `max_cached` are remembered, by digest. Unknown keys are not remembered."""

    def __init__(
        self,
        store: KeyStore,
        *,
        cache_seconds: float = 2.0,
        max_cached: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._cache_seconds = cache_seconds
        self._max_cached = max_cached
        self._clock = clock
        self._cache: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()

    async def authenticate(self, key: str) -> Principal | None:
        """None for a key that is malformed, unknown or revoked. Raises Unavailable as the store does."""
        if not _KEY.fullmatch(key):
            return None
        digest = _digest(key)
        cached = self._cache.get(digest)
        # Time that ran backwards ends a cache entry rather than prolonging it.
        if cached is not None and 0 <= self._clock() - cached[0] < self._cache_seconds:
            return cached[1]
        # Before the store is asked: an answer is as old as its question.
        asked_at = self._clock()
        record = await self._store.find_key(digest)
        # The digest is what the store looked up; comparing it again holds for a store that compares loosely.
        if record is None or record.revoked_at is not None or not hmac.compare_digest(record.digest, digest):
            self._cache.pop(digest, None)
            return None
        roles = None if record.role is None else (record.role,)
        principal = Principal(tenant=record.tenant, subject=record.subject, roles=roles)
        self._cache[digest] = (asked_at, principal)
        self._cache.move_to_end(digest)
        if len(self._cache) > self._max_cached:
            self._cache.popitem(last=False)
        return principal


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
