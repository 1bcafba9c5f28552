from collections.abc import Sequence
from typing import Any

from gateway import tool
from gateway.auth.principal import Principal
from gateway.tools.catalog import Catalog
from gateway.tools.port import Tool
from gateway.tools.registry import ToolRegistry

ALICE = Principal(tenant="acme", subject="alice")
BOB = Principal(tenant="acme", subject="bob")


def named(name: str) -> Tool:
    def anything() -> str:
        return name

    return tool(name=name)(anything)


class Source:
    """Has the tools of each principal's own."""

    def __init__(self, **tools: Sequence[Tool]) -> None:
        self._tools = tools

    async def tools(self, principal: Principal) -> Sequence[Tool]:
        return self._tools.get(principal.subject, ())

    async def find(self, principal: Principal, name: str) -> Tool | None:
        return next((tool for tool in await self.tools(principal) if tool.name == name), None)


def names(tools: Sequence[Tool]) -> list[str]:
    return [tool.name for tool in tools]


async def test_its_own_tools_come_first_then_those_of_the_sources_in_their_order() -> None:
    catalog = Catalog(
        ToolRegistry([named("own")]),
        [Source(alice=[named("first"), named("other")]), Source(alice=[named("second")])],
    )
    assert names(await catalog.tools(ALICE)) == ["own", "first", "other", "second"]
    assert names(await catalog.tools(BOB)) == ["own"]


async def test_no_source_puts_its_tool_in_the_place_of_another() -> None:
    own, first = named("own"), named("first")
    catalog = Catalog(
        ToolRegistry([own]),
        [Source(alice=[named("own"), first]), Source(alice=[named("first"), named("own")])],
    )
    assert await catalog.tools(ALICE) == [own, first]
    assert await catalog.find(ALICE, "own") is own
    assert await catalog.find(ALICE, "first") is first


async def test_a_tool_is_found_for_whom_it_is_there() -> None:
    mine: Any = named("mine")
    catalog = Catalog(ToolRegistry(), [Source(bob=[named("his")]), Source(alice=[mine])])
    assert await catalog.find(ALICE, "mine") is mine
    assert await catalog.find(BOB, "mine") is None
    assert await Catalog(ToolRegistry()).find(ALICE, "mine") is None
