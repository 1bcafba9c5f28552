"""The tools that an owner's clients declared, remembered until one of the owner's sessions says otherwise."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from gateway.mcp.descriptions import clean
from gateway.mcp.schemas import UnsafeSchema, check_schema, offered
from protocol.errors import ProtocolError
from protocol.frames import ClientFrame, Hello, ToolSpec
from protocol.ids import new_id
from stores.ports import Cache, SessionStore, Unavailable
from stores.records import SessionRecord

__all__ = ["DeclaredTools", "as_offered", "decode_tools"]

_REMEMBERED = 10_000
_VERSION_SECONDS = 300.0

decode_tools = msgspec.json.Decoder(list[ToolSpec]).decode


class _Known(Struct, frozen=True):
    version: bytes
    sessions: Sequence[SessionRecord]


class DeclaredTools:
    """What was read from the store counts while the owner's version stands in `cache`, the cache of all instances.
    Whoever changes what is declared sets another version after it is stored; should it die in between, the version is
    over after five minutes. All methods may raise Unavailable."""

    def __init__(self, sessions: SessionStore, cache: Cache, clock: Callable[[], float] = time.time) -> None:
        self._sessions = sessions
        self._cache = cache
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def of(self, owner: str) -> list[SessionRecord]:
        """The owner's sessions that declare tools; the one that said `hello` last comes first."""
        # Before the store is asked: what changes while it answers changes the version too.
        try:
            version = await self._version(owner)
        except Unavailable:
            # A turn that runs goes on while the cache is away; the store knows as well.
            return await self._sessions.sessions_of(owner, self._clock())
        known = self._known.get(owner)
        if known is None or known.version != version:
            known = _Known(version, await self._sessions.sessions_of(owner, self._clock()))
            self._known[owner] = known
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(owner)
        now = self._clock()
        return [session for session in known.sessions if session.expires_at > now]

    async def changed(self, owner: str) -> None:
        """What the owner's sessions declare has changed, and is stored."""
        await self._cache.set(_key(owner), new_id("v_").encode(), _VERSION_SECONDS)

    async def _version(self, owner: str) -> bytes:
        while True:
            version = await self._cache.get(_key(owner))
            if version is not None:
                return version
            version = new_id("v_").encode()
            if await self._cache.add(_key(owner), version, _VERSION_SECONDS):
                return version


def as_offered(frame: ClientFrame) -> ClientFrame:
    """The frame; of a `hello`, with what it declares as models may be shown it. One tool that no provider takes would
    fail all turns of its owner. Raises ProtocolError."""
    if not isinstance(frame, Hello) or frame.tools is None:
        return frame
    tools: dict[str, ToolSpec] = {}
    for place, spec in enumerate(frame.tools):
        path = f"tools[{place}]"
        if spec.name in tools:
            raise ProtocolError("invalid_frame", f"{spec.name!r} is declared twice", path=f"{path}.name")
        try:
            parameters = offered(check_schema({"type": "object", **spec.parameters}))
        except UnsafeSchema as error:
            raise ProtocolError("invalid_frame", str(error), path=f"{path}.parameters") from None
        tools[spec.name] = ToolSpec(spec.name, clean(spec.description), parameters, spec.approval)
    return replace(frame, tools=list(tools.values()))


def _key(owner: str) -> str:
    return f"tools:{owner}"
