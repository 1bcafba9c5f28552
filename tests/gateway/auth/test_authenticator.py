from __future__ import annotations

import pytest
from starlette.datastructures import Headers, QueryParams
from starlette.requests import HTTPConnection

from gateway.auth.api_keys import ApiKeys, create_key
from gateway.auth.authenticator import LOCAL, Authenticator
from gateway.auth.host import HostScheme
from gateway.auth.jwt import JwtSettings, JwtVerifier
from gateway.auth.principal import Principal
from gateway.auth.tickets import Tickets
from protocol.errors import ProtocolError
from stores.ports import Unavailable
from stores.records import KeyRecord

CUSTOM = Principal(tenant="host", subject="carol")


class Store:
    """A KeyStore and a Cache in one, that can be away."""

    def __init__(self) -> None:
        self.keys: dict[bytes, KeyRecord] = {}
        self.values: dict[str, bytes] = {}
        self.away = False

    async def add_key(self, key: KeyRecord) -> None:
        self.keys[key.digest] = key

    async def find_key(self, digest: bytes) -> KeyRecord | None:
        if self.away:
            raise Unavailable("away")
        return self.keys.get(digest)

    async def list_keys(self) -> list[KeyRecord]:
        return list(self.keys.values())

    async def revoke_key(self, id: str, now: float) -> bool:
        return False

    async def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    async def set(self, key: str, value: bytes, ttl: float) -> None:
        self.values[key] = value

    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        return self.values.setdefault(key, value) is value

    async def take(self, key: str) -> bytes | None:
        return self.values.pop(key, None)


class Setting:
    """An authenticator with a key of alice's, a token of bob's and tickets."""

    def __init__(self, local: bool = False, with_jwt: bool = True) -> None:
        self.store = Store()
        self.jwt = JwtVerifier(JwtSettings(key="s" * 32))
        self.tickets = Tickets(self.store)
        keys = ApiKeys(self.store)
        self.authenticator = Authenticator(keys, self.jwt if with_jwt else None, self.tickets, local)

    async def who(self, query: str = "", **headers: str) -> str | None:
        """The subject of a request; `headers` are written with _ for -."""
        written = Headers({name.replace("_", "-"): value for name, value in headers.items()})
        principal = await self.authenticator.from_headers(written, QueryParams(query))
        return None if principal is None else principal.subject

    async def refused(self, query: str = "", **headers: str) -> str | None:
        """The path of the refusal."""
        with pytest.raises(ProtocolError) as caught:
            await self.who(query, **headers)
        assert caught.value.code == "unauthenticated"
        return caught.value.path


@pytest.fixture
def setting() -> Setting:
    return Setting()


async def test_nothing_shown_is_nobody_yet(setting: Setting) -> None:
    assert await setting.who("context=conv_1", Accept="*/*") is None


async def test_headers_show_a_key_or_a_token(setting: Setting) -> None:
    key = await create_key(setting.store, "alice")
    assert await setting.who(Authorization=f"Bearer {key}") == "alice"
    assert await setting.who(Authorization=f"bearer  {setting.jwt.sign('bob')}") == "bob"
    assert await setting.who(X_API_Key=key) == "alice"


async def test_a_ticket_is_taken_once(setting: Setting) -> None:
    ticket = await setting.tickets.issue(Principal(tenant="t", subject="dave"))
    assert await setting.who(f"ticket={ticket}") == "dave"
    assert await setting.refused(f"ticket={ticket}") == "query.ticket"


async def test_the_first_one_present_decides(setting: Setting) -> None:
    key = await create_key(setting.store, "alice")
    ticket = await setting.tickets.issue(Principal(tenant="t", subject="dave"))
    assert await setting.refused(f"ticket={ticket}", Authorization="Bearer wrong", X_API_Key=key) == (
        "headers.authorization"
    )
    assert await setting.refused(f"ticket={ticket}", X_API_Key="wrong") == "headers.x-api-key"
    assert await setting.who("ticket=wrong", X_API_Key=key) == "alice"
    assert await setting.who("token=wrong", Authorization=f"Bearer {setting.jwt.sign('bob')}") == "bob"
    assert await setting.who(f"ticket={ticket}") == "dave"


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Basic YTpi", "tg_key", "Bearer tg_wrong", "Bearer \xe4"])
async def test_a_wrong_authorization_is_refused(setting: Setting, value: str) -> None:
    assert await setting.refused(Authorization=value) == "headers.authorization"


async def test_a_token_is_no_api_key(setting: Setting) -> None:
    assert await setting.refused(X_API_Key=setting.jwt.sign("bob")) == "headers.x-api-key"
    assert await setting.refused(X_API_Key="") == "headers.x-api-key"


@pytest.mark.parametrize("name", ["token", "access_token", "api_key"])
async def test_a_long_lived_secret_in_a_url_is_refused_even_a_right_one(setting: Setting, name: str) -> None:
    key = await create_key(setting.store, "alice")
    assert await setting.refused(f"{name}={key}") == f"query.{name}"
    assert await setting.refused(f"ticket={key}") == "query.ticket"


async def test_the_token_of_a_hello(setting: Setting) -> None:
    key = await create_key(setting.store, "alice")
    assert (await setting.authenticator.from_token(key)).subject == "alice"
    assert (await setting.authenticator.from_token(setting.jwt.sign("bob"))).subject == "bob"
    for wrong in ("", "tg_wrong", "wrong", "\ud800", await setting.tickets.issue(LOCAL)):
        with pytest.raises(ProtocolError) as caught:
            await setting.authenticator.from_token(wrong)
        assert (caught.value.code, caught.value.path) == ("unauthenticated", "token")


async def test_without_a_configured_key_no_token_is_good() -> None:
    setting = Setting(with_jwt=False)
    assert await setting.refused(Authorization=f"Bearer {setting.jwt.sign('bob')}") == "headers.authorization"


async def test_the_local_token_is_the_local_users() -> None:
    setting = Setting(local=True)
    token = setting.authenticator.local_token
    assert token is not None
    assert await setting.authenticator.from_token(token) == LOCAL
    assert await setting.who(Authorization=f"Bearer {token}") == "local"
    assert await setting.refused(Authorization=f"Bearer {token}x") == "headers.authorization"
    assert await setting.refused(f"token={token}") == "query.token"
    with pytest.raises(ProtocolError):
        await setting.authenticator.from_token("\ud800")
    assert await setting.who() is None


def test_there_is_no_local_token_but_locally(setting: Setting) -> None:
    assert setting.authenticator.local_token is None


async def test_a_store_that_is_away_refuses_for_now(setting: Setting) -> None:
    key = await create_key(setting.store, "alice")
    setting.store.away = True
    with pytest.raises(ProtocolError) as caught:
        await setting.who(X_API_Key=key)
    assert (caught.value.code, caught.value.retryable) == ("unavailable", True)
    with pytest.raises(ProtocolError) as caught:
        await setting.authenticator.from_token(key)
    assert caught.value.code == "unavailable"


async def test_a_hosts_own_scheme_comes_first(setting: Setting) -> None:
    async def badge(connection: HTTPConnection) -> Principal | None:
        if connection.headers.get("x-badge") == "forged":
            raise ProtocolError("unauthenticated", "that is no badge of ours")
        return CUSTOM if "x-badge" in connection.headers else None

    host = HostScheme(badge, ())
    authenticator = Authenticator(ApiKeys(setting.store), None, setting.tickets, host=host)

    async def who(**headers: str) -> Principal | None:
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "GET", "headers": raw, "query_string": b""}
        return await authenticator.from_connection(HTTPConnection(scope))

    assert await who(x_badge="7", authorization="Basic YTpi") == CUSTOM
    assert await who() is None
    with pytest.raises(ProtocolError, match="no badge of ours"):
        await who(x_badge="forged")
    key = await create_key(setting.store, "alice")
    assert await who(x_api_key=key) == Principal(tenant="default", subject="alice")
    with pytest.raises(ProtocolError):
        await who(x_api_key=key + "x")
