from __future__ import annotations

from gateway.resources.cache import ContentCache, Kept, Key
from gateway.resources.port import Change, ResourceContent


def kept(uri: str, size: int = 1000) -> Kept:
    return Kept(ResourceContent(uri=uri, mime_type="text/plain", text="x" * size), 0.0)


def key(uri: str, owner: str | None = None, provider: str = "docs") -> Key:
    return Key(provider, owner, uri)


def test_the_longest_unused_go_first() -> None:
    cache = ContentCache(10_000)
    for name in "abcd":
        cache.put(key(name), kept(name))
    assert cache.get(key("a")) == kept("a")
    cache.put(key("e"), kept("e"))
    assert cache.get(key("b")) is None
    assert cache.get(key("a")) == kept("a")
    assert cache.bytes <= 10_000
    assert len(cache) == 4


def test_what_is_large_drives_nothing_out() -> None:
    cache = ContentCache(10_000)
    cache.put(key("a"), kept("a"))
    cache.put(key("b"), kept("b", 2_000))
    assert cache.get(key("b")) is None
    assert cache.get(key("a")) is not None
    cache.put(key("a"), kept("a", 3_000))
    assert len(cache) == cache.bytes == 0


def test_an_entry_is_replaced_and_dropped() -> None:
    cache = ContentCache(10_000)
    cache.put(key("a"), kept("a", 10))
    cache.put(key("a"), kept("a", 20))
    assert len(cache) == 1
    cache.drop(key("a"))
    cache.drop(key("a"))
    assert cache.bytes == 0


def test_a_change_concerns_what_it_may_have_made_untrue() -> None:
    def left(change: Change) -> set[Key]:
        cache = ContentCache(100_000)
        keys = [key("a"), key("b"), key("a", "ann"), key("b", "bob"), key("a", provider="other")]
        for one in keys:
            cache.put(one, kept(one.uri))
        cache.forget("docs", change)
        return {one for one in keys if cache.get(one) is not None}

    others = {key("a", provider="other")}
    assert left(Change()) == others
    assert left(Change(uri="a")) == others | {key("b"), key("b", "bob")}
    assert left(Change(owner="ann")) == others | {key("b", "bob")}
    assert left(Change(uri="b", owner="ann")) == others | {key("a"), key("a", "ann"), key("b", "bob")}
