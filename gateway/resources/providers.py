"""Native providers of resources, made from the settings."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gateway.resources.directory import DirectoryResources
from gateway.resources.http import HttpResources
from gateway.resources.port import ResourceProvider
from gateway.resources.settings import ResourceSettings, ResourceSettingsError, check_resources
from gateway.resources.sql import Database, Query, SqlResources
from gateway.resources.sqlite_queries import SqliteQueries

__all__ = ["build_providers"]

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SQLITE: Final = "sqlite:///"
_POSTGRES: Final = ("postgresql://", "postgres://")


def build_providers(
    sections: Mapping[str, ResourceSettings], environ: Mapping[str, str] | None = None
) -> list[ResourceProvider]:
    """In the order of the settings. Raises ResourceSettingsError, also for a folder that is not there, a
    variable that is not set, and where the extra `postgres` is missing. Nothing is opened or connected to."""
    check_resources(sections)
    return [_provider(name, spec, os.environ if environ is None else environ) for name, spec in sections.items()]


def _provider(name: str, spec: ResourceSettings, environ: Mapping[str, str]) -> ResourceProvider:
    at = f"resources.{name}"
    common: dict[str, Any] = {"ttl": spec.ttl, "permission": spec.permission}
    if spec.provider == "directory":
        folder = Path(spec.path or "").expanduser()
        if not folder.is_dir():
            raise ResourceSettingsError(f"{at}.path", f"expected a folder, and {spec.path} is none")
        return DirectoryResources(
            name, folder, include=spec.include, exclude=spec.exclude, hidden=spec.hidden, **common
        )
    if spec.provider == "http":
        return HttpResources(
            name,
            spec.allow,
            listed=spec.listed,
            headers={key: _filled(f"{at}.headers.{key}", text, environ) for key, text in spec.headers.items()},
            private=bool(spec.headers) if spec.private is None else spec.private,
            allow_private=spec.allow_private,
            timeout=spec.timeout,
            **common,
        )
    queries = {
        key: Query(sql=query.sql, parameters=query.parameters, description=query.description)
        for key, query in spec.queries.items()
    }
    database = _database(f"{at}.url", _filled(f"{at}.url", spec.url or "", environ), spec.timeout)
    return SqlResources(name, database, queries, max_rows=spec.max_rows, **common)


def _database(key: str, url: str, seconds: float) -> Database:
    if url.startswith(_SQLITE):
        return SqliteQueries(Path(url.removeprefix(_SQLITE)).expanduser(), seconds)
    if not url.startswith(_POSTGRES):
        raise ResourceSettingsError(key, "expected sqlite:///FILE or postgresql://…")
    try:
        from gateway.resources.postgres_queries import PostgresQueries
    except ImportError as error:
        raise ResourceSettingsError(key, "Postgres needs: pip install 'tidegate[postgres]'") from error
    return PostgresQueries(url, seconds)


def _filled(key: str, text: str, environ: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in environ:
            raise ResourceSettingsError(key, f"the environment variable {match[1]} is not set")
        return environ[match[1]]

    return _VARIABLE.sub(value, text)
