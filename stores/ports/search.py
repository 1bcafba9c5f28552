"""Search over conversations."""

from __future__ import annotations

from typing import Protocol

from stores.records import SearchHit

__all__ = ["SearchStore"]


class SearchStore(Protocol):
    """Search over what users and models said in one's own contexts, and over their titles. May raise Unavailable.

    A message is found from the transaction on that stored it, a title while it is the context's, neither after the
    context was deleted.
    """

    async def search(self, owner: str, query: str, after: str | None, limit: int) -> tuple[list[SearchHit], str | None]:
        """What holds all words of `query` (stores/search_text.py), of this owner's contexts alone, and the opaque token
        of the next page. Contexts come with the newest (by `updated_at`) first, in each its title, then its messages,
        newest first. A page may have fewer than `limit` hits, or none, though another follows: each call looks through
        a bounded number of contexts. No query is an error; a token that is not one of these raises ValueError."""
        ...
