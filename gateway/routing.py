"""Where a tool call goes: to a tool of the gateway, to a client that offers it, to a person first, or nowhere."""

from __future__ import annotations

from typing import Any

from gateway.auth.principal import Principal
from gateway.core.policy import Policy
from gateway.core.turn_effects import Route
from gateway.declared_tools import DeclaredTools, decode_tools
from gateway.models.port import CallReady
from gateway.patience import patiently
from gateway.tools.catalog import Catalog
from gateway.tools.port import Tool, ToolContext, ToolOutcome
from gateway.tools.runner import ToolRunner
from gateway.turn_request import TurnRequest
from protocol.frames import ToolSpec

__all__ = ["Routes"]


class Routes:
    """The tools that principals may use. A tool of the gateway comes before a client's of the same name."""

    def __init__(self, catalog: Catalog, runner: ToolRunner, policy: Policy, declared: DeclaredTools) -> None:
        self._catalog = catalog
        self._runner = runner
        self._policy = policy
        self._declared = declared

    async def server_tools(self, principal: Principal) -> list[Tool]:
        """The gateway's tools that the principal may use."""
        return [tool for tool in await self._catalog.tools(principal) if self._decide(principal, tool) != "deny"]

    def asks(self, principal: Principal, tool: Tool) -> bool:
        return self._decide(principal, tool) == "ask"

    async def usable(self, principal: Principal, name: str) -> Tool | None:
        tool = await self._catalog.find(principal, name)
        return tool if tool is not None and self._decide(principal, tool) != "deny" else None

    async def client_tools(self, principal: Principal, session_id: str | None) -> dict[str, tuple[str, ToolSpec]]:
        """By name, the session that a call goes to: the sender's, else the one that declared the tool last. Raises
        Unavailable."""
        tools: dict[str, tuple[str, ToolSpec]] = {}
        sessions = await self._declared.of(principal.owner)
        for session in sorted(sessions, key=lambda session: session.id != session_id):
            for spec in decode_tools(session.tools):
                if spec.name not in tools and await self._catalog.find(principal, spec.name) is None:
                    tools[spec.name] = (session.id, spec)
        return tools

    async def offered(self, request: TurnRequest) -> list[ToolSpec]:
        """What the model is told it may call, waited for where that can't be known now."""
        principal = request.principal
        declared = await patiently(lambda: self.client_tools(principal, request.session_id))
        offered = [ToolSpec(t.name, t.description, t.parameters) for t in await self.server_tools(principal)]
        offered += [spec for _, spec in declared.values()]
        return [spec for spec in offered if request.tools is None or spec.name in request.tools]

    async def route(self, request: TurnRequest, call: CallReady) -> Route:
        """Where the model's call goes, waited for as `offered` is."""
        if call.problem is not None:
            return Route(refusal=("error", call.problem))
        if request.tools is not None and call.tool not in request.tools:
            return _unknown(call.tool)
        found = await patiently(lambda: self.route_for(request.principal, request.session_id, call.tool))
        return found or _unknown(call.tool)

    async def route_for(self, principal: Principal, session_id: str | None, name: str) -> Route | None:
        """Where a call of `name` goes; None where the principal has no such tool. Raises Unavailable."""
        tool = await self._catalog.find(principal, name)
        if tool is not None:
            decision = self._decide(principal, tool)
            return None if decision == "deny" else Route(ask=decision == "ask")
        found = (await self.client_tools(principal, session_id)).get(name)
        return Route(runs_on="client", session_id=found[0]) if found is not None else None

    async def idempotent(self, principal: Principal, name: str) -> bool:
        """Whether a run that was cut off may be repeated; not where the tool is not there to say so."""
        tool = await self._catalog.find(principal, name)
        return tool is not None and tool.settings.idempotent

    async def run(self, name: str, context: ToolContext, parameters: dict[str, Any]) -> ToolOutcome:
        """Run a tool of the gateway; one that is gone since the call was made is an error of the call."""
        tool = await self.usable(context.principal, name)
        if tool is None:
            return ToolOutcome(status="error", result=f"There is no tool {name!r}.", code="not_found")
        return await self._runner.run(tool, context, parameters)

    def _decide(self, principal: Principal, tool: Tool) -> str:
        settings = tool.settings
        return self._policy.decide_tool(
            principal.roles, tool.name, permission=settings.permission, approval=settings.approval
        )


def _unknown(name: str) -> Route:
    return Route(refusal=("error", f"There is no tool {name!r}."))
