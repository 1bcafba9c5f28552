"""URI templates (RFC 6570): `{x}`, `{+x}`, `{/x}`, `{?a,b}` and `{&a,b}`, expanded and matched.

Templates come from servers too, so matching takes time that is proportional to the template times the URI, whatever
either is like: it follows all ways at once, as a regular expression would not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple
from urllib.parse import quote, unquote

__all__ = ["InvalidTemplate", "UriTemplate"]

_MAX_TEMPLATE: Final = 2048
_MAX_PARTS: Final = 64
_RESERVED: Final = ":/?#[]@!$&'()*+,;="
_PIECE: Final = re.compile(r"\{([+/?&]?)([^{}]*)\}|([^{}]+)|(.)", re.DOTALL)
_VARIABLE: Final = re.compile(r"([A-Za-z0-9_](?:[A-Za-z0-9_.]|%[0-9A-Fa-f]{2})*)(\*?)")

Kind = Literal["literal", "simple", "reserved", "query"]


class InvalidTemplate(ValueError):
    """It is no template, or one of a kind that is not known here."""


class _Part(NamedTuple):
    """A literal's text, a variable's name, or the names in a query with the character that comes before them."""

    kind: Kind
    text: str
    names: tuple[str, ...] = ()


class UriTemplate:
    """Raises InvalidTemplate. A query stands at the end. `{x*}` and `{+x}` may hold slashes, `{x}` none."""

    def __init__(self, text: str) -> None:
        if len(text) > _MAX_TEMPLATE:
            raise InvalidTemplate(f"a template has {_MAX_TEMPLATE} characters at most")
        self.text = text
        self._parts: list[_Part] = []
        for operator, inside, literal, stray in _PIECE.findall(text):
            if stray:
                raise InvalidTemplate("a brace is open, or closed twice")
            self._parts += [_Part("literal", literal)] if literal else _expression(operator, inside)
        if len(self._parts) > _MAX_PARTS:
            raise InvalidTemplate(f"a template has {_MAX_PARTS} parts at most")
        if any(part.kind == "query" for part in self._parts[:-1]):
            raise InvalidTemplate("a query stands at the end of a template")
        names = self.names
        if len(set(names)) < len(names):
            raise InvalidTemplate("a variable stands twice in the template")

    @property
    def names(self) -> tuple[str, ...]:
        """The variables, in their order."""
        return tuple(name for part in self._parts if part.kind != "literal" for name in (part.names or (part.text,)))

    @property
    def prefix(self) -> str:
        """What every expansion begins with."""
        first = self._parts[0] if self._parts else None
        return first.text if first is not None and first.kind == "literal" else ""

    def expand(self, values: Mapping[str, str]) -> str:
        """The URI; what has no value is left out."""
        found: list[str] = []
        for kind, text, names in self._parts:
            if kind == "literal":
                found.append(text)
            elif kind == "query":
                pairs = [f"{name}={quote(values[name], safe='')}" for name in names if name in values]
                found.append(text + "&".join(pairs) if pairs else "")
            else:
                found.append(quote(values.get(text, ""), safe=_RESERVED if kind == "reserved" else ""))
        return "".join(found)

    def match(self, uri: str) -> dict[str, str] | None:
        """The variables' values, decoded, where the URI is an expansion of the template; else None. Those of a query
        may stand in any order and be absent; others may not stand there."""
        # For every part the places where it may end, each with the place where it then begins.
        ends: list[dict[int, int]] = []
        starts = {0}
        for part in self._parts:
            found = _ends(part, uri, starts)
            ends.append(found)
            starts = set(found)
        if len(uri) not in starts:
            return None
        values: dict[str, str] = {}
        at = len(uri)
        for part, found in zip(reversed(self._parts), reversed(ends), strict=True):
            piece, at = uri[found[at] : at], found[at]
            if part.kind == "query":
                values |= _pairs(part, piece) or {}
            elif part.kind != "literal":
                values[part.text] = unquote(piece)
        return values


def _expression(operator: str, inside: str) -> list[_Part]:
    variables = [_VARIABLE.fullmatch(name) for name in inside.split(",")]
    names = [(variable[1], bool(variable[2])) for variable in variables if variable is not None]
    if len(names) < len(variables):
        raise InvalidTemplate(f"{{{operator}{inside}}} is no expression that is known here")
    if operator in ("?", "&"):
        return [_Part("query", operator, tuple(name for name, _ in names))]
    parts: list[_Part] = []
    for place, (name, exploded) in enumerate(names):
        between = "/" if operator == "/" else "," if place else ""
        if between:
            parts.append(_Part("literal", between))
        parts.append(_Part("reserved" if operator == "+" or exploded else "simple", name))
    return parts


def _ends(part: _Part, uri: str, starts: set[int]) -> dict[int, int]:
    if part.kind == "literal":
        return {start + len(part.text): start for start in starts if uri.startswith(part.text, start)}
    if part.kind == "query":
        return {len(uri): start for start in starts if _pairs(part, uri[start:]) is not None} if starts else {}
    barred = "?#" if part.kind == "reserved" else "/?#"
    found: dict[int, int] = {}
    begin: int | None = None
    for at in range(len(uri) + 1):
        # The first place from which no barred character was met; a value may be empty.
        if at and uri[at - 1] in barred:
            begin = None
        if begin is None and at in starts:
            begin = at
        if begin is not None:
            found[at] = begin
    return found


def _pairs(part: _Part, text: str) -> dict[str, str] | None:
    if not text:
        return {}
    if not text.startswith(part.text):
        return None
    values: dict[str, str] = {}
    for pair in text[1:].split("&"):
        name, _, value = pair.partition("=")
        if name not in part.names or name in values:
            return None
        values[name] = unquote(value.replace("+", " "))
    return values
