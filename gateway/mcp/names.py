"""What the tools of MCP servers are called in the gateway: `<server>__<tool>`, or as the settings rename them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from msgspec import Struct, field

from gateway.core.policy import matches

__all__ = ["SEPARATOR", "SERVER_NAME", "Dropped", "NameRules", "Named", "name_tools", "tool_name"]

SEPARATOR: Final = "__"
SERVER_NAME: Final = re.compile(r"(?!.*__)[A-Za-z0-9_-]{0,31}[A-Za-z0-9-]")
"""At most 32 characters, so that half of a tool's name is its own. Without the separator in it, and no `_` at its end,
the name of a tool tells where the server's name ends; else a server `a__b` could pass for one named `a`."""

_LONGEST: Final = 64
_HASH: Final = 8
_SHOWN: Final = 64
_ILLEGAL: Final = re.compile(r"[^A-Za-z0-9_-]")


class NameRules(Struct, frozen=True, kw_only=True):
    """Which of a server's tools are offered, by patterns of the names that the server gives them (`*` stands for any
    run of characters), and which of those have another name here than `<server>__<tool>`."""

    include: Sequence[str] = ("*",)
    exclude: Sequence[str] = ()
    rename: Mapping[str, str] = field(default_factory=dict[str, str])


class Dropped(NamedTuple):
    """A tool that is not offered, by the server's name for it, and why."""

    tool: str
    reason: str


class Named(NamedTuple):
    """The server's names by ours, in the server's order, and what has none."""

    tools: dict[str, str]
    dropped: list[Dropped]


def name_tools(server: str, tools: Iterable[str], rules: NameRules | None = None) -> Named:
    """Tools that the rules leave out are not mentioned. Where two would have the same name, the one that needs no
    change for it stays, so that a server can't put a tool in the place of another by what is cut from its name; else
    the first."""
    rules = rules or NameRules()
    wanted = [tool for tool in dict.fromkeys(tools) if _wanted(tool, rules)]
    names = {tool: tool_name(server, tool, rules.rename) for tool in wanted if tool}
    dropped = [Dropped(tool, "it has no name") for tool in wanted if not tool]
    owners: dict[str, str] = {}
    for tool, name in sorted(names.items(), key=lambda item: item[1] != f"{server}{SEPARATOR}{item[0]}"):
        owner = owners.setdefault(name, tool)
        if owner != tool:
            dropped.append(Dropped(_shown(tool), f"{_shown(owner)!r} is named {name!r} too"))
    return Named({name: tool for tool, name in names.items() if owners[name] == tool}, dropped)


def tool_name(server: str, tool: str, rename: Mapping[str, str] | None = None) -> str:
    """The name here of the server's `tool`: 1 to 64 characters of A-Z a-z 0-9 _ -, always the same one. Other
    characters become `_`; of a name that is too long the beginning is kept, with a hash of the whole."""
    whole = (rename or {}).get(tool) or f"{server}{SEPARATOR}{tool}"
    legal = _ILLEGAL.sub("_", whole)
    if len(legal) <= _LONGEST:
        return legal
    digest = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH]
    return f"{legal[: _LONGEST - _HASH - 1]}_{digest}"


def _wanted(tool: str, rules: NameRules) -> bool:
    if any(matches(pattern, tool) for pattern in rules.exclude):
        return False
    return any(matches(pattern, tool) for pattern in rules.include)


def _shown(tool: str) -> str:
    return tool if len(tool) <= _SHOWN else f"{tool[:_SHOWN]}…"
