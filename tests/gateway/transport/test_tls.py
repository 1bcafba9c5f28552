"""The transport over TLS, where a connection can't be closed by halves."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.asyncio.client import connect

from gateway.transport.port import Frames
from tests.gateway.transport.serving import App, serving


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


async def test_messages_and_a_broken_rule(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    app = App()
    trust = ssl.create_default_context(cafile=str(cert))
    async with (
        serving(app, ssl_certfile=str(cert), ssl_keyfile=str(key), ws_max_size=1000) as port,
        connect(f"wss://127.0.0.1:{port}", ssl=trust) as client,
    ):
        await app.accepted.wait()
        assert app.scope["scheme"] == "wss"
        app.outlet.write(Frames([b"x" * 200_000, b"end"]))
        assert len(await client.recv()) == 200_000
        assert await client.recv() == "end"
        await client.send("heard")
        assert (await app.next())["text"] == "heard"
        await client.send("x" * 1001)
        await client.wait_closed()
        assert client.close_code == 1009
