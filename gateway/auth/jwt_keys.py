"""Which keys verify which algorithms of JSON Web Tokens (RFC 7518, RFC 8037, RFC 8725)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

__all__ = ["ASYMMETRIC", "JwtConfigError", "KeyPair", "PublicKey", "algorithms_of", "load_key"]

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
# The least length of a secret in bytes: that of the hash (RFC 7518, section 3.2).
_SECRETS = {"HS256": 32, "HS384": 48, "HS512": 64}
ASYMMETRIC: Final = (*_RSA, *_CURVES.values(), "EdDSA")


class JwtConfigError(ValueError):
    """The settings of [auth.jwt] can't be used; the message names the setting and says what was expected."""


class KeyPair(NamedTuple):
    """`verifying` checks signatures, `signing` makes them (None: a public key can't). For HS* both are the secret."""

    verifying: PublicKey | bytes
    signing: PrivateKey | bytes | None
    algorithms: tuple[str, ...]


def algorithms_of(key: object) -> tuple[str, ...]:
    """The algorithms that a public key may verify, the usual one first; none for a key that is weak or unknown."""
    match key:
        case RSAPublicKey():
            return _RSA if key.key_size >= 2048 else ()
        case EllipticCurvePublicKey():
            algorithm = _CURVES.get(key.curve.name)
            return () if algorithm is None else (algorithm,)
        case Ed25519PublicKey():
            return ("EdDSA",)
        case _:
            return ()


def load_key(text: str, algorithms: Sequence[str]) -> KeyPair:
    """The key in the setting `key`: PEM for RS*, PS*, ES*, EdDSA, else the secret of HS*.

    `algorithms` are the allowed ones, empty: the usual one of the key. One key never serves HS* and another family,
    so nobody can pass off a public key as a secret. Raises JwtConfigError.
    """
    if "-----BEGIN" in text:
        signing, verifying = _load_pem(text)
        able = algorithms_of(verifying)
        if not able:
            raise JwtConfigError("auth.jwt.key: expected an RSA key of 2048 bits or more, P-256, P-384, P-521, Ed25519")
        return KeyPair(verifying, signing, _choose(algorithms, able, "the PEM key"))
    secret = text.encode()
    if text.lstrip().startswith(("{", "ssh-", "ecdsa-")):
        raise JwtConfigError("auth.jwt.key: expected a PEM key or a secret, not a JWK or an SSH key")
    able = tuple(algorithm for algorithm, length in _SECRETS.items() if len(secret) >= length)
    if not able:
        raise JwtConfigError("auth.jwt.key: expected a PEM key or a secret of at least 32 bytes")
    return KeyPair(secret, secret, _choose(algorithms, able, f"a secret of {len(secret)} bytes"))


def _choose(wanted: Sequence[str], able: tuple[str, ...], key: str) -> tuple[str, ...]:
    if not wanted:
        return able[:1]
    for algorithm in wanted:
        if algorithm not in able:
            raise JwtConfigError(f"auth.jwt.algorithms: {algorithm!r} does not go with {key}, only {', '.join(able)}")
    return tuple(wanted)


def _load_pem(text: str) -> tuple[PrivateKey | None, PublicKey]:
    data = text.strip().encode()
    try:
        if "PRIVATE KEY-----" in text:
            private = load_pem_private_key(data, password=None)
            if isinstance(private, PrivateKey):
                return private, private.public_key()
        else:
            public = load_pem_public_key(data)
            if isinstance(public, PublicKey):
                return None, public
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise JwtConfigError("auth.jwt.key: the PEM text is not a readable, unencrypted key") from error
    raise JwtConfigError("auth.jwt.key: expected an RSA, EC or Ed25519 key")
