from __future__ import annotations

import pytest

from gateway.resources.http_caching import Keeping, conditions, keeping


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ({}, Keeping(ttl=7)),
        ({"etag": '"a"'}, Keeping(etag='"a"', ttl=7)),
        ({"etag": '"a"', "last-modified": "Mon"}, Keeping(etag='"a"', ttl=7)),
        ({"last-modified": "Mon"}, Keeping(etag="modified Mon", ttl=7)),
        ({"cache-control": "max-age=60"}, Keeping(ttl=60)),
        ({"cache-control": "max-age=60", "age": "50"}, Keeping(ttl=10)),
        ({"cache-control": "max-age=60", "age": "70"}, Keeping(ttl=0)),
        ({"cache-control": "max-age=60, s-maxage=5"}, Keeping(ttl=5)),
        ({"cache-control": 'Private="x, max-age=9", MAX-AGE = "60"'}, Keeping(ttl=60, private=True)),
        ({"cache-control": "private"}, Keeping(ttl=7, private=True)),
        ({"cache-control": "no-cache, max-age=60", "etag": '"a"'}, Keeping(etag='"a"', ttl=0)),
        ({"cache-control": "no-store, max-age=60", "etag": '"a"'}, Keeping()),
        ({"cache-control": "private, no-store"}, Keeping(private=True)),
        ({"cache-control": "max-age=60", "etag": '"a"', "vary": "*"}, Keeping()),
        ({"cache-control": "max-age=9999999999"}, Keeping(ttl=24 * 3600)),
        ({"cache-control": "max-age=-1"}, Keeping(ttl=7)),
        ({"cache-control": "max-age"}, Keeping(ttl=7)),
    ],
)
def test_what_a_server_says(headers: dict[str, str], kept: Keeping) -> None:
    assert keeping(headers, 7) == kept


def test_conditions() -> None:
    assert conditions(None) == {}
    assert conditions('W/"a"') == {"if-none-match": 'W/"a"'}
    assert conditions("modified Mon") == {"if-modified-since": "Mon"}
