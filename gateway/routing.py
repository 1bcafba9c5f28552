"""Where a tool call goes: to a tool of the gateway, to a client that offers it, to a person first, or nowhere."""

from __future__ import annotations

from typing import Any, Final

from gateway.auth.principal import Principal
from gateway.consent import Consent, KnownTool
from gateway.core.policy import Policy
from gateway.core.turn_effects import Route
from gateway.declared_tools import DeclaredTools, decode_tools
from gateway.models.port import CallReady
from gateway.patience import patiently
from gateway.tool_limits import ToolLimits
from gateway.tools.catalog import Catalog
from gateway.tools.port import Tool, ToolContext, ToolOutcome
from gateway.tools.runner import ToolRunner
from gateway.turn_request import TurnRequest
from protocol.frames import ToolSpec
from stores.records import ContextKey

__all__ = ["Routes"]

_MOST_OF_CLIENTS: Final = 256  # as a session declares 128, and sessions are kept long after their clients
_DENIED: Final = "This tool was denied for the whole conversation."
_CHANGED: Final = "has changed since this call was put to a person, so it was not run; it may be called again."


class Routes:
    """The tools that principals may use. A tool of the gateway comes before a client's of the same name."""

    def __init__(
        self,
        catalog: Catalog,
        runner: ToolRunner,
        policy: Policy,
        declared: DeclaredTools,
        consent: Consent,
        limits: ToolLimits | None = None,
    ) -> None:
        self._catalog = catalog
        self._runner = runner
        self._policy = policy
        self._declared = declared
        self._consent = consent
        self._limits = limits

    async def server_tools(self, principal: Principal) -> list[Tool]:
        """The gateway's tools that the principal may use."""
        return [tool for tool in await self._catalog.tools(principal) if self._may_use(principal, tool)]

    async def usable(self, principal: Principal, name: str) -> Tool | None:
        tool = await self._catalog.find(principal, name)
        return tool if tool is not None and self._may_use(principal, tool) else None

    async def listed(self, principal: Principal) -> list[tuple[KnownTool, bool]]:
        """All that the principal may use, each with whether there are calls of it that wait for a person. Raises
        Unavailable."""
        tools = [_of_gateway(tool) for tool in await self.server_tools(principal)]
        declared = await self.client_tools(principal, None)
        tools += [_of_client(spec, session_id) for session_id, spec in declared.values()]
        return [(tool, self._consent.may_ask(principal, tool)) for tool in tools]

    async def known(self, principal: Principal, session_id: str | None, name: str) -> KnownTool | None:
        """The tool that a call of `name` would be one of; None where the principal has none. Raises Unavailable."""
        tool = await self._catalog.find(principal, name)
        if tool is not None:
            return _of_gateway(tool) if self._may_use(principal, tool) else None
        found = (await self.client_tools(principal, session_id)).get(name)
        return _of_client(found[1], found[0]) if found is not None else None

    async def client_tools(self, principal: Principal, session_id: str | None) -> dict[str, tuple[str, ToolSpec]]:
        """By name, the session that a call goes to: the sender's, else the one that declared the tool last. Raises
        Unavailable."""
        tools: dict[str, tuple[str, ToolSpec]] = {}
        sessions = await self._declared.of(principal.owner)
        for session in sorted(sessions, key=lambda session: session.id != session_id):
            for spec in decode_tools(session.tools):
                if len(tools) == _MOST_OF_CLIENTS:
                    return tools
                if spec.name not in tools and await self._catalog.find(principal, spec.name) is None:
                    tools[spec.name] = (session.id, spec)
        return tools

    async def offered(self, request: TurnRequest) -> list[ToolSpec]:
        """What the model is told it may call, waited for where that can't be known now."""
        principal = request.principal
        declared = await patiently(lambda: self.client_tools(principal, request.session_id))
        offered = [ToolSpec(t.name, t.description, t.parameters) for t in await self.server_tools(principal)]
        offered += [ToolSpec(spec.name, spec.description, spec.parameters) for _, spec in declared.values()]
        return [spec for spec in offered if request.tools is None or spec.name in request.tools]

    async def route(self, key: ContextKey, request: TurnRequest, call: CallReady) -> Route:
        """Where the model's call goes, waited for as `offered` is."""
        if call.problem is not None:
            return Route(refusal=("error", call.problem))
        if request.tools is not None and call.tool not in request.tools:
            return _unknown(call.tool)
        principal, session_id = request.principal, request.session_id
        found = await patiently(lambda: self.route_for(key, principal, session_id, call.tool, call.parameters))
        if found is None:
            return _unknown(call.tool)
        # What runs nowhere is no client's to act on.
        return found if found.refusal is None else Route(refusal=found.refusal)

    async def route_for(
        self, key: ContextKey, principal: Principal, session_id: str | None, name: str, parameters: dict[str, Any]
    ) -> Route | None:
        """Where a call in the context goes; None where the principal has no such tool. A `refusal` is a person's no
        that holds for the whole context. Raises Unavailable."""
        tool = await self.known(principal, session_id, name)
        if tool is None:
            return None
        consent = await self._consent.of(principal, key, tool, parameters)
        return Route(
            runs_on=tool.runs_on,
            session_id=tool.session_id,
            ask=consent == "ask",
            asked=self._consent.asked(principal, tool, parameters) if consent != "run" else None,
            refusal=("denied", _DENIED) if consent == "deny" else None,
        )

    async def idempotent(self, principal: Principal, name: str) -> bool:
        """Whether a run that was cut off may be repeated; not where the tool is not there to say so."""
        tool = await self._catalog.find(principal, name)
        return tool is not None and tool.settings.idempotent

    async def run(
        self, name: str, context: ToolContext, parameters: dict[str, Any], definition: str | None = None
    ) -> ToolOutcome:
        """Run a tool of the gateway; one that is gone since the call was made is an error of the call, and so is one
        that is not what `definition` says (where it is given), which is what a person allowed."""
        tool = await self.usable(context.principal, name)
        if tool is None:
            return ToolOutcome(status="error", result=f"There is no tool {name!r}.", code="not_found")
        if definition is not None and _of_gateway(tool).definition != definition:
            return ToolOutcome(status="error", result=f"{name} {_CHANGED}", code="conflict")
        if self._limits is None:
            return await self._runner.run(tool, context, parameters)
        async with self._limits.admit(context, tool.name) as refusal:
            return refusal or await self._runner.run(tool, context, parameters)

    def _may_use(self, principal: Principal, tool: Tool) -> bool:
        return self._policy.may_use(principal, f"tool:{tool.name}", tool.settings.permission)


def _of_gateway(tool: Tool) -> KnownTool:
    return KnownTool(
        name=tool.name, description=tool.description, parameters=tool.parameters, approval=tool.settings.approval
    )


def _of_client(spec: ToolSpec, session_id: str) -> KnownTool:
    return KnownTool(
        name=spec.name,
        description=spec.description,
        parameters=spec.parameters,
        approval=spec.approval or "never",
        runs_on="client",
        session_id=session_id,
    )


def _unknown(name: str) -> Route:
    return Route(refusal=("error", f"There is no tool {name!r}."))
