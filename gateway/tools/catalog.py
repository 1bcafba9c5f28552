"""All tools that a gateway has: its own first, then those of its sources."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.auth.principal import Principal
from gateway.tools.port import Tool, ToolSource
from gateway.tools.registry import ToolRegistry

__all__ = ["Catalog"]


class Catalog:
    """Of tools with the same name the first one counts, so that no source can put its own in the place of another's."""

    def __init__(self, registry: ToolRegistry, sources: Sequence[ToolSource] = ()) -> None:
        self._registry = registry
        self._sources = tuple(sources)

    async def tools(self, principal: Principal) -> list[Tool]:
        """What there is for the principal, whether or not a policy lets it be used; in a steady order."""
        if not self._sources:
            return list(self._registry)
        found = {tool.name: tool for tool in self._registry}
        for source in self._sources:
            for tool in await source.tools(principal):
                found.setdefault(tool.name, tool)
        return list(found.values())

    async def find(self, principal: Principal, name: str) -> Tool | None:
        tool = self._registry.get(name)
        for source in self._sources:
            if tool is not None:
                break
            tool = await source.find(principal, name)
        return tool
