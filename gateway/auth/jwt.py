"""JSON Web Tokens: verified against a configured key or an identity provider's keys (RFC 7519, RFC 8725)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jwt
from msgspec import Struct

from gateway.auth.jwks import Jwks
from gateway.auth.jwt_keys import ASYMMETRIC, JwtConfigError, KeyPair, PublicKey, load_key
from gateway.auth.principal import DEFAULT_TENANT, Principal
from protocol.errors import ProtocolError

__all__ = ["JwtConfigError", "JwtSettings", "JwtVerifier"]

_MAX_LENGTH = 16_384
_MAX_NAME = 256


class JwtSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section [auth.jwt]: either `key` (PEM text, or the secret of HS*) or `jwks_url`.

    `algorithms` is the allow-list, empty: the key's usual one (RS256, ES256 and EdDSA for a `jwks_url`). `leeway` is
    in seconds. `tenant_claim` and `roles_claim` name claims, with dots a claim within a claim ("realm_access.roles");
    without a `tenant_claim` every subject is of the tenant "default".
    """

    key: str | None = None
    jwks_url: str | None = None
    algorithms: tuple[str, ...] = ()
    issuer: str | None = None
    audience: str | None = None
    leeway: float = 30.0
    tenant_claim: str | None = None
    roles_claim: str | None = None

    def __repr__(self) -> str:
        """Without the key, for logs and traces."""
        return f"JwtSettings(key={'…' if self.key else None}, jwks_url={self.jwks_url!r}, issuer={self.issuer!r})"


class JwtVerifier:
    """Tells whose a token is. A token must have `exp` and `sub`, and `iss` and `aud` as configured; one that is meant
    for an audience is refused where none is configured (RFC 7519, section 4.1.3)."""

    def __init__(self, settings: JwtSettings, jwks: Jwks | None = None) -> None:
        """Raises JwtConfigError, naming the setting. `jwks` replaces the key set made from `jwks_url`."""
        if (settings.key is None) == (settings.jwks_url is None):
            raise JwtConfigError("auth.jwt: expected either key or jwks_url")
        self._settings = settings
        self._pair: KeyPair | None = None
        self._jwks: Jwks | None = None
        if settings.key is not None:
            self._pair = load_key(settings.key, settings.algorithms)
            self._algorithms = self._pair.algorithms
        else:
            self._algorithms = settings.algorithms or ("RS256", "ES256", "EdDSA")
            for algorithm in self._algorithms:
                if algorithm not in ASYMMETRIC:
                    raise JwtConfigError(f"auth.jwt.algorithms: {algorithm!r} does not go with jwks_url")
            self._jwks = jwks or Jwks(cast("str", settings.jwks_url))
        self._required = ["exp", "sub"]
        if settings.issuer is not None:
            self._required.append("iss")
        if settings.audience is not None:
            self._required.append("aud")

    async def verify(self, token: str) -> Principal:
        """Raises ProtocolError: `unauthenticated`, or `unavailable` while the provider's keys can't be had."""
        if not token.isascii() or len(token) > _MAX_LENGTH:
            raise _refusal()
        try:
            header = jwt.get_unverified_header(token)
            algorithm, kid = header.get("alg", ""), header.get("kid")
            if algorithm not in self._algorithms:
                raise _refusal()
            key = await self._key(kid, algorithm)
            claims = jwt.decode(
                token,
                cast("Any", key),
                algorithms=[algorithm],
                issuer=self._settings.issuer,
                audience=self._settings.audience,
                leeway=self._settings.leeway,
                options={"require": self._required},
            )
            return self._principal(claims)
        except jwt.ExpiredSignatureError as error:
            raise ProtocolError("unauthenticated", "the token has expired") from error
        # Beside PyJWT's own errors: what odd but well-formed JSON raises inside it (huge numbers, deep nesting).
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise _refusal() from error

    def sign(
        self,
        subject: str,
        *,
        tenant: str | None = None,
        roles: Sequence[str] | None = None,
        lifetime: float = 3600.0,
        now: Callable[[], float] = time.time,
    ) -> str:
        """A token that `verify` takes, good for `lifetime` seconds. Raises JwtConfigError where the settings hold no
        key to sign with, or no claim to carry a tenant or roles."""
        settings = self._settings
        if self._pair is None or self._pair.signing is None:
            raise JwtConfigError("auth.jwt.key: expected a secret or a private key, to sign with")
        issued_at = int(now())
        claims: dict[str, Any] = {"sub": subject, "iat": issued_at, "exp": issued_at + int(lifetime)}
        if settings.issuer is not None:
            claims["iss"] = settings.issuer
        if settings.audience is not None:
            claims["aud"] = settings.audience
        carried = (("tenant_claim", settings.tenant_claim, tenant), ("roles_claim", settings.roles_claim, roles))
        for setting, claim, value in carried:
            if value is None:
                continue
            if claim is None:
                raise JwtConfigError(f"auth.jwt.{setting}: expected the name of the claim to put it in")
            claims[claim] = value if isinstance(value, str) else list(value)
        return jwt.encode(claims, cast("Any", self._pair.signing), algorithm=self._algorithms[0])

    async def close(self) -> None:
        if self._jwks is not None:
            await self._jwks.close()

    async def _key(self, kid: str | None, algorithm: str) -> PublicKey | bytes:
        if self._pair is not None:
            return self._pair.verifying
        key = await cast("Jwks", self._jwks).key(kid, algorithm)
        if key is None:
            raise _refusal()
        return key

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        """Raises ValueError for claims of another shape. A tenant that is configured must be there; a token without
        the roles' claim has no role given to it, as an API key may, one with an empty list has no permission."""
        tenant = DEFAULT_TENANT
        if self._settings.tenant_claim is not None:
            tenant = _name(_claim(claims, self._settings.tenant_claim))
        roles: tuple[str, ...] | None = None
        if self._settings.roles_claim is not None:
            roles = _roles(_claim(claims, self._settings.roles_claim))
        return Principal(tenant=tenant, subject=_name(claims["sub"]), roles=roles, expires_at=float(claims["exp"]))


def _refusal() -> ProtocolError:
    return ProtocolError("unauthenticated", "the credentials are not valid")


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """The claim of that name, as many providers' names hold dots themselves, else the one that the dots lead to."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for name in path.split("."):
        if not isinstance(value, dict):
            return None
        value = cast("dict[str, Any]", value).get(name)
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_NAME:
        raise ValueError("a subject or tenant is a text of 1 to 256 characters")
    value.encode()
    return value


def _roles(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    names: list[Any] = value.split() if isinstance(value, str) else value
    if not isinstance(names, list) or len(names) > _MAX_NAME:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError("roles are a list of names, or names with spaces between")
    return tuple(_name(name) for name in names)
