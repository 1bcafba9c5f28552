"""The host's own authentication: whatever its function does, nobody is let in by mistake."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from starlette.authentication import AuthenticationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from structlog.testing import capture_logs

from gateway.auth.host import Authenticate, HostScheme
from gateway.auth.principal import Principal
from protocol.errors import ErrorCode, ProtocolError

ANN = Principal(tenant="host", subject="ann")


def request(method: str = "GET", kind: str = "http", scheme: str = "http", **headers: str) -> HTTPConnection:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope: dict[str, Any] = {"type": kind, "scheme": scheme, "headers": raw, "query_string": b"", "state": {"seat": 7}}
    return HTTPConnection(scope | ({"method": method} if kind == "http" else {}))


async def refused(scheme: HostScheme, connection: HTTPConnection | None = None) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        await scheme.principal(connection or request())
    return caught.value


def answering(answer: object) -> Authenticate:
    async def authenticate(connection: HTTPConnection) -> Principal | None:
        return cast("Principal | None", answer)

    return authenticate


def raising(error: BaseException) -> Authenticate:
    async def authenticate(connection: HTTPConnection) -> Principal | None:
        raise error

    return authenticate


async def test_it_sees_the_connection_and_answers() -> None:
    def by_cookie(connection: HTTPConnection) -> Principal | None:
        assert connection.state.seat == 7
        name = connection.cookies.get("name")
        return None if name is None else Principal(tenant="host", subject=name)

    scheme = HostScheme(by_cookie, ())
    assert await scheme.principal(request(cookie="name=ann")) == ANN
    assert await scheme.principal(request(kind="websocket", cookie="name=ann")) == ANN
    assert await scheme.principal(request()) is None


async def test_plain_functions_run_in_a_thread_and_all_kinds_of_coroutine_functions_in_the_loop() -> None:
    threads: list[int] = []

    def plain(connection: HTTPConnection) -> Principal:
        threads.append(threading.get_ident())
        return ANN

    async def coroutine(connection: HTTPConnection) -> Principal:
        threads.append(threading.get_ident())
        return ANN

    class Callee:
        async def __call__(self, connection: HTTPConnection) -> Principal:
            return await coroutine(connection)

    def awaitable(connection: HTTPConnection) -> Awaitable[Principal]:
        return coroutine(connection)

    schemes: list[Authenticate] = [plain, coroutine, Callee(), awaitable]
    for authenticate in schemes:
        assert await HostScheme(authenticate, ()).principal(request()) == ANN
    here = threading.get_ident()
    assert [thread == here for thread in threads] == [False, True, True, True]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (HTTPException(401, "ann is not"), "unauthenticated"),
        (HTTPException(403), "forbidden"),
        (HTTPException(429), "rate_limited"),
        (HTTPException(503), "unavailable"),
        (AuthenticationError("ann is not"), "unauthenticated"),
        (ProtocolError("forbidden", "no"), "forbidden"),
        (HTTPException(418, "ann"), "internal"),
        (RuntimeError("ann's password is wrong"), "internal"),
        (TimeoutError("ann"), "internal"),
        (KeyError("ann"), "internal"),
    ],
    ids=repr,
)
async def test_what_it_raises_is_told_without_its_words(error: Exception, code: ErrorCode) -> None:
    with capture_logs() as logs:
        told = await refused(HostScheme(raising(error), ()))
    assert told.code == code
    assert "ann" not in told.message
    assert bool(logs) == (code == "internal")
    assert "ann" not in str([{**line, "exc_info": None} for line in logs])


@pytest.mark.parametrize(
    "rubbish",
    [
        "ann",
        True,
        {"tenant": "t", "subject": "ann"},
        Principal(tenant="", subject="ann"),
        Principal(tenant="t", subject=""),
        Principal(tenant="t", subject=cast("str", None)),
        Principal(tenant=cast("str", object()), subject="ann"),
        Principal(tenant="t", subject="ann", roles=cast("tuple[str, ...]", "admin")),
        Principal(tenant="t", subject="ann", roles=cast("tuple[str, ...]", (1,))),
        Principal(tenant="t", subject="ann", expires_at=cast("float", "tomorrow")),
    ],
    ids=lambda rubbish: type(rubbish).__name__,
)
async def test_rubbish_lets_nobody_in(rubbish: object) -> None:
    with capture_logs() as logs:
        assert (await refused(HostScheme(answering(rubbish), ()))).code == "internal"
    assert len(logs) == 1


async def test_roles_may_be_a_list_and_nobody_is_let_in_after_his_time() -> None:
    listed = Principal(tenant="t", subject="ann", roles=cast("tuple[str, ...]", ["admin"]))
    found = await HostScheme(answering(listed), ()).principal(request())
    assert found is not None
    assert found.roles == ("admin",)
    late = Principal(tenant="t", subject="ann", expires_at=time.time() - 1)
    assert (await refused(HostScheme(answering(late), ()))).code == "unauthenticated"


async def test_one_that_is_slow_is_waited_for_so_long_and_told_to_stop() -> None:
    stopped = asyncio.Event()

    async def never(connection: HTTPConnection) -> Principal | None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return ANN

    told = await refused(HostScheme(never, (), seconds=0.01))
    assert (told.code, told.retryable) == ("unavailable", True)
    assert stopped.is_set()


async def test_a_thread_that_hangs_is_left_behind() -> None:
    release = threading.Event()

    def hangs(connection: HTTPConnection) -> Principal | None:
        release.wait(20)
        return ANN

    try:
        assert (await refused(HostScheme(hangs, (), seconds=0.01))).code == "unavailable"
    finally:
        release.set()


async def test_a_client_that_goes_away_cancels_it() -> None:
    entered = asyncio.Event()

    async def never(connection: HTTPConnection) -> Principal | None:
        entered.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(HostScheme(never, ()).principal(request()))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("method", "origin", "passes"),
    [
        ("POST", "http://evil.example", False),
        ("DELETE", "null", False),
        ("PATCH", "http://app.example", True),
        ("POST", "https://front.example", False),
        ("GET", "http://evil.example", True),
        ("POST", None, True),
    ],
)
async def test_another_page_changes_nothing_with_the_users_cookie(
    method: str, origin: str | None, passes: bool
) -> None:
    headers = {"host": "app.example"} | ({} if origin is None else {"origin": origin})
    asked: Callable[[], HTTPConnection] = lambda: request(method, **headers)  # noqa: E731
    scheme = HostScheme(answering(ANN), ())
    if passes:
        assert await scheme.principal(asked()) == ANN
    else:
        assert (await refused(scheme, asked())).path == "headers.origin"
    if origin == "https://front.example":
        assert await HostScheme(answering(ANN), ["https://front.example"]).principal(asked()) == ANN
    # Who shows nothing of the host's is none of its business.
    assert await HostScheme(answering(None), ()).principal(asked()) is None
