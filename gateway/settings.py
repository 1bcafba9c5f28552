"""The settings of a gateway: defaults, then `tidegate.toml`, then `TIDEGATE_<SECTION>_<KEY>`, then flags."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated
from urllib.parse import unquote

import msgspec
from msgspec import Meta, Struct, field

from gateway.auth.jwt import JwtSettings
from gateway.auth.principal import DEFAULT_TENANT, Principal
from gateway.budget_settings import BudgetSettings
from gateway.core.approval import Approvals, Rule
from gateway.core.policy import Policy
from gateway.encryption import EncryptionSettings, decode_key
from gateway.mcp.oauth_settings import public_url_problem
from gateway.mcp.settings import McpServerSettings
from gateway.models.settings import ModelSettings
from gateway.resources.settings import ResourceSettings, ResourceSettingsError, check_resources
from gateway.resources.uris import pattern_problem
from gateway.settings_layers import Layers, SettingsError
from gateway.tool_limits import ToolLimit

__all__ = [
    "AuditSettings",
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
    "UserSettings",
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
    turns may go on at the end, `trusted_proxies` the addresses whose X-Forwarded headers count, `public_url` where
    browsers reach this gateway (absent: host and port). The certificate and its key are files of PEM text."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    workers: _Count = 1
    origins: tuple[str, ...] = ()
    drain_seconds: _Seconds = 30.0
    tls_cert: str | None = None
    tls_key: str | None = None
    trusted_proxies: tuple[str, ...] = ()
    public_url: _Url | None = None


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
    """What a role may do, as patterns of permissions (gateway/core/policy.py), and which of its calls wait for a
    person, by patterns of tools' names (gateway/core/approval.py)."""

    permissions: tuple[str, ...]
    approval: dict[str, Rule] = field(default_factory=dict[str, Rule])


class UserSettings(_Section, frozen=True):
    """What one user may do besides what its roles allow it, or what of that it may not."""

    permissions: tuple[str, ...]


class ToolsSettings(_Section, frozen=True):
    """`modules` hold functions that carry `@tool`, `mcp_servers` is a file of MCP servers
    (gateway/mcp/servers_file.py); `approval` (gateway/core/approval.py) and `limits` (gateway/tool_limits.py) are by
    patterns of tools' names."""

    modules: tuple[str, ...] = ()
    mcp_servers: str | None = None
    approval: dict[str, Rule] = field(default_factory=dict[str, Rule])
    limits: dict[str, ToolLimit] = field(default_factory=dict[str, ToolLimit])


class AuditSettings(_Section, frozen=True):
    """`parameters`: whether those of calls are kept, besides their hash; `keep_days`: for how long records are (absent:
    for good)."""

    parameters: bool = False
    keep_days: _Count | None = None


class LimitSettings(_Section, frozen=True):
    """`heartbeat`, `session_ttl` and what ends in `_seconds` are seconds: how long a session waits for its `hello`, a
    question for its answer, a call for the client that is to run it, or (None: without end) for a person's decision.
    `max_unacked` is a client's frames that may wait for their ack, `queue_length` a context's turns that may wait,
    `concurrent_turns` those that run in this process."""

    messages_per_minute: _Count = 600
    connections_per_principal: _Count = 100
    max_frame_bytes: Annotated[int, Meta(ge=1024)] = 1_048_576
    max_unacked: Annotated[int, Meta(ge=64)] = 64
    heartbeat: _Count = 25
    hello_seconds: Annotated[float, Meta(gt=0)] = 10.0
    max_result_bytes: Annotated[int, Meta(ge=1024)] = 1_048_576
    max_resource_bytes: Annotated[int, Meta(ge=1024)] = 262_144
    resource_cache_bytes: Annotated[int, Meta(ge=0)] = 33_554_432
    max_steps: _Count = 32
    question_seconds: Annotated[float, Meta(gt=0)] = 600.0
    client_tool_seconds: Annotated[float, Meta(gt=0)] = 300.0
    approval_seconds: Annotated[float, Meta(gt=0)] | None = None
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
    users: dict[str, UserSettings] = field(default_factory=dict[str, UserSettings])
    models: dict[str, ModelSettings] = field(default_factory=_demo)
    tools: ToolsSettings = ToolsSettings()
    mcp: dict[str, McpServerSettings] = field(default_factory=dict[str, McpServerSettings])
    resources: dict[str, ResourceSettings] = field(default_factory=dict[str, ResourceSettings])
    limits: LimitSettings = LimitSettings()
    audit: AuditSettings = AuditSettings()
    log: LogSettings = LogSettings()
    context: ContextDefaults = ContextDefaults()
    budgets: dict[str, BudgetSettings] = field(default_factory=dict[str, BudgetSettings])
    encryption: EncryptionSettings = EncryptionSettings()

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
        """The patterns of each role."""
        return {name: role.permissions for name, role in self.roles.items()}

    @property
    def policy(self) -> Policy:
        """Who may do what."""
        return Policy(self.permissions, {_owner(name): user.permissions for name, user in self.users.items()})

    @property
    def approvals(self) -> Approvals:
        """Which calls wait for a person."""
        return Approvals({name: role.approval for name, role in self.roles.items()}, self.tools.approval)

    def __repr__(self) -> str:
        models = ", ".join(self.models)
        return f"Settings({self.server!r}, {self.auth!r}, {self.limits!r}, {self.log!r}, models=[{models}])"


def _owner(user: str) -> str:
    """`TENANT/SUBJECT`, or a subject of the default tenant. Only the first slash divides: subjects may have more, in a
    tenant it is `%2F`. Raises ValueError where one of both is empty."""
    tenant, slash, subject = user.partition("/")
    if not slash:
        tenant, subject = DEFAULT_TENANT, user
    if not tenant or not subject:
        raise ValueError(f"{user!r} is no user, expected 'SUBJECT' or 'TENANT/SUBJECT'")
    return Principal(tenant=unquote(tenant), subject=subject).owner


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
    problem = public_url_problem(server.public_url) if server.public_url is not None else None
    if problem is not None:
        raise layers.error("server.public_url", problem)
    for key in settings.encryption.keys:
        try:
            decode_key(key)
        except ValueError as error:
            raise layers.error("encryption.keys", str(error)) from None
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
    for pattern, limit in settings.tools.limits.items():
        if limit.per_minute is None and limit.concurrent is None:
            raise layers.error(f"tools.limits.{pattern}", "expected per_minute, or concurrent, or both")
    for section, names in (("roles", settings.roles), ("users", settings.users)):
        for name, given in names.items():
            try:
                one = {name: given.permissions}
                Policy(one) if section == "roles" else Policy({}, one)
            except ValueError as error:
                raise layers.error(f"{section}.{name}.permissions", str(error)) from error
            _check_uris(layers, f"{section}.{name}.permissions", given.permissions)
    owners: dict[str, str] = {}
    for name in settings.users:
        try:
            other = owners.setdefault(_owner(name), name)
        except ValueError as error:
            raise layers.error("users", str(error)) from error
        if other != name:
            raise layers.error(f"users.{name}", f"is the user that [users.{other}] is about")
    for key, rules in (
        ("tools.approval", settings.tools.approval),
        *((f"roles.{name}.approval", role.approval) for name, role in settings.roles.items()),
    ):
        try:
            Approvals({}, rules)
        except ValueError as error:
            raise layers.error(key, str(error)) from error
    try:
        check_resources(settings.resources)
    except ResourceSettingsError as error:
        raise layers.error(error.key, error.problem) from error


def _check_uris(layers: Layers, key: str, patterns: Iterable[str]) -> None:
    """A denial of a resource that can't match is as good as none, so it is no setting."""
    for pattern in patterns:
        kind, _, uri = pattern.removeprefix("!").partition(":")
        problem = pattern_problem(uri) if kind == "resource" else None
        if problem is not None:
            raise layers.error(key, f"{pattern!r} {problem}, and so matches nothing; expected URIs as lists show them")
