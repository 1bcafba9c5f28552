"""`tidegate keys`: made, listed, revoked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from gateway.auth.api_keys import create_key
from gateway.auth.principal import DEFAULT_TENANT
from gateway.cli_options import Config, Data, settings_of
from protocol.ids import rfc3339
from stores.connect import Store, open_store
from stores.records import KeyRecord

__all__ = ["keys"]

_T = TypeVar("_T")

keys = typer.Typer(no_args_is_help=True, help="API keys: made, listed, revoked.")


@keys.command()
def create(
    subject: Annotated[str, typer.Option(help="Whom the key stands for.")],
    tenant: Annotated[str, typer.Option(help="The subject's tenant.")] = DEFAULT_TENANT,
    role: Annotated[str | None, typer.Option(help="A role of the settings; none: all that is not restricted.")] = None,
    config: Config = None,
    data: Data = None,
) -> None:
    """Print a new key, once: only its hash is kept."""
    try:
        key = _with_store(config, data, lambda store: create_key(store, subject, tenant, role))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(key)


@keys.command("list")
def list_keys(config: Config = None, data: Data = None) -> None:
    """List all keys, oldest first."""
    for key in _with_store(config, data, lambda store: store.list_keys()):
        typer.echo(_shown(key))


@keys.command()
def revoke(
    id: Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it.")],
    config: Config = None,
    data: Data = None,
) -> None:
    """Revoke a key; a gateway that runs notices within seconds."""
    if not _with_store(config, data, lambda store: store.revoke_key(id, time.time())):
        typer.echo(f"tidegate: there is no key {id!r} that could be revoked; see 'tidegate keys list'", err=True)
        raise typer.Exit(1)


def _with_store(config: Path | None, data: Path | None, work: Callable[[Store], Awaitable[_T]]) -> _T:
    settings = settings_of(config, data)

    async def run() -> _T:
        store = await open_store(settings.store.urls, connections=2)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def _shown(key: KeyRecord) -> str:
    state = "active" if key.revoked_at is None else f"revoked {_time(key.revoked_at)}"
    return f"{key.id}  {key.tenant}/{key.subject}  role={key.role or '-'}  created {_time(key.created_at)}  {state}"


def _time(seconds: float) -> str:
    return rfc3339(datetime.fromtimestamp(seconds, UTC))
