"""Resources that were read, in memory: bounded by their bytes, the longest unused go first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from gateway.resources.port import Change, ResourceContent

__all__ = ["ContentCache", "Kept", "Key"]

# What an entry costs besides its content.
_OVERHEAD: Final = 1024


class Key(NamedTuple):
    """`owner` None: of nobody's own, so that everyone who may read it is given the same."""

    provider: str
    owner: str | None
    uri: str


class Kept(NamedTuple):
    """A content that need not be asked for before `fresh_until`, in the seconds of the reader's clock."""

    content: ResourceContent
    fresh_until: float


class ContentCache:
    """Holds `max_bytes` of contents at most. One that is larger than a quarter of that is not kept: it would drive
    everything else out."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Key, tuple[Kept, int]] = OrderedDict()
        self.bytes = 0

    def get(self, key: Key) -> Kept | None:
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: Key, kept: Kept) -> None:
        self.drop(key)
        size = _OVERHEAD + len(key.uri) + len(kept.content.data)
        if size * 4 > self._max_bytes:
            return
        self._kept[key] = kept, size
        self.bytes += size
        while self.bytes > self._max_bytes:
            self.drop(next(iter(self._kept)))

    def drop(self, key: Key) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self.bytes -= found[1]

    def forget(self, provider: str, change: Change) -> None:
        """Drop what the change may have made untrue."""
        for key in [key for key in self._kept if key.provider == provider and _concerns(change, key)]:
            self.drop(key)

    def __len__(self) -> int:
        return len(self._kept)


def _concerns(change: Change, key: Key) -> bool:
    # What is of nobody's own may have been read for whoever was told of the change.
    return (change.uri is None or change.uri == key.uri) and (
        change.owner is None or key.owner is None or change.owner == key.owner
    )
