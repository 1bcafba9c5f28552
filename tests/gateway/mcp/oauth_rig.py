"""Instances of a gateway's OAuth over one store, with real sockets, in front of a protected server and its provider."""

from __future__ import annotations

import asyncio
import base64
import secrets
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import httpx
import httpx2
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import BaseRoute
from structlog.testing import capture_logs

from gateway.auth.api_keys import ApiKeys, create_key
from gateway.auth.authenticator import Authenticator
from gateway.auth.host import HostScheme
from gateway.auth.principal import Principal
from gateway.auth.tickets import Tickets
from gateway.encryption import Encryption, EncryptionSettings
from gateway.http.connections import connection_routes
from gateway.http.replies import Guard
from gateway.mcp.host import McpHost
from gateway.mcp.oauth import OAuth
from gateway.mcp.oauth_records import Grant, grant_name
from gateway.mcp.oauth_settings import CALLBACK, OAuthSettings, protected
from gateway.mcp.settings import McpServerSettings
from gateway.mcp.transports import ServerAway
from gateway.testing.mcp_http import serving
from gateway.testing.mcp_server import FakeMCP
from gateway.testing.oauth_server import FakeOAuth
from gateway.vault import Vault
from stores.connect import open_hot
from stores.hot import Hot
from stores.records import SecretRecord
from stores.sqlite import SqliteStore
from stores.store import Store

__all__ = [
    "ANN",
    "BOB",
    "KEY",
    "PASSED",
    "Browser",
    "Gate",
    "Instance",
    "Knocker",
    "Provider",
    "Watched",
    "World",
    "memory",
    "sqlite_world",
    "until",
    "world",
]

_T = TypeVar("_T")

ANN = Principal(tenant="default", subject="ann")
BOB = Principal(tenant="default", subject="bob")
KEY = base64.b64encode(secrets.token_bytes(32)).decode()
_SECONDS = 10.0
# Made once: it takes longer than a request.
_TLS = ssl.create_default_context()


PASSED = 400
"""What the server answers to a knock that it lets through."""


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(_SECONDS):
        while not done():
            await asyncio.sleep(0.01)


def memory() -> Hot:
    return open_hot(None, max_bytes=1 << 20, ttl=60)


class Watched:
    """A store that counts the reads of secrets."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def get_secret(self, owner: str, name: str) -> SecretRecord | None:
        self.reads += 1
        return await self._store.get_secret(owner, name)


class Gate:
    """A provider that takes its time: `asked` is set when a request has come, which goes on when `go` is set."""

    def __init__(self, answer: Response | None = None) -> None:
        self.asked, self.go = asyncio.Event(), asyncio.Event()
        self._answer = answer

    async def __call__(self, form: Mapping[str, str]) -> Response | None:
        self.asked.set()
        await self.go.wait()
        return self._answer


class Clock:
    """The time of day, which a test may move on."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Provider:
    """An MCP server, and the authorization server that protects it."""

    def __init__(self, mcp: FakeMCP, oauth: FakeOAuth, url: str) -> None:
        self.mcp = mcp
        self.oauth = oauth
        self.url = url


class Held:
    """Contexts that are left all at once: servers take a moment to stop."""

    def __init__(self) -> None:
        self._end = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def enter(self, context: AbstractAsyncContextManager[_T]) -> _T:
        entered = asyncio.get_running_loop().create_future()

        async def hold() -> None:
            async with context as value:
                entered.set_result(value)
                await self._end.wait()

        task = asyncio.create_task(hold())
        self._tasks.append(task)
        await asyncio.wait((task, entered), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        return await entered

    async def leave(self) -> None:
        self._end.set()
        await asyncio.gather(*self._tasks)


class Instance:
    """One instance: `origin` is where it listens."""

    def __init__(self, world: World, origin: str, oauth: OAuth, host: McpHost) -> None:
        self.world = world
        self.origin = origin
        self.oauth = oauth
        self.host = host

    async def account(self, who: Principal) -> str | None:
        """Whose account the server sees when this principal reads there. Raises ServerAway."""
        async with asyncio.timeout(_SECONDS):
            read = await self.host.read_resource(who, "notes", "memo://mine")
        return self.world.provider.oauth.account({"authorization": getattr(read.contents[0], "text", "")})

    def knocker(self, who: Principal) -> Knocker:
        """What a connection of the principal's does."""
        auth = self.oauth.auth("notes", who.owner)
        assert auth is not None
        return Knocker(self.world.provider.url, auth)

    async def request(self, method: str, path: str, who: Principal, **options: Any) -> httpx.Response:
        """A request of a program, with the principal's key."""
        async with httpx.AsyncClient(verify=_TLS, timeout=_SECONDS) as client:
            headers = {"x-api-key": self.world.keys[who.owner]}
            return await client.request(method, f"{self.origin}{path}", headers=headers, **options)

    async def connect(self, who: Principal, account: str | None = None) -> None:
        """As a browser does it that began it."""
        browser = Browser(self)
        page = await browser.authorize(await browser.begin(who), account=account or who.subject)
        assert "Connected" in page.text, page.text

    async def state(self, who: Principal) -> dict[str, Any]:
        """What is said of the one server."""
        (state,) = (await self.request("GET", "/v1/connections", who)).json()["connections"]
        return state


class Knocker:
    """One authentication, and requests with it that are no messages of the protocol."""

    def __init__(self, url: str, auth: httpx2.Auth) -> None:
        self._url = url
        self._auth = auth

    async def __call__(self, times: int = 1) -> list[int | str]:
        """So many requests at once: for each the status that it was answered with, or why it was not sent."""
        async with httpx2.AsyncClient(auth=self._auth, verify=_TLS, timeout=30) as client:
            return list(await asyncio.gather(*(self._knock(client) for _ in range(times))))

    async def _knock(self, client: httpx2.AsyncClient) -> int | str:
        try:
            return (await client.post(self._url, content=b"{")).status_code
        except ServerAway as error:
            return str(error)


class Browser:
    """Keeps cookies, and follows the provider back to the instance, or to `back`."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.cookies = httpx.Cookies()
        self.headers: dict[str, str] = {}

    async def begin(self, who: Principal) -> str:
        """The authorization URL, asked for by this browser's page with the principal's credentials."""
        reply = await self.instance.request("POST", "/v1/connections/notes", who)
        assert reply.status_code == 200, reply.text
        self.cookies.update(reply.cookies)
        return reply.json()["authorization_url"]

    async def consent(self, url: str, **parameters: str) -> str:
        """Where the provider sends the browser, whose user has this account there."""
        async with httpx.AsyncClient(verify=_TLS, timeout=_SECONDS) as client:
            reply = await client.get(url, params={**_query(url), **parameters})
        assert reply.status_code == 302, reply.text
        return reply.headers["location"]

    async def come_back(self, location: str, back: Instance | None = None, method: str = "GET") -> httpx.Response:
        origin = (back or self.instance).origin
        parts = urlsplit(location)
        async with httpx.AsyncClient(verify=_TLS, timeout=_SECONDS, cookies=self.cookies) as client:
            page = await client.request(method, f"{origin}{parts.path}?{parts.query}", headers=self.headers)
        self.cookies.update(page.cookies)
        return page

    async def authorize(self, url: str, **parameters: str) -> httpx.Response:
        return await self.come_back(await self.consent(url, **parameters))


class World:
    def __init__(self, provider: Provider, store: Store, hot: Hot, held: Held) -> None:
        self.provider = provider
        self.store = store
        self.hot = hot
        self.clock = Clock()
        self.keys: dict[str, str] = {}
        self.redirect_uri = ""
        self._held = held

    async def make_users(self) -> None:
        for who in (ANN, BOB):
            await self.user(who.subject)

    async def grant(self, owner: str = ANN.owner) -> Grant:
        """What is stored of an owner's authorization."""
        sealer = Encryption(EncryptionSettings(keys=(KEY,))).sealer("oauth/grants")
        kept = await Vault(self.store, sealer, Grant).get(owner, grant_name("notes"))
        assert kept is not None
        assert kept.value is not None
        return kept.value

    async def user(self, subject: str) -> Principal:
        """One more user, with a key."""
        who = Principal(tenant="default", subject=subject)
        self.keys[who.owner] = await create_key(self.store, subject)
        return who

    async def instance(
        self,
        settings: OAuthSettings | None = None,
        *,
        store: Store | None = None,
        hot: Hot | None = None,
        keys: tuple[str, ...] = (KEY,),
        environ: dict[str, str] | None = None,
    ) -> Instance:
        """One more, over the same store unless it has one of its own."""
        return await self._held.enter(self._instance(settings, store, hot, keys, environ))

    @asynccontextmanager
    async def _instance(
        self,
        settings: OAuthSettings | None,
        store: Store | None,
        hot: Hot | None,
        keys: tuple[str, ...],
        environ: dict[str, str] | None,
    ) -> AsyncGenerator[Instance]:
        store, hot = store or self.store, hot or self.hot
        app = Starlette()
        async with serving(app, 0) as origin:
            # They are one gateway, which browsers reach at one address.
            self.redirect_uri = self.redirect_uri or origin + CALLBACK
            url, oauth_settings = self.provider.url, settings or OAuthSettings()
            server = protected("notes", url, oauth_settings, environ or {})
            encryption = Encryption(EncryptionSettings(keys=keys))
            oauth = OAuth(
                [server], self.redirect_uri, encryption, store, hot.tickets, hot.bus, hot.limits, clock=self.clock
            )
            host = McpHost({"notes": McpServerSettings(url=url, oauth=oauth_settings)}, auth=oauth.auth)
            oauth.listen(host.forget)
            scheme = HostScheme(_signed_in, ())
            authenticator = Authenticator(ApiKeys(store), None, Tickets(hot.tickets), host=scheme)
            routes: list[BaseRoute] = [*connection_routes(Guard(authenticator), authenticator, oauth)]
            app.router.routes = routes
            tasks = [asyncio.create_task(work) for work in (oauth.run(), host.run())]
            await asyncio.sleep(0)
            try:
                yield Instance(self, origin, oauth, host)
            finally:
                for task in tasks:
                    task.cancel()
                for task in tasks:
                    with suppress(asyncio.CancelledError):
                        await task
                await oauth.close()


def _signed_in(connection: HTTPConnection) -> Principal | None:
    """A host's sign-in, which knows its users by a header."""
    name = connection.headers.get("x-signed-in")
    return Principal(tenant="default", subject=name) if name else None


def _query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


@asynccontextmanager
async def world(store: Store, hot: Hot, **options: Any) -> AsyncGenerator[World]:
    held, mcp, oauth = Held(), FakeMCP(), FakeOAuth(**options)
    try:
        url = await held.enter(mcp.http())
        await held.enter(oauth.http())
        oauth.protect(mcp, url)
        made = World(Provider(mcp, oauth, url), store, hot, held)
        await made.make_users()
        yield made
    finally:
        await held.leave()


@asynccontextmanager
async def sqlite_world(folder: Path, **options: Any) -> AsyncGenerator[World]:
    """Over one file. No token is in what was logged."""
    store = await SqliteStore.open(folder / "store.db")
    try:
        with capture_logs() as logs:
            async with world(store, memory(), **options) as made:
                yield made
        tokens = [text for grant in made.provider.oauth.grants for text in (grant.access, grant.refresh) if text]
        assert not [text for text in tokens if text in str(logs)]
    finally:
        await store.close()
