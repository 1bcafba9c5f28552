"""The gateway's MCP host as the client that the conformance suite looks at.

The suite starts a server and the command tests/conformance/ask.py, which has it done here. What the scenario wants is
done as a conversation would: tools are found and called, by a principal who accepts what is asked; where the server
wants an authorization, the flow is begun, and its user's browser is one that says yes to everything.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urljoin, urlsplit

import httpx
from structlog.testing import capture_logs

from gateway.auth.principal import Principal
from gateway.encryption import EncryptionSettings
from gateway.mcp.host import McpHost
from gateway.mcp.oauth import OAuth
from gateway.mcp.oauth_records import FlowRefused
from gateway.mcp.oauth_settings import OAuthSettings
from gateway.mcp.oauth_setup import build_oauth
from gateway.mcp.settings import McpServerSettings
from gateway.tools.port import Answer, Question, Tool, ToolContext, ToolError, ToolOutcome
from gateway.tools.runner import ToolRunner
from protocol.errors import ProtocolError
from stores.connect import open_hot
from stores.sqlite import SqliteStore

ANN: Final = Principal(tenant="default", subject="ann")
SERVER: Final = "tested"
# The document that the suite expects a client to be known by.
_METADATA: Final = "https://conformance-test.local/client-metadata.json"
_ROUNDS: Final = 4
_SECONDS: Final = 20.0
# The suite begins all scenarios at once.
_AT_A_TIME: Final = 4
_VALUES: Final[dict[str, Any]] = {"string": "x", "number": 1, "integer": 1, "boolean": True, "array": [], "object": {}}


class Client:
    """One conversation's worth of the host."""

    def __init__(self, host: McpHost, oauth: OAuth | None) -> None:
        self._host = host
        self._oauth = oauth
        self._runner = ToolRunner(max_result_bytes=1_000_000)

    async def tools(self) -> list[Tool]:
        """As they are listed once the server lets its user in."""
        for attempt in range(_ROUNDS):
            tools = list(await self._host.tools(ANN))
            # Once more where the server does not take what it was just given, as a user would.
            if tools or not (await self._wants_authorization() or (self._oauth is not None and attempt == 1)):
                return tools
            await self._authorize()
        return []

    async def call(self, tool: Tool, arguments: dict[str, Any]) -> ToolOutcome:
        """Called again after an authorization that the server wanted of the call."""
        context = ToolContext(ANN, "ctx", "call", _unheard, _accept)
        outcome = await self._runner.run(tool, context, arguments)
        for _ in range(_ROUNDS - 1):
            if outcome.status == "success" or not await self._wants_authorization():
                break
            await self._authorize()
            outcome = await self._runner.run(tool, context, arguments)
        return outcome

    async def read_all(self) -> None:
        """Every resource and prompt that is listed."""
        for offer in await self._host.offers(ANN):
            for resource in offer.listing.resources:
                await self._host.read_resource(ANN, offer.server, resource.uri)
            for prompt in offer.listing.prompts:
                given = {argument.name: "x" for argument in prompt.arguments or []}
                await self._host.get_prompt(ANN, offer.server, prompt.name, given)

    async def _wants_authorization(self) -> bool:
        if self._oauth is None:
            return False
        (state,) = await self._oauth.connections(ANN)
        return not state.connected or bool(state.missing)

    async def _authorize(self) -> None:
        """What a browser does: go where it is sent, say yes, and come back with what it was told."""
        assert self._oauth is not None
        begun = await self._oauth.begin(ANN, SERVER)
        location = begun.url
        async with httpx.AsyncClient() as browser:
            while not location.startswith(self._oauth.redirect_uri):
                reply = await browser.get(location)
                location = urljoin(location, reply.headers["location"])
        await self._oauth.finish(parse_qsl(urlsplit(location).query), {}, ANN)


def _unheard(progress: float, total: float | None, message: str | None) -> None:
    """Nobody looks at the progress."""


async def _accept(question: Question) -> Answer:
    """With what the form has filled in."""
    properties: dict[str, Any] = (question.schema or {}).get("properties", {})
    return Answer("accept", {name: one["default"] for name, one in properties.items() if "default" in one})


def _arguments(tool: Tool) -> dict[str, Any]:
    properties: dict[str, Any] = tool.parameters.get("properties", {})
    required: list[str] = tool.parameters.get("required", [])
    return {name: _VALUES.get(properties.get(name, {}).get("type", "string"), "x") for name in required}


def _settings(url: str, scenario: str, context: dict[str, Any]) -> McpServerSettings:
    if not scenario.startswith("auth/"):
        return McpServerSettings(url=url)
    if "client_id" in context:
        variable = None
        if "client_secret" in context:
            # Others run at the same time.
            variable = f"CONFORMANCE_SECRET_{secrets.token_hex(8)}"
            os.environ[variable] = context["client_secret"]
        own = OAuthSettings(client_id=context["client_id"], client_secret_env=variable)
    else:
        own = OAuthSettings(client_metadata_url=_METADATA)
    return McpServerSettings(url=url, oauth=own)


@asynccontextmanager
async def connected(settings: McpServerSettings) -> AsyncGenerator[Client]:
    servers = {SERVER: settings}
    with tempfile.TemporaryDirectory() as folder:
        store = await SqliteStore.open(Path(folder) / "client.db")
        try:
            async with _running(servers, store) as client:
                yield client
        finally:
            await store.close()


@asynccontextmanager
async def _running(servers: dict[str, McpServerSettings], store: SqliteStore) -> AsyncGenerator[Client]:
    hot = open_hot(None, max_bytes=1 << 20, ttl=60)
    keys = EncryptionSettings(keys=(base64.b64encode(secrets.token_bytes(32)).decode(),))
    oauth = build_oauth(servers, keys, (None, "127.0.0.1", 8000), store, hot)
    host = McpHost(servers, auth=oauth.auth if oauth is not None else None)
    if oauth is not None:
        oauth.listen(host.forget)
    running = asyncio.create_task(host.run())
    await asyncio.sleep(0)
    try:
        yield Client(host, oauth)
    finally:
        running.cancel()
        await asyncio.wait((running,))
        if oauth is not None:
            await oauth.close()


async def attempt(url: str, scenario: str, context: dict[str, Any]) -> tuple[int, str]:
    """The exit code that the suite is told, and what was seen."""
    told: list[str] = []
    try:
        async with asyncio.timeout(_SECONDS), connected(_settings(url, scenario, context)) as client:
            tools = {tool.name.removeprefix(f"{SERVER}__"): tool for tool in await client.tools()}
            for name, arguments in _calls(tools, context):
                outcome = await client.call(tools[name], arguments)
                told.append(f"{name}: {outcome.status} {str(outcome.result)[:500]}")
            if not scenario.startswith("auth/"):
                await client.read_all()
            # Where nobody is let in, nothing is listed; a server of `initialize` has no tools.
            return int(not tools and scenario != "initialize"), "\n".join([*told, f"{len(tools)} tools"])
    except (FlowRefused, ProtocolError, ToolError, TimeoutError) as error:
        # Of a server or provider that is not to be trusted: what the suite wants to see refused.
        return 1, "\n".join([*told, f"refused: {type(error).__name__} {error}"])


def _calls(tools: dict[str, Tool], context: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Those that the scenario names, else each tool once."""
    named = [(call["name"], call["arguments"]) for call in context.get("toolCalls", []) if call["name"] in tools]
    return named or [(name, _arguments(tool)) for name, tool in tools.items()]


@asynccontextmanager
async def answering(place: Path) -> AsyncGenerator[None]:
    """What tests/conformance/ask.py speaks to, at the Unix socket `place`: one process for all scenarios, as the
    imports of each would take longer than the suite."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = json.loads(await reader.readline())
            async with places:
                code, told = await attempt(asked["url"], asked["scenario"], asked["context"])
            writer.write(json.dumps({"code": code, "told": told}).encode())
            await writer.drain()
        finally:
            writer.close()

    places = asyncio.Semaphore(_AT_A_TIME)
    server = await asyncio.start_unix_server(serve, place, limit=1 << 20)
    # Failures are logged with their traces, which take longer to draw than all else.
    with capture_logs():
        async with server:
            yield
