"""One spelling for each URI (RFC 3986, section 6), so that no other one gets around a permission.

A policy is asked about the canonical spelling, a provider is given the canonical spelling, and nothing else is ever
fetched. Native providers' URIs are `file://<name>/…`, `sql://<name>/…`, `http(s)://…`. What an MCP server calls `<uri>`
is `mcp://<server>/<uri>` here: so no server can offer something under the name of another's, or of a native provider.
"""

from __future__ import annotations

import re
from string import ascii_letters, digits
from typing import Final

__all__ = ["MAX_URI", "InvalidUri", "canonical", "loose", "pattern_problem", "server_uri"]

MAX_URI: Final = 2048

_UNRESERVED: Final = frozenset(f"{ascii_letters}{digits}-._~".encode())
_PATH: Final = _UNRESERVED | frozenset(b"!$&'()*+,;=:@")
_QUERY: Final = _PATH | frozenset(b"/?")
_AUTHORITY: Final = _PATH | frozenset(b"[]")
# Encoded they are data of a query, as they stand they divide it.
_DIVIDING: Final = frozenset(b"&=+;#")
_SLASH: Final = frozenset(b"/")
_NATIVE: Final = frozenset({"file", "sql", "http", "https"})
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]{0,31}):(.*)", re.DOTALL)
_ENCODED: Final = re.compile(rb"%([0-9A-Fa-f]{2})|(.)", re.DOTALL)
_HOST: Final = re.compile(r"([a-z0-9._\-]+|\[[0-9a-f:.]+\])(?::([0-9]{0,5}))?")
_NAME: Final = re.compile(r"[a-z0-9_\-][a-z0-9._\-]*")
_ENCODED_AGAIN: Final = re.compile(r"%25(?=[0-9A-Fa-f]{2})")
_USERINFO: Final = re.compile(r"//[^/@]*@")
_ENCODED_SLASH: Final = re.compile(r"%2F|%5C", re.IGNORECASE)


class InvalidUri(ValueError):
    """It is no absolute URI that could name a resource."""


def canonical(uri: str) -> str:
    """The one spelling: scheme and host in lower case, nothing percent-encoded that need not be, all else in capitals,
    no dot segments, no empty ones, no default port, no fragment. It is its own canonical spelling. Raises InvalidUri,
    also for a native provider's URI that names a user or a password."""
    if len(uri) > MAX_URI:
        raise InvalidUri(f"a URI has {MAX_URI} characters at most")
    found = _canonical(uri)
    if len(found) > 4 * MAX_URI:
        raise InvalidUri(f"a URI has {MAX_URI} characters at most")
    return found


def loose(uri: str) -> str:
    """What a careless server may take a canonical URI for: one that decodes twice, or takes an encoded slash or a
    backslash for a slash, or does not care for the user before a host. A denial must hold for that too."""
    head, mark, query = uri.partition("?")
    head = _USERINFO.sub("//", head)
    while "%2" in head or "%5C" in head:
        plainer = _ENCODED_SLASH.sub("/", _ENCODED_AGAIN.sub("%", head)).replace("\\", "/")
        plainer = _canonical(plainer)
        if plainer == head:
            break
        head = plainer
    return head + mark + query


def server_uri(server: str, uri: str) -> str:
    """How a resource of an MCP server is called here. Raises InvalidUri."""
    return canonical(f"mcp://{server}/{uri}")


def pattern_problem(pattern: str) -> str | None:
    """Why a pattern of URIs, in which `*` stands for any run of characters, could never match a canonical URI; None
    where it could. A denial that is misspelt must not pass for one."""
    if re.search(r"[^\x21-\x7e]|[\"<>\\^`{|}#]", pattern):
        return "has characters that URIs bear percent-encoded"
    if any(code != code.upper() or int(code, 16) in _UNRESERVED for code in re.findall(r"%(..)", pattern)):
        return "percent-encodes what needs no encoding, or in small letters"
    if re.search(r"%(?![0-9A-F]{2})", pattern):
        return "has a % that encodes nothing"
    head = re.match(r"[^*/?:]*(?:://[^*/?]*)?", pattern)
    if head is not None and head[0] != head[0].lower():
        return "has capitals in its scheme or host"
    path = pattern.partition("?")[0].replace(":///", "/").replace("://", "")
    if "//" in path or re.search(r"/\.{1,2}(/|$)", path):
        return "has empty or dot segments"
    return None


def _canonical(uri: str, *, served: bool = False) -> str:
    """`served` by an MCP server, which has its own idea of what follows a scheme."""
    matched = _SCHEME.fullmatch(uri)
    if matched is None:
        raise InvalidUri("a URI begins with its scheme")
    scheme, rest = matched[1].lower(), matched[2].partition("#")[0]
    if scheme == "mcp":
        return _of_server(rest)
    head, path = f"{scheme}:", rest
    if rest.startswith("//"):
        authority = re.split("[/?]", rest[2:], maxsplit=1)[0]
        head += f"//{_authority('' if served else scheme, authority)}"
        path = rest[2 + len(authority) :]
    path, _, query = path.partition("?")
    path = _segments(_recode(path, _PATH | _SLASH, _SLASH))
    if scheme in _DEFAULT_PORTS and not path:
        path = "/"
    return head + path + (f"?{_recode(query, _QUERY, _DIVIDING)}" if query else "")


def _of_server(rest: str) -> str:
    server, slash, uri = rest.removeprefix("//").partition("/")
    server = _recode(server, _AUTHORITY).lower()
    if not rest.startswith("//") or not slash or _NAME.fullmatch(server) is None:
        raise InvalidUri("a resource of an MCP server is mcp://<server>/<uri>")
    return f"mcp://{server}/{_canonical(uri, served=True)}"


def _authority(scheme: str, text: str) -> str:
    text = _recode(text, _AUTHORITY).lower()
    if scheme not in _NATIVE:
        # Percent-encoding stays in capitals.
        return re.sub(r"%[0-9a-f]{2}", lambda code: code[0].upper(), text)
    if scheme not in _DEFAULT_PORTS:
        if _NAME.fullmatch(text) is None:
            raise InvalidUri(f"{scheme}:// is followed by a provider's name")
        return text
    matched = _HOST.fullmatch(text)
    if matched is None:
        raise InvalidUri("the host is a name or an address, without user or password")
    host, port = matched[1].removesuffix("."), int(matched[2] or _DEFAULT_PORTS[scheme])
    if not host or not 0 < port < 65536:
        raise InvalidUri("the host is a name or an address, and a port")
    return host if port == _DEFAULT_PORTS[scheme] else f"{host}:{port}"


def _recode(text: str, plain: frozenset[int], kept: frozenset[int] = frozenset()) -> str:
    """Every byte as it stands where it is `plain`, else encoded; one that was encoded and is `kept` stays so."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidUri("a URI is text that UTF-8 can carry") from error
    found: list[str] = []
    for code, raw in _ENCODED.findall(data):
        byte = int(code, 16) if code else raw[0]
        if not code and (byte == 0x25 or byte < 0x20 or byte == 0x7F):
            raise InvalidUri("a URI has no control characters, and a % is followed by two hexadecimal digits")
        found.append(chr(byte) if byte in plain and not (code and byte in kept) else f"%{byte:02X}")
    return "".join(found)


def _segments(path: str) -> str:
    """Without dot segments and empty ones. A slash at the end stays."""
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    slash = "/" if segments[-1] in ("", ".", "..") and kept else ""
    return ("/" if path.startswith("/") else "") + "/".join(kept) + slash
