"""What the commands list, as text. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from gateway.chat.api import ContextLine, ToolLine
from gateway.chat.words import one_line, value_line

__all__ = ["context_list", "model_list", "tool_list"]


def context_list(contexts: Sequence[ContextLine], current: str) -> str:
    """Number, title, time and id of each; an asterisk before the current one."""
    if not contexts:
        return "you have no conversations yet"
    titles = [value_line(context.title or "(no title)", 40) for context in contexts]
    width = max(map(len, titles))
    return "\n".join(
        f"{'*' if context.id == current else ' '}{number:>3}  {title:<{width}}  {_local_time(context.updated_at)}"
        f"  {value_line(context.id)}"
        for number, (context, title) in enumerate(zip(contexts, titles, strict=True), start=1)
    )


def model_list(models: Sequence[str], current: str) -> str:
    return "\n".join(f"{'*' if model == current else ' '} {value_line(model)}" for model in models)


def tool_list(tools: Sequence[ToolLine]) -> str:
    return "\n".join(_tool(tool) for tool in tools) or "there are no tools"


def _tool(tool: ToolLine) -> str:
    asks = " (asks first)" if tool.approval == "required" else ""
    place = " (of a client)" if tool.runs_on == "client" else ""
    return f"{value_line(tool.name)}{asks}{place}  {one_line(tool.description, 100)}"


def _local_time(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M}"
    except ValueError:
        return one_line(text, 30)
