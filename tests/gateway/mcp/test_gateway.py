"""MCP servers in a gateway: from its settings to what a conversation shows."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import httpx

from gateway import Gateway
from gateway.auth.principal import Principal
from gateway.settings import Settings
from gateway.testing.mcp_plain import plain_command
from protocol.frames import ToolResponse
from tests.gateway.host_apps import ANN, by_query
from tests.gateway.mcp.mcp_world import alive, eventually


async def test_a_tool_of_a_server_in_a_turn(tmp_path: Path) -> None:
    command, args = plain_command()
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {"filed": {"command": command, "args": args}}}))
    settings = Settings.of(
        store={"url": f"sqlite:///{tmp_path / 'host.db'}"},
        models={"demo": {"provider": "demo", "delay": 0}},
        tools={"mcp_servers": str(file)},
        mcp={"plain": {"command": command, "args": args, "exclude": ["hang"]}},
    )
    gateway = Gateway(settings)
    async with gateway.running(), gateway.connect(ANN) as client, asyncio.timeout(30):
        for server in ("plain", "filed"):
            said = "".join([piece async for piece in client.stream(f'call {server}__echo {{"text": "from {server}"}}')])
            assert f"from {server}" in said
        failed = await client.call_tool("plain__exit", {"code": 4})
        assert isinstance(failed, ToolResponse)
        assert (failed.status, failed.result) == ("error", "the MCP server 'plain' ended with exit code 4")
    # It runs again, and with other connections.
    async with gateway.running(), gateway.connect(ANN) as client, asyncio.timeout(30):
        again = await client.call_tool("plain__echo", {"text": "again"})
        assert again.result == "again"


async def test_of_whoever_is_erased_no_server_goes_on(tmp_path: Path) -> None:
    command, args = plain_command()
    settings = Settings.of(
        store={"url": f"sqlite:///{tmp_path / 'host.db'}"},
        models={"demo": {"provider": "demo", "delay": 0}},
        mcp={"plain": {"command": command, "args": args}},
    )
    gateway = Gateway(settings, authenticate=by_query)
    web = httpx.AsyncClient(transport=httpx.ASGITransport(app=gateway.app), base_url="http://gateway", timeout=20)
    bob = Principal(tenant="host", subject="bob")
    async with gateway.running(), web, gateway.connect(ANN) as ann, gateway.connect(bob) as other:
        mine, others = [json.loads((await one.call_tool("plain__pid", {})).result)["pid"] for one in (ann, other)]
        told = (await web.get("/metrics")).text
        for line in ("connections 2.0", "requests 0.0", "servers_in_trouble 0.0"):
            assert f"tidegate_mcp_{line}\n" in told
        assert (await web.delete("/v1/contexts", params={"confirm": "all", "user": "ann"})).status_code == 200
        await eventually(lambda: not alive(mine))
        assert alive(others)
        assert "tidegate_mcp_connections 1.0\n" in (await web.get("/metrics")).text


def test_doctor_looks_at_servers(tmp_path: Path) -> None:
    command, args = plain_command()
    config = tmp_path / "tidegate.toml"
    config.write_text(f"[mcp.plain]\ncommand = {command!r}\nargs = {args}\n[mcp.none]\ncommand = 'no-such-command'\n")
    run = [sys.executable, "-m", "gateway.cli", "doctor", "--config", str(config), "--data", str(tmp_path)]
    told = subprocess.run(run, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 1
    lines = told.stdout.splitlines()
    assert [line for line in lines if "mcp plain: speaks MCP 2025-11-25, 10 tools" in line]
    assert [line for line in lines if "mcp none: can't be started: No such file or directory" in line]
    assert "Traceback" not in told.stderr
