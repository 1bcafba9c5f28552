from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gateway.resources.directory import DirectoryResources
from gateway.resources.port import NotFound, ResourceContent, TooLarge, Unavailable, Unchanged
from gateway.resources.uris import canonical
from tests.gateway.resources.shelf import ANN

MOST = 1000
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One with all that may lie in a folder, beside what must stay out of reach."""
    (tmp_path / "secret.txt").write_text("secret")
    docs = tmp_path / "docs"
    for name, data in {
        "guide.md": b"# Guide",
        "größe 1.txt": "größe".encode(),
        "sub/deep/data.json": b"{}",
        "sub/pixel.png": PNG,
        "sub/latin.txt": "größe".encode("latin-1"),
        "sub/archive.bin": b"\0\1\2",
        "sub/Makefile": b"all:\n",
        "sub/picture.svg": b"<svg/>",
        "sub/zeros.txt": b"a\0b",
        "empty.txt": b"",
        ".hidden.md": b"hidden",
        ".git/config": b"hidden",
        "notes/.private/a.md": b"hidden",
    }.items():
        (docs / name).parent.mkdir(parents=True, exist_ok=True)
        (docs / name).write_bytes(data)
    (docs / "out.txt").symlink_to(tmp_path / "secret.txt")
    (docs / "outside").symlink_to(tmp_path)
    (docs / "alias.md").symlink_to("guide.md")
    os.link(tmp_path / "secret.txt", tmp_path / "hard.txt")
    os.mkfifo(docs / "pipe.txt")
    for path in docs.rglob("*"):
        age(path)
    return docs


def age(path: Path, seconds: float = 100) -> None:
    at = time.time() - seconds
    os.utime(path, (at, at), follow_symlinks=False)


async def read(provider: DirectoryResources, path: str, etag: str | None = None) -> ResourceContent | Unchanged:
    return await provider.read(ANN, canonical(f"file://docs/{path}"), etag=etag, max_bytes=MOST)


async def content(provider: DirectoryResources, path: str) -> ResourceContent:
    found = await read(provider, path)
    assert isinstance(found, ResourceContent)
    return found


async def names(provider: DirectoryResources) -> list[str]:
    return sorted(info.name for info in await provider.list(ANN))


async def test_what_is_listed_can_be_read(folder: Path) -> None:
    provider = DirectoryResources("docs", folder)
    infos = await provider.list(ANN)
    assert sorted(info.name for info in infos) == [
        "empty.txt",
        "größe 1.txt",
        "guide.md",
        "sub/Makefile",
        "sub/archive.bin",
        "sub/deep/data.json",
        "sub/latin.txt",
        "sub/picture.svg",
        "sub/pixel.png",
        "sub/zeros.txt",
    ]
    for info in infos:
        assert canonical(info.uri) == info.uri
        assert await provider.covers(ANN, info.uri)
        found = await provider.read(ANN, info.uri, etag=None, max_bytes=MOST)
        assert isinstance(found, ResourceContent)
        assert found.data == (folder / info.name).read_bytes()
        assert info.size == len(found.data)
        assert info.mime_type in (None, found.mime_type)
    (template,) = await provider.templates(ANN)
    assert template.uri_template == "file://docs/{+path}"
    assert not provider.private(None)


@pytest.mark.parametrize(
    ("path", "mime_type", "text"),
    [
        ("guide.md", "text/markdown", "# Guide"),
        ("größe 1.txt", "text/plain", "größe"),
        ("sub/deep/data.json", "application/json", "{}"),
        ("sub/picture.svg", "image/svg+xml", "<svg/>"),
        ("sub/Makefile", "text/plain", "all:\n"),
        ("empty.txt", "text/plain", ""),
        ("sub/pixel.png", "image/png", None),
        ("sub/latin.txt", "text/plain", None),
        ("sub/zeros.txt", "text/plain", None),
        ("sub/archive.bin", "application/octet-stream", None),
    ],
)
async def test_types_and_texts(folder: Path, path: str, mime_type: str, text: str | None) -> None:
    found = await content(DirectoryResources("docs", folder), path)
    assert (found.mime_type, found.text) == (mime_type, text)
    assert (found.blob is None) == (text is not None)


@pytest.mark.parametrize(
    "path",
    [
        "absent.md",
        "sub",
        "sub/",
        "",
        "out.txt",
        "alias.md",
        "outside/secret.txt",
        "outside/docs/guide.md",
        "../secret.txt",
        "%2e%2e/secret.txt",
        "sub/../../secret.txt",
        "..%2fsecret.txt",
        "..%5csecret.txt",
        "sub%2Fpixel.png",
        "guide.md/x",
        "guide.md%00.txt",
        "guide.md?x=1",
        "pipe.txt",
        ".hidden.md",
        ".git/config",
        "notes/.private/a.md",
        "GUIDE.md",
        "guide.md.",
        "x" * 300,
        "a/" * 40 + "b",
    ],
)
async def test_what_is_not_there_or_not_within_is_not_found(folder: Path, path: str) -> None:
    provider = DirectoryResources("docs", folder)
    with pytest.raises(NotFound):
        await read(provider, path)


async def test_a_path_of_another_provider_is_not_covered(folder: Path) -> None:
    provider = DirectoryResources("docs", folder)
    for uri in ("file://docs2/guide.md", "file://doc/guide.md", "http://docs/guide.md", "file://docs"):
        assert not await provider.covers(ANN, uri)
    assert await provider.covers(ANN, "file://docs/absent.md")


async def test_a_folder_that_becomes_a_link_meanwhile_leads_nowhere(folder: Path) -> None:
    provider = DirectoryResources("docs", folder)
    elsewhere, kept, sub = folder.parent / "elsewhere", folder / "kept", folder / "sub"
    elsewhere.mkdir()
    (elsewhere / "pixel.png").write_bytes(b"secret")
    stop = threading.Event()

    def swap() -> None:
        # Now the folder, now a link to one outside, as fast as it can be.
        while not stop.is_set():
            sub.rename(kept)
            sub.symlink_to(elsewhere)
            sub.unlink()
            kept.rename(sub)

    found: Counter[bytes] = Counter()
    swapping = asyncio.create_task(asyncio.to_thread(swap))
    try:
        async with asyncio.timeout(20):
            while found[PNG] < 20 or found[b""] < 20:
                try:
                    found[(await content(provider, "sub/pixel.png")).data] += 1
                except NotFound:
                    found[b""] += 1
    finally:
        stop.set()
        await swapping
    assert set(found) == {PNG, b""}


async def test_the_folder_itself_may_be_a_link(folder: Path) -> None:
    link = folder.parent / "current"
    link.symlink_to(folder)
    provider = DirectoryResources("docs", link)
    assert (await content(provider, "guide.md")).text == "# Guide"
    assert "guide.md" in await names(provider)
    link.unlink()
    with pytest.raises(Unavailable):
        await read(provider, "guide.md")
    with pytest.raises(Unavailable):
        await provider.list(ANN)


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"include": ["*.md"]}, ["guide.md"]),
        ({"include": ["**/*.md", "/sub/deep/*"]}, ["guide.md", "sub/deep/data.json"]),
        ({"exclude": ["sub/*", "empty.*", "größe*"]}, ["guide.md"]),
        (
            {"include": ["sub/*"], "exclude": ["*.bin", "*.txt", "sub/deep/*", "*.svg"]},
            ["sub/Makefile", "sub/pixel.png"],
        ),
        ({"include": ["*.md"], "hidden": True}, [".hidden.md", "guide.md", "notes/.private/a.md"]),
    ],
)
async def test_which_files_are_shown(folder: Path, options: dict[str, Any], shown: list[str]) -> None:
    provider = DirectoryResources("docs", folder, **options)
    assert await names(provider) == shown
    for path in ("guide.md", "sub/pixel.png", "sub/archive.bin", ".hidden.md", "notes/.private/a.md"):
        assert await provider.covers(ANN, f"file://docs/{path}") == (path in shown)


async def test_changes_are_noticed(folder: Path) -> None:
    provider = DirectoryResources("docs", folder, ttl=5)
    first = await content(provider, "guide.md")
    assert first.etag is not None
    assert first.ttl == 5
    assert await read(provider, "guide.md", first.etag) == Unchanged(ttl=5)
    (folder / "guide.md").write_text("# Other")
    age(folder / "guide.md", 50)
    second = await read(provider, "guide.md", first.etag)
    assert isinstance(second, ResourceContent)
    assert second.text == "# Other"
    # A change within the same tick of the clock would not show, so what is this young is not asked for by its time.
    (folder / "guide.md").write_text("# Third")
    assert (await content(provider, "guide.md")).etag is None


async def test_a_large_file_is_refused_without_being_read(folder: Path) -> None:
    provider = DirectoryResources("docs", folder)
    with (folder / "large.txt").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(TooLarge, match="1000000000000 bytes; 1000 are allowed"):
        await read(provider, "large.txt")
    (folder / "exact.txt").write_bytes(b"x" * MOST)
    assert len((await content(provider, "exact.txt")).data) == MOST


async def test_names_that_are_no_text_can_be_read(folder: Path) -> None:
    odd = os.fsencode(folder) + b"/odd\xff\n.txt"
    with open(odd, "wb") as file:
        file.write(b"odd")
    provider = DirectoryResources("docs", folder, include=["odd*"])
    (info,) = await provider.list(ANN)
    assert info.uri == "file://docs/odd%FF%0A.txt"
    info.name.encode()
    found = await provider.read(ANN, info.uri, etag=None, max_bytes=MOST)
    assert isinstance(found, ResourceContent)
    assert found.text == "odd"
