"""Tools for tests: what they answer is long."""

from __future__ import annotations

from gateway import tool

__all__ = ["lines"]


@tool
def lines(count: int) -> str:
    """That many lines."""
    return "line\n" * count
