from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from gateway.auth.jwt_keys import JwtConfigError, algorithms_of, load_key

RSA = rsa.generate_private_key(65537, 2048)
P256 = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


def private_pem(key: Private, encryption: KeySerializationEncryption | None = None) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()).decode()


def public_pem(key: Private) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (P256, "ES256"), (ED, "EdDSA")])
def test_a_pem_key_verifies_and_signs_if_it_is_private(key: Private, algorithm: str) -> None:
    pair = load_key(private_pem(key), [])
    assert pair.algorithms == (algorithm,)
    assert pair.signing is not None
    public = load_key(f"\n{public_pem(key)}\n", [algorithm])
    assert public.signing is None
    assert public.verifying == pair.verifying


def test_a_secret_serves_the_algorithms_that_it_is_long_enough_for() -> None:
    assert load_key("s" * 32, []) == (b"s" * 32, b"s" * 32, ("HS256",))
    assert load_key("s" * 64, ["HS512", "HS384"]).algorithms == ("HS512", "HS384")


@pytest.mark.parametrize(
    ("text", "algorithms"),
    [
        (public_pem(RSA), ["HS256"]),
        (private_pem(RSA), ["RS256", "HS256"]),
        (public_pem(RSA), ["ES256"]),
        (public_pem(RSA), ["none"]),
        (public_pem(P256), ["ES384"]),
        ("s" * 32, ["none"]),
        ("s" * 32, ["RS256"]),
        ("s" * 32, ["HS512"]),
    ],
)
def test_an_algorithm_that_does_not_go_with_the_key_is_refused(text: str, algorithms: list[str]) -> None:
    with pytest.raises(JwtConfigError, match=r"auth\.jwt\.algorithms: .* does not go with"):
        load_key(text, algorithms)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s" * 31,
        '{"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}',
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC",
        "-----BEGIN PUBLIC KEY-----\nnothing\n-----END PUBLIC KEY-----",
        private_pem(RSA, BestAvailableEncryption(b"password")),
        private_pem(rsa.generate_private_key(65537, 1024)),  # noqa: S505
        private_pem(ec.generate_private_key(ec.SECP256K1())),
        private_pem(ed448.Ed448PrivateKey.generate()),
        public_pem(ed448.Ed448PrivateKey.generate()),
    ],
)
def test_a_key_that_is_weak_or_unreadable_is_refused(text: str) -> None:
    with pytest.raises(JwtConfigError, match=r"auth\.jwt\.key: "):
        load_key(text, [])


def test_what_is_no_key_verifies_nothing() -> None:
    assert algorithms_of("secret") == ()
