from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth.jwks import Jwks
from gateway.auth.jwt_keys import JwtConfigError
from protocol.errors import ProtocolError

RSA = rsa.generate_private_key(65537, 2048).public_key()
P256 = ec.generate_private_key(ec.SECP256R1()).public_key()
ED = ed25519.Ed25519PrivateKey.generate().public_key()
URL = "https://provider.example/keys"


def jwk(key: Any, **fields: Any) -> dict[str, Any]:
    algorithm = RSAAlgorithm if key is RSA else ECAlgorithm if key is P256 else OKPAlgorithm
    return {**json.loads(algorithm.to_jwk(key)), **fields}


class Provider:
    """Serves a key set, counts how often, and can be held up."""

    def __init__(self, *keys: Any) -> None:
        self.body = json.dumps({"keys": keys}).encode()
        self.status = 200
        self.served = 0
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.now = 0.0
        app = Starlette(routes=[Route("/keys", self._serve)])
        self.jwks = Jwks(URL, client=httpx.AsyncClient(transport=httpx.ASGITransport(app)), clock=lambda: self.now)

    async def _serve(self, request: Request) -> Response:
        self.served += 1
        self.asked.set()
        await self.gate.wait()
        return Response(self.body, self.status)

    def publish(self, *keys: Any) -> None:
        self.body = json.dumps({"keys": keys}).encode()


async def refused(jwks: Jwks) -> None:
    with pytest.raises(ProtocolError) as caught:
        await jwks.key("a", "RS256")
    assert caught.value.code == "unavailable"


async def test_keys_are_found_by_id_and_algorithm_and_fetched_once() -> None:
    provider = Provider(jwk(RSA, kid="a"), jwk(P256, kid="b"), jwk(ED, kid="c", use="sig"))
    assert await provider.jwks.key("a", "RS256") == RSA
    assert await provider.jwks.key("a", "PS512") == RSA
    assert await provider.jwks.key("b", "ES256") == P256
    assert await provider.jwks.key("c", "EdDSA") == ED
    assert await provider.jwks.key(None, "EdDSA") == ED
    assert provider.served == 1
    assert await provider.jwks.key("a", "ES256") is None
    await provider.jwks.close()


async def test_what_is_no_usable_key_is_passed_over() -> None:
    provider = Provider(
        "text",
        {},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "a"},
        {"kty": "RSA", "kid": "a", "n": "!", "e": "AQAB"},
        {"kty": "RSA", "kid": "a"},
        jwk(RSA, kid="a", use="enc"),
        jwk(RSA, kid="a", alg="RS512"),
        jwk(RSA, kid=7),
        jwk(P256, kid="a", alg="none"),
    )
    assert await provider.jwks.key("a", "RS256") is None
    assert await provider.jwks.key("a", "RS512") == RSA
    assert await provider.jwks.key("a", "ES256") is None


async def test_without_an_id_two_keys_leave_no_choice() -> None:
    other = rsa.generate_private_key(65537, 2048).public_key()
    provider = Provider(jwk(RSA), json.loads(RSAAlgorithm.to_jwk(other)))
    assert await provider.jwks.key(None, "RS256") is None


async def test_an_unknown_id_makes_it_look_again_but_not_more_often_than_allowed() -> None:
    provider = Provider(jwk(P256, kid="b"))
    assert await provider.jwks.key("a", "RS256") is None
    provider.publish(jwk(RSA, kid="a"))
    provider.now = 9.9
    assert await provider.jwks.key("a", "RS256") is None
    assert provider.served == 1
    provider.now = 10
    assert await provider.jwks.key("a", "RS256") == RSA
    assert await provider.jwks.key("b", "ES256") is None
    assert provider.served == 2


async def test_keys_are_fetched_anew_beside_the_requests_and_revoked_ones_go() -> None:
    provider = Provider(jwk(RSA, kid="a"))
    assert await provider.jwks.key("a", "RS256") == RSA
    provider.publish()
    provider.now = 300
    provider.asked.clear()
    assert await provider.jwks.key("a", "RS256") == RSA
    async with asyncio.timeout(30):
        await provider.asked.wait()
        provider.now = 310
        assert await provider.jwks.key("b", "RS256") is None
        assert await provider.jwks.key("a", "RS256") is None


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"keys": 1}', b"[" * 10_000, b'"' + b"x" * 1_048_576 + b'"'])
async def test_what_is_no_key_set_gives_no_keys(body: bytes) -> None:
    provider = Provider()
    provider.body = body
    await refused(provider.jwks)


async def test_while_the_provider_is_away_its_keys_are_trusted_for_an_hour() -> None:
    provider = Provider(jwk(RSA, kid="a"))
    assert await provider.jwks.key("a", "RS256") == RSA
    provider.status = 503
    provider.now = 3_599
    assert await provider.jwks.key("a", "RS256") == RSA
    provider.now = 3_700
    await refused(provider.jwks)
    await refused(provider.jwks)
    assert provider.served == 3
    provider.status = 200
    await refused(provider.jwks)
    provider.now = 3_710
    assert await provider.jwks.key("a", "RS256") == RSA


async def test_many_requests_make_one_fetch_that_survives_the_one_who_began_it() -> None:
    provider = Provider(jwk(RSA, kid="a"))
    provider.gate.clear()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        first = group.create_task(provider.jwks.key("a", "RS256"))
        others = [group.create_task(provider.jwks.key("a", "RS256")) for _ in range(5)]
        await provider.asked.wait()
        first.cancel()
        await asyncio.wait({first})
        provider.gate.set()
        assert [await other for other in others] == [RSA] * 5
    assert provider.served == 1


async def test_closing_ends_a_fetch() -> None:
    provider = Provider()
    provider.gate.clear()
    async with asyncio.timeout(30):
        task = asyncio.create_task(provider.jwks.key("a", "RS256"))
        await provider.asked.wait()
        await provider.jwks.close()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("url", ["http://provider.example/keys", "ftp://localhost/", "https://", "keys", "https://[x"])
def test_a_url_that_others_could_answer_is_refused(url: str) -> None:
    with pytest.raises(JwtConfigError, match="expected an https URL"):
        Jwks(url)


@pytest.mark.parametrize("url", ["http://localhost:1/keys", "http://127.0.0.1/keys", "http://[::1]/keys", URL])
async def test_a_url_of_this_machine_may_be_plain(url: str) -> None:
    jwks = Jwks(url)
    await jwks.close()
