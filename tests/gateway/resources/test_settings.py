from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from gateway.auth.principal import Principal
from gateway.resources.directory import DirectoryResources
from gateway.resources.http import HttpResources
from gateway.resources.providers import build_providers
from gateway.resources.settings import ResourceSettings, ResourceSettingsError
from gateway.resources.sql import SqlResources
from gateway.settings import Settings, SettingsError, load_settings

ANN = Principal(tenant="t", subject="ann")
CONFIG = """
[resources.docs]
provider = "directory"
path = "{folder}"
include = ["*.md"]

[resources.wiki]
provider = "http"
allow = ["https://wiki.example/pages/"]
headers = {{ Authorization = "Bearer ${{WIKI_TOKEN}}" }}

[resources.shop]
provider = "sql"
url = "sqlite:///shop.db"
permission = "staff"
[resources.shop.queries.orders]
sql = "SELECT * FROM orders WHERE id = :id"
parameters = {{ id = "integer" }}
"""


async def test_providers_of_a_file(tmp_path: Path) -> None:
    config = tmp_path / "tidegate.toml"
    config.write_text(CONFIG.format(folder=tmp_path))
    settings = load_settings(config, {"TIDEGATE_RESOURCES_SHOP_MAX_ROWS": "7"})
    assert settings.resources["shop"].max_rows == 7
    docs, wiki, shop = build_providers(settings.resources, {"WIKI_TOKEN": "s3cret"})
    assert isinstance(docs, DirectoryResources)
    assert isinstance(wiki, HttpResources)
    assert isinstance(shop, SqlResources)
    assert await docs.covers(ANN, "file://docs/a.md")
    assert await wiki.covers(ANN, "https://wiki.example/pages/a")
    assert await shop.covers(ANN, "sql://shop/orders?id=1")
    assert [provider.permission for provider in (docs, wiki, shop)] == [None, None, "staff"]
    # Whoever has credentials may be told what others are not.
    assert [provider.private(None) for provider in (docs, wiki, shop)] == [False, True, False]
    assert "s3cret" not in repr(settings)
    assert "Bearer" not in repr(settings.resources["wiki"])
    for provider in (docs, wiki, shop):
        await provider.close()


DIRECTORY: dict[str, Any] = {"provider": "directory", "path": "."}
HTTP: dict[str, Any] = {"provider": "http", "allow": ["https://h/"]}
SQL: dict[str, Any] = {"provider": "sql", "url": "sqlite:///f", "queries": {"q": {"sql": "SELECT 1"}}}


@pytest.mark.parametrize(
    ("name", "spec", "words"),
    [
        ("Docs", DIRECTORY, "resources.Docs: a name is 1 to 64 characters"),
        ("a/b", DIRECTORY, "a name is"),
        ("d", {"provider": "directory"}, "resources.d.path: is missing; the provider 'directory' needs it"),
        ("d", {"provider": "http"}, "resources.d.allow: is missing"),
        ("d", {"provider": "sql"}, "resources.d.url: is missing"),
        ("d", {"provider": "ftp"}, "resources.d.provider: invalid enum value"),
        ("d", {"path": "."}, "resources.d.provider: is missing"),
        ("d", DIRECTORY | {"url": "x"}, "resources.d.url: the provider 'directory' has no such setting"),
        ("d", HTTP | {"hidden": True}, "resources.d.hidden: the provider 'http' has no such setting"),
        ("d", DIRECTORY | {"timeout": 3}, "resources.d.timeout: the provider 'directory' has no such setting"),
        ("d", DIRECTORY | {"ttl": -1}, "resources.d.ttl: expected"),
        ("d", HTTP | {"allow": ["h"]}, "resources.d.allow: a URI begins with its scheme"),
        ("d", HTTP | {"allow": ["file://h/"]}, "resources.d.allow: expected the beginning of a URL"),
        ("d", HTTP | {"listed": ["h"]}, "resources.d.listed: a URI begins"),
        ("d", HTTP | {"listed": ["https://i/"]}, "resources.d.listed: expected URLs that allow allows, and https://i/"),
        ("d", HTTP | {"headers": {"A:b": "c"}}, "resources.d.headers.A:b: expected a header's name"),
        ("d", HTTP | {"headers": {"A": "b\r\nC: d"}}, "resources.d.headers.A: expected"),
        ("d", SQL | {"url": "mysql://h"}, "resources.d.url: expected sqlite:///FILE or postgresql://"),
        ("d", SQL | {"queries": dict[str, Any]()}, "resources.d.queries: expected at least one"),
        ("d", SQL | {"queries": {"q/r": {"sql": "SELECT 1"}}}, "resources.d.queries.q/r: a name is"),
        ("d", SQL | {"queries": {"q": {"sql": "SELECT :a"}}}, "resources.d.queries.q: the query has a parameter :a"),
        ("d", SQL | {"queries": {"q": dict[str, Any]()}}, "resources.d.queries.q.sql: is missing"),
    ],
)
def test_what_is_wrong_is_named(name: str, spec: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.of(resources={name: spec})
    assert words in str(caught.value)


def test_what_the_environment_lacks_is_named_when_it_is_needed(tmp_path: Path) -> None:
    def problem(environ: dict[str, str], **spec: Any) -> str:
        with pytest.raises(ResourceSettingsError) as caught:
            build_providers({"d": Settings.of(resources={"d": spec}).resources["d"]}, environ)
        return str(caught.value)

    absent = str(tmp_path / "absent")
    assert problem({}, **DIRECTORY | {"path": absent}) == f"resources.d.path: expected a folder, and {absent} is none"
    headers = {"headers": {"A": "${KEY}"}}
    assert problem({}, **HTTP | headers) == "resources.d.headers.A: the environment variable KEY is not set"
    url = {"url": "${DB}"}
    assert problem({}, **SQL | url) == "resources.d.url: the environment variable DB is not set"
    assert "expected sqlite:///FILE" in problem({"DB": "mysql://h"}, **SQL | url)


async def test_a_postgres_is_not_connected_to_before_it_is_asked() -> None:
    spec = Settings.of(resources={"d": SQL | {"url": "postgresql://127.0.0.1:1/x"}}).resources
    (provider,) = build_providers(spec)
    await provider.close()


@pytest.mark.parametrize("pattern", ["resource:file://Docs/*", "!resource:file://docs/a b", "!resource:file://docs//a"])
def test_a_permission_that_can_match_no_uri_is_refused(pattern: str) -> None:
    with pytest.raises(SettingsError, match=r"roles.r.permissions: .* matches nothing"):
        Settings.of(roles={"r": {"permissions": [pattern]}})
    Settings.of(roles={"r": {"permissions": ["resource:file://docs/**", "!resource:*"]}})


def test_defaults() -> None:
    assert Settings().resources == {}
    assert Settings().limits.max_resource_bytes == 262_144
    assert ResourceSettings(provider="http").private is None
    assert os.supports_dir_fd
