"""Full-text search over one owner's contexts, inside a transaction (ports.SearchStore).

The terms of a text are the lexemes of a `tsvector`, each behind a tag of its owner: so an entry of the inverted index
is of one owner, and a search costs what this owner has, whatever others wrote. What is rare is found through that
index; what more than `_INDEXED` texts hold is looked for by a walk through the newest ones, of which a page is soon
full.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from stores.records import ContextKey
from stores.search_pages import TITLE, Found, Place, place_of, read_hit, token_of
from stores.search_text import Query, terms_of

if TYPE_CHECKING:
    from stores.postgres_database import Connection

__all__ = ["Found", "index_title", "lexemes", "read_hit", "search"]

# ruff: noqa: S608 - the SQL is put together from constants of this module only

_INDEXED = 1000
# How much one step of a walk looks at: rows, and bytes as they are stored.
_ROWS = 2000
_BYTES = 1 << 20
# What a row costs beside its bytes, in bytes that take as long.
_ROW = 300
# A tsvector holds 1,048,575 bytes of lexemes.
_MAX_BYTES = 1_000_000
# Characters whose terms take longer than the loop should stand still for (1 ms).
_LONG = 4096
# Of their own: whoever waits for terms holds a context's lock, and the loop's threads may all wait for something else
# (names of hosts, models that are loaded).
_THREADS = ThreadPoolExecutor(2, "terms")


# ---- writing


async def index_title(db: Connection, owner: str, context_id: str, title: str) -> None:
    """Make this the title under which the context is found."""
    terms = await lexemes(owner, title)
    if not terms:
        query = "DELETE FROM search_texts WHERE owner = $1 AND context_id = $2 AND ord = $3"
        await db.execute(query, owner, context_id, TITLE)
        return
    await db.execute(
        "INSERT INTO search_texts (owner, context_id, ord, terms) VALUES ($1, $2, $3, array_to_tsvector($4::text[]))"
        " ON CONFLICT (owner, context_id, ord) DO UPDATE SET terms = excluded.terms",
        owner,
        context_id,
        TITLE,
        list(terms),
    )


async def lexemes(owner: str, text: str) -> Collection[str]:
    """What the text is found by."""
    if len(text) <= _LONG:
        return _tagged(owner, text)
    return await asyncio.get_running_loop().run_in_executor(_THREADS, _tagged, owner, text)


def _tagged(owner: str, text: str) -> Collection[str]:
    """The text's terms with the owner's tag; those of its first half, or quarter, where it has more than a tsvector
    holds, as 70,000 different pairs of Chinese characters are."""
    tag = _tag(owner)
    while True:
        terms = {tag + term for term in terms_of(text)}
        if sum(len(term.encode()) for term in terms) <= _MAX_BYTES:
            return terms
        text = text[: len(text) // 2]


def _tag(owner: str) -> str:
    return hashlib.blake2b(owner.encode(), digest_size=4).hexdigest()


# ---- reading


class _Text(NamedTuple):
    context_id: str
    title: str | None
    updated_at: float
    place: int
    matches: bool | None
    """None: it was not looked at any more."""


async def search(
    db: Connection, owner: str, query: Query, after: str | None, limit: int
) -> tuple[list[Found], str | None]:
    """Up to `limit` hits and the token of the next page. Raises ValueError for what is no token."""
    start = place_of(after)
    if not query.terms:
        return [], None
    asked = _tsquery(owner, query)
    # Planned for this owner and these terms: a plan for any of them would read whole tables.
    await db.execute("SELECT set_config('plan_cache_mode', 'force_custom_plan', true)")
    texts = await _indexed(db, owner, asked, start)
    hits, following = _page(texts, start, limit) if texts is not None else await _walk(db, owner, asked, start, limit)
    return await _read(db, owner, hits), following


async def _indexed(db: Connection, owner: str, asked: str, start: Place) -> list[_Text] | None:
    """All that matches after that place, in order; None where that is more than the index is good for."""
    rows = await db.fetch(
        "SELECT c.context_id, c.title, c.updated_at, t.ord, true"
        " FROM (SELECT context_id, ord FROM search_texts WHERE owner = $1 AND terms @@ $2::text::tsquery LIMIT $3) t"
        " JOIN contexts c ON c.owner = $1 AND c.context_id = t.context_id",
        owner,
        asked,
        _INDEXED + 1,
    )
    if len(rows) > _INDEXED:
        return None
    moment, id, below = start
    # A context goes on where the page before left it, wherever it has moved since.
    texts = [_Text(*row) for row in rows]
    resumed = [text for text in texts if text.context_id == id and text.place < below]
    others = [text for text in texts if (text.updated_at, text.context_id) < (moment, id)]
    resumed.sort(key=lambda text: text.place, reverse=True)
    others.sort(key=lambda text: (text.updated_at, text.context_id, text.place), reverse=True)
    return resumed + others


async def _walk(db: Connection, owner: str, asked: str, start: Place, limit: int) -> tuple[list[_Text], str | None]:
    """A page of what the newest texts after that place hold."""
    moment, id, below = start
    texts: list[_Text] = []
    if below > 0:
        texts = await _step(db, owner, asked, below, "context_id = $5", id)
    if len(texts) < _ROWS and all(text.matches is not None for text in texts):
        texts += await _step(db, owner, asked, TITLE + 1, "(updated_at, context_id) < ($5, $6)", moment, id)
    return _page(texts, start, limit, more=len(texts) >= _ROWS)


async def _step(db: Connection, owner: str, asked: str, below: int, which: str, *names: str | float) -> list[_Text]:
    """Texts below that place of those contexts, matching or not; a context that has none stands for one of place 0."""
    rows = await db.fetch(
        "SELECT context_id, title, updated_at, coalesce(ord, 0),"
        f" CASE WHEN spent - size <= {_BYTES} THEN coalesce(terms @@ $2::text::tsquery, false) END"
        " FROM (SELECT *, sum(size) OVER (ORDER BY updated_at DESC, context_id DESC, ord DESC) AS spent"
        f" FROM (SELECT c.*, t.ord, t.terms, {_ROW} + coalesce(pg_column_size(t.terms), 0) AS size"
        "  FROM (SELECT owner, context_id, title, updated_at FROM contexts"
        f"   WHERE owner = $1 AND {which} ORDER BY updated_at DESC, context_id DESC LIMIT $3) c"
        "  LEFT JOIN LATERAL (SELECT ord, terms FROM search_texts"
        "   WHERE owner = c.owner AND context_id = c.context_id AND ord < $4 ORDER BY ord DESC LIMIT $3) t ON true"
        "  ORDER BY updated_at DESC, context_id DESC, ord DESC LIMIT $3) texts) summed"
        " ORDER BY updated_at DESC, context_id DESC, ord DESC",
        owner,
        asked,
        _ROWS,
        below,
        *names,
    )
    return [_Text(*row) for row in rows]


def _page(texts: Iterable[_Text], start: Place, limit: int, *, more: bool = False) -> tuple[list[_Text], str | None]:
    """The first hits of these texts, and the token of the next page, if there is one."""
    moment, id, below = last = start
    hits: list[_Text] = []
    for text in texts:
        if text.matches is None or len(hits) >= limit:
            return hits, token_of(last)
        if text.matches:
            hits.append(text)
        # What follows a context that goes on counts from where it stood then, so that nothing is passed twice.
        at = moment if below > 0 and text.context_id == id else text.updated_at
        last = (at, text.context_id, text.place)
    return hits, token_of(last) if more else None


async def _read(db: Connection, owner: str, hits: Sequence[_Text]) -> list[Found]:
    wanted = [(text.context_id, text.place) for text in hits if text.place != TITLE]
    rows = await db.fetch(
        "SELECT context_id, ord, id, seq, body, stored_at FROM events"
        " WHERE owner = $1 AND (context_id, ord) IN (SELECT * FROM unnest($2::text[], $3::bigint[]))",
        owner,
        [context_id for context_id, _ in wanted],
        [place for _, place in wanted],
    )
    messages = {(row[0], row[1]): tuple(row)[2:] for row in rows}
    return [
        Found(
            ContextKey(owner, text.context_id), text.title, text.updated_at, messages.get((text.context_id, text.place))
        )
        for text in hits
    ]


def _tsquery(owner: str, query: Query) -> str:
    tag = _tag(owner)
    return " & ".join(f"{_quoted(tag + term.text)}{':*' if term.prefix else ''}" for term in query.terms)


def _quoted(lexeme: str) -> str:
    doubled = lexeme.replace("\\", "\\\\").replace("'", "''")
    return f"'{doubled}'"
