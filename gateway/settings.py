"""The settings of a gateway: defaults, then `tidegate.toml`, then `TIDEGATE_<SECTION>_<KEY>`, then flags."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, field

from gateway.auth.jwt import JwtSettings
from gateway.core.policy import Policy
from gateway.models.settings import ModelSettings
from gateway.settings_layers import Layers, SettingsError

__all__ = [
    "AuthSettings",
    "LimitSettings",
    "LogSettings",
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

_Count = Annotated[int, Meta(ge=1)]
_Seconds = Annotated[float, Meta(ge=0)]


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
    """`sqlite:///relative/file`, `sqlite:////absolute/file`."""

    url: Annotated[str, Meta(min_length=1)] = f"sqlite:///{DATABASE_NAME}"

    def __repr__(self) -> str:
        # A URL may hold a password.
        return "StoreSettings(…)"


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
    auth: AuthSettings = AuthSettings()
    roles: dict[str, RoleSettings] = field(default_factory=dict[str, RoleSettings])
    models: dict[str, ModelSettings] = field(default_factory=_demo)
    tools: ToolsSettings = ToolsSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()

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


def load_settings(config: Path | None, env: Mapping[str, str], flags: Mapping[str, object]) -> Settings:
    """The settings from all sources. `config` None: `tidegate.toml` of the working directory, if it is there.

    `flags` has dotted keys such as "server.port", and None where a flag is not given; "data" is the directory of the
    default SQLite file. Raises SettingsError, which names the source, the key and what was expected.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    data = given.pop("data", None)
    layers = Layers(Settings)
    if config is not None or Path(CONFIG_NAME).exists():
        layers.add_file(config or Path(CONFIG_NAME))
    layers.add_environment(env)
    layers.add_flags(given)
    if data is not None and layers.source("store.url") is None:
        layers.add_flags({"store.url": f"sqlite:///{Path(str(data), DATABASE_NAME)}"})
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
    if server.workers != 1:
        raise layers.error("server.workers", "more than one worker is not available in this version, expected 1")
    if (server.tls_cert is None) != (server.tls_key is None):
        given, missing = ("tls_cert", "tls_key") if server.tls_key is None else ("tls_key", "tls_cert")
        raise layers.error(f"server.{given}", f"expected server.{missing} with it")
    if settings.store.url.startswith(("postgres:", "postgresql:")):
        raise layers.error("store.url", "PostgreSQL is not available in this version, expected sqlite:///FILE")
    jwt = settings.auth.jwt
    if jwt is not None and (jwt.key is None) == (jwt.jwks_url is None):
        raise layers.error("auth.jwt", "expected either key or jwks_url")
    for name, patterns in settings.permissions.items():
        try:
            Policy({name: patterns})
        except ValueError as error:
            raise layers.error(f"roles.{name}.permissions", str(error)) from error
