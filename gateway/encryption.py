"""Sealing of secrets that the gateway keeps for its users: AES-256-GCM under keys of the settings.

Of every configured key each purpose has a key of its own, by HKDF-SHA256 (RFC 5869). What is sealed is bound to the
owner and the name it is kept under: moved to another row it does not open. It names the key that sealed it, so that
keys can be changed while old values are still read: `[encryption] keys = ["new", "old"]` seals with the first and opens
with all.

A sealed value is: version (1 byte), key id (8), nonce (12), ciphertext and tag. Nonces are random; a key is good for
2^32 of them (NIST SP 800-38D, 8.3), which is a refreshed token every second for 136 years.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct

__all__ = ["Altered", "Encryption", "EncryptionError", "EncryptionSettings", "Sealer", "UnknownKey", "decode_key"]

KEY_BYTES: Final = 32
_VERSION: Final = b"\x01"
_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 12
_HEAD_BYTES: Final = 1 + _ID_BYTES
_TAG_BYTES: Final = 16
_HOW = "expected 32 random bytes in base64 or hex, as 'openssl rand -base64 32' prints them"
# Of 32 random bytes there are always more different ones; of a word that was typed again and again there are not.
_LEAST_DIFFERENT = 8


class EncryptionSettings(Struct, frozen=True, kw_only=True):
    """`keys` are 32 bytes each, in base64 or hex: the first seals, all of them open."""

    keys: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"EncryptionSettings({len(self.keys)} keys)"


class EncryptionError(Exception):
    """What was sealed can't be opened."""


class UnknownKey(EncryptionError):
    """It was sealed with a key that the settings do not have (any more)."""


class Altered(EncryptionError):
    """It is not what was sealed under this owner, name and purpose: moved, cut or changed."""


def decode_key(text: str) -> bytes:
    """The 32 bytes of a key. Raises ValueError, which says what is expected and nothing of the key."""
    compact = text.strip()
    try:
        if len(compact) == 2 * KEY_BYTES:
            key = bytes.fromhex(compact)
        else:
            standard = compact.rstrip("=").replace("-", "+").replace("_", "/")
            key = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (ValueError, binascii.Error):
        raise ValueError(_HOW) from None
    if len(key) != KEY_BYTES or len(set(key)) < _LEAST_DIFFERENT:
        raise ValueError(_HOW)
    return key


class Sealer:
    """Seals and opens what is kept for one purpose."""

    def __init__(self, keys: Sequence[bytes], purpose: str) -> None:
        """Raises ValueError where there are no keys."""
        if not keys:
            raise ValueError("expected one key at least")
        self._ciphers = {_derived(key, f"id/{purpose}", _ID_BYTES): AESGCM(_derived(key, purpose)) for key in keys}
        self._current = next(iter(self._ciphers))

    def seal(self, owner: str, name: str, value: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        head = _VERSION + self._current
        return head + nonce + self._ciphers[self._current].encrypt(nonce, value, _bound_to(head, owner, name))

    def open(self, owner: str, name: str, sealed: bytes) -> bytes:
        """Raises UnknownKey, Altered."""
        if sealed[:1] != _VERSION or len(sealed) < _HEAD_BYTES + _NONCE_BYTES + _TAG_BYTES:
            raise Altered("this is no sealed value")
        head, nonce = sealed[:_HEAD_BYTES], sealed[_HEAD_BYTES : _HEAD_BYTES + _NONCE_BYTES]
        cipher = self._ciphers.get(head[1:])
        if cipher is None:
            raise UnknownKey("it was sealed with a key that is not configured")
        try:
            return cipher.decrypt(nonce, sealed[_HEAD_BYTES + _NONCE_BYTES :], _bound_to(head, owner, name))
        except InvalidTag as error:
            raise Altered("it is not what was sealed under this name") from error

    def is_current(self, sealed: bytes) -> bool:
        """Whether the first key sealed it."""
        return sealed[1:_HEAD_BYTES] == self._current


class Encryption:
    """The keys of the settings. `enabled` is False where there are none."""

    def __init__(self, settings: EncryptionSettings) -> None:
        """Raises ValueError for what is no key."""
        self._keys = [decode_key(text) for text in settings.keys]

    @property
    def enabled(self) -> bool:
        return bool(self._keys)

    def sealer(self, purpose: str) -> Sealer:
        """Raises ValueError where there are no keys."""
        return Sealer(self._keys, purpose)

    def __repr__(self) -> str:
        return f"Encryption({len(self._keys)} keys)"


def _derived(key: bytes, purpose: str, length: int = KEY_BYTES) -> bytes:
    # The keys are random already, so that no salt is needed (RFC 5869, 3.1).
    return HKDF(SHA256(), length, salt=None, info=b"tidegate/1/" + purpose.encode()).derive(key)


def _bound_to(head: bytes, owner: str, name: str) -> bytes:
    """The associated data, with lengths, so that ("a", "bc") and ("ab", "c") are two places."""
    parts = (owner.encode(), name.encode())
    return head + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
