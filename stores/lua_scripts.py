"""The scripts that Redis runs, from the package's own files."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

__all__ = ["script"]


@cache
def script(name: str) -> str:
    """The text of `lua/<name>.lua`. Raises FileNotFoundError."""
    return files("stores").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
