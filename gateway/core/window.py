"""Which of a conversation a model is given: whole turns, the newest that fit, what is pinned, and a summary of the
rest where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from gateway.core.inputs import AssistantInput, ModelInput, TextInput, ToolResultInput
from gateway.core.thread import Node

__all__ = ["SLACK", "Cut", "TooLong", "Window", "choose", "shorten"]

SLACK: Final = 0.7
"""How much of the budget a new cut leaves filled, so that the next turns begin with the same words: providers keep what
they read of a prefix, and a cut each turn would give them another one each time."""

_KEPT = 400


class TooLong(Exception):
    """What must be given does not fit."""


class Cut(Struct, frozen=True):
    """Where the path was cut: its oldest turn that is given, and the summary that stands before it, by the id of the
    last turn that it covers."""

    oldest: str
    summary: str | None = None


class Window(Struct, frozen=True):
    """What is given, oldest first: `pinned` turns that would have been left out, the summary, `turns`. `cut` None:
    the whole path."""

    turns: Sequence[Node]
    pinned: Sequence[Node]
    cut: Cut | None

    @property
    def summary(self) -> str | None:
        return self.cut.summary if self.cut is not None else None


def choose(
    path: Iterable[Node],
    budget: float,
    cost: Callable[[Node], float],
    *,
    pinned: Sequence[Node] = (),
    summaries: Mapping[str, float] | None = None,
    last: Cut | None = None,
) -> Window:
    """What of `path` (newest first) fits into `budget` tokens. `summaries` are what there is of them, with their cost,
    by the last turn that they cover; `last` is where the path was cut before, which is kept while it fits.

    Raises TooLong where the newest turn with what is pinned does not fit.
    """
    nodes = iter(path)
    pins = {node.id: node for node in pinned}
    turns = [next(nodes)]
    reserved = sum(cost(node) for node in pins.values() if node.id != turns[0].id)
    total = reserved + cost(turns[0])
    if total > budget:
        raise TooLong
    known = summaries or {}
    before = known.get(last.summary, 0.0) if last is not None and last.summary is not None else 0.0
    covered: str | None = None  # the newest summary on the path
    for node in nodes:
        if covered is None and node.id in known:
            covered = node.id
        price = 0.0 if node.id in pins else cost(node)
        if total + price > budget:
            break
        total += price
        turns.append(node)
        if last is not None and node.id == last.oldest and total + before <= budget:
            return _window(turns, pins, last)
    else:
        return _window(turns, pins, None)
    if covered is None and known:
        covered = next((node.id for node in nodes if node.id in known), None)
    return _cut(turns, budget, cost, pins, reserved, covered, known.get(covered or "", 0.0))


def _cut(
    turns: Sequence[Node],
    budget: float,
    cost: Callable[[Node], float],
    pins: Mapping[str, Node],
    reserved: float,
    summary: str | None,
    summary_cost: float,
) -> Window:
    total = reserved + cost(turns[0])
    if total + summary_cost > budget:
        summary, summary_cost = None, 0.0
    total += summary_cost
    prices = [0.0 if node.id in pins else cost(node) for node in turns]
    covered = next((place for place, node in enumerate(turns) if node.id == summary), None)
    if covered and total + sum(prices[1:covered]) <= budget:
        kept = turns[:covered]
    else:
        # A gap, so it may as well be a wide one.
        kept = turns[: 1 + _first_over(prices[1:covered], budget * SLACK - total)]
    return _window(kept, pins, Cut(kept[-1].id, summary))


def _first_over(prices: Sequence[float], room: float) -> int:
    """How many of the first fit."""
    return next((count for count, total in enumerate(accumulate(prices)) if total > room), len(prices))


def _window(turns: Sequence[Node], pins: Mapping[str, Node], cut: Cut | None) -> Window:
    given = {node.id for node in turns}
    return Window(turns[::-1], [node for id, node in pins.items() if id not in given], cut)


def shorten(
    inputs: Sequence[ModelInput], budget: float, cost: Callable[[ModelInput], float]
) -> list[ModelInput] | None:
    """The inputs with the middle of the longest tool results and resources left out, so that they fit, and then the
    oldest images of such results; None where that is not enough."""
    costs = [cost(item) for item in inputs]
    shorter = list(inputs)
    while sum(costs) > budget:
        place = max(range(len(shorter)), key=lambda place: _can_lose(shorter[place]))
        item = shorter[place]
        if _can_lose(item):
            share = (sum(costs) - budget) / costs[place]
            kept = max(_KEPT, int(len(item.content) * (1 - share)) - _KEPT)
            shorter[place] = replace(item, content=_middle_out(str(item.content), kept))
        elif (seen := _oldest_images(shorter)) is not None:
            place, item = seen
            words = f"{item.content}\n[… {len(item.images)} images are left out here …]"
            shorter[place] = replace(item, content=words, images=())
        else:
            return None
        costs[place] = cost(shorter[place])
    return shorter


def _can_lose(item: ModelInput) -> int:
    """How many characters of it."""
    if isinstance(item, AssistantInput) or (isinstance(item, TextInput) and item.resource is None):
        return 0
    return max(0, len(item.content) - 2 * _KEPT) if isinstance(item.content, str) else 0


def _oldest_images(inputs: Sequence[ModelInput]) -> tuple[int, ToolResultInput] | None:
    for place, item in enumerate(inputs):
        if isinstance(item, ToolResultInput) and item.images:
            return place, item
    return None


def _middle_out(text: str, kept: int) -> str:
    half = kept // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters are left out here …]\n{text[-half:]}"
