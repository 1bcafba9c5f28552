"""Typed functions as tools: `@tool` makes the schema from the hints and the description from the docstring."""

from __future__ import annotations

import copy
import functools
import inspect
import re
import types
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Generic, ParamSpec, TypeVar, cast, get_type_hints, overload

import msgspec
from msgspec import Struct

from gateway.core.approval import Rule, rule_of
from gateway.tools.port import Tool, ToolContext, ToolError, ToolSettings
from gateway.tools.threads import ToolThreads

__all__ = ["TOOL_NAME", "NativeTool", "as_tool", "tool"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_THREADS: Final = ToolThreads(64)
_PATH = re.compile(r"^(?P<reason>.*) - at `(?:key in )?\$\.(?P<parameter>\w+)(?P<rest>[^`]*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(\w+)`$")


class NativeTool(Generic[_P, _R]):
    """A function that carries `@tool`: a `Tool` (gateway/tools/port.py) that can still be called as the function.

    A coroutine function runs in the event loop, a plain one in a thread of its own pool. Its parameters are checked
    strictly against its hints; `int` fits where `float` is asked for, nothing else is converted between JSON types.
    """

    def __init__(self, function: Callable[_P, _R], name: str, settings: ToolSettings) -> None:
        """Raises TypeError or ValueError where the function can't be a tool, and says why."""
        self._name = name
        if not TOOL_NAME.fullmatch(name):
            raise ValueError(f"tool name {name!r}: a name is 1 to 64 characters of A-Z a-z 0-9 _ -")
        if not (settings.timeout > 0 and settings.idle_timeout > 0):
            raise ValueError(f"tool {name!r}: its timeouts are seconds greater than 0")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"tool {name!r}: a generator can't be a tool; return the result, report with ctx.progress")
        self._function = function
        self._settings = settings
        self._description = inspect.getdoc(function) or ""
        self._context_parameter, self._shape = _shape(function, name)
        self._parameters = _json_schema(self._shape, name)
        functools.update_wrapper(cast("Callable[..., Any]", self), function)

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<tool {self._name}>"

    @property
    def name(self) -> str:
        return self._name

    @property
    def description(self) -> str:
        return self._description

    @property
    def parameters(self) -> dict[str, Any]:
        return self._parameters

    @property
    def settings(self) -> ToolSettings:
        return self._settings

    def validate(self, parameters: dict[str, Any]) -> None:
        self._arguments(parameters)

    async def run(self, context: ToolContext, parameters: dict[str, Any]) -> Any:
        arguments = self._arguments(parameters)
        if self._context_parameter is not None:
            arguments[self._context_parameter] = context
        call = functools.partial(cast("Callable[..., Any]", self._function), **arguments)
        if inspect.iscoroutinefunction(self._function):
            return await cast("Awaitable[Any]", call())
        return await _THREADS.run(call)

    def _arguments(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The keyword arguments of the function, defaults filled in. Raises ToolError."""
        known = self._shape.__struct_fields__
        unknown = [name for name in parameters if name not in known]
        if unknown:
            listed = ", ".join(repr(name[:64]) for name in unknown[:8])
            raise ToolError(f"unknown parameter{'s' * (len(unknown) > 1)} {listed}")
        try:
            values = msgspec.convert(parameters, self._shape, strict=True, str_keys=True)
        except msgspec.ValidationError as error:
            raise ToolError(_explain(str(error))) from error
        return {name: getattr(values, name) for name in known}


@overload
def tool(function: Callable[_P, _R], /) -> NativeTool[_P, _R]: ...


@overload
def tool(
    *,
    idempotent: bool = ...,
    timeout: float = ...,
    idle_timeout: float = ...,
    approval: Rule | Mapping[str, Any] = ...,
    permission: str | None = ...,
    name: str | None = ...,
) -> Callable[[Callable[_P, _R]], NativeTool[_P, _R]]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    idempotent: bool = False,
    timeout: float = 300.0,
    idle_timeout: float = 60.0,
    approval: Rule | Mapping[str, Any] = "never",
    permission: str | None = None,
    name: str | None = None,
) -> Any:
    """Make a tool of a function; with or without parentheses. The settings are those of `ToolSettings`; `name` is the
    function's own unless given.

    Every parameter has a type hint that msgspec knows, and can be passed by name. One that is hinted `ToolContext`,
    if there is any, gets the run's context. `Annotated[int, msgspec.Meta(ge=1, description="…")]` narrows or explains
    a parameter. Raises TypeError or ValueError, naming what is wrong, for a function that can't be a tool.
    """
    settings = ToolSettings(
        idempotent=idempotent,
        timeout=timeout,
        idle_timeout=idle_timeout,
        approval=rule_of(approval),
        permission=permission,
    )

    def decorate(decorated: Callable[_P, _R]) -> NativeTool[_P, _R]:
        own_name = getattr(decorated, "__name__", type(decorated).__name__)
        return NativeTool(decorated, own_name if name is None else name, settings)

    return decorate if function is None else decorate(function)


def as_tool(given: Tool | Callable[..., Any]) -> Tool:
    """What is a tool as it is; a bare function as `@tool` would make it one. Raises TypeError or ValueError."""
    if inspect.isfunction(given) or inspect.ismethod(given):
        return tool(given)
    return cast("Tool", given)


def _shape(function: Callable[..., Any], tool_name: str) -> tuple[str | None, type[Struct]]:
    """The name of the context parameter, and a struct of all others."""
    parameters = inspect.signature(function).parameters
    hints = _hints(function, tool_name)
    context_parameter: str | None = None
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for name, parameter in parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"tool {tool_name!r}: parameter {name!r} can't be passed by name")
        if name not in hints:
            raise TypeError(f"tool {tool_name!r}: parameter {name!r} has no type hint")
        if hints[name] is ToolContext:
            if context_parameter is not None:
                raise TypeError(f"tool {tool_name!r}: {context_parameter!r} and {name!r} both ask for the context")
            context_parameter = name
        elif parameter.default is parameter.empty:
            fields.append((name, hints[name]))
        else:
            fields.append((name, hints[name], _default(parameter.default)))
    return context_parameter, msgspec.defstruct(f"{tool_name}_parameters", fields, kw_only=True)


def _hints(function: Callable[..., Any], tool_name: str) -> dict[str, Any]:
    """The hints of the parameters. That of the result is left alone: it may name what only type checkers see."""
    written = inspect.unwrap(function)
    annotations: dict[str, Any] = dict(getattr(written, "__annotations__", {}))
    annotations.pop("return", None)
    try:
        return get_type_hints(
            types.SimpleNamespace(__annotations__=annotations),
            globalns=getattr(written, "__globals__", {}),
            include_extras=True,
        )
    except NameError as error:
        raise TypeError(f"tool {tool_name!r}: its hints name {error.name!r}, which is not defined before it") from error


def _default(value: Any) -> Any:
    """What msgspec takes for a default; a mutable one is copied for every run."""
    if isinstance(value, list | dict | set | bytearray) and value:
        return msgspec.field(default_factory=functools.partial(copy.deepcopy, cast("object", value)))
    return cast("object", value)


def _json_schema(shape: type[Struct], tool_name: str) -> dict[str, Any]:
    """The schema of an object, with what it refers to under `$defs`."""
    try:
        (reference,), components = msgspec.json.schema_components((shape,), ref_template="#/$defs/{name}")
    except TypeError as error:
        raise TypeError(f"tool {tool_name!r}: its parameters have no JSON Schema: {error}") from error
    schema = components.pop(reference["$ref"].removeprefix("#/$defs/"))
    del schema["title"]
    schema["additionalProperties"] = False
    if components:
        schema["$defs"] = components
    return schema


def _explain(text: str) -> str:
    """msgspec's words, with the parameter in front."""
    missing = _MISSING.match(text)
    if missing:
        return f"parameter {missing[1]!r} is missing"
    at = _PATH.match(text)
    if at is None:
        return text
    reason = at["reason"][:1].lower() + at["reason"][1:]
    return f"parameter {at['parameter'] + at['rest']!r}: {reason}"
