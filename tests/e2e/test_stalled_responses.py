"""Clients of responses who take nothing: once they are cut off, nothing of them is left."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import psutil
import pytest

from tests.e2e import stalling_gateway
from tests.e2e.gateways import GatewayProcess
from tests.e2e.sse import http_client, raw_request

SCRIPT = [sys.executable, "-m", stalling_gateway.__name__, "serve"]


def _stalled(gateway: GatewayProcess, path: str, key: str) -> socket.socket:
    """A client that asks, and then reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", gateway.port))
    client.sendall(raw_request(path, key))
    return client


def _connected(gateway: GatewayProcess, client: socket.socket) -> bool:
    assert gateway.process is not None
    port = client.getsockname()[1]
    connections = psutil.Process(gateway.process.pid).net_connections("tcp")
    return any(one.raddr and one.raddr.port == port for one in connections)


@pytest.mark.parametrize("path", ["/v1/contexts/c/stream", "/v1/export"])
async def test_the_connection_of_a_client_that_takes_nothing_is_aborted(path: str, tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path, config="[limits]\nheartbeat = 1\n", script=SCRIPT) as gateway:
        key = gateway.key()
        async with http_client(gateway.url, key) as http:
            for number in range(12):
                message = {"id": f"m{number}", "content": "x" * 900_000, "respond": False}
                json_please = {"Accept": "application/json"}
                answer = await http.post("/v1/contexts/c/messages", json=message, headers=json_please)
                assert answer.status_code == 200, answer.text
            with _stalled(gateway, path, key) as client:
                async with asyncio.timeout(30):
                    while not _connected(gateway, client):
                        await asyncio.sleep(0.02)
                    while _connected(gateway, client):
                        await asyncio.sleep(0.05)
            assert (await http.get("/readyz")).status_code == 200
        assert "without completing response" not in gateway.log()
