"""The settings of a gateway: defaults, then `tidegate.toml`, then `TIDEGATE_<SECTION>_<KEY>`, then flags."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, field

from gateway.auth.jwt import JwtSettings
from gateway.budget_settings import BudgetSettings
from gateway.core.policy import Policy
from gateway.models.settings import ModelSettings
from gateway.settings_layers import Layers, SettingsError

__all__ = [
    "AuthSettings",
    "ContextDefaults",
    "LimitSettings",
    "LogSettings",
    "RedisSettings",
    "RoleSettings",
    "ServerSettings",
    "Settings",
    "SettingsError",
    "StoreSettings",
    "ToolsSettings",
    "check_exposure",
    "load_settings",
]

CONFIG_NAME = "tidegate.toml"
DATABASE_NAME = "tidegate.db"

# Those whose models need no settings but the provider.
_BARE_PROVIDERS = ("demo", "local")
_MOST_PRICE = 1e9

_Count = Annotated[int, Meta(ge=1)]
_Seconds = Annotated[float, Meta(ge=0)]
_Url = Annotated[str, Meta(min_length=1)]


class _Section(Struct, frozen=True, kw_only=True):
    pass


class ServerSettings(_Section, frozen=True):
    """`origins` are the web pages that may open a socket (none: the gateway's own), `drain_seconds` how long running
    turns may go on at the end, `trusted_proxies` the addresses whose X-Forwarded headers count. The certificate and
    its key are files of PEM text."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    workers: _Count = 1
    origins: tuple[str, ...] = ()
    drain_seconds: _Seconds = 30.0
    tls_cert: str | None = None
    tls_key: str | None = None
    trusted_proxies: tuple[str, ...] = ()


class StoreSettings(_Section, frozen=True):
    """`sqlite:///relative/file`, `sqlite:////absolute/file`, `postgresql://…`; several are shards, each of which has
    some of the contexts. `connections` are those to a Postgres that a process has at most."""

    url: _Url | Annotated[tuple[_Url, ...], Meta(min_length=1)] = f"sqlite:///{DATABASE_NAME}"
    connections: _Count = 10

    @property
    def urls(self) -> tuple[str, ...]:
        return (self.url,) if isinstance(self.url, str) else self.url

    def __repr__(self) -> str:
        # A URL may hold a password.
        return "StoreSettings(…)"


class RedisSettings(_Section, frozen=True):
    """`redis://HOST:PORT/DB`, `rediss://…`, `unix:///FILE`; absent: one instance, in process. `prefix` begins all keys,
    so that gateways that have nothing to do with each other may share a server."""

    url: _Url | None = None
    prefix: Annotated[str, Meta(pattern="^[A-Za-z0-9_.-]{1,32}$")] = "tidegate"

    def __repr__(self) -> str:
        # A URL may hold a password.
        return "RedisSettings(…)" if self.url is not None else "RedisSettings()"


class AuthSettings(_Section, frozen=True):
    """`local` None: local mode where no tokens are configured."""

    local: bool | None = None
    jwt: JwtSettings | None = None

    def __repr__(self) -> str:
        # A key may be a secret.
        return f"AuthSettings(local={self.local}, jwt={'…' if self.jwt else None})"


class RoleSettings(_Section, frozen=True):
    """What a role may do, as patterns of permissions (gateway/core/policy.py)."""

    permissions: tuple[str, ...]


class ToolsSettings(_Section, frozen=True):
    modules: tuple[str, ...] = ()


class LimitSettings(_Section, frozen=True):
    """`heartbeat`, `hello_seconds` and `session_ttl` are seconds; `max_unacked` is a client's frames that may wait for
    their ack, `queue_length` a context's turns that may wait, `concurrent_turns` those that run in this process."""

    messages_per_minute: _Count = 600
    connections_per_principal: _Count = 100
    max_frame_bytes: Annotated[int, Meta(ge=1024)] = 1_048_576
    max_unacked: Annotated[int, Meta(ge=64)] = 64
    heartbeat: _Count = 25
    hello_seconds: Annotated[float, Meta(gt=0)] = 10.0
    max_result_bytes: Annotated[int, Meta(ge=1024)] = 1_048_576
    max_steps: _Count = 32
    queue_length: _Count = 100
    concurrent_turns: _Count = 1000
    session_ttl: Annotated[float, Meta(gt=0)] = 30 * 24 * 3600.0


class ContextDefaults(_Section, frozen=True):
    """What happens to conversations: whether they get `titles`, which models make titles and summaries (absent: the
    one that answers), and how many bytes of them are kept in memory."""

    titles: bool = False
    title_model: str | None = None
    summary_model: str | None = None
    active_bytes: Annotated[int, Meta(ge=65_536)] = 64 * 1024 * 1024


class LogSettings(_Section, frozen=True):
    """The live log: `ttl` is how many seconds an idle context's is kept, `max_bytes` the length of its tail,
    `flush_ms` how long deltas are gathered (0: those of one tick of the event loop)."""

    ttl: Annotated[float, Meta(gt=0)] = 600.0
    max_bytes: Annotated[int, Meta(ge=65_536)] = 1_048_576
    flush_ms: Annotated[float, Meta(ge=0, le=1000)] = 0.0


def _demo() -> dict[str, ModelSettings]:
    return {"demo": ModelSettings(provider="demo")}


class Settings(_Section, frozen=True):
    """All sections; `models` in the order of the settings, the first one is the default. Its repr holds no secret."""

    server: ServerSettings = ServerSettings()
    store: StoreSettings = StoreSettings()
    redis: RedisSettings = RedisSettings()
    auth: AuthSettings = AuthSettings()
    roles: dict[str, RoleSettings] = field(default_factory=dict[str, RoleSettings])
    models: dict[str, ModelSettings] = field(default_factory=_demo)
    tools: ToolsSettings = ToolsSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()
    context: ContextDefaults = ContextDefaults()
    budgets: dict[str, BudgetSettings] = field(default_factory=dict[str, BudgetSettings])

    @classmethod
    def of(cls, **sections: object) -> Settings:
        """From code, each section as a mapping or its struct: `Settings.of(store={"url": "sqlite:///chat.db"})`. It is
        checked as a file is; raises SettingsError, which names the key and what was expected."""
        layers = Layers(cls)
        layers.add_values(sections, "")
        return _made(layers)

    @property
    def local(self) -> bool:
        """Whether whoever can reach the gateway's printed URL is the user `local`."""
        return self.auth.jwt is None if self.auth.local is None else self.auth.local

    @property
    def permissions(self) -> dict[str, tuple[str, ...]]:
        """The patterns of each role, for `Policy`."""
        return {name: role.permissions for name, role in self.roles.items()}

    def __repr__(self) -> str:
        models = ", ".join(self.models)
        return f"Settings({self.server!r}, {self.auth!r}, {self.limits!r}, {self.log!r}, models=[{models}])"


def load_settings(
    config: Path | None = None,
    env: Mapping[str, str] = os.environ,
    flags: Mapping[str, object] = MappingProxyType({}),
) -> Settings:
    """The settings from all sources. `config` None: `tidegate.toml` of the working directory, if it is there.

    `flags` has dotted keys such as "server.port", and None where a flag is not given; "data" is the directory of the
    default SQLite file, "model" the default model: one of the settings, or a provider that needs no more than its name.
    Raises SettingsError, which names the source, the key and what was expected.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    data, model = given.pop("data", None), given.pop("model", None)
    layers = Layers(Settings)
    if config is not None or Path(CONFIG_NAME).exists():
        layers.add_file(config or Path(CONFIG_NAME))
    layers.add_environment(env)
    layers.add_flags(given)
    if data is not None and layers.source("store.url") is None:
        layers.add_flags({"store.url": f"sqlite:///{Path(str(data), DATABASE_NAME)}"})
    if model is not None:
        _put_first(layers, str(model))
    return _made(layers)


def _put_first(layers: Layers, name: str) -> None:
    """Make the model the default one."""
    configured: dict[str, object] = layers.tree.get("models", {})
    if name not in configured:
        if name not in _BARE_PROVIDERS:
            known = ", ".join(dict.fromkeys((*configured, *_BARE_PROVIDERS)))
            raise SettingsError(f"--model: there is no model {name!r}, expected one of {known}")
        layers.add_values({"models": {name: {"provider": name}}}, "--model")
    models = layers.tree["models"]
    layers.tree["models"] = {name: models.pop(name), **models}


def _made(layers: Layers) -> Settings:
    layers.check_complete()
    settings = msgspec.convert(layers.tree, Settings)
    _check(settings, layers)
    return settings


def check_exposure(settings: Settings) -> None:
    """Raises SettingsError where the gateway would serve more than this machine without authentication."""
    host = settings.server.host
    if settings.local and not _is_loopback(host):
        raise SettingsError(
            f"server.host: {host} can be reached from other machines, and no authentication is configured. Configure "
            "[auth.jwt], or set auth.local = false and make keys with 'tidegate keys create', or listen on 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check(settings: Settings, layers: Layers) -> None:
    """What a field's type can't say."""
    server = settings.server
    if (server.tls_cert is None) != (server.tls_key is None):
        given, missing = ("tls_cert", "tls_key") if server.tls_key is None else ("tls_key", "tls_cert")
        raise layers.error(f"server.{given}", f"expected server.{missing} with it")
    if len(set(settings.store.urls)) < len(settings.store.urls):
        raise layers.error("store.url", "expected a list of different stores")
    for key, name in (("title_model", settings.context.title_model), ("summary_model", settings.context.summary_model)):
        if name is not None and name not in settings.models:
            raise layers.error(f"context.{key}", f"there is no model {name!r}, expected one of [models]")
    jwt = settings.auth.jwt
    if jwt is not None and (jwt.key is None) == (jwt.jwks_url is None):
        raise layers.error("auth.jwt", "expected either key or jwks_url")
    for name, model in settings.models.items():
        for key in ("input_price", "output_price", "cached_price"):
            if (getattr(model, key) or 0) > _MOST_PRICE:
                raise layers.error(f"models.{name}.{key}", f"expected a price of at most {_MOST_PRICE:g}")
    for name, budget in settings.budgets.items():
        if budget.limits_nothing:
            raise layers.error(f"budgets.{name}", "expected tokens or a cost, per day or per month")
    for name, patterns in settings.permissions.items():
        try:
            Policy({name: patterns})
        except ValueError as error:
            raise layers.error(f"roles.{name}.permissions", str(error)) from error
