from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.policy import matches
from gateway.resources.uris import InvalidUri, canonical, loose, pattern_problem, server_uri


@pytest.mark.parametrize(
    ("spelt", "plain"),
    [
        ("file://docs/guide.md", "file://docs/guide.md"),
        ("FILE://Docs/guide.md", "file://docs/guide.md"),
        ("file://d%6Fcs/guide.md", "file://docs/guide.md"),
        ("file://docs//a///b.md", "file://docs/a/b.md"),
        ("file://docs/./a/../b.md", "file://docs/b.md"),
        ("file://docs/%2e%2E/%2e/b.md", "file://docs/b.md"),
        ("file://docs/../../../etc/passwd", "file://docs/etc/passwd"),
        ("file://docs/a b.md", "file://docs/a%20b.md"),
        ("file://docs/gr%c3%b6%c3%9fe.md", "file://docs/gr%C3%B6%C3%9Fe.md"),
        ("file://docs/größe.md", "file://docs/gr%C3%B6%C3%9Fe.md"),
        ("file://docs/%41%2a%7e", "file://docs/A*~"),
        ("file://docs/a%2fb", "file://docs/a%2Fb"),
        ("file://docs/a#part", "file://docs/a"),
        ("file://docs/sub/", "file://docs/sub/"),
        ("file://docs/sub/..", "file://docs/"),
        ("file://docs", "file://docs"),
        ("HTTP://Wiki.Example:80", "http://wiki.example/"),
        ("https://wiki.example.:443/a", "https://wiki.example/a"),
        ("https://wiki.example:08443/a", "https://wiki.example:8443/a"),
        ("https://wiki.example:/a", "https://wiki.example/a"),
        ("http://[::1]:8080/", "http://[::1]:8080/"),
        ("http://h/a?", "http://h/a"),
        ("http://h/a?x=%41&y=b+c%2Bd%26e", "http://h/a?x=A&y=b+c%2Bd%26e"),
        ("http://h/a?next=../%2e%2e//b", "http://h/a?next=../..//b"),
        ("urn:isbn:1", "urn:isbn:1"),
        ("Note:a/../b", "note:b"),
        ("postgres://user@host:5432/table", "postgres://user@host:5432/table"),
        ("x://a%2fb/c", "x://a%2Fb/c"),
        ("mcp://GitHub/repo://a/b/../c", "mcp://github/repo://a/c"),
        ("mcp://outer/mcp://Inner/file:///x//y", "mcp://outer/mcp://inner/file:///x/y"),
    ],
)
def test_a_uri_has_one_spelling(spelt: str, plain: str) -> None:
    assert canonical(spelt) == plain
    assert canonical(plain) == plain


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "guide.md",
        "/etc/passwd",
        "//docs/guide.md",
        "1a:b",
        "file:///etc/passwd",
        "file://docs:1/a",
        "file://user@docs/a",
        "file://docs\\..\\a",
        "sql://shop@evil/orders",
        "http://",
        "http:///a",
        "http://user@host/",
        "http://user:password@host/",
        "http://good.example\\@evil.example/",
        "http://good.example%40evil.example/",
        "http://good.example%2F@evil.example/",
        "http://höst/",
        "http://host:0/",
        "http://host:65536/",
        "http://host:80a/",
        "http://[::1/",
        "http://[fe80::1%25eth0]/",
        "http://./",
        "file://docs/%",
        "file://docs/%zz",
        "file://docs/a\nb",
        "file://docs/a\0b",
        "file://docs/\ud800",
        "mcp:github/x:y",
        "mcp://github",
        "mcp://github/",
        "mcp://github/no-scheme",
        "mcp://a@b/x:y",
        f"file://docs/{'a' * 2048}",
        f"file://docs/{'ö' * 2000}",
    ],
)
def test_what_names_no_resource_is_refused(uri: str) -> None:
    with pytest.raises(InvalidUri):
        canonical(uri)


def test_an_mcp_servers_uri_bears_its_name() -> None:
    assert server_uri("Files", "file:///home/a b") == "mcp://files/file:///home/a%20b"
    assert server_uri("files", "mcp://other/x:y") == "mcp://files/mcp://other/x:y"
    with pytest.raises(InvalidUri):
        server_uri("a/b", "x")


@pytest.mark.parametrize(
    ("uri", "taken_for"),
    [
        ("http://h/a%2Fb", "http://h/a/b"),
        ("http://h/a/%2E%2E%2Fb", "http://h/b"),
        ("http://h/a/..%252f..%252Fb", "http://h/b"),
        ("http://h/%25252e%25252e%25252fb", "http://h/b"),
        ("http://h/a%5Cb", "http://h/a/b"),
        ("http://h/a%255cb", "http://h/a/b"),
        ("http://h/100%25", "http://h/100%25"),
        ("http://h/a%2525", "http://h/a%25"),
        ("http://h/a%20b?x=%2F%252F", "http://h/a%20b?x=/%252F"),
        ("mcp://s/x://h/a%2Fb", "mcp://s/x://h/a/b"),
        ("mcp://s/postgres://user@h/secret", "mcp://s/postgres://h/secret"),
        ("http://h/a/@b?x=//c@d", "http://h/a/@b?x=//c@d"),
    ],
)
def test_a_careless_server_may_take_it_for_another(uri: str, taken_for: str) -> None:
    assert loose(canonical(uri)) == taken_for


SEGMENTS = st.lists(
    st.text("abcXYZ09-_.~!$&'()*+,;=:@ ö", min_size=1, max_size=6).filter(lambda text: text not in (".", "..")),
    min_size=1,
    max_size=4,
)


def respelt(text: str, choose: st.DataObject) -> str:
    """The same path, as somebody may spell it who wants to get around something."""
    out: list[str] = []
    for character in text:
        code = "".join(f"%{byte:02x}" for byte in character.encode())
        ways = [character, code, code.upper()]
        if character == "/":
            ways = ["/", "//", "/./", "/x/../", "/%2e/", "/a/b/%2E./..//"]
        out.append(choose.draw(st.sampled_from(ways)))
    return "".join(out)


@given(st.data(), SEGMENTS)
def test_no_spelling_gets_around_a_denial(choose: st.DataObject, segments: list[str]) -> None:
    path = "/".join(quote(segment, safe="") for segment in segments)
    plain = canonical(f"file://docs/secret/{path}")
    scheme = choose.draw(st.sampled_from(["file", "FILE", "File"]))
    host = choose.draw(st.sampled_from(["docs", "DOCS", "d%6fcs", "%44ocs"]))
    end = choose.draw(st.sampled_from(["", "#x", "#"]))
    spelt = f"{scheme}://{host}{respelt('/secret/' + '/'.join(segments), choose)}{end}"
    assert canonical(spelt) == plain
    assert matches("file://docs/secret/*", canonical(spelt))


@given(st.text(max_size=60), st.sampled_from(["", "file://docs/", "http://h/", "mcp://s/x://h/", "x:", "sql://s/q?"]))
def test_the_canonical_spelling_is_its_own(text: str, prefix: str) -> None:
    try:
        plain = canonical(prefix + text)
    except InvalidUri:
        return
    assert canonical(plain) == plain
    assert plain.isascii()
    assert "#" not in plain
    assert loose(loose(plain)) == loose(plain)
    assert pattern_problem(plain) is None


@pytest.mark.parametrize(
    "pattern",
    [
        "*",
        "file://docs/**",
        "file://*/public/*",
        "file:*",
        "http*://wiki.example/*",
        "https://wiki.example/a%20b/*?x=1",
        "mcp://files/file:///home/*",
        "mcp://*/file:///home/x",
        "docs/*",
    ],
)
def test_patterns_that_can_match(pattern: str) -> None:
    assert pattern_problem(pattern) is None


@pytest.mark.parametrize(
    "pattern",
    [
        "file://Docs/*",
        "FILE://docs/*",
        "file://docs/a b",
        "file://docs/größe",
        "file://docs/%41",
        "file://docs/%c3%b6",
        "file://docs/%",
        "file://docs//a",
        "file://docs/../a",
        "file://docs/a/.",
        "file://docs/a#b",
        "mcp://files/file:///home//a",
    ],
)
def test_patterns_that_can_never_match(pattern: str) -> None:
    assert pattern_problem(pattern) is not None
