"""`/v1/resources` over a real folder: what is listed and read, by whom, and what a browser is told of it."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from gateway.auditing import Auditor
from gateway.auth.api_keys import ApiKeys, create_key
from gateway.auth.authenticator import Authenticator
from gateway.auth.tickets import Tickets
from gateway.core.policy import Policy
from gateway.http.replies import Guard
from gateway.http.resources import resource_routes
from gateway.resource_reading import ResourceReading
from gateway.resources.directory import DirectoryResources
from gateway.resources.port import Invalid, Refused, ResourceError, TooLarge, Unavailable
from gateway.resources.reader import ReaderLimits, ResourceReader
from gateway.throttle import Throttle
from stores.audit_records import AuditQuery
from stores.memory import MemoryCache
from stores.memory_limits import MemoryRateLimits
from stores.sqlite import SqliteStore
from tests.gateway.resources.shelf import Shelf

ROLES = {"reader": ("resource:file://docs/*", "!resource:file://docs/secret*"), "nobody": ()}
PAGE = "<script>alert(1)</script>"


class World:
    def __init__(self, store: SqliteStore, folder: Path) -> None:
        self.store = store
        self.shelf = Shelf()
        providers = [DirectoryResources("docs", folder), self.shelf]
        reader = ResourceReader(providers, Policy(ROLES).may_use, ReaderLimits(max_bytes=1000))
        guard = Guard(Authenticator(ApiKeys(store), None, Tickets(MemoryCache())))
        reading = ResourceReading(reader, Throttle(MemoryRateLimits(), 30), Auditor(store))
        app = Starlette(routes=resource_routes(guard, reading))
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")
        self._keys: dict[str | None, str] = {}

    async def get(self, path: str, *, role: str | None = None, **headers: str) -> httpx.Response:
        if role not in self._keys:
            self._keys[role] = await create_key(self.store, f"ann-{role}", "t", role)
        return await self._client.get(path, headers={"X-API-Key": self._keys[role], **headers})

    async def read(self, uri: str, *, role: str | None = None, **headers: str) -> httpx.Response:
        return await self.get(str(httpx.URL("/v1/resources/read", params={"uri": uri})), role=role, **headers)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name, data in {
        "a.md": "# größe".encode(),
        "page.html": PAGE.encode(),
        "picture.svg": b"<svg/>",
        "pixel.png": b"\x89PNG\r\n\x1a\n\0",
        "secret.md": b"secret",
        'x".md': b"odd",
        "large.txt": b"x" * 1001,
    }.items():
        (docs / name).write_bytes(data)
    store = await SqliteStore.open(tmp_path / "store.db")
    yield World(store, docs)
    await store.close()


async def test_lists_show_what_may_be_read(world: World) -> None:
    reply = (await world.get("/v1/resources?limit=2", role="reader")).json()
    assert reply == {
        "resources": [
            {"uri": "file://docs/a.md", "name": "a.md", "mime_type": "text/markdown", "description": None, "size": 9},
            {
                "uri": "file://docs/large.txt",
                "name": "large.txt",
                "mime_type": "text/plain",
                "description": None,
                "size": 1001,
            },
        ],
        "templates": [
            {
                "uri_template": "file://docs/{+path}",
                "name": "docs",
                "mime_type": None,
                "description": "A file by its path",
            }
        ],
        "next": "file://docs/large.txt",
    }
    rest = (await world.get(f"/v1/resources?after={reply['next']}", role="reader")).json()
    assert [info["name"] for info in rest["resources"]] == ["page.html", "picture.svg", "pixel.png", 'x".md']
    assert rest["templates"] == []
    assert rest["next"] is None
    assert (await world.get("/v1/resources", role="nobody")).json() == {"resources": [], "templates": [], "next": None}
    everything = (await world.get("/v1/resources")).json()
    assert len(everything["resources"]) == 8
    assert (await world.get("/v1/resources?limit=0")).status_code == 400


@pytest.mark.parametrize(
    ("name", "kind", "file"),
    [
        ("a.md", "text/markdown; charset=utf-8", None),
        ("pixel.png", "image/png", None),
        ("page.html", "text/html; charset=utf-8", "page.html"),
        ("picture.svg", "image/svg+xml; charset=utf-8", "picture.svg"),
    ],
)
async def test_bytes_come_as_what_no_browser_runs(world: World, name: str, kind: str, file: str | None) -> None:
    reply = await world.read(f"file://docs/{name}", accept="*/*")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == kind
    disposition = f'attachment; filename="{file}"' if file is not None else None
    assert reply.headers.get("content-disposition") == disposition
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert "private" in reply.headers["cache-control"]


async def test_what_has_not_changed_is_not_sent_again(world: World) -> None:
    first = await world.read("file://docs/a.md")
    tag = first.headers["etag"]
    for known in (tag, f'"other", W/{tag}', "*"):
        again = await world.read("file://docs/a.md", **{"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert (await world.read("file://docs/a.md", **{"if-none-match": '"other"'})).status_code == 200
    assert (await world.read("file://docs/pixel.png")).headers["etag"] != tag


async def test_as_json(world: World) -> None:
    json = {"accept": "application/json"}
    reply = await world.read("FILE://docs/./a.md", **json)
    assert reply.json() == {"uri": "file://docs/a.md", "mime_type": "text/markdown", "text": "# größe"}
    assert reply.headers["content-type"] == "application/json"
    assert "content-disposition" not in reply.headers
    pixel = (await world.read("file://docs/pixel.png", **json)).json()
    assert base64.b64decode(pixel["blob"]) == b"\x89PNG\r\n\x1a\n\0"
    assert reply.headers["etag"] != (await world.read("file://docs/a.md")).headers["etag"]


async def test_a_name_can_not_break_the_header(world: World) -> None:
    world.shelf.texts["shelf://h/a%22%0D%0Ab.html"] = "x"
    reply = await world.read("file://docs/x%22.md")
    assert reply.status_code == 200
    other = await world.read("shelf://h/a%22%0D%0Ab.html")
    assert other.status_code == 200
    assert "\n" not in other.headers.get("content-disposition", "")


async def test_what_may_not_be_read_is_as_if_it_did_not_exist(world: World) -> None:
    denied = await world.read("file://docs/secret.md", role="reader")
    absent = await world.read("file://docs/absent.md", role="reader")
    assert (denied.status_code, denied.json()) == (404, absent.json())
    assert denied.json()["error"]["code"] == "not_found"
    assert (await world.read("file://docs/%73ecret.md", role="reader")).status_code == 404
    assert (await world.read("file://docs/a.md", role="nobody")).status_code == 404
    assert (await world.read("file://docs/secret.md")).status_code == 200


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (Refused("no"), 403, "forbidden"),
        (Invalid("no"), 400, "invalid_frame"),
        (TooLarge("no"), 413, "too_large"),
        (Unavailable("no"), 503, "unavailable"),
    ],
)
async def test_failures_have_codes(world: World, failure: ResourceError, status: int, code: str) -> None:
    world.shelf.failure = failure
    reply = await world.read("shelf://a")
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert reply.json()["error"]["message"] == "no"


async def test_what_is_too_large_and_what_is_not_named(world: World) -> None:
    assert (await world.read("file://docs/large.txt")).status_code == 413
    for path in ("/v1/resources/read", "/v1/resources/read?uri="):
        assert (await world.get(path)).json()["error"]["path"] == "uri"


async def test_readings_count_as_messages(world: World) -> None:
    statuses = [(await world.read("file://docs/a.md")).status_code for _ in range(31)]
    assert statuses == [200] * 30 + [429]
    assert (await world.read("file://docs/a.md", role="reader")).status_code == 200


async def test_readings_are_recorded(world: World) -> None:
    await world.read("file://docs/a.md", role="reader")
    await world.read("file://docs/secret.md", role="reader")
    await world.read("file://docs/large.txt", role="reader")
    found = (await world.store.audits("t", AuditQuery(subject="ann-reader"), None, 10)).records
    assert [(one.kind, one.via, one.uri, one.outcome) for one in reversed(found)] == [
        ("read", "http", "file://docs/a.md", "success"),
        ("read", "http", "file://docs/secret.md", "denied"),
        ("read", "http", "file://docs/large.txt", "error"),
    ]
