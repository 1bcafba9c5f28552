"""How a connection hears that something changed at its server.

Servers of the protocol before 2026 say so by notices, for resources once they are subscribed to; from 2026 on by a
stream that the client asks for. A server that does neither is believed to stay as it is.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import anyio
import mcp_types as types
import structlog
from mcp import Client
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from gateway.mcp.listing import Kind

__all__ = ["MAX_FOLLOWED", "Follower"]

_log = structlog.stdlib.get_logger(__name__)

MAX_FOLLOWED: Final = 256
"""Resources of which a connection wants to hear; those that were read last."""

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
# So that a turn that reads ten resources asks for one stream, and not for ten.
_GATHER: Final = 0.1


class Follower:
    """`stale` is told which lists are to be read again, `updated` which resource is not what it was."""

    def __init__(
        self, client: Client, server: str, stale: Callable[[Kind], None], updated: Callable[[str], None]
    ) -> None:
        self._client = client
        self._server = server
        self._stale = stale
        self._updated = updated
        self._followed: OrderedDict[str, None] = OrderedDict()
        self._more = asyncio.Event()
        capabilities = client.server_capabilities
        self._modern = client.protocol_version in MODERN_PROTOCOL_VERSIONS
        self._subscribes = capabilities.resources is not None and bool(capabilities.resources.subscribe)
        able: dict[Kind, bool | None] = {
            "tools": capabilities.tools and capabilities.tools.list_changed,
            "resources": capabilities.resources and capabilities.resources.list_changed,
            "prompts": capabilities.prompts and capabilities.prompts.list_changed,
        }
        self._changing: list[Kind] = [kind for kind, changes in able.items() if changes]

    def follow(self, uri: str) -> None:
        """Hear of this resource from now on, if the server can tell."""
        if not self._subscribes:
            return
        known = uri in self._followed
        self._followed[uri] = None
        self._followed.move_to_end(uri)
        if len(self._followed) > MAX_FOLLOWED:
            self._followed.popitem(last=False)
        if not known:
            self._more.set()

    def notice(self, message: types.ServerNotification) -> None:
        """What came, in either era."""
        if isinstance(message, types.ToolListChangedNotification):
            self._stale("tools")
        elif isinstance(message, types.ResourceListChangedNotification):
            self._stale("resources")
            self._stale("templates")
        elif isinstance(message, types.PromptListChangedNotification):
            self._stale("prompts")
        elif isinstance(message, types.ResourceUpdatedNotification):
            self._updated(message.params.uri)

    async def run(self) -> None:
        async with anyio.create_task_group() as group:
            if self._modern and self._changing:
                group.start_soon(self._hear_of_lists)
            if self._subscribes:
                group.start_soon(self._hear_of_resources if self._modern else self._subscribe)

    async def _hear_of_lists(self) -> None:
        """The events themselves come as notices as well; here they are only taken off the stream."""
        pause = _FIRST_PAUSE
        while True:
            try:
                async with self._client.listen(
                    tools_list_changed="tools" in self._changing,
                    resources_list_changed="resources" in self._changing,
                    prompts_list_changed="prompts" in self._changing,
                ) as events:
                    pause = _FIRST_PAUSE
                    async for _ in events:
                        pass
            except (MCPError, SubscriptionLost, ListenNotSupportedError) as error:
                if _refused(error):
                    _log.debug("mcp_server_tells_no_changes", server=self._server)
                    return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            # What changed meanwhile, nobody told.
            for kind in self._changing:
                self._stale(kind)

    async def _hear_of_resources(self) -> None:
        """A stream is asked for with all that it is to tell of: where that becomes more, a new one begins before the
        old one ends, so that nothing is missed between them."""
        async with anyio.create_task_group() as group:
            before: anyio.CancelScope | None = None
            while True:
                await self._more.wait()
                await asyncio.sleep(_GATHER)
                self._more.clear()
                scope = anyio.CancelScope()
                await group.start(self._listen_to, tuple(self._followed), scope)
                if before is not None:
                    before.cancel()
                before = scope

    async def _listen_to(
        self, uris: tuple[str, ...], scope: anyio.CancelScope, *, task_status: anyio.abc.TaskStatus[None]
    ) -> None:
        begun = False
        with scope:
            try:
                async with self._client.listen(resource_subscriptions=uris) as events:
                    begun = True
                    task_status.started()
                    async for _ in events:
                        pass
            except (MCPError, SubscriptionLost, ListenNotSupportedError):
                _log.debug("mcp_subscription_lost", server=self._server)
            # Nobody tells of them any more, until they are read again.
            for uri in uris:
                self._followed.pop(uri, None)
                self._updated(uri)
        if not begun:
            task_status.started()

    async def _subscribe(self) -> None:
        done: set[str] = set()
        while True:
            await self._more.wait()
            self._more.clear()
            wanted = set(self._followed)
            for uri in wanted - done:
                with suppress(MCPError, ValidationError):
                    params = types.SubscribeRequestParams(uri=uri)
                    await self._client.session.send_request(types.SubscribeRequest(params=params), types.EmptyResult)
            for uri in done - wanted:
                with suppress(MCPError, ValidationError):
                    left = types.UnsubscribeRequestParams(uri=uri)
                    await self._client.session.send_request(types.UnsubscribeRequest(params=left), types.EmptyResult)
            done = wanted


def _refused(error: Exception) -> bool:
    """Whether to ask again would change nothing."""
    return isinstance(error, ListenNotSupportedError) or (
        isinstance(error, MCPError) and error.code in (types.METHOD_NOT_FOUND, types.INVALID_PARAMS)
    )
