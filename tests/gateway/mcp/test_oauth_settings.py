"""What `[mcp.<name>] oauth` may say, and which addresses are asked."""

from __future__ import annotations

import base64
import secrets
from typing import Any

import pytest

from gateway.encryption import EncryptionSettings
from gateway.mcp.oauth_settings import OAuthSettings, ProtectedServer, protected, public_url_problem, redirect_uri
from gateway.mcp.oauth_setup import Place, build_oauth, protected_servers
from gateway.mcp.oauth_wire import acceptable
from gateway.mcp.settings import McpServerSettings
from gateway.settings import Settings
from gateway.settings_layers import SettingsError

URL = "https://notes.example/mcp"
KEYS = EncryptionSettings(keys=(base64.b64encode(secrets.token_bytes(32)).decode(),))
HERE: Place = (None, "127.0.0.1", 8000)


@pytest.mark.parametrize(
    ("url", "given", "problem"),
    [
        ("http://notes.example/mcp", {}, "tokens go to https://"),
        (URL, {"client_secret_env": "S"}, "client_secret_env: expected client_id"),
        (URL, {"client_id": "c", "client_secret_env": "S"}, "client_secret_env: the environment variable S is not set"),
        (URL, {"client_id": "c", "client_metadata_url": "https://a/b"}, "not both"),
        (URL, {"client_metadata_url": "https://a/"}, "client_metadata_url: expected https://HOST/PATH"),
        (URL, {"client_metadata_url": "http://a/b"}, "client_metadata_url: expected https://HOST/PATH"),
        (URL, {"issuer": "login.example"}, "issuer: expected https://"),
        (URL, {"scopes": ("a b",)}, "scopes: 'a b' is no scope"),
        (URL, {"scopes": ("",)}, "scopes: '' is no scope"),
    ],
)
def test_a_wrong_setting(url: str, given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        protected("notes", url, OAuthSettings(**given), {})


def test_a_server_is_ready_with_its_secret_which_does_not_show() -> None:
    settings = OAuthSettings(client_id="c", client_secret_env="S")
    server = protected("notes", URL, settings, {"S": "hush"})
    assert server.client_secret == "hush"
    assert "hush" not in repr(server)
    assert protected("notes", "http://127.0.0.1:9/mcp", OAuthSettings(), {}).client_secret is None


@pytest.mark.parametrize(
    ("place", "uri"),
    [
        ((None, "127.0.0.1", 8000), "http://127.0.0.1:8000/v1/oauth/callback"),
        ((None, "::1", 80), "http://[::1]:80/v1/oauth/callback"),
        (("https://chat.example", "0.0.0.0", 0), "https://chat.example/v1/oauth/callback"),  # noqa: S104
        (("https://chat.example/gate/", "x", 1), "https://chat.example/gate/v1/oauth/callback"),
    ],
)
def test_where_browsers_come_back_to(place: Place, uri: str) -> None:
    assert redirect_uri(*place) == uri


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 0), ("0.0.0.0", 80), ("chat.example", 443)])  # noqa: S104
def test_where_they_do_not(host: str, port: int) -> None:
    with pytest.raises(ValueError, match=r"expected server\.public_url"):
        redirect_uri(None, host, port)


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        ("https://chat.example", True),
        ("https://chat.example/gate", True),
        ("http://localhost:8000", True),
        ("http://[::1]:8000", True),
        ("http://chat.example", False),
        ("https://user@chat.example", False),
        ("https://chat.example?", False),
        ("https://chat.example#x", False),
        ("https://", False),
        ("https://chat.example:x", False),
        ("ftp://chat.example", False),
    ],
)
def test_a_public_url(url: str, fine: bool) -> None:
    assert (public_url_problem(url) is None) == fine


@pytest.mark.parametrize(
    ("resource", "covered"),
    [
        (URL, True),
        ("https://notes.example", True),
        ("https://NOTES.example:443/mcp/", True),
        ("https://notes.example/mc", False),
        ("https://notes.example/mcp/deeper", False),
        ("http://notes.example/mcp", False),
        ("https://notes.example:8443/mcp", False),
        ("https://other.example/mcp", False),
        ("", False),
    ],
)
def test_which_resources_are_the_servers(resource: str, covered: bool) -> None:
    assert ProtectedServer(name="notes", url=URL, settings=OAuthSettings()).is_covered_by(resource) == covered


@pytest.mark.parametrize(
    ("url", "near", "fine"),
    [
        ("https://login.example/x", URL, True),
        ("http://login.example/x", URL, False),
        ("http://127.0.0.1/x", URL, False),
        ("http://127.0.0.1/x", "http://localhost:9/mcp", True),
        ("http://login.example/x", "http://localhost:9/mcp", False),
        ("https://user:pass@login.example/x", URL, False),
        ("file:///etc/passwd", URL, False),
        ("https:///x", URL, False),
    ],
)
def test_which_addresses_are_asked(url: str, near: str, fine: bool) -> None:
    assert acceptable(url, near) == fine


def servers(**given: Any) -> dict[str, McpServerSettings]:
    return {
        "plain": McpServerSettings(url="https://plain.example/mcp"),
        "local": McpServerSettings(command="server"),
        "notes": McpServerSettings(url=URL, oauth=OAuthSettings(), **given),
    }


def test_only_those_with_oauth_need_anything() -> None:
    assert [server.name for server in protected_servers(servers(), KEYS, HERE)] == ["notes"]
    plain = {name: server for name, server in servers().items() if name != "notes"}
    unused: Any = None
    assert build_oauth(plain, EncryptionSettings(), (None, "0.0.0.0", 0), unused, unused) is None  # noqa: S104


def test_without_keys_it_does_not_start_and_says_why() -> None:
    with pytest.raises(SettingsError) as caught:
        protected_servers(servers(), EncryptionSettings(), HERE)
    assert str(caught.value).startswith("mcp.notes.oauth: expected encryption.keys with it")
    assert "openssl rand -base64 32" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_else_is_missing_or_too_much() -> None:
    with pytest.raises(SettingsError, match=r"mcp\.notes\.oauth: expected server\.public_url"):
        protected_servers(servers(), KEYS, (None, "0.0.0.0", 8000))  # noqa: S104
    with pytest.raises(SettingsError, match=r"mcp\.notes\.headers: expected no Authorization"):
        protected_servers(servers(headers={"AUTHORIZATION": "x"}), KEYS, HERE)


def test_the_keys_of_the_settings_do_not_show() -> None:
    settings = Settings.of(encryption={"keys": list(KEYS.keys)}, mcp={"notes": {"url": URL, "oauth": {}}})
    assert settings.mcp["notes"].oauth == OAuthSettings()
    assert KEYS.keys[0] not in f"{settings!r} {settings.encryption!r}"
