"""Queries of a database as resources: `sql://<name>/<query>?parameter=value` is what the named query answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol
from urllib.parse import quote

from msgspec import Struct

from gateway.auth.principal import Principal
from gateway.resources.port import (
    Change,
    Invalid,
    NotFound,
    ResourceContent,
    ResourceInfo,
    TemplateInfo,
    TooLarge,
    Unchanged,
)
from gateway.resources.sql_text import names_in
from gateway.resources.uri_templates import UriTemplate

__all__ = ["PRINCIPAL", "Database", "Query", "Rows", "SqlResources", "SqlType", "check_query"]

SqlType = Literal["text", "integer", "number", "boolean"]

PRINCIPAL: Final[Mapping[str, Callable[[Principal], str]]] = {
    "principal_subject": lambda principal: principal.subject,
    "principal_tenant": lambda principal: principal.tenant,
}
"""Parameters that say who asks. A query that has one is private."""

_BOOLEANS: Final = {"true": True, "false": False, "1": True, "0": False}
_LARGEST: Final = 2**63
_JSON: Final = "application/json"


class Query(Struct, frozen=True, kw_only=True):
    """One query: its text with `:name` for each of its parameters, and their types."""

    sql: str
    parameters: dict[str, SqlType]
    description: str | None = None


class Rows(Struct, frozen=True, kw_only=True):
    """Each row as the JSON of an object; `more` says that there were others."""

    rows: list[bytes]
    more: bool = False


class Database(Protocol):
    """Runs queries that can change nothing."""

    async def run(self, query: Query, values: Mapping[str, Any], max_rows: int, max_bytes: int) -> Rows:
        """At most so many rows; with no more memory than a few times `max_bytes`. Raises Invalid for values that the
        database does not take, TooLarge, Unavailable also where it takes too long or fails."""
        ...

    async def close(self) -> None: ...


class SqlResources:
    """An answer is JSON: `{"rows": [{…}, …]}` with `max_rows` at most, and `"more": true` where there were others.

    Parameters are bound, never put into the text. All must be given, but for those that say who asks, which nobody can
    give.
    """

    def __init__(
        self,
        name: str,
        database: Database,
        queries: Mapping[str, Query],
        *,
        max_rows: int = 1000,
        ttl: float = 0.0,
        permission: str | None = None,
    ) -> None:
        self.name = name
        self.permission = permission
        self._database = database
        self._queries = dict(queries)
        self._given = {name: [p for p in query.parameters if p not in PRINCIPAL] for name, query in queries.items()}
        self._private = {name for name, query in queries.items() if set(query.parameters) & set(PRINCIPAL)}
        self._max_rows = max_rows
        self._ttl = ttl
        self._prefix = f"sql://{name}/"
        self._templates = {name: UriTemplate(self._template(name)) for name in queries}

    def private(self, uri: str | None) -> bool:
        return uri is not None and self._query(uri) in self._private

    async def list(self, principal: Principal) -> Sequence[ResourceInfo]:
        return [
            ResourceInfo(uri=f"{self._prefix}{name}", name=name, mime_type=_JSON, description=query.description)
            for name, query in self._queries.items()
            if not self._given[name]
        ]

    async def templates(self, principal: Principal) -> Sequence[TemplateInfo]:
        return [
            TemplateInfo(uri_template=self._template(name), name=name, mime_type=_JSON, description=query.description)
            for name, query in self._queries.items()
            if self._given[name]
        ]

    async def covers(self, principal: Principal, uri: str) -> bool:
        return self._query(uri) in self._queries

    async def read(
        self, principal: Principal, uri: str, *, etag: str | None, max_bytes: int
    ) -> ResourceContent | Unchanged:
        name = self._query(uri)
        if name not in self._queries:
            raise NotFound("There is no such resource.")
        query = self._queries[name]
        values = self._values(name, query, uri) | {
            parameter: PRINCIPAL[parameter](principal) for parameter in query.parameters if parameter in PRINCIPAL
        }
        found = await self._database.run(query, values, self._max_rows, max_bytes)
        text = b'{"rows":[%b]%b}' % (b",".join(found.rows), b',"more":true' if found.more else b"")
        if len(text) > max_bytes:
            raise TooLarge(f"The answer has more than the {max_bytes} bytes that are allowed.")
        private = name in self._private
        return ResourceContent(uri=uri, mime_type=_JSON, text=text.decode(), ttl=self._ttl, private=private)

    def on_change(self, listener: Callable[[Change], None]) -> None:
        """Nothing tells of changes."""

    async def close(self) -> None:
        await self._database.close()

    def _query(self, uri: str) -> str:
        return uri.removeprefix(self._prefix).partition("?")[0] if uri.startswith(self._prefix) else ""

    def _template(self, name: str) -> str:
        given = self._given[name]
        return f"{self._prefix}{quote(name)}" + (f"{{?{','.join(given)}}}" if given else "")

    def _values(self, name: str, query: Query, uri: str) -> dict[str, Any]:
        given = self._templates[name].match(uri)
        wanted = self._given[name]
        if given is None or set(given) != set(wanted):
            takes = ", ".join(f"{parameter} ({query.parameters[parameter]})" for parameter in wanted) or "none"
            raise Invalid(f"The parameters of {name} are: {takes}.")
        return {parameter: _value(parameter, text, query.parameters[parameter]) for parameter, text in given.items()}


def check_query(query: Query) -> None:
    """Raises ValueError where the text and its parameters don't belong together."""
    named = set(names_in(query.sql))
    if missing := named - set(query.parameters):
        raise ValueError(f"the query has a parameter :{min(missing)}; expected its type in parameters")
    if unused := set(query.parameters) - named:
        raise ValueError(f"the parameter {min(unused)} is not in the query")
    if wrong := [name for name, kind in query.parameters.items() if name in PRINCIPAL and kind != "text"]:
        raise ValueError(f"the parameter {wrong[0]} is a text")


def _value(name: str, text: str, kind: SqlType) -> Any:
    try:
        if kind == "text":
            if "\0" in text:
                raise ValueError(text)
            return text
        if kind == "boolean":
            return _BOOLEANS[text.lower()]
        number = int(text) if kind == "integer" else float(text)
    except (ValueError, KeyError) as error:
        raise Invalid(f"The parameter {name} is of the type {kind}.") from error
    if not -_LARGEST <= number < _LARGEST:
        raise Invalid(f"The parameter {name} is too large.")
    return number
