"""A whole gateway: its settings, routes, tools, export and deletion, with a server that needs authorization."""

from __future__ import annotations

import base64
import secrets
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from gateway.app import Gateway
from gateway.auth.api_keys import create_key
from gateway.auth.principal import Principal
from gateway.settings import Settings
from gateway.settings_layers import SettingsError
from gateway.testing.mcp_http import serving
from gateway.testing.mcp_server import FakeMCP
from gateway.testing.oauth_server import FakeOAuth
from stores.sqlite import SqliteStore


def settings(folder: Path, url: str, port: int, *keys: str) -> Settings:
    return Settings.of(
        store={"url": f"sqlite:///{folder}/store.db"},
        server={"public_url": f"http://127.0.0.1:{port}"},
        mcp={"notes": {"url": url, "oauth": {}, "approval": "never"}},
        encryption={"keys": list(keys)},
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_without_keys_there_is_no_gateway(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"mcp\.notes\.oauth: expected encryption\.keys"):
        Gateway(settings(tmp_path, "https://notes.example/mcp", 80))


async def test_a_user_of_a_gateway_connects_calls_exports_and_leaves(tmp_path: Path) -> None:
    mcp, oauth, port = FakeMCP(), FakeOAuth(), free_port()
    store = await SqliteStore.open(tmp_path / "store.db")
    key = await create_key(store, "ann")
    await store.close()
    secret = base64.b64encode(secrets.token_bytes(32)).decode()
    async with mcp.http() as url, oauth.http():
        oauth.protect(mcp, url)
        gateway = Gateway(settings(tmp_path, url, port, secret))
        async with (
            serving(gateway.app, port) as origin,
            httpx.AsyncClient(base_url=origin, headers={"x-api-key": key}, timeout=10) as client,
            gateway.connect(Principal(tenant="default", subject="ann")) as device,
        ):
            before = [tool["name"] for tool in (await client.get("/v1/tools")).json()["tools"]]
            assert not [name for name in before if name.startswith("notes__")]
            begun = (await client.post("/v1/connections/notes")).json()
            async with httpx.AsyncClient() as provider:
                back = (await provider.get(f"{begun['authorization_url']}&account=ann")).headers["location"]
            page = await client.get(f"{urlsplit(back).path}?{urlsplit(back).query}")
            assert "notes is connected for ann" in page.text
            after = [tool["name"] for tool in (await client.get("/v1/tools")).json()["tools"]]
            assert "notes__whoami" in after
            answer = await device.call_tool("notes__whoami", {})
            assert answer.status == "success"
            assert oauth.account(mcp.calls[-1].headers) == "ann"
            (grant,) = oauth.grants
            export = (await client.get("/v1/export")).text
            assert grant.refresh not in export
            assert "secrets" not in export
            await client.delete("/v1/contexts?confirm=all")
            assert not (await client.get("/v1/connections")).json()["connections"][0]["connected"]
    store = await SqliteStore.open(tmp_path / "store.db")
    assert await store.secrets_of("default/ann") == []
    await store.close()
