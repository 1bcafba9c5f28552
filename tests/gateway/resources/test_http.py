from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.resources.http import HttpResources
from gateway.resources.port import (
    NotFound,
    Refused,
    ResourceContent,
    ResourceError,
    TooLarge,
    Unavailable,
    Unchanged,
)
from gateway.resources.uris import InvalidUri, canonical
from tests.gateway.resources.shelf import ANN
from tests.gateway.resources.web import Page, Web, certificate, serving

MOST = 100_000


@pytest.fixture
async def web() -> AsyncGenerator[Web]:
    async with serving() as web:
        yield web


class Names:
    """A resolver that knows these names; others it takes for addresses."""

    def __init__(self, **addresses: Sequence[str]) -> None:
        self.addresses = addresses
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.addresses.get(host.partition(".")[0], [host])


def provider(*allow: str, **options: Any) -> HttpResources:
    return HttpResources("web", allow, allow_private=True, **options)


async def read(provider: HttpResources, url: str, etag: str | None = None) -> ResourceContent | Unchanged:
    return await provider.read(ANN, canonical(url), etag=etag, max_bytes=MOST)


async def content(provider: HttpResources, url: str) -> ResourceContent:
    found = await read(provider, url)
    assert isinstance(found, ResourceContent)
    return found


async def refused(provider: HttpResources, url: str, kind: type[ResourceError]) -> str:
    with pytest.raises(kind) as caught:
        await read(provider, url)
    assert type(caught.value) is kind
    return str(caught.value)


# ---- what is read


async def test_a_page_is_read_as_it_is(web: Web) -> None:
    web.pages["/a%20b?x=1&y=%26"] = Page(body="größe".encode(), headers={"Content-Type": "text/html; charset=utf-8"})
    web.pages["/pixel"] = Page(body=b"\x89PNG", headers={"Content-Type": "image/png"})
    web.pages["/latin"] = Page(body=b"gr\xf6\xdfe", headers={"content-type": "text/plain; charset=latin1"})
    web.pages["/bare"] = Page(body=b"\0\1")
    one = provider(web.url("/"), headers={"Authorization": "Bearer s3cret"})
    page = await content(one, web.url("/a b?x=1&y=%26#part"))
    assert (page.mime_type, page.text, page.via, page.private) == ("text/html", "größe", (), False)
    assert (await content(one, web.url("/pixel"))).blob == b"\x89PNG"
    assert (await content(one, web.url("/latin"))).text == "größe"
    assert (await content(one, web.url("/bare"))).mime_type == "application/octet-stream"
    web.pages["/bare"] = Page(headers={"Content-Type": "application/octet-stream"})
    assert (await content(one, web.url("/bare"))).mime_type == "text/plain"
    _, headers = web.requests[0]
    assert headers["host"] == f"127.0.0.1:{web.port}"
    assert headers["authorization"] == "Bearer s3cret"
    assert headers["accept-encoding"] == "identity"
    assert "cookie" not in headers


async def test_what_is_listed(web: Web) -> None:
    listed = [web.url("/a.html"), web.url("/")]
    one = provider(web.url("/"), listed=listed, private=True)
    assert [(info.uri, info.name) for info in await one.list(ANN)] == [
        (listed[0], "a.html"),
        (listed[1], f"127.0.0.1:{web.port}"),
    ]
    assert [template.uri_template for template in await one.templates(ANN)] == [web.url("/{+path}")]
    assert one.private(None)


async def test_etags_times_and_whom_it_is_for(web: Web) -> None:
    page = web.pages["/a"] = Page(etag='"1"', headers={"Cache-Control": "private, max-age=60"})
    one = provider(web.url("/"))
    first = await content(one, web.url("/a"))
    assert (first.etag, first.ttl, first.private) == ('"1"', 60, True)
    assert await read(one, web.url("/a"), first.etag) == Unchanged(ttl=60)
    page.etag = '"2"'
    second = await read(one, web.url("/a"), first.etag)
    assert isinstance(second, ResourceContent)
    assert second.etag == '"2"'
    web.pages["/b"] = Page()
    assert (await content(provider(web.url("/"), ttl=5.0, private=True), web.url("/b"))).ttl == 5
    assert (await content(provider(web.url("/"), private=True), web.url("/b"))).private


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (404, NotFound, "no such resource"),
        (410, NotFound, "no such resource"),
        (401, Refused, "refused it (401)"),
        (403, Refused, "refused it (403)"),
        (500, Unavailable, "answered 500"),
        (429, Unavailable, "answered 429"),
        (204, Unavailable, "answered 204"),
        (206, Unavailable, "answered 206"),
    ],
)
async def test_refusals_of_the_server(web: Web, status: int, kind: type[ResourceError], words: str) -> None:
    web.pages["/a"] = Page(status=status, body=b"the server's own words")
    told = await refused(provider(web.url("/")), web.url("/a"), kind)
    assert words in told
    assert "own words" not in told


# ---- what is allowed


async def test_only_what_the_list_allows(web: Web) -> None:
    one = provider(web.url("/pages"), web.url("/docs/"))
    for target in ("/pages", "/pages/a", "/pages?x=1", "/docs/", "/docs/a/b", "//pages/./a"):
        assert await one.covers(ANN, canonical(web.url(target)))
    for target in ("/", "/pagesecret", "/docs", "/pages/../x", "/pages/%2e%2e/x", "/Pages"):
        assert not await one.covers(ANN, canonical(web.url(target)))
        await refused(one, web.url(target), NotFound)
    for url in (
        f"https://127.0.0.1:{web.port}/pages/a",
        f"http://127.0.0.1:{web.port + 1}/pages/a",
        f"http://127.0.0.1.evil.example:{web.port}/pages/a",
        "http://127.0.0.1/pages/a",
        "file://127.0.0.1/pages",
    ):
        assert not await one.covers(ANN, canonical(url))
    assert web.requests == []


@pytest.mark.parametrize(
    "entry", ["wiki.example", "file://docs/", "ftp://h/", "https://h/?x=1", "https://u@h/", "https:"]
)
def test_an_entry_that_allows_nothing_is_refused(entry: str) -> None:
    with pytest.raises(InvalidUri):
        provider(entry)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "::1",
        "224.0.0.1",
    ],
)
async def test_a_name_that_leads_to_ones_own_network_is_not_followed(web: Web, address: str) -> None:
    one = HttpResources("web", [f"http://wiki.example:{web.port}/"], resolve=Names(wiki=["8.8.8.8", address]))
    told = await refused(one, f"http://wiki.example:{web.port}/a", Refused)
    assert address not in told
    assert web.connections == 0


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "localhost",
    ],
)
async def test_no_spelling_of_an_address_of_ones_own_is_followed(web: Web, host: str) -> None:
    one = HttpResources("web", [f"http://{host}:{web.port}/"])
    await refused(one, f"http://{host}:{web.port}/a", Refused)
    assert web.connections == 0


async def test_what_belongs_to_nobody_is_never_followed(web: Web) -> None:
    for host in ("0.0.0.0", "0", "[::]", "255.255.255.255"):  # noqa: S104
        await refused(provider(f"http://{host}:{web.port}/"), f"http://{host}:{web.port}/a", Refused)
    assert web.connections == 0


async def test_the_address_that_was_checked_is_the_one_that_is_connected_to(web: Web) -> None:
    """A name that answers otherwise the second time finds no second time."""
    web.pages["/a"] = Page()

    class Rebinding(Names):
        async def __call__(self, host: str, port: int) -> Sequence[str]:
            self.asked.append(host)
            return ["127.0.0.1"] if len(self.asked) == 1 else ["127.0.0.2"]

    names = Rebinding()
    one = provider(f"http://wiki.example:{web.port}/", resolve=names)
    assert (await content(one, f"http://wiki.example:{web.port}/a")).text == "page"
    assert names.asked == ["wiki.example"]
    assert web.requests[0][1]["host"] == f"wiki.example:{web.port}"


async def test_the_next_address_is_tried_where_one_does_not_answer(web: Web) -> None:
    web.pages["/a"] = Page()
    one = provider(f"http://wiki.example:{web.port}/", resolve=Names(wiki=["127.0.0.77", "127.0.0.1"]))
    assert (await content(one, f"http://wiki.example:{web.port}/a")).data == b"page"


async def test_proxies_of_the_environment_are_not_used(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.pages["/a"] = Page()
    async with serving() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url(""))
        assert (await content(provider(web.url("/")), web.url("/a"))).data == b"page"
        assert proxy.connections == 0


async def test_tls_asks_for_the_hosts_name(tmp_path: Path) -> None:
    server, believing = certificate(tmp_path, "wiki.example")
    names = Names(wiki=["127.0.0.1"], other=["127.0.0.1"])
    async with serving(server) as web:
        web.pages["/a"] = Page()
        wiki, other = (web.url("/", f"{name}.example", "https") for name in ("wiki", "other"))
        one = provider(wiki, other, resolve=names, tls=believing)
        assert (await content(one, f"{wiki}a")).data == b"page"
        await refused(one, f"{other}a", Unavailable)
        assert web.targets == ["/a"]
        # And nobody is believed who is not known.
        await refused(provider(wiki, resolve=names), f"{wiki}a", Unavailable)
        assert web.targets == ["/a"]


# ---- redirects


def leading(to: str, status: int = 302) -> Page:
    return Page(status=status, headers={"Location": to})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed_within_the_list(web: Web, status: int) -> None:
    web.pages |= {"/a": leading("b/../c?x=1#part", status), "/c?x=1": Page(etag='"1"')}
    page = await content(provider(web.url("/")), web.url("/a"))
    assert (page.uri, page.data, page.via) == (web.url("/a"), b"page", (web.url("/c?x=1"),))
    # Its end is the end of another one, which a later reading may not lead to.
    assert page.etag is None


@pytest.mark.parametrize(
    "to",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:1/",
        "//evil.example/",
        "https://127.0.0.1/",
        "file://docs/guide.md",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "http://user@127.0.0.1/",
        "http://[::1/",
        "../secret",
        "/pages/..%2fsecret/%2e%2e/../secret",
        "javascript:alert(1)",
    ],
)
async def test_a_redirect_out_of_the_list_is_not_followed(web: Web, to: str) -> None:
    web.pages["/pages/a"] = leading(to)
    await refused(provider(web.url("/pages/")), web.url("/pages/a"), Refused)
    assert web.targets == ["/pages/a"]


async def test_a_redirect_to_an_address_of_ones_own_is_not_followed(web: Web) -> None:
    """The list allows both names; one of them leads to an address of nobody, which nothing can allow."""
    first, second = web.url("/", "wiki.example"), web.url("/", "other.example")
    web.pages["/a"] = leading(f"{second}b")
    names = Names(wiki=["127.0.0.1"], other=["0.0.0.0"])  # noqa: S104
    await refused(provider(first, second, resolve=names), f"{first}a", Refused)
    assert names.asked == ["wiki.example", "other.example"]
    assert web.targets == ["/a"]


async def test_redirects_have_an_end(web: Web) -> None:
    web.pages |= {"/a": leading("/b"), "/b": leading("/a"), "/self": leading("/self"), "/nowhere": Page(status=302)}
    web.pages |= {f"/{n}": leading(f"/{n + 1}") for n in range(20)}
    one = provider(web.url("/"))
    for target in ("/a", "/self", "/0", "/nowhere"):
        web.requests.clear()
        await refused(one, web.url(target), Refused)
        assert len(web.requests) <= 6


# ---- servers that misbehave


async def test_a_page_without_end_is_cut_off(web: Web) -> None:
    web.pages["/a"] = Page(body=b"x" * 10_000, endless=True)
    told = await refused(provider(web.url("/")), web.url("/a"), TooLarge)
    assert "more than the 100000 bytes" in told
    await web.left.wait()
    assert web.sent < 20_000_000


async def test_a_page_that_is_packed_is_refused(web: Web) -> None:
    web.pages["/a"] = Page(headers={"Content-Encoding": "gzip"})
    assert "packed" in await refused(provider(web.url("/")), web.url("/a"), Refused)


async def test_a_page_that_does_not_come(web: Web) -> None:
    web.pages["/slow"] = Page(gate=asyncio.Event())
    web.pages["/cut"] = Page(whole=False)
    one = provider(web.url("/"), timeout=0.1)
    await refused(one, web.url("/slow"), Unavailable)
    await refused(one, web.url("/cut"), Unavailable)
    await web.left.wait()


async def test_a_reading_that_is_given_up_leaves_no_connection(web: Web) -> None:
    web.pages["/slow"] = Page(gate=asyncio.Event())
    reading = asyncio.create_task(read(provider(web.url("/")), web.url("/slow")))
    await web.asked.wait()
    reading.cancel()
    await asyncio.wait({reading})
    page = web.pages["/slow"].gate
    assert page is not None
    page.set()
    await web.left.wait()


async def test_a_server_that_is_not_there_or_speaks_something_else() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n")
        writer.close()
        await writer.wait_closed()
        left.set()

    left = asyncio.Event()
    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    one = provider(f"http://127.0.0.1:{port}/")
    async with server:
        await refused(one, f"http://127.0.0.1:{port}/", Unavailable)
        await left.wait()
    await refused(one, f"http://127.0.0.1:{port}/", Unavailable)
    await one.close()
