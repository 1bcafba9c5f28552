"""One `[resources.<name>]` section of the settings."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from gateway.resources.allow_list import AllowList
from gateway.resources.sql import Query, SqlType, check_query
from gateway.resources.uris import InvalidUri, canonical

__all__ = ["QuerySettings", "ResourceSettings", "ResourceSettingsError", "check_resources"]

_Text = Annotated[str, Meta(min_length=1)]
_Count = Annotated[int, Meta(ge=1)]
_Seconds = Annotated[float, Meta(gt=0, le=60)]

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_QUERY_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SQLITE: Final = "sqlite:///"
_POSTGRES: Final = ("postgresql://", "postgres://")
_KEYS: Final = {
    "directory": ("path", "include", "exclude", "hidden"),
    "http": ("allow", "listed", "headers", "private", "allow_private", "timeout"),
    "sql": ("url", "queries", "max_rows", "timeout"),
}
_NEEDED: Final = {"directory": "path", "http": "allow", "sql": "url"}


class ResourceSettingsError(ValueError):
    """A setting is missing or wrong: `key` is the whole key, such as "resources.docs.path"."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key = key
        self.problem = problem


class QuerySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A query with `:name` for its `parameters`, whose types are by their names."""

    sql: _Text
    parameters: dict[str, SqlType] = field(default_factory=dict[str, SqlType])
    description: str | None = None


class ResourceSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of all providers: `permission` is what a role needs besides the resource's own (None: nothing), `ttl` the seconds
    for which what was read is taken for what there is.

    "directory" takes `path`, and which files: `include`, `exclude`, `hidden`. "http" takes `allow`, beginnings of URLs;
    `listed`, URLs that lists name; `headers`; `private`, whether nobody is given what another one's reading brought
    (absent: if there are headers); `allow_private`, addresses of one's own network; `timeout` in seconds. "sql" takes
    `url`, `sqlite:///FILE` or `postgresql://…`; `queries`; `max_rows`; `timeout`. In `headers` and `url` `${NAME}`
    stands for a variable of the environment.
    """

    provider: Literal["directory", "http", "sql"]
    permission: _Text | None = None
    ttl: Annotated[float, Meta(ge=0)] = 0.0
    path: _Text | None = None
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    hidden: bool = False
    allow: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()
    headers: dict[str, str] = field(default_factory=dict[str, str])
    private: bool | None = None
    allow_private: bool = False
    url: _Text | None = None
    queries: dict[str, QuerySettings] = field(default_factory=dict[str, QuerySettings])
    max_rows: _Count = 1000
    timeout: _Seconds = 10.0

    def __repr__(self) -> str:
        # Headers and a URL may hold secrets.
        return f"ResourceSettings(provider={self.provider!r}, …)"


def check_resources(sections: Mapping[str, ResourceSettings]) -> None:
    """What a field's type can't say. Raises ResourceSettingsError."""
    for name, spec in sections.items():
        at = f"resources.{name}"
        if _NAME.fullmatch(name) is None:
            raise ResourceSettingsError(at, "a name is 1 to 64 characters of a-z 0-9 . _ -")
        needed = _NEEDED[spec.provider]
        if not getattr(spec, needed):
            raise ResourceSettingsError(f"{at}.{needed}", f"is missing; the provider {spec.provider!r} needs it")
        default = ResourceSettings(provider=spec.provider)
        for key in {key for keys in _KEYS.values() for key in keys} - set(_KEYS[spec.provider]):
            if getattr(spec, key) != getattr(default, key):
                raise ResourceSettingsError(f"{at}.{key}", f"the provider {spec.provider!r} has no such setting")
        if spec.provider == "directory":
            _check_directory(at)
        elif spec.provider == "http":
            _check_http(at, spec)
        else:
            _check_sql(at, spec)


def _check_directory(at: str) -> None:
    if os.open not in os.supports_dir_fd or os.scandir not in os.supports_fd:
        raise ResourceSettingsError(f"{at}.provider", "folders are served on POSIX systems only")


def _check_http(at: str, spec: ResourceSettings) -> None:
    try:
        allow = AllowList(spec.allow)
    except InvalidUri as error:
        raise ResourceSettingsError(f"{at}.allow", str(error)) from error
    for url in spec.listed:
        try:
            allowed = allow.allows(canonical(url))
        except InvalidUri as error:
            raise ResourceSettingsError(f"{at}.listed", str(error)) from error
        if not allowed:
            raise ResourceSettingsError(f"{at}.listed", f"expected URLs that allow allows, and {url} is none")
    for header, value in spec.headers.items():
        if _HEADER.fullmatch(header) is None or not value.isascii() or not value.isprintable():
            raise ResourceSettingsError(f"{at}.headers.{header}", "expected a header's name and a line of ASCII text")


def _check_sql(at: str, spec: ResourceSettings) -> None:
    url = spec.url or ""
    if not url.startswith((_SQLITE, *_POSTGRES, "${")):
        raise ResourceSettingsError(f"{at}.url", "expected sqlite:///FILE or postgresql://…")
    if not spec.queries:
        raise ResourceSettingsError(f"{at}.queries", "expected at least one [queries.<name>] with its sql")
    for name, query in spec.queries.items():
        key = f"{at}.queries.{name}"
        if _QUERY_NAME.fullmatch(name) is None:
            raise ResourceSettingsError(key, "a name is 1 to 64 characters of A-Z a-z 0-9 . _ -")
        try:
            check_query(Query(sql=query.sql, parameters=query.parameters))
        except ValueError as error:
            raise ResourceSettingsError(key, str(error)) from error
