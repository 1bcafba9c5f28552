"""Which URLs an HTTP provider may read: those that begin as one of its list does."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.resources.uris import InvalidUri, canonical, loose

__all__ = ["AllowList"]


class AllowList:
    """Each entry is a scheme, a host and perhaps a port, and the beginning of a path. It ends where a part of the path
    does: `https://wiki.example/pages` allows `…/pages`, `…/pages/a` and `…/pages?x=1`, not `…/pagesecret`."""

    def __init__(self, entries: Sequence[str]) -> None:
        """Raises InvalidUri for an entry that is no such beginning."""
        self.prefixes = tuple(_prefix(entry) for entry in entries)

    def allows(self, url: str) -> bool:
        """Whether this canonical URL may be read; also if a careless server takes it for another one."""
        return self._begins(url) and self._begins(loose(url))

    def _begins(self, url: str) -> bool:
        return any(
            url.startswith(prefix) and (prefix.endswith("/") or url[len(prefix) :][:1] in ("", "/", "?"))
            for prefix in self.prefixes
        )


def _prefix(entry: str) -> str:
    found = canonical(entry)
    if not found.startswith(("http://", "https://")) or "?" in found:
        raise InvalidUri("expected the beginning of a URL, such as https://wiki.example.com/pages/")
    return found
