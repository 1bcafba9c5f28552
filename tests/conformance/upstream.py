"""The MCP server behind the gateway that the conformance suite looks at: what the suite wants and no tool of the
gateway's own can give. https://github.com/modelcontextprotocol/conformance says what that is."""

from __future__ import annotations

from typing import Any, Final

import mcp_types as types
from mcp.server import Server, ServerRequestContext
from mcp.shared.exceptions import MCPError
from starlette.applications import Starlette

__all__ = ["PROMPTS", "TOOLS", "upstream"]

PIXEL: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
_WAV: Final = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAAAAA=="
_OBJECT: Final[dict[str, Any]] = {"type": "object"}

TOOLS: Final[dict[str, list[types.ContentBlock]]] = {
    "test_audio_content": [types.AudioContent(data=_WAV, mime_type="audio/wav")],
    "test_embedded_resource": [
        types.EmbeddedResource(
            resource=types.TextResourceContents(
                uri="test://embedded-resource", mime_type="text/plain", text="This is an embedded resource content."
            )
        )
    ],
    "test_multiple_content_types": [
        types.TextContent(text="Multiple content types test:"),
        types.ImageContent(data=PIXEL, mime_type="image/png"),
        types.EmbeddedResource(
            resource=types.TextResourceContents(
                uri="test://mixed-content-resource", mime_type="application/json", text='{"test":"data","value":123}'
            )
        ),
    ],
}

_RESOURCES: Final[dict[str, types.TextResourceContents | types.BlobResourceContents]] = {
    "test://static-text": types.TextResourceContents(
        uri="test://static-text", mime_type="text/plain", text="This is the content of the static text resource."
    ),
    "test://static-binary": types.BlobResourceContents(uri="test://static-binary", mime_type="image/png", blob=PIXEL),
}

PROMPTS: Final[dict[str, tuple[str, ...]]] = {
    "test_simple_prompt": (),
    "test_prompt_with_arguments": ("arg1", "arg2"),
    "test_prompt_with_embedded_resource": ("resourceUri",),
    "test_prompt_with_image": (),
}


def _said(name: str, given: dict[str, str]) -> list[types.ContentBlock]:
    if name == "test_simple_prompt":
        return [types.TextContent(text="This is a simple prompt for testing.")]
    if name == "test_prompt_with_arguments":
        return [types.TextContent(text=f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'")]
    if name == "test_prompt_with_image":
        return [types.ImageContent(data=PIXEL, mime_type="image/png"), types.TextContent(text="Please analyze it.")]
    resource = types.TextResourceContents(
        uri=given["resourceUri"], mime_type="text/plain", text="Embedded resource content for testing."
    )
    return [types.EmbeddedResource(resource=resource), types.TextContent(text="Please process it.")]


class _Handlers:
    async def list_tools(
        self, ctx: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[types.Tool(name=name, description=f"For {name}.", input_schema=_OBJECT) for name in TOOLS]
        )

    async def call_tool(
        self, ctx: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        return types.CallToolResult(content=TOOLS[params.name])

    async def list_resources(
        self, ctx: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        return types.ListResourcesResult(
            resources=[
                types.Resource(uri=uri, name=uri, description="For tests.", mime_type=found.mime_type)
                for uri, found in _RESOURCES.items()
            ]
        )

    async def list_templates(
        self, ctx: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        template = types.ResourceTemplate(
            uri_template="test://template/{id}/data", name="template", mime_type="application/json"
        )
        return types.ListResourceTemplatesResult(resource_templates=[template])

    async def read_resource(
        self, ctx: ServerRequestContext[Any, Any], params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        uri = params.uri
        if uri in _RESOURCES:
            return types.ReadResourceResult(contents=[_RESOURCES[uri]])
        if uri.startswith("test://template/"):
            number = uri.split("/")[3]
            text = f'{{"id":"{number}","templateTest":true,"data":"Data for ID: {number}"}}'
            made = types.TextResourceContents(uri=uri, mime_type="application/json", text=text)
            return types.ReadResourceResult(contents=[made])
        raise MCPError(types.INVALID_PARAMS, "Resource not found", {"uri": uri})

    async def list_prompts(
        self, ctx: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
    ) -> types.ListPromptsResult:
        return types.ListPromptsResult(
            prompts=[
                types.Prompt(
                    name=name,
                    description=f"For {name}.",
                    arguments=[types.PromptArgument(name=one, required=True) for one in arguments],
                )
                for name, arguments in PROMPTS.items()
            ]
        )

    async def get_prompt(
        self, ctx: ServerRequestContext[Any, Any], params: types.GetPromptRequestParams
    ) -> types.GetPromptResult:
        said = _said(params.name, params.arguments or {})
        return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=block) for block in said])


def upstream() -> Starlette:
    """Its application, with /mcp."""
    handlers = _Handlers()
    server: Server[Any] = Server(
        "upstream",
        version="1",
        on_list_tools=handlers.list_tools,
        on_call_tool=handlers.call_tool,
        on_list_resources=handlers.list_resources,
        on_list_resource_templates=handlers.list_templates,
        on_read_resource=handlers.read_resource,
        on_list_prompts=handlers.list_prompts,
        on_get_prompt=handlers.get_prompt,
    )
    return server.streamable_http_app(stateless_http=True)
