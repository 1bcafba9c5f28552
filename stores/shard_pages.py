"""Pages of several stores made into one, in the order that the ports promise (stores/sharded.py)."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import chain, zip_longest

from msgspec.structs import asdict

from stores.list_pages import context_token
from stores.records import ContextKey, ContextRecord, SearchHit, Turn, UsagePage, UsageRow
from stores.search_pages import Place

__all__ = ["merge_contexts", "merge_hits", "merge_strays", "merge_turns", "merge_usage", "moment_of"]


def merge_contexts(
    pages: Sequence[tuple[list[ContextRecord], str | None]], limit: int
) -> tuple[list[ContextRecord], str | None]:
    """Pages of ContextStore.list_contexts. Each holds all that its store has down to its last context, and they have no
    context in common."""
    found = sorted(chain(*(records for records, _ in pages)), key=_newest, reverse=True)
    # Of what comes behind a page that another one follows it is not known what else does.
    known = max((_newest(records[-1]) for records, token in pages if records and token), default=(0.0, ""))
    taken = [record for record in found[:limit] if _newest(record) >= known]
    more = len(taken) < len(found) or any(token is not None for _, token in pages)
    return taken, context_token(taken[-1]) if more and taken else None


def _newest(record: ContextRecord) -> tuple[float, str]:
    return record.updated_at, record.key.id


def merge_hits(
    pages: Sequence[tuple[list[SearchHit], Place | None]], start: Place, limit: int
) -> tuple[list[SearchHit], Place | SearchHit | None]:
    """Pages of SearchStore.search that begin at the same place, each with the place where the next one begins: the
    first `limit` hits of all, and where the page after them begins, which is a place or right behind a hit."""

    def place(hit: SearchHit) -> tuple[float, str]:
        return moment_of(hit, start), hit.key.id

    # A context is on one store only, so its hits are in order already. What is behind the place that one store came to
    # waits until that one has come further.
    reached = max((end for _, end in pages if end is not None), default=None)
    found = list(heapq.merge(*(hits for hits, _ in pages), key=place, reverse=True))
    known = [hit for hit in found if reached is None or place(hit) >= reached[:2]]
    return (known[:limit], known[limit - 1]) if len(known) > limit else (known, reached)


def moment_of(hit: SearchHit, start: Place) -> float:
    """The `updated_at` that places the hit's context on a page that begins there: one that the page before began
    counts from where it stood then."""
    return start[0] if start[2] > 0 and hit.key.id == start[1] else hit.updated_at


def merge_turns(lists: Sequence[list[Turn]], limit: int) -> list[Turn]:
    return list(heapq.merge(*lists, key=lambda turn: turn.created_at))[:limit]


def merge_strays(lists: Sequence[list[ContextKey]], limit: int) -> list[ContextKey]:
    """Some of each, so that a store that has many keeps no other from being looked at."""
    return [key for row in zip_longest(*lists) for key in row if key is not None][:limit]


def merge_usage(pages: Sequence[UsagePage], limit: int) -> UsagePage:
    """Pages of UsageStore.usage after the same name. Each has its store's first `limit` names, so together they have
    all that the first `limit` names of all are made of."""
    rows: dict[str, UsageRow] = {}
    for row in chain(*(page.rows for page in pages)):
        rows[row.name] = _sum(rows.get(row.name, UsageRow(name=row.name)), row)
    total = UsageRow(name="")
    for page in pages:
        total = _sum(total, page.total)
    names = sorted(rows)
    more = len(names) > limit or any(page.has_more for page in pages)
    return UsagePage([rows[name] for name in names[:limit]], more, total)


def _sum(one: UsageRow, other: UsageRow) -> UsageRow:
    sums = asdict(other)
    del sums["name"]
    return UsageRow(name=one.name, **{field: getattr(one, field) + value for field, value in sums.items()})
