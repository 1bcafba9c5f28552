"""Resources and prompts as an MCP client reads them."""

from __future__ import annotations

import base64
from typing import Final, NoReturn

from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    BlobResourceContents,
    GetPromptRequestParams,
    GetPromptResult,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    Prompt,
    PromptArgument,
    PromptMessage,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from gateway.conversations import refusal
from gateway.mcp_endpoint.asking import Context, principal_of
from gateway.mcp_endpoint.endpoint import Offered
from gateway.mcp_endpoint.results import block_of
from gateway.prompts import PromptInfo
from gateway.resources.port import Invalid, NotFound, ResourceContent, ResourceError, ResourceInfo
from protocol.errors import ProtocolError
from protocol.frames import PromptUse
from stores.ports import StoreError

__all__ = ["Readings"]

# What a page holds, as in the HTTP API.
_PAGE: Final = 100
_NO_RESOURCE_BEFORE_2026: Final = -32002
"""The code of a resource that is not there, up to 2025-11-25; since then it is that of wrong parameters."""


class Readings:
    """Handlers of the SDK's server. What they list is for whoever asks alone, as the SDK says by default."""

    def __init__(self, offered: Offered) -> None:
        self._reading = offered.reading
        self._prompts = offered.prompts
        self._throttle = offered.throttle

    async def list_resources(self, ctx: Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
        after = params.cursor if params is not None else None
        page = await self._reading.reader.list(principal_of(ctx), after, _PAGE)
        return ListResourcesResult(resources=list(map(_resource, page.resources)), next_cursor=page.next)

    async def list_templates(self, ctx: Context, params: PaginatedRequestParams | None) -> ListResourceTemplatesResult:
        found = await self._reading.reader.templates(principal_of(ctx))
        return ListResourceTemplatesResult(
            resource_templates=[
                ResourceTemplate(
                    uri_template=template.uri_template,
                    name=template.name,
                    mime_type=template.mime_type,
                    description=template.description,
                )
                for template in found
            ]
        )

    async def read_resource(self, ctx: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        try:
            content = await self._reading.read(principal_of(ctx), params.uri, "mcp")
        except NotFound as error:
            modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
            code = INVALID_PARAMS if modern else _NO_RESOURCE_BEFORE_2026
            raise MCPError(code, "Resource not found", {"uri": params.uri}) from error
        except ResourceError as error:
            code = INVALID_PARAMS if isinstance(error, Invalid) else INTERNAL_ERROR
            raise MCPError(code, str(error), {"uri": params.uri}) from error
        except (ProtocolError, StoreError) as error:
            _refuse(refusal(error))
        return ReadResourceResult(contents=[_contents(content)])

    async def list_prompts(self, ctx: Context, params: PaginatedRequestParams | None) -> ListPromptsResult:
        return ListPromptsResult(prompts=list(map(_prompt, await self._prompts.all(principal_of(ctx)))))

    async def get_prompt(self, ctx: Context, params: GetPromptRequestParams) -> GetPromptResult:
        principal = principal_of(ctx)
        try:
            # The prompt's server is asked for it, as by a message that begins with it.
            await self._throttle.admit(principal.owner)
            lines = await self._prompts.lines(principal, PromptUse(params.name, params.arguments))
        except (ProtocolError, StoreError) as error:
            _refuse(refusal(error))
        return GetPromptResult(messages=[PromptMessage(role=line.role, content=block_of(line.part)) for line in lines])


def _refuse(error: ProtocolError) -> NoReturn:
    """What the one who asks can put right is wrong in its parameters."""
    code = INVALID_PARAMS if error.code in ("not_found", "invalid_frame") else INTERNAL_ERROR
    raise MCPError(code, error.message) from error


def _resource(info: ResourceInfo) -> Resource:
    return Resource(
        uri=info.uri, name=info.name, mime_type=info.mime_type, description=info.description, size=info.size
    )


def _contents(content: ResourceContent) -> TextResourceContents | BlobResourceContents:
    if content.text is not None:
        return TextResourceContents(uri=content.uri, mime_type=content.mime_type, text=content.text)
    blob = base64.b64encode(content.data).decode()
    return BlobResourceContents(uri=content.uri, mime_type=content.mime_type, blob=blob)


def _prompt(info: PromptInfo) -> Prompt:
    return Prompt(
        name=info.name,
        description=info.description,
        arguments=[
            PromptArgument(name=argument.name, description=argument.description, required=argument.required)
            for argument in info.arguments
        ],
    )
