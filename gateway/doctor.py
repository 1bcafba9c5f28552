"""`tidegate doctor`: looks at what the settings name, and says what to do."""

from __future__ import annotations

from msgspec import Struct

from gateway.auth.jwt import JwtVerifier
from gateway.auth.jwt_keys import JwtConfigError
from gateway.listening import check_tls
from gateway.logs import route_logs
from gateway.mcp.build import check_extra
from gateway.mcp.oauth_setup import protected_servers
from gateway.mcp.servers_file import configured_servers
from gateway.models.registry import build_model
from gateway.models.settings import ModelSettingsError
from gateway.resources.providers import build_providers
from gateway.resources.settings import ResourceSettingsError
from gateway.settings import Settings, SettingsError, check_exposure
from gateway.tools.builtin import TOOLS
from gateway.tools.registry import RegistryError, ToolRegistry
from stores.connect import StoreUrlError, open_hot, open_store
from stores.ports import StoreError

__all__ = ["Finding", "examine"]


class Finding(Struct, frozen=True):
    what: str
    ok: bool
    words: str


async def examine(settings: Settings) -> list[Finding]:
    """One finding for each part; the settings themselves were read before."""
    found = [await _access(settings), await _store(settings), await _redis(settings)]
    return [
        *found,
        *await _models(settings),
        *await _resources(settings),
        _tools(settings),
        *await _mcp_servers(settings),
    ]


async def _access(settings: Settings) -> Finding:
    try:
        check_exposure(settings)
        check_tls(settings)
        if settings.auth.jwt is not None:
            await JwtVerifier(settings.auth.jwt).close()
    except (SettingsError, JwtConfigError) as error:
        return Finding("access", False, str(error))
    how = "local mode, this machine only" if settings.local else "API keys" + (" and tokens" * bool(settings.auth.jwt))
    return Finding("access", True, f"{how}, on {settings.server.host}:{settings.server.port}")


async def _store(settings: Settings) -> Finding:
    try:
        store = await open_store(settings.store.urls, connections=2)
    except StoreUrlError as error:
        return Finding("store", False, str(error))
    except StoreError as error:
        return Finding("store", False, f"{error}; is the folder there, and writable?")
    try:
        keys = [key for key in await store.list_keys() if key.revoked_at is None]
    except StoreError as error:
        return Finding("store", False, str(error))
    finally:
        await store.close()
    return Finding("store", True, f"opens; {len(keys)} API keys are active")


async def _redis(settings: Settings) -> Finding:
    redis = settings.redis
    if redis.url is None:
        return Finding("redis", True, "none: one instance, or the workers of one 'tidegate serve'")
    try:
        hot = open_hot(redis.url, prefix=redis.prefix, max_bytes=settings.log.max_bytes, ttl=settings.log.ttl)
    except StoreUrlError as error:
        return Finding("redis", False, str(error))
    try:
        await hot.log.check()
    except StoreError as error:
        return Finding("redis", False, f"{error}; is the server there, and the password right?")
    finally:
        await hot.close()
    return Finding("redis", True, "answers")


async def _models(settings: Settings) -> list[Finding]:
    findings: list[Finding] = []
    for name, spec in settings.models.items():
        try:
            model = build_model(name, settings.models)
        except ModelSettingsError as error:
            findings.append(Finding(f"model {name}", False, str(error)))
            continue
        await model.close()
        findings.append(Finding(f"model {name}", True, f"provider {spec.provider}, {spec.model or 'built in'}"))
    return findings


async def _resources(settings: Settings) -> list[Finding]:
    findings: list[Finding] = []
    for name, spec in settings.resources.items():
        try:
            (provider,) = build_providers({name: spec})
        except ResourceSettingsError as error:
            findings.append(Finding(f"resources {name}", False, str(error)))
            continue
        await provider.close()
        findings.append(Finding(f"resources {name}", True, f"provider {spec.provider}"))
    return findings


def _tools(settings: Settings) -> Finding:
    registry = ToolRegistry(TOOLS)
    try:
        registry.load(settings.tools.modules)
    except RegistryError as error:
        return Finding("tools", False, str(error))
    # The operator's own modules may raise anything while they are imported; `serve` shows the traceback.
    except Exception as error:  # noqa: BLE001
        words = " ".join(f"{type(error).__name__}: {error}".split())
        return Finding("tools", False, f"a module of tools.modules can't be imported: {words}")
    return Finding("tools", True, ", ".join(tool.name for tool in registry))


async def _mcp_servers(settings: Settings) -> list[Finding]:
    try:
        servers = configured_servers(settings.mcp, settings.tools.mcp_servers)
        check_extra(servers)
        at = settings.server
        protected_servers(servers, settings.encryption, (at.public_url, at.host, at.port))
    except SettingsError as error:
        return [Finding("mcp", False, str(error))]
    if not servers:
        return []
    from gateway.mcp.checking import check_servers

    route_logs()
    return [Finding(f"mcp {one.server}", one.ok, one.words) for one in await check_servers(servers)]
