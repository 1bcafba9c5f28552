from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from gateway.core.policy import Policy
from gateway.core.resources import READ_RESOURCE
from gateway.resources.directory import DirectoryResources
from gateway.resources.port import ResourceContent
from gateway.resources.reader import ResourceReader
from gateway.resources.tools import LIST_RESOURCES, ResourceTools, as_result
from gateway.tools.catalog import Catalog
from gateway.tools.port import ToolContext, ToolOutcome
from gateway.tools.registry import ToolRegistry
from gateway.tools.runner import ToolRunner
from tests.gateway.resources.shelf import ANN, Shelf

PIXEL = b"\x89PNG\r\n\x1a\n" + b"\0" * 8


def reader_of(*providers: Any) -> ResourceReader:
    return ResourceReader(providers, Policy({}).may_use)


async def call(reader: ResourceReader, name: str, **parameters: Any) -> ToolOutcome:
    tool = await ResourceTools(reader).find(ANN, name)
    assert tool is not None
    assert tool.settings.idempotent
    context = ToolContext(ANN, "chat", "call", lambda progress, total, message: None)
    return await ToolRunner().run(tool, context, parameters)


async def test_they_are_offered_where_there_is_a_provider() -> None:
    none = Catalog(ToolRegistry(), [ResourceTools(reader_of())])
    assert await none.tools(ANN) == []
    assert await none.find(ANN, READ_RESOURCE) is None
    some = Catalog(ToolRegistry(), [ResourceTools(reader_of(Shelf()))])
    assert [tool.name for tool in await some.tools(ANN)] == [LIST_RESOURCES, READ_RESOURCE]
    assert await some.find(ANN, "other") is None


async def test_lists_come_in_pages(tmp_path: Path) -> None:
    for n in range(150):
        (tmp_path / f"{n:03}.md").write_text("x")
    reader = reader_of(DirectoryResources("docs", tmp_path))
    first = (await call(reader, LIST_RESOURCES)).result
    assert len(first["resources"]) == 100
    assert first["resources"][0] == {"uri": "file://docs/000.md", "name": "000.md", "mime_type": "text/markdown"}
    assert first["templates"] == [
        {"uri_template": "file://docs/{+path}", "name": "docs", "description": "A file by its path"}
    ]
    rest = (await call(reader, LIST_RESOURCES, after=first["next"])).result
    assert len(rest["resources"]) == 50
    assert set(rest) == {"resources"}


async def test_a_text_an_image_and_other_bytes(tmp_path: Path) -> None:
    files = {"a.md": b"# Hello", "pixel.png": PIXEL, "liar.png": b"not an image\xff", "data.bin": b"\0\1"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    reader = reader_of(DirectoryResources("docs", tmp_path))

    async def read(name: str) -> Any:
        outcome = await call(reader, READ_RESOURCE, uri=f"FILE://docs/./{name}")
        assert outcome.status == "success"
        return outcome.result

    assert await read("a.md") == {"uri": "file://docs/a.md", "mime_type": "text/markdown", "text": "# Hello"}
    image = {"type": "image", "mime_type": "image/png", "data": base64.b64encode(PIXEL).decode()}
    assert await read("pixel.png") == {"uri": "file://docs/pixel.png", "mime_type": "image/png", "content": [image]}
    assert (await read("liar.png"))["text"] == "(Binary data, 13 bytes, which can't be shown.)"
    assert await read("data.bin") == {
        "uri": "file://docs/data.bin",
        "mime_type": "application/octet-stream",
        "text": "(Binary data, 2 bytes, which can't be shown.)",
    }


@pytest.mark.parametrize("uri", ["file://docs/absent", "absent", "shelf://b"])
async def test_what_is_not_there_is_an_error_in_words(uri: str) -> None:
    outcome = await call(reader_of(Shelf()), READ_RESOURCE, uri=uri)
    assert outcome.status == "error"
    assert outcome.result.startswith("There is no such resource")


def test_an_image_is_one_by_its_bytes() -> None:
    content = ResourceContent(uri="x:y", mime_type="text/plain", blob=PIXEL)
    assert as_result(content)["content"][0]["mime_type"] == "image/png"
