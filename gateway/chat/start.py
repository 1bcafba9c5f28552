"""How a chat begins: credentials, a session, then a terminal or a pipe."""

from __future__ import annotations

import logging
import os
import random
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Final

import structlog
from msgspec import Struct

from gateway.chat.api import Api, Target, local_token, target_of
from gateway.chat.pipe import converse
from gateway.chat.watch import watched
from gateway.client import Client, open_client
from gateway.client_core import Options
from gateway.client_link import Tokens
from gateway.client_websocket import over_websocket
from protocol.frames import ClientInfo

__all__ = ["Wishes", "message_of", "start"]

_MAX_INPUT: Final = 16 * 1024 * 1024
_OPEN_SECONDS: Final = 10.0


class Wishes(Struct, frozen=True, kw_only=True):
    """The command's options; `message` is what is to be answered in a pipe, None for a chat in the terminal."""

    url: str
    token: str | None
    context: str | None
    model: str | None
    message: str | None
    reasoning: bool
    yes: bool


def message_of(given: str | None) -> str | None:
    """What is to be said in a pipe: what was piped in, then what was given. None where both ends are a terminal and
    nothing was given. Blocks until all was read. Raises ValueError."""
    piped = ""
    if given is None and sys.stdin.isatty() and sys.stdout.isatty():
        return None
    if given is None or not sys.stdin.isatty():
        data = sys.stdin.buffer.read(_MAX_INPUT + 1)
        if len(data) > _MAX_INPUT:
            raise ValueError(f"a message has {_MAX_INPUT:,} bytes at most")
        try:
            piped = data.decode().strip()
        except UnicodeDecodeError:
            raise ValueError("a message is UTF-8 text") from None
    text = "\n\n".join(part for part in (piped, (given or "").strip()) if part)
    if not text:
        raise ValueError("there is no message: pipe one in, or give one with --message")
    return text


async def start(wishes: Wishes) -> int:
    """Chat until that is over; the exit status. Raises what `trouble.explain` explains, and BrokenPipeError."""
    # Nothing may be written among the answers. What the client logs, it also raises.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    target = target_of(wishes.url)
    token = await local_token(target) if target.ticket is not None else (wishes.token or "").strip() or None
    if wishes.message is None:
        return await _in_terminal(wishes, target, token)

    def connection(up: bool) -> None:
        _err("back" if up else "connection lost, reconnecting…")

    async with _session(target, token, connection) as client:
        _check_model(client, wishes.model)
        return await converse(
            client, wishes.message, wishes.context, out=_out, err=_err, allow=wishes.yes, model=wishes.model
        )


async def _in_terminal(wishes: Wishes, target: Target, token: str | None) -> int:
    if os.environ.get("TERM", "dumb") == "dumb":
        raise ValueError("this terminal can't move its cursor: pipe a message in, or give one with --message")
    try:
        from gateway.chat.room import Room, Taste
        from gateway.chat.terminal import Terminal
    except ImportError:
        raise ValueError("a chat needs a POSIX terminal: pipe a message in, or give one with --message") from None
    room: Room | None = None

    def connection(up: bool) -> None:
        if room is not None:
            room.connection(up)

    async with _session(target, token, connection) as client, Api.open(target.url, token) as api:
        _check_model(client, wishes.model)
        colour = not os.environ.get("NO_COLOR")
        taste = Taste(model=wishes.model, reasoning=wishes.reasoning, colour=colour)
        room = Room(client, api, Terminal(), taste)
        await room.run(wishes.context)
    if room.context_id is not None:
        _err(f"tidegate chat --context {room.context_id} goes on with it")
    if room.unsent:
        _err("tidegate: the last message may not have been sent")
    return 1 if room.unsent else 0


@asynccontextmanager
async def _session(target: Target, token: str | None, connection: Callable[[bool], None]) -> AsyncGenerator[Client]:
    async with open_client(
        watched(over_websocket(target.url), connection),
        Tokens(token, None),
        (),
        Options(retries=4, bound=256, random=random.random),
        info=ClientInfo("tidegate-chat", version("tidegate")),
        session_id=None,
        open_timeout=_OPEN_SECONDS,
    ) as client:
        yield client


def _check_model(client: Client, model: str | None) -> None:
    models = client.ready.models
    if model is not None and model not in models:
        raise ValueError(f"the gateway has no model {model!r}, only {', '.join(models)}")


def _out(text: str) -> None:
    sys.stdout.buffer.write(text.encode(errors="replace"))
    sys.stdout.buffer.flush()


def _err(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
