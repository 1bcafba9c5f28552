from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct

import gateway
from gateway import ToolContext, ToolError, tool
from gateway.auth.principal import Principal
from gateway.tools.port import Tool

if TYPE_CHECKING:
    from datetime import datetime as ForCheckersOnly  # noqa: N812


class Point(Struct):
    x: int
    y: int = 0


def ignore(progress: float, total: float | None, message: str | None) -> None: ...


def context() -> ToolContext:
    return ToolContext(Principal(tenant="t", subject="s"), "conv_1", "tool_1", ignore)


@tool(idempotent=True, timeout=30, idle_timeout=5, approval="always", permission="billing", name="pay")
async def charge(
    ctx: ToolContext, amount: int, currency: Literal["EUR", "USD"] = "EUR", tags: list[str] | None = None
) -> dict[str, Any]:
    """Charge the customer's card.

    At once.
    """
    return {"charged": amount, "currency": currency, "call": ctx.call_id, "tags": tags}


def test_the_package_offers_what_a_tool_needs() -> None:
    assert {"ToolContext", "ToolError", "tool"} <= set(gateway.__all__)


async def test_a_tool_is_described_by_its_function() -> None:
    port: Tool = charge
    assert port.name == "pay"
    assert port.description == "Charge the customer's card.\n\nAt once."
    assert port.parameters == {
        "type": "object",
        "properties": {
            "amount": {"type": "integer"},
            "currency": {"enum": ["EUR", "USD"], "default": "EUR"},
            "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}], "default": None},
        },
        "required": ["amount"],
        "additionalProperties": False,
    }
    assert port.settings.idempotent
    assert (port.settings.timeout, port.settings.idle_timeout) == (30, 5)
    assert (port.settings.approval, port.settings.permission) == ("always", "billing")
    result = await port.run(context(), {"amount": 3})
    assert result == {"charged": 3, "currency": "EUR", "call": "tool_1", "tags": None}


async def test_it_can_still_be_called_as_the_function() -> None:
    assert await charge(context(), 4, "USD") == {"charged": 4, "currency": "USD", "call": "tool_1", "tags": None}
    assert inspect.unwrap(charge).__name__ == "charge"
    assert repr(charge) == "<tool pay>"


async def test_without_parentheses_and_context_a_plain_function_runs_in_a_thread() -> None:
    @tool
    def where(times: int = 1) -> list[str]:
        return [threading.current_thread().name] * times

    assert where.settings.timeout == 300
    assert where.description == ""
    (name,) = await where.run(context(), {})
    assert name.startswith("tidegate-tool-")


async def test_types_of_its_own_are_under_defs() -> None:
    @tool(name="length")
    async def measure(point: Point, scale: Annotated[float, Meta(gt=0, description="how much")] = 1.0) -> float:
        return point.x * scale

    assert measure.parameters["properties"]["point"] == {"$ref": "#/$defs/Point"}
    assert measure.parameters["properties"]["scale"]["description"] == "how much"
    assert measure.parameters["$defs"]["Point"]["required"] == ["x"]
    assert await measure.run(context(), {"point": {"x": 2}, "scale": 3}) == 6.0
    with pytest.raises(ToolError, match=r"parameter 'point.x': expected `int`, got `str`"):
        measure.validate({"point": {"x": "2"}})
    with pytest.raises(ToolError, match="parameter 'point': object missing required field `x`"):
        measure.validate({"point": {}})
    with pytest.raises(ToolError, match="parameter 'scale': expected `float` > 0"):
        measure.validate({"point": {"x": 1}, "scale": 0})


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "parameter 'amount' is missing"),
        ({"amount": "3"}, "parameter 'amount': expected `int`, got `str`"),
        ({"amount": 3.5}, "parameter 'amount': expected `int`, got `float`"),
        ({"amount": True}, "parameter 'amount': expected `int`, got `bool`"),
        ({"amount": 3, "currency": "GBP"}, "parameter 'currency': invalid enum value 'GBP'"),
        ({"amount": 3, "tags": ["a", 1]}, r"parameter 'tags\[1\]': expected `str`, got `int`"),
        ({"amount": 3, "sum": 3}, "unknown parameter 'sum'"),
        ({"amount": 3, "sum": 3, "of": 1}, "unknown parameters 'sum', 'of'"),
        ({"amount": 3, "ctx": {}}, "unknown parameter 'ctx'"),
    ],
)
async def test_parameters_that_do_not_fit_are_named(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(ToolError, match=words):
        charge.validate(parameters)
    with pytest.raises(ToolError, match=words):
        await charge.run(context(), parameters)


async def test_a_mutable_default_is_new_for_every_run() -> None:
    @tool
    async def collect(into: list[int] = [1]) -> list[int]:  # noqa: B006
        into.append(2)
        return into

    assert await collect.run(context(), {}) == [1, 2]
    assert await collect.run(context(), {}) == [1, 2]


async def test_the_hint_of_the_result_need_not_exist() -> None:
    @tool
    async def now() -> ForCheckersOnly | None:
        return None

    assert await now.run(context(), {}) is None
    assert now.parameters["properties"] == {}


def test_what_can_not_be_a_tool_says_why() -> None:
    def untyped(a, b: int = 1) -> None: ...  # pyright: ignore[reportUnknownParameterType, reportMissingParameterType]

    def positional(a: int, /) -> None: ...

    def many(*a: int) -> None: ...

    def twice(a: ToolContext, b: ToolContext) -> None: ...

    def odd(a: threading.Thread) -> None: ...

    def undefined(a: ForCheckersOnly) -> None: ...

    def steps() -> Any:
        yield 1

    cases: list[tuple[Callable[..., Any], str]] = [
        (untyped, "parameter 'a' has no type hint"),
        (positional, "parameter 'a' can't be passed by name"),
        (many, "parameter 'a' can't be passed by name"),
        (twice, "'a' and 'b' both ask for the context"),
        (odd, "tool 'odd': its parameters have no JSON Schema"),
        (undefined, "its hints name 'ForCheckersOnly'"),
        (steps, "a generator can't be a tool"),
    ]
    for function, words in cases:
        with pytest.raises(TypeError, match=words):
            tool(function)


def test_settings_that_mean_nothing_are_refused() -> None:
    def fine() -> None: ...

    with pytest.raises(ValueError, match="1 to 64 characters"):
        tool(name="no spaces")(fine)
    with pytest.raises(ValueError, match="greater than 0"):
        tool(timeout=0)(fine)
    with pytest.raises(ValueError, match="greater than 0"):
        tool(idle_timeout=-1)(fine)
    with pytest.raises(ValueError, match="an approval is 'always', 'never', 'first'"):
        tool(approval="sometimes")(fine)  # pyright: ignore[reportCallIssue, reportArgumentType]
