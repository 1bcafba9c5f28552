"""The names that the conformance suite asks for, on their way to a gateway that has a server's resources and prompts
under names of its own: `mcp://up/test://x` for `test://x`, `up__test_x` for a prompt. Nothing else of a request is
touched, and nothing of an answer."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Renamed"]


def _own(method: str, name: str) -> str:
    if method == "resources/read" and name.startswith(("test://static-", "test://template/")):
        return f"mcp://up/{name}"
    if method == "prompts/get":
        return f"up__{name}"
    return name


class Renamed:
    """An application behind the renaming."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        method, body = _renamed(body)
        headers = [(key, _header(method, key, value)) for key, value in scope["headers"]]
        headers = [(key, value if key != b"content-length" else str(len(body)).encode()) for key, value in headers]
        told = False

        async def again() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app({**scope, "headers": headers}, again, send)


def _renamed(body: bytes) -> tuple[str, bytes]:
    try:
        frame: Any = orjson.loads(body)
        method, params = frame["method"], frame["params"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "", body
    key = {"resources/read": "uri", "prompts/get": "name"}.get(method)
    if key is None or not isinstance(params.get(key), str):
        return method, body
    params[key] = _own(method, params[key])
    return method, orjson.dumps(frame)


def _header(method: str, key: bytes, value: bytes) -> bytes:
    return _own(method, value.decode()).encode() if key == b"mcp-name" else value
