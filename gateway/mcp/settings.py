"""One `[mcp.<name>]` section of the settings, or one entry of a `mcpServers` file: an MCP server."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from gateway.core.approval import Rule
from gateway.mcp.names import SERVER_NAME
from gateway.mcp.oauth_settings import OAuthSettings

__all__ = ["McpServerSettings", "McpSettingsError", "checked", "expanded", "shown_url"]

_SECRET: Final = 4
_Seconds = Annotated[float, Meta(gt=0)]
_VARIABLE: Final = re.compile(r"\$\{(?:env:)?([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
# What other hosts fill in for their one user; here it would go to the server as it is.
_OTHERS: Final = re.compile(r"\$\{(input:[^}]*|workspaceFolder[^}]*|userHome|pathSeparator|/)\}")


class McpSettingsError(ValueError):
    """A setting of a server is missing or wrong: `key` within its section, and what was expected."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}" if key else problem)
        self.key = key
        self.problem = problem


class McpServerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A server is either a `command` with its `args`, run with the variables of `env` in `cwd`, or a `url` of
    Streamable HTTP with `headers`. `${NAME}` in these stands for a variable of the gateway's environment,
    `${NAME:-text}` for `text` where there is none.

    `include` and `exclude` are patterns of the server's names of its tools, `rename` gives tools other names than
    `<server>__<tool>`. `approval`, `permission`, `timeout` and `idle_timeout` are those of each of its tools
    (gateway/tools/port.py); `trust_annotations` says whether its word counts that a tool may be repeated.

    With `oauth` each principal authorizes the gateway at the server (gateway/mcp/oauth_settings.py).

    `shared` says whether all principals use one connection (absent: if it is remote, is told no credentials, and keeps
    no session); without it each has its own, `max_connections` at most. `connect_seconds` is how long a call waits for
    a connection, `start_seconds` how long a server may take to start, `idle_seconds` how long a connection is kept that
    nobody uses (0: for ever). A message of more than `max_message_bytes` is refused.
    """

    command: Annotated[str, Meta(min_length=1)] | None = None
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict[str, str])
    cwd: str | None = None
    url: Annotated[str, Meta(min_length=1)] | None = None
    headers: dict[str, str] = field(default_factory=dict[str, str])
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    rename: dict[str, str] = field(default_factory=dict[str, str])
    approval: Rule = "never"
    permission: str | None = None
    timeout: _Seconds = 300.0
    idle_timeout: _Seconds = 60.0
    trust_annotations: bool = False
    oauth: OAuthSettings | None = None
    shared: bool | None = None
    connect_seconds: _Seconds = 10.0
    start_seconds: _Seconds = 60.0
    idle_seconds: Annotated[float, Meta(ge=0)] = 300.0
    max_connections: Annotated[int, Meta(ge=1)] = 50
    max_message_bytes: Annotated[int, Meta(ge=65_536)] = 8 * 1024 * 1024

    @property
    def credentials(self) -> bool:
        """Whether the server is told, or may be, who it is that asks."""
        if self.headers or self.oauth is not None:
            return True
        parts = urlsplit(self.url or "")
        return bool(parts.username or parts.password or parts.query)

    @property
    def secrets(self) -> frozenset[str]:
        """Texts that no log may hold. Shorter ones are flags and numbers."""
        return frozenset(value for value in (*self.env.values(), *self.headers.values()) if len(value) >= _SECRET)

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # In a traceback rich would show every field.
        return [("url", shown_url(self.url))] if self.url is not None else [("command", self.command)]

    def __repr__(self) -> str:
        # The arguments, variables, headers and the URL may hold secrets.
        if self.url is None:
            return f"McpServerSettings(command={self.command!r}, …)"
        return f"McpServerSettings(url={shown_url(self.url)!r}, …)"


def shown_url(url: str) -> str:
    """The URL without what may be a secret: its user, its query, its fragment."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "…"
    return f"{parts.scheme}://{host}{parts.path}"


def checked(name: str, server: McpServerSettings) -> None:
    """What a field's type can't say. Raises McpSettingsError."""
    if not SERVER_NAME.fullmatch(name):
        raise McpSettingsError("", "a server's name is 1 to 32 characters of A-Z a-z 0-9 _ -, with no __ and no _ last")
    if (server.command is None) == (server.url is None):
        raise McpSettingsError("", "expected either command or url")
    local, remote = ("args", "env", "cwd"), ("headers", "oauth")
    kind, foreign = ("command", remote) if server.url is None else ("url", local)
    for key in foreign:
        if getattr(server, key) not in (None, (), {}):
            raise McpSettingsError(key, f"a server with a {kind} has none")
    if server.oauth is not None and server.shared:
        raise McpSettingsError("shared", "expected false with oauth: the authorization is each principal's own")
    if server.url is not None and not _is_url(server.url):
        raise McpSettingsError("url", "expected http://… or https://…")
    for header, value in server.headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", header) or not re.fullmatch(r"[\t\x20-\x7e]*", value):
            raise McpSettingsError(f"headers.{header}", "expected a header's name and a line of ASCII text")
    texts = (server.command or "", *server.args, *server.env, *server.env.values(), server.cwd or "")
    if any("\0" in text for text in texts):
        raise McpSettingsError("", "a NUL character is in its command, args, env or cwd")


def expanded(server: McpServerSettings, environ: Mapping[str, str] = os.environ) -> McpServerSettings:
    """With every `${NAME}` replaced. Raises McpSettingsError, naming the key, for a variable that is not set."""

    def fill(key: str, text: str) -> str:
        def value(match: re.Match[str]) -> str:
            found = environ.get(match[1])
            found = match[2] if not found and match[2] is not None else found
            if found is None:
                raise McpSettingsError(key, f"the environment variable {match[1]} is not set")
            return found

        if (other := _OTHERS.search(text)) is not None:
            raise McpSettingsError(key, f"{other[0]} has no meaning in a gateway; expected ${{NAME}}")
        return _VARIABLE.sub(value, text)

    return replace(
        server,
        command=None if server.command is None else fill("command", server.command),
        args=tuple(fill("args", text) for text in server.args),
        env={name: fill(f"env.{name}", text) for name, text in server.env.items()},
        cwd=None if server.cwd is None else fill("cwd", server.cwd),
        url=None if server.url is None else fill("url", server.url),
        headers={name: fill(f"headers.{name}", text) for name, text in server.headers.items()},
    )


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
