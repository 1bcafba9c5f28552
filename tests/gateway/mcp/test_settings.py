from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.pretty import pretty_repr

from gateway.app import Gateway
from gateway.mcp.build import build_host
from gateway.mcp.servers_file import configured_servers, read_servers
from gateway.mcp.settings import McpServerSettings, McpSettingsError, checked, expanded
from gateway.settings import Settings, SettingsError, load_settings


def write(folder: Path, tree: Any) -> Path:
    path = folder / "mcp.json"
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree), encoding="utf-8")
    return path


def refusal(path: Path, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        read_servers(path, environ or {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_as_other_hosts_write_it(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {
            "mcpServers": {
                "github": {
                    "command": "npx",
                    "args": ["-y", "server-github", "${PLACE:-here}"],
                    "env": {"TOKEN": "${env:GITHUB_TOKEN}", "PORT": 8, "DEBUG": True},
                    "alwaysAllow": ["delete_everything"],
                },
                "remote server.": {
                    "type": "http",
                    "url": "https://mcp.example/mcp",
                    "headers": {"Authorization": "Bearer ${KEY}"},
                },
                "off": {"command": "x", "disabled": True},
            },
        },
    )
    servers = read_servers(path, {"GITHUB_TOKEN": "secret", "KEY": "k-1"})
    assert list(servers) == ["github", "remote-server"]
    github, remote = servers.values()
    assert github.args == ("-y", "server-github", "here")
    assert github.env == {"TOKEN": "secret", "PORT": "8", "DEBUG": "true"}
    assert github.approval == "never"
    assert (remote.url, remote.headers) == ("https://mcp.example/mcp", {"Authorization": "Bearer k-1"})


def test_the_file_of_vs_code(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeff" + json.dumps({"servers": {"a": {"type": "stdio", "command": "x"}}}))
    assert read_servers(path, {}) == {"a": McpServerSettings(command="x")}


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        ("{", "expected JSON"),
        ([], 'expected an object with "mcpServers"'),
        ({"mcpServers": []}, 'expected an object with "mcpServers"'),
        ({"mcpServers": {"a": 1}}, "mcpServers.a: expected an object"),
        ({"mcpServers": {"a": {}}}, "mcpServers.a: expected either command or url"),
        ({"mcpServers": {"a": {"command": "x", "url": "http://h"}}}, "mcpServers.a: expected either command or url"),
        ({"mcpServers": {"a": {"command": 1}}}, "mcpServers.a.command: expected str | null, got int"),
        ({"mcpServers": {"a": {"command": "x", "args": [1]}}}, "mcpServers.a.args[0]: expected str, got int"),
        ({"mcpServers": {"a": {"type": "sse", "url": "http://h"}}}, "mcpServers.a.type: 'sse' is no transport"),
        ({"mcpServers": {"a": {"type": "http", "command": "x"}}}, "mcpServers.a.url: is missing"),
        ({"mcpServers": {"a": {"url": "ftp://h"}}}, "mcpServers.a.url: expected http://"),
        ({"mcpServers": {"a": {"command": "${NONE}"}}}, "mcpServers.a.command: the environment variable NONE is"),
        ({"mcpServers": {"a": {"command": "x", "env": {"T": "${input:t}"}}}}, "mcpServers.a.env.T: ${input:t} has no"),
        ({"mcpServers": {"a.": {"command": "x"}, "a,": {"command": "y"}}}, "mcpServers.a,: another server"),
        ({"mcpServers": {"...": {"command": "x"}}}, "mcpServers....: a server's name is"),
    ],
)
def test_a_wrong_file(tmp_path: Path, tree: Any, problem: str) -> None:
    path = write(tmp_path, tree)
    assert refusal(path).startswith(f"{path}: {problem}")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == f"tools.mcp_servers: {tmp_path / 'none'}: No such file or directory"


def test_the_settings_come_before_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, {"mcpServers": {"a": {"command": "x"}, "b": {"command": "y"}}})
    config = tmp_path / "tidegate.toml"
    config.write_text(f"[tools]\nmcp_servers = '{path}'\n[mcp.b]\nurl = 'http://127.0.0.1:1/mcp'\nshared = true\n")
    settings = load_settings(config, {}, {})
    servers = configured_servers(settings.mcp, settings.tools.mcp_servers, {})
    assert servers == {
        "a": McpServerSettings(command="x"),
        "b": McpServerSettings(url="http://127.0.0.1:1/mcp", shared=True),
    }


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("[mcp.a__b]\ncommand = 'x'", "mcp.a__b: a server's name is"),
        ("[mcp.a]\ncommand = 'x'\nheaders = {A = 'b'}", "mcp.a.headers: a server with a command has none"),
        ("[mcp.a]\nurl = 'http://h'\nargs = ['b']", "mcp.a.args: a server with a url has none"),
        ("[mcp.a]\nurl = 'http://h'\nheaders = {A = \"b\\r\\nC: d\"}", "mcp.a.headers.A: expected a header's name"),
        ("[mcp.a]\nurl = 'http://h'\nheaders = {'A B' = 'c'}", "mcp.a.headers.A B: expected a header's name"),
        ("[mcp.a]\nurl = 'https://h'\noauth = {}\nshared = true", "mcp.a.shared: expected false with oauth"),
        ('[mcp.a]\ncommand = "x\\u0000"', "mcp.a: a NUL character is"),
        ("[mcp.a]\ncommand = 'x'\ncwd = '${NOWHERE_AT_ALL}'", "mcp.a.cwd: the environment variable NOWHERE_AT_ALL"),
    ],
)
def test_a_wrong_section_stops_the_start(tmp_path: Path, section: str, problem: str) -> None:
    config = tmp_path / "tidegate.toml"
    config.write_text(section)
    settings = load_settings(config, {}, {})
    with pytest.raises(SettingsError) as caught:
        Gateway(settings)
    assert str(caught.value).startswith(problem)


def test_no_repr_tells_a_secret() -> None:
    local = McpServerSettings(command="x", args=("a-secret",), env={"TOKEN": "b-secret"})
    remote = McpServerSettings(url="https://u:c-secret@host/mcp?key=d-secret", headers={"Authorization": "e-secret"})
    settings = Settings.of(mcp={"a": local, "b": remote})
    for shown in (repr(local), repr(remote), pretty_repr([local, remote]), repr(settings)):
        assert "secret" not in shown
    assert repr(remote) == "McpServerSettings(url='https://host/mcp', …)"


def test_an_empty_variable_is_one() -> None:
    filled = expanded(McpServerSettings(command="x", args=("${A}", "${A:-b}")), {"A": ""})
    assert filled.args == ("", "b")


@pytest.mark.parametrize(
    ("settings", "credentials"),
    [
        ({"url": "http://h/mcp"}, False),
        ({"url": "http://u@h/mcp"}, True),
        ({"url": "http://h/mcp?key=1"}, True),
        ({"url": "http://h/mcp", "headers": {"A": "b"}}, True),
        ({"url": "http://h/mcp", "oauth": {}}, True),
    ],
)
def test_what_counts_as_credentials(settings: dict[str, Any], credentials: bool) -> None:
    assert Settings.of(mcp={"a": settings}).mcp["a"].credentials is credentials


def test_a_url_that_is_none() -> None:
    with pytest.raises(McpSettingsError) as caught:
        checked("a", McpServerSettings(url="http://[1"))
    assert (caught.value.key, str(caught.value)) == ("url", "url: expected http://… or https://…")
    assert "…" in repr(McpServerSettings(url="http://[1"))


def test_the_sdk_is_imported_where_servers_are_configured_only() -> None:
    check = "import sys, gateway.cli, gateway.app; sys.exit(bool({'mcp', 'httpx2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
    assert build_host({}) is None


def test_without_the_extra_one_line_names_it(tmp_path: Path) -> None:
    # A process in which the SDK can't be found, as where the extra was not installed.
    config = tmp_path / "tidegate.toml"
    config.write_text("[mcp.a]\ncommand = 'x'\n")
    hide = (
        "import sys\n"
        "sys.modules['mcp'] = None\n"
        "from gateway.cli import main\n"
        f"sys.argv = ['tidegate', 'serve', '--config', {str(config)!r}, '--data', {str(tmp_path)!r}]\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode != 0
    assert "mcp.a: MCP servers need: pip install 'tidegate[mcp]'" in ended.stderr
    assert "Traceback" not in ended.stderr
