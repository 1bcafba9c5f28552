"""The prompts of MCP servers: `<server>__<prompt>`, named as their tools are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import mcp_types as types
from mcp.shared.exceptions import MCPError

from gateway.auth.principal import Principal
from gateway.core.images import image_type
from gateway.mcp.descriptions import clean
from gateway.mcp.host import McpHost
from gateway.mcp.listing import Listing
from gateway.mcp.names import name_tools
from gateway.mcp.transports import ServerAway
from gateway.prompts import PromptArgument, PromptInfo, PromptLine
from gateway.tools.port import ToolError
from protocol.errors import ProtocolError
from protocol.frames import ImagePart, TextPart

__all__ = ["McpPrompts"]

_ARGUMENTS = 64


class McpPrompts:
    """A PromptSource (gateway/prompts.py). A server's `permission` is needed for its prompts as for its tools."""

    def __init__(self, host: McpHost, may_use: Callable[[Principal, str, str | None], bool]) -> None:
        self._host = host
        self._may_use = may_use

    async def prompts(self, principal: Principal) -> Sequence[PromptInfo]:
        return [
            _info(name, prompt)
            for offer in await self._host.offers(principal)
            for name, prompt in _named(offer.server, offer.listing).items()
            if self._may_use(principal, f"prompt:{name}", self._host.servers[offer.server].permission)
        ]

    async def prompt(self, principal: Principal, name: str, arguments: Mapping[str, str]) -> Sequence[PromptLine]:
        for offer in await self._host.offers(principal):
            prompt = _named(offer.server, offer.listing).get(name)
            if prompt is not None:
                return await self._lines(principal, offer.server, prompt.name, arguments)
        raise ProtocolError("not_found", f"there is no prompt {name[:64]!r}")

    async def _lines(
        self, principal: Principal, server: str, name: str, arguments: Mapping[str, str]
    ) -> list[PromptLine]:
        try:
            result = await self._host.get_prompt(principal, server, name, arguments)
        except ServerAway as error:
            raise ProtocolError("unavailable", str(error)) from error
        except ToolError as error:
            refused = isinstance(error.__cause__, MCPError) and error.__cause__.code == types.INVALID_PARAMS
            raise ProtocolError("invalid_frame" if refused else "unavailable", str(error)) from error
        return [PromptLine(message.role, _part(message.content)) for message in result.messages]


def _named(server: str, listing: Listing) -> dict[str, types.Prompt]:
    prompts: dict[str, types.Prompt] = {}
    for prompt in listing.prompts:
        prompts.setdefault(prompt.name, prompt)
    return {name: prompts[own] for name, own in name_tools(server, prompts).tools.items()}


def _info(name: str, prompt: types.Prompt) -> PromptInfo:
    return PromptInfo(
        name=name,
        description=clean(prompt.description or prompt.title or "") or None,
        arguments=[
            PromptArgument(
                name=argument.name,
                description=clean(argument.description) if argument.description else None,
                required=bool(argument.required),
            )
            for argument in (prompt.arguments or [])[:_ARGUMENTS]
        ],
    )


def _part(content: types.ContentBlock) -> TextPart | ImagePart:
    """What a message can carry; everything else is named."""
    if isinstance(content, types.TextContent):
        return TextPart(text=_carried(content.text))
    if isinstance(content, types.ImageContent) and (kind := image_type(content.data)) is not None:
        return ImagePart(mime_type=kind, data=content.data)
    if isinstance(content, types.EmbeddedResource) and isinstance(content.resource, types.TextResourceContents):
        return TextPart(text=_carried(f"{clean(content.resource.uri)}:\n{content.resource.text}"))
    return TextPart(text=f"({content.type.replace('_', ' ').capitalize()}, which can't be shown.)")


def _carried(text: str) -> str:
    """Without lone surrogates, which JSON can say and UTF-8 can't."""
    return text.encode("utf-8", "replace").decode()
