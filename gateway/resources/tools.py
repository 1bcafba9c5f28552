"""Resources as models reach them: the tools `list_resources` and `read_resource`."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Final

from msgspec import Meta

from gateway.auth.principal import Principal
from gateway.core.images import image_type
from gateway.core.resources import READ_RESOURCE
from gateway.resources.port import ResourceContent, ResourceError
from gateway.resources.reader import ResourceReader
from gateway.resources.uris import MAX_URI
from gateway.tools.native import tool
from gateway.tools.port import Tool, ToolContext, ToolError

__all__ = ["LIST_RESOURCES", "ResourceTools", "as_result"]

LIST_RESOURCES: Final = "list_resources"

_PAGE: Final = 100
_Uri = Annotated[str, Meta(min_length=1, max_length=MAX_URI, description="as list_resources shows it")]
_After = Annotated[str, Meta(max_length=MAX_URI, description="what `next` of the page before said")]


class ResourceTools:
    """A ToolSource (gateway/tools/port.py) of both tools, where there are resources to read."""

    def __init__(self, reader: ResourceReader) -> None:
        self._tools = {made.name: made for made in _tools(reader)} if reader.configured else {}

    async def tools(self, principal: Principal) -> Sequence[Tool]:
        return list(self._tools.values())

    async def find(self, principal: Principal, name: str) -> Tool | None:
        return self._tools.get(name)


def as_result(content: ResourceContent) -> dict[str, Any]:
    """A resource as the result of a tool: its text; an image that models know as a part; else words on what it is."""
    result: dict[str, Any] = {"uri": content.uri, "mime_type": content.mime_type}
    if content.text is not None:
        return result | {"text": content.text}
    data = base64.b64encode(content.data).decode()
    kind = image_type(data)
    if kind is None:
        return result | {"text": f"(Binary data, {len(content.data)} bytes, which can't be shown.)"}
    return result | {"content": [{"type": "image", "mime_type": kind, "data": data}]}


def _tools(reader: ResourceReader) -> tuple[Tool, Tool]:
    @tool(idempotent=True, timeout=60, name=LIST_RESOURCES)
    async def list_resources(ctx: ToolContext, after: _After | None = None) -> dict[str, Any]:
        """List the resources that can be read, a page at a time, and templates of the URIs of others."""
        page = await reader.list(ctx.principal, after, _PAGE)
        found: dict[str, Any] = {"resources": [_listed(info) for info in page.resources]}
        if after is None:
            found["templates"] = [_listed(template) for template in await reader.templates(ctx.principal)]
        if page.next is not None:
            found["next"] = page.next
        return found

    @tool(idempotent=True, timeout=60, name=READ_RESOURCE)
    async def read_resource(ctx: ToolContext, uri: _Uri) -> dict[str, Any]:
        """Read a resource by its URI: a document, a page, the answer to a query."""
        try:
            return as_result(await reader.read(ctx.principal, uri))
        except ResourceError as error:
            raise ToolError(str(error)) from error

    return list_resources, read_resource


def _listed(info: Any) -> dict[str, Any]:
    names = ("uri", "uri_template", "name", "mime_type", "description")
    return {name: value for name in names if (value := getattr(info, name, None)) is not None}
