from __future__ import annotations

import base64
import hmac
import json
import time
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm
from msgspec.structs import replace
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gateway.auth.jwks import Jwks
from gateway.auth.jwt import JwtConfigError, JwtSettings, JwtVerifier
from gateway.auth.principal import Principal
from protocol.errors import ProtocolError

SECRET = "a secret of more than thirty-two bytes"
RSA = rsa.generate_private_key(65537, 2048)
PRIVATE = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
PUBLIC = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
HOUR = 3600


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def claims(**others: Any) -> dict[str, Any]:
    made = {"sub": "alice", "exp": int(time.time()) + HOUR, **others}
    return {name: value for name, value in made.items() if value is not None}


def hs256(**others: Any) -> str:
    return jwt.encode(claims(**others), SECRET, algorithm="HS256")


async def refused(verifier: JwtVerifier, token: str, message: str = "the credentials are not valid") -> None:
    with pytest.raises(ProtocolError) as caught:
        await verifier.verify(token)
    assert (caught.value.code, caught.value.message) == ("unauthenticated", message)


async def test_a_token_is_its_subjects_until_it_expires() -> None:
    principal = await JwtVerifier(JwtSettings(key=SECRET)).verify(hs256(exp=4_000_000_000))
    assert principal == Principal(tenant="default", subject="alice", roles=None, expires_at=4_000_000_000)


@pytest.mark.parametrize(("key", "signing"), [(SECRET, SECRET), (PRIVATE, PRIVATE), (PUBLIC, PRIVATE)])
async def test_what_is_signed_verifies(key: str, signing: str) -> None:
    shape = JwtSettings(issuer="us", audience="gate", tenant_claim="org", roles_claim="roles")
    signer = JwtVerifier(replace(shape, key=signing))
    verifier = JwtVerifier(replace(shape, key=key))
    early = signer.sign("alice", tenant="acme", roles=["clerk"], lifetime=60, now=lambda: 4_000_000_000.0)
    await refused(verifier, early)
    token = signer.sign("alice", tenant="acme", roles=["clerk", "reader"])
    principal = await verifier.verify(token)
    assert (principal.tenant, principal.subject, principal.roles) == ("acme", "alice", ("clerk", "reader"))
    plain = JwtVerifier(JwtSettings(key=signing))
    assert (await plain.verify(plain.sign("bob"))).roles is None


def test_signing_needs_a_key_and_claims_for_what_it_says() -> None:
    with pytest.raises(JwtConfigError, match="to sign with"):
        JwtVerifier(JwtSettings(key=PUBLIC)).sign("alice")
    with pytest.raises(JwtConfigError, match=r"auth\.jwt\.tenant_claim"):
        JwtVerifier(JwtSettings(key=SECRET)).sign("alice", tenant="acme")
    with pytest.raises(JwtConfigError, match=r"auth\.jwt\.roles_claim"):
        JwtVerifier(JwtSettings(key=SECRET)).sign("alice", roles=[])


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a.b.c",
        "ä.b.c",
        "\ud800",
        "x" * 20_000,
        hs256() + "x",
        hs256(sub=None),
        hs256(exp=None),
        hs256(sub=""),
        hs256(sub="x" * 257),
        hs256(sub="\ud800"),
        hs256(nbf=4_000_000_000),
        hs256(aud="somebody else"),
        jwt.encode(claims(), SECRET + "x", algorithm="HS256"),
        jwt.encode(claims(), SECRET * 2, algorithm="HS512"),
        jwt.encode(claims(), PRIVATE, algorithm="RS256"),
        f"{part({'alg': 'none'})}.{part(claims())}.",
        f"{part({'alg': 'None'})}.{part(claims())}.",
        f"{part({'alg': ['HS256']})}.{part(claims())}.x",
        f"{part({})}.{part(claims())}.x",
        f"{part({'alg': 'HS256', 'kid': 7})}.{part(claims())}.x",
        f"{'W1tb' * 2_000}.{part(claims())}.x",
    ],
    ids=lambda token: f"{len(token)} characters",  # not the text, which is another one in each process
)
async def test_what_is_no_token_of_ours_is_refused(token: str) -> None:
    await refused(JwtVerifier(JwtSettings(key=SECRET)), token)


@pytest.mark.parametrize("exp", [float("inf"), float("nan"), "soon", [1], -1])
async def test_an_expiry_that_is_no_time_is_refused(exp: Any) -> None:
    with pytest.raises(ProtocolError) as caught:
        await JwtVerifier(JwtSettings(key=SECRET)).verify(hs256(exp=exp))
    assert caught.value.code == "unauthenticated"


@given(st.text())
async def test_no_text_does_anything_but_be_refused(text: str) -> None:
    await refused(JwtVerifier(JwtSettings(key=SECRET)), text)


async def test_a_public_key_is_never_taken_for_a_secret() -> None:
    body = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims())}"
    signature = base64.urlsafe_b64encode(hmac.digest(PUBLIC.encode(), body.encode(), "sha256"))
    await refused(JwtVerifier(JwtSettings(key=PUBLIC)), f"{body}.{signature.decode().rstrip('=')}")


async def test_expiry_has_leeway_and_is_told() -> None:
    verifier = JwtVerifier(JwtSettings(key=SECRET, leeway=HOUR))
    assert await verifier.verify(hs256(exp=int(time.time()) - 60))
    await refused(verifier, hs256(exp=int(time.time()) - 2 * HOUR), "the token has expired")


async def test_issuer_and_audience_are_required_where_they_are_configured() -> None:
    verifier = JwtVerifier(JwtSettings(key=SECRET, issuer="us", audience="gate"))
    assert await verifier.verify(hs256(iss="us", aud=["gate", "other"]))
    for others in ({}, {"iss": "us"}, {"aud": "gate"}, {"iss": "them", "aud": "gate"}, {"iss": "us", "aud": "other"}):
        await refused(verifier, hs256(**others))


async def test_a_configured_tenant_must_be_there() -> None:
    verifier = JwtVerifier(JwtSettings(key=SECRET, tenant_claim="org.id"))
    assert (await verifier.verify(hs256(org={"id": "acme"}))).tenant == "acme"
    assert (await verifier.verify(hs256(**{"org.id": "dotted"}))).tenant == "dotted"
    others: list[dict[str, Any]] = [{}, {"org": "acme"}, {"org": {"id": 7}}, {"org": {"id": ""}}]
    for other in others:
        await refused(verifier, hs256(**other))


@pytest.mark.parametrize(
    ("value", "roles"),
    [(None, None), ([], ()), (["a", "b"], ("a", "b")), ("a b", ("a", "b")), ("", ())],
)
async def test_roles_are_a_list_or_words(value: Any, roles: tuple[str, ...] | None) -> None:
    verifier = JwtVerifier(JwtSettings(key=SECRET, roles_claim="realm_access.roles"))
    assert (await verifier.verify(hs256(realm_access={"roles": value}))).roles == roles


@pytest.mark.parametrize("value", [7, {"a": 1}, [7], ["a"] * 1_000, [""]])
async def test_roles_of_another_shape_are_refused(value: Any) -> None:
    await refused(JwtVerifier(JwtSettings(key=SECRET, roles_claim="roles")), hs256(roles=value))


def test_settings_do_not_show_their_key() -> None:
    assert SECRET not in repr(JwtSettings(key=SECRET))
    assert "key=None" in repr(JwtSettings(jwks_url="https://provider.example/keys"))


@pytest.mark.parametrize(
    "settings",
    [
        JwtSettings(),
        JwtSettings(key=SECRET, jwks_url="https://provider.example/keys"),
        JwtSettings(jwks_url="https://provider.example/keys", algorithms=("HS256",)),
        JwtSettings(jwks_url="https://provider.example/keys", algorithms=("none",)),
        JwtSettings(jwks_url="http://provider.example/keys"),
        JwtSettings(key="short"),
        JwtSettings(key=PUBLIC, algorithms=("HS256",)),
    ],
)
def test_settings_that_can_not_hold_stop_the_start(settings: JwtSettings) -> None:
    with pytest.raises(JwtConfigError, match=r"auth\.jwt"):
        JwtVerifier(settings)


async def test_keys_of_a_provider() -> None:
    async def serve(request: Request) -> JSONResponse:
        return JSONResponse({"keys": [{**json.loads(RSAAlgorithm.to_jwk(RSA.public_key())), "kid": "a"}]})

    url = "https://provider.example/keys"
    app = Starlette(routes=[Route("/keys", serve)])
    jwks = Jwks(url, client=httpx.AsyncClient(transport=httpx.ASGITransport(app)))
    verifier = JwtVerifier(JwtSettings(jwks_url=url), jwks)
    token = jwt.encode(claims(), PRIVATE, algorithm="RS256", headers={"kid": "a"})
    assert (await verifier.verify(token)).subject == "alice"
    await refused(verifier, jwt.encode(claims(), PRIVATE, algorithm="RS256", headers={"kid": "b"}))
    await refused(verifier, jwt.encode(claims(), PRIVATE, algorithm="RS384", headers={"kid": "a"}))
    await refused(verifier, hs256())
    with pytest.raises(JwtConfigError, match="to sign with"):
        verifier.sign("alice")
    await verifier.close()
    await JwtVerifier(JwtSettings(key=SECRET)).close()
