"""The tools of a gateway by name, and how they are loaded from modules."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from typing import Any

from gateway.tools.native import TOOL_NAME, NativeTool
from gateway.tools.port import Tool
from protocol.frames import ToolSpec

__all__ = ["RegistryError", "ToolRegistry"]


class RegistryError(Exception):
    """The settings ask for tools that can't be had; the message says which, and what to do."""


class ToolRegistry:
    """Tools by name, in the order in which they were added."""

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            self.add(tool)

    def add(self, tool: Tool) -> None:
        """Raises RegistryError for a name that is malformed or another tool's. The same tool may come twice."""
        if not TOOL_NAME.fullmatch(tool.name):
            raise RegistryError(f"tool name {tool.name!r}: a name is 1 to 64 characters of A-Z a-z 0-9 _ -")
        present = self._tools.setdefault(tool.name, tool)
        if present is not tool:
            raise RegistryError(f"two tools are named {tool.name!r}: {_origin(present)} and {_origin(tool)}")

    def get(self, name: str) -> Tool | None:
        return self._tools.get(name)

    def specs(self, names: Iterable[str] | None = None) -> list[ToolSpec]:
        """What a model is told of the tools: of all, or of those in `names` that exist."""
        tools = self if names is None else [self._tools[name] for name in dict.fromkeys(names) if name in self._tools]
        return [ToolSpec(name=tool.name, description=tool.description, parameters=tool.parameters) for tool in tools]

    def load(self, modules: Iterable[str]) -> None:
        """Add the functions of these modules that carry `@tool`.

        Raises RegistryError where a module is not found or has no such function. What a module raises while it is
        imported passes through: it is the operator's code, and its traceback is what helps.
        """
        for module_name in modules:
            tools = _tools_of(_import(module_name))
            if not tools:
                raise RegistryError(f"module {module_name!r} has no function that carries @tool")
            for tool in tools:
                self.add(tool)

    def __iter__(self) -> Iterator[Tool]:
        return iter(list(self._tools.values()))

    def __len__(self) -> int:
        return len(self._tools)


def _import(module_name: str) -> object:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Only where it is the module itself (or a package that it would lie in) that is missing.
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            message = f"module {module_name!r} was not found: is the folder that holds it on PYTHONPATH?"
            raise RegistryError(message) from error
        raise
    except (TypeError, ValueError) as error:
        if module_name and not module_name.startswith("."):
            raise
        raise RegistryError(f"{module_name!r} is not the name of a module, such as 'my_tools'") from error


def _tools_of(module: object) -> list[NativeTool[..., Any]]:
    return [value for value in vars(module).values() if isinstance(value, NativeTool)]


def _origin(tool: Tool) -> str:
    return f"that of {getattr(tool, '__module__', type(tool).__module__)}"
