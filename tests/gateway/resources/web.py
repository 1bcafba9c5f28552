"""A real HTTP server whose pages are in memory; it counts its requests, and can be slow, endless or broken."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from msgspec import Struct

__all__ = ["Page", "Web", "certificate", "serving"]


class Page(Struct, kw_only=True):
    """`etag` answers a matching If-None-Match with 304. `endless` goes on sending the body, `gate` is waited for before
    the last byte; without `whole` the connection breaks in its place."""

    body: bytes = b"page"
    status: int = 200
    headers: dict[str, str] = {}
    etag: str | None = None
    endless: bool = False
    gate: asyncio.Event | None = None
    whole: bool = True


class Web:
    """`requests` are those that came: their targets and headers."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.connections = 0
        self.sent = 0
        self.asked = asyncio.Event()
        self.left = asyncio.Event()
        self.port = 0
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def targets(self) -> list[str]:
        return [target for target, _ in self.requests]

    def url(self, target: str, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{target}"

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self._serve(reader, writer)
        finally:
            self.left.set()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            method, target, _ = first.split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            assert method == "GET"
            self.requests.append((target, headers))
            self.asked.set()
            await self._answer(self.pages.get(target, Page(status=404)), headers, writer)

    async def _answer(self, page: Page, asked: dict[str, str], writer: asyncio.StreamWriter) -> None:
        said = dict(page.headers)
        if page.etag is not None:
            said["ETag"] = page.etag
        unchanged = page.etag is not None and asked.get("if-none-match") == page.etag
        status, body = (304, b"") if unchanged else (page.status, page.body)
        if not page.endless and not unchanged:
            said["Content-Length"] = str(len(body))
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in said.items()), "Connection: close"]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        while page.endless:
            writer.write(body)
            self.sent += len(body)
            await writer.drain()
        writer.write(body[:-1])
        await writer.drain()
        if page.gate is not None:
            await page.gate.wait()
        if page.whole:
            writer.write(body[-1:])
            await writer.drain()


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncGenerator[Web]:
    web = Web()
    server = await asyncio.start_server(web.take, host, 0, ssl=tls)
    web.port = server.sockets[0].getsockname()[1]
    try:
        yield web
    finally:
        server.close()
        for task in web.tasks:
            task.cancel()
        await asyncio.gather(*web.tasks, return_exceptions=True)
        await server.wait_closed()


def certificate(folder: Path, *names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server of these names shows, and what believes that one only."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    alternatives = [x509.IPAddress(ip_address(one)) if one[0].isdigit() else x509.DNSName(one) for one in names]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{names[0]}.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=made.public_bytes(serialization.Encoding.PEM).decode())
