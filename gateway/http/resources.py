"""`/v1/resources`: what a principal may read, and reading it (docs/protocol.md, section 6, docs/resources.md)."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth.principal import Principal
from gateway.http.replies import Guard, json_reply, page_size
from gateway.resource_reading import ResourceReading
from gateway.resources.mime import BINARY, IMAGES
from gateway.resources.port import (
    Invalid,
    NotFound,
    ResourceContent,
    ResourceError,
    ResourceInfo,
    TooLarge,
    Unavailable,
)
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["resource_routes"]

# What a browser shows without running anything of it.
_SHOWN: Final = IMAGES | {"text/plain", "text/markdown", "text/csv", "application/json"}
_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+\-]{1,64}/[a-z0-9!#$&^_.+\-]{1,64}", re.IGNORECASE)
_ODD: Final = re.compile(r"[^A-Za-z0-9._\-]+")
_CODES: Final[tuple[tuple[type[ResourceError], ErrorCode], ...]] = (
    (NotFound, "not_found"),
    (Invalid, "invalid_frame"),
    (TooLarge, "too_large"),
    (Unavailable, "unavailable"),
)


def resource_routes(guard: Guard, reading: ResourceReading) -> list[Route]:
    async def listed(request: Request, principal: Principal) -> Response:
        after = request.query_params.get("after")
        page = await reading.reader.list(principal, after, page_size(request, 100))
        templates = await reading.reader.templates(principal) if after is None else []
        return json_reply(
            {
                "resources": [_shown(info) for info in page.resources],
                "templates": [
                    {
                        "uri_template": template.uri_template,
                        "name": template.name,
                        "mime_type": template.mime_type,
                        "description": template.description,
                    }
                    for template in templates
                ],
                "next": page.next,
            }
        )

    async def read(request: Request, principal: Principal) -> Response:
        uri = request.query_params.get("uri")
        if not uri:
            raise ProtocolError("invalid_frame", "uri is the resource to read", path="uri")
        try:
            content = await reading.read(principal, uri, "http")
        except ResourceError as error:
            raise _refusal(error) from error
        return _reply(request, content)

    return [
        Route("/v1/resources", guard(listed), methods=["GET"]),
        Route("/v1/resources/read", guard(read), methods=["GET"]),
    ]


def _shown(info: ResourceInfo) -> dict[str, Any]:
    return {
        "uri": info.uri,
        "name": info.name,
        "mime_type": info.mime_type,
        "description": info.description,
        "size": info.size,
    }


def _refusal(error: ResourceError) -> ProtocolError:
    code: ErrorCode = "forbidden"
    for kind, named in _CODES:
        if isinstance(error, kind):
            code = named
            break
    return ProtocolError(code, str(error), path="uri", retry_after=1 if code == "unavailable" else None)


def _reply(request: Request, content: ResourceContent) -> Response:
    """The bytes as they are, which no browser runs as a page of the gateway's; or JSON, where that is asked for."""
    mime_type = content.mime_type.lower() if _TYPE.fullmatch(content.mime_type) else BINARY
    headers = {
        "cache-control": "private, no-cache",
        "vary": "Accept, Authorization, X-API-Key",
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'; sandbox",
        "cross-origin-resource-policy": "same-origin",
    }
    if request.headers.get("accept", "").partition(";")[0].strip() == "application/json":
        body = orjson.dumps({"uri": content.uri, "mime_type": mime_type, **_value(content)})
        headers["content-type"] = "application/json"
    else:
        body = content.data
        headers["content-type"] = f"{mime_type}; charset=utf-8" if content.text is not None else mime_type
        if mime_type not in _SHOWN:
            headers["content-disposition"] = f'attachment; filename="{_file_name(content.uri)}"'
    headers["etag"] = etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers)


def _value(content: ResourceContent) -> dict[str, str]:
    if content.text is not None:
        return {"text": content.text}
    return {"blob": base64.b64encode(content.data).decode()}


def _file_name(uri: str) -> str:
    path = unquote(urlsplit(uri).path).rstrip("/")
    return _ODD.sub("_", path.rpartition("/")[2])[-64:].lstrip(".") or "resource"
