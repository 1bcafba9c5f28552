"""Running tools as rows: name, bar, how far, what it says. No I/O."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Final

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gateway.chat.words import one_line
from protocol.frames import Running

__all__ = ["bars"]

_BAR_CELLS: Final = 24


def bars(running: Iterable[Running], width: int, *, colour: bool = True) -> list[str]:
    """A row a call, each of at most `width` cells, with the terminal's codes for colours."""
    console = Console(
        file=io.StringIO(),
        force_terminal=True,
        legacy_windows=False,
        width=width,
        color_system="standard" if colour else None,
        no_color=not colour,
    )
    rows: list[str] = []
    for item in running:
        table = Table.grid(padding=(0, 1))
        for _ in range(4):
            table.add_column(no_wrap=True, overflow="ellipsis")
        # A bar without a total says only that something goes on.
        bar = ProgressBar(total=item.total, completed=item.progress or 0, width=min(_BAR_CELLS, width // 3))
        message = one_line(item.message) if item.message is not None else ""
        table.add_row(Text(one_line(item.call.tool, 40)), bar, Text(_far(item)), Text(message))
        with console.capture() as captured:
            console.print(table)
        rows.append(captured.get().split("\n")[0])
    return rows


def _far(item: Running) -> str:
    if item.progress is None:
        return "…"
    return f"{item.progress:g}" if item.total is None else f"{item.progress:g}/{item.total:g}"
