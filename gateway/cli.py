"""The command `tidegate`. What can't be done is one line on standard error and exit status 1."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Annotated

import orjson
import typer

from gateway.auth.jwt import JwtVerifier
from gateway.auth.jwt_keys import JwtConfigError
from gateway.chat.command import chat
from gateway.cli_keys import keys
from gateway.cli_options import Config, Data, Model, settings_of
from gateway.doctor import Finding, examine
from gateway.listening import check_address, check_tls
from gateway.models.settings import ModelSettingsError
from gateway.resources.settings import ResourceSettingsError
from gateway.settings import SettingsError, check_exposure
from gateway.tools.registry import RegistryError
from protocol.schema import json_schema, typescript
from stores.connect import StoreUrlError
from stores.connect import migrate as migrate_store
from stores.ports import StoreError

__all__ = ["app", "main"]

_REFUSALS = (
    SettingsError,
    JwtConfigError,
    ModelSettingsError,
    ResourceSettingsError,
    RegistryError,
    StoreUrlError,
    StoreError,
    OSError,
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A gateway between chat clients and language models that loses no token.",
)
app.add_typer(keys, name="keys")


@app.command()
def serve(
    config: Config = None,
    data: Data = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="The port; default 8000, 0 takes a free one.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes.")] = None,
    model: Model = None,
    worker: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the gateway until SIGTERM or SIGINT."""
    # Loaded here, so that the other commands start at once.
    from gateway.app import Gateway
    from gateway.serve import serve as run
    from gateway.workers import FIRST_WORKER, serve_workers, worker_options

    sys.path.insert(0, os.getcwd())  # modules of tools lie beside the settings
    flags = {"server.host": host, "server.port": port, "server.workers": workers, "model": model}
    settings = settings_of(config, data, flags)
    if worker is not None:
        raise typer.Exit(run(settings, Gateway(settings), shared=True, announced=worker != FIRST_WORKER))
    check_exposure(settings)
    check_tls(settings)
    check_address(settings)
    # Here too, so that a store that can't be used is one line, before anything listens.
    asyncio.run(migrate_store(settings.store.urls))
    if settings.server.workers > 1:
        raise typer.Exit(serve_workers(settings, worker_options(config, data, model)))
    raise typer.Exit(run(settings, Gateway(settings)))


app.command()(chat)


@app.command()
def token(
    subject: Annotated[str, typer.Option(help="Whom the token stands for.")],
    tenant: Annotated[str | None, typer.Option(help="The subject's tenant.")] = None,
    role: Annotated[list[str] | None, typer.Option(help="A role; may be given again.")] = None,
    lifetime: Annotated[float, typer.Option(min=1, help="Seconds.")] = 3600,
    config: Config = None,
    data: Data = None,
) -> None:
    """Print a JSON Web Token signed by the key of [auth.jwt], for trying out."""
    settings = settings_of(config, data)
    if settings.auth.jwt is None:
        raise SettingsError("auth.jwt: expected a key to sign with; or make an API key with 'tidegate keys create'")
    verifier = JwtVerifier(settings.auth.jwt)
    typer.echo(verifier.sign(subject, tenant=tenant, roles=role or None, lifetime=lifetime))


@app.command()
def migrate(config: Config = None, data: Data = None) -> None:
    """Bring the store's schema up to date."""
    applied = asyncio.run(migrate_store(settings_of(config, data).store.urls))
    typer.echo("\n".join(f"applied {name}" for name in applied) or "the schema is up to date")


@app.command()
def doctor(config: Config = None, data: Data = None) -> None:
    """Check settings, store, models and tools, and say what to do."""
    sys.path.insert(0, os.getcwd())
    try:
        findings = asyncio.run(examine(settings_of(config, data)))
    except SettingsError as error:
        findings = [Finding("settings", False, str(error))]
    else:
        findings.insert(0, Finding("settings", True, "can be read"))
    for finding in findings:
        typer.echo(f"{'ok  ' if finding.ok else 'fail'}  {finding.what}: {finding.words}")
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)


@app.command()
def schema(
    ts: Annotated[bool, typer.Option("--typescript", help="TypeScript types instead.")] = False,
    config: Config = None,
    data: Data = None,
) -> None:
    """Print the JSON Schema of every frame."""
    typer.echo(typescript() if ts else orjson.dumps(json_schema(), option=orjson.OPT_INDENT_2).decode())


def main() -> None:
    try:
        app(prog_name="tidegate")
    except _REFUSALS as error:
        sys.stderr.write(f"tidegate: {error}\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
