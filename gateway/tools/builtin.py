"""The tools that come with the gateway: calculator, countdown, clock."""

from __future__ import annotations

import asyncio
import math
import operator
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Meta

from gateway.tools.native import NativeTool, tool
from gateway.tools.port import ToolContext, ToolError

__all__ = ["TOOLS", "calculator", "clock", "countdown"]

Operation = Literal["add", "subtract", "multiply", "divide", "power"]

# Floats throughout, so that no power takes long or grows; math.pow knows no complex numbers.
_OPERATIONS: Final[dict[Operation, Callable[[float, float], float]]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": lambda a, b: a / b,
    "power": math.pow,
}
# Beyond, a float no longer tells neighbouring integers apart, so writing it as one would pretend to.
_EXACT_INTEGERS = 2**53


@tool(idempotent=True, timeout=5)
async def calculator(operation: Operation, a: float, b: float) -> dict[str, float]:
    """Calculate with two numbers: add, subtract, multiply, divide, or raise `a` to the power `b`."""
    try:
        result = _OPERATIONS[operation](a, b)
    except ZeroDivisionError as error:
        raise ToolError("division by zero") from error
    except OverflowError as error:
        raise ToolError("the result is too large") from error
    except ValueError as error:
        raise ToolError("the result is not a real number") from error
    if not math.isfinite(result):
        raise ToolError("the result is too large")
    exact = result.is_integer() and abs(result) <= _EXACT_INTEGERS
    return {"result": int(result) if exact else result}


@tool(idempotent=True)
async def countdown(ctx: ToolContext, count: Annotated[int, Meta(ge=1, le=600)] = 5) -> dict[str, int]:
    """Count to `count`, one step each 100 ms, and show the progress."""
    for step in range(1, count + 1):
        await asyncio.sleep(0.1)
        await ctx.progress(step, total=count)
    return {"counted": count}


@tool(idempotent=True, timeout=5)
async def clock(timezone: Annotated[str, Meta(max_length=64)] = "UTC") -> dict[str, str]:
    """Tell the date and time in a time zone, such as "Europe/Berlin"."""
    now = datetime.now(_zone(timezone))
    time = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"time": time, "timezone": timezone, "weekday": f"{now:%A}"}


def _zone(name: str) -> Any:
    # UTC needs no time zone database, which a small system may lack.
    if name.upper() in ("UTC", "Z"):
        return UTC
    try:
        return ZoneInfo(name)
    # Names come from outside: a path that leads elsewhere is a ValueError, a directory ("Europe") an OSError.
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ToolError(f"no time zone is named {name!r}") from error


TOOLS: Final[tuple[NativeTool[..., Any], ...]] = (calculator, countdown, clock)
