"""Names of keys in Redis: what clients choose is never part of one, only its digest."""

from __future__ import annotations

import hashlib
import re

from stores.records import ContextKey

__all__ = ["PREFIX", "checked_prefix", "context_tag", "digest"]

PREFIX = "tidegate"

# No braces: the first pair of them in a key says on which node of a cluster it is.
_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


def checked_prefix(prefix: str) -> str:
    """Raises ValueError where keys can't begin with it."""
    if not _PREFIX.fullmatch(prefix):
        raise ValueError("a prefix of keys is 1 to 64 letters, digits, and _ . : -")
    return prefix


def digest(*names: str) -> str:
    """40 hexadecimal digits that stand for these names in this order, however long they are, and for no others."""
    whole = hashlib.blake2b(digest_size=20)
    for name in names:
        # A client's JSON may hold half a surrogate pair.
        data = name.encode(errors="surrogatepass")
        whole.update(len(data).to_bytes(8, "big"))
        whole.update(data)
    return whole.hexdigest()


def context_tag(key: ContextKey) -> str:
    """The context as a hash tag: all keys of a context are on one node of a cluster."""
    return "{" + digest(key.owner, key.id) + "}"
