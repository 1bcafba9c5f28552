"""`python -m bench connect|stream|conversation|storm|cluster|mcp`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.client import Closed, Target
from bench.cluster import ClusterParameters, run_cluster
from bench.connect import ConnectParameters, run_connect
from bench.conversation import ConversationParameters, run_conversation
from bench.machine import raise_file_limit
from bench.process import GatewayFailed
from bench.storm import StormParameters, run_storm
from bench.stream import StreamParameters, run_stream

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Puts load on a gateway and measures it.")

Url = Annotated[str | None, typer.Option(help="A running gateway, ws://HOST:PORT/v1/ws; default: one of our own.")]
Urls = Annotated[
    list[str] | None,
    typer.Option("--url", help="A running gateway; given once for each. Default: new ones of our own."),
]
Key = Annotated[str | None, typer.Option(envvar="TIDEGATE_BENCH_KEY", help="An API key for --url.")]
Ticket = Annotated[str | None, typer.Option(help="A ticket for --url; good for one session only.")]
Token = Annotated[str | None, typer.Option(envvar="TIDEGATE_BENCH_TOKEN", help="A token for --url.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write machine, parameters and results to this file.")]
Run = Callable[[Callable[[int], None]], Coroutine[None, None, dict[str, object]]]


@app.command()
def connect(
    sessions: Annotated[int, typer.Option("-n", "--sessions", min=1, help="Idle sessions.")] = 2000,
    at_once: Annotated[int, typer.Option(min=1, help="Sessions that are being opened at any time.")] = 100,
    hold: Annotated[float, typer.Option(min=0, help="Seconds of quiet before memory is read.")] = 3.0,
    url: Url = None,
    key: Key = None,
    ticket: Ticket = None,
    token: Token = None,
    output: Json = None,
) -> None:
    """Open idle sessions: memory each, accepts a second, time to ready."""
    parameters = ConnectParameters(sessions=sessions, at_once=at_once, hold=hold)
    target = _target(url, key, ticket, token)
    _execute(lambda progress: run_connect(parameters, target, progress), sessions, sessions, output)


@app.command()
def stream(
    contexts: Annotated[int, typer.Option("-n", "--contexts", min=1, help="Conversations at once.")] = 200,
    rate: Annotated[float, typer.Option(min=0.1, help="Tokens a second in each.")] = 50.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each answer takes.")] = 20.0,
    spread: Annotated[float, typer.Option(min=0, help="Seconds over which they begin.")] = 1.0,
    url: Url = None,
    key: Key = None,
    ticket: Ticket = None,
    token: Token = None,
    output: Json = None,
) -> None:
    """Stream answers of the demo model: added latency of each token, throughput, and whether all of it came. The
    gateway of --url must run the demo model at the pace of --rate."""
    parameters = StreamParameters(contexts=contexts, rate=rate, seconds=seconds, spread=spread)
    target = _target(url, key, ticket, token)
    total = contexts * parameters.words
    _execute(lambda progress: run_stream(parameters, target, progress), total, contexts, output)


@app.command()
def conversation(
    turns: Annotated[int, typer.Option("-n", "--turns", min=10, help="Turns, one after another.")] = 2000,
    words: Annotated[int, typer.Option(min=1, help="Words of each message; the answer repeats them.")] = 40,
    window: Annotated[int, typer.Option(min=64, help="Words that the model reads.")] = 4000,
    url: Url = None,
    key: Key = None,
    ticket: Ticket = None,
    token: Token = None,
    output: Json = None,
) -> None:
    """One conversation that goes on and on, far beyond what the model reads: time to the first token along the way.
    The gateway of --url must run the demo model without delay."""
    parameters = ConversationParameters(turns=turns, words=words, window=window)
    target = _target(url, key, ticket, token)
    _execute(lambda progress: run_conversation(parameters, target, progress), turns, 1, output)


@app.command()
def storm(
    sessions: Annotated[int, typer.Option("-n", "--sessions", min=1, help="Sessions whose sockets are cut.")] = 2000,
    contexts: Annotated[int, typer.Option(min=1, help="Conversations that they follow.")] = 300,
    running: Annotated[int, typer.Option(min=0, help="Of these, how many have an answer that runs.")] = 50,
    rate: Annotated[float, typer.Option(min=0.1, help="Tokens a second in each answer.")] = 10.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each answer takes.")] = 30.0,
    lead: Annotated[float, typer.Option(min=0, help="Seconds from asking to the cut.")] = 3.0,
    wait: Annotated[float, typer.Option(min=0, help="Each client waits a random time up to this, in seconds.")] = 0.0,
    instances: Annotated[int, typer.Option(min=1, help="Gateways of our own.")] = 2,
    url: Urls = None,
    key: Key = None,
    token: Token = None,
    output: Json = None,
) -> None:
    """Cut all sockets at once, and let every client come back to another instance: time to ready, time until nothing
    is missed. The gateways of --url must run the demo model at the pace of --rate."""
    parameters = StormParameters(
        sessions=sessions,
        contexts=contexts,
        running=min(running, contexts),
        rate=rate,
        seconds=seconds,
        lead=lead,
        wait=wait,
        instances=instances if not url else len(url),
    )
    targets = _targets(url, key, token)
    # Those that were cut may still be open on the other side when all have come back.
    _execute(lambda progress: run_storm(parameters, targets, progress), sessions, 2 * sessions + running, output)


@app.command()
def cluster(
    contexts: Annotated[int, typer.Option("-n", "--contexts", min=1, help="Conversations at once.")] = 50,
    rate: Annotated[float, typer.Option(min=0.1, help="Tokens a second in each.")] = 50.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each answer takes.")] = 20.0,
    spread: Annotated[float, typer.Option(min=0, help="Seconds over which they begin.")] = 1.0,
    instances: Annotated[int, typer.Option(min=2, help="Gateways of our own.")] = 2,
    url: Urls = None,
    key: Key = None,
    token: Token = None,
    redis: Annotated[str | None, typer.Option(help="The Redis of --url, for its round trip.")] = None,
    output: Json = None,
) -> None:
    """Stream answers to followers on the instance where they run and on another: how much later a token comes there,
    beside the round trips of Redis and of the sockets. The gateways of --url must run the demo model at the pace of
    --rate."""
    parameters = ClusterParameters(
        contexts=contexts,
        rate=rate,
        seconds=seconds,
        spread=spread,
        instances=instances if not url else len(url),
    )
    targets = _targets(url, key, token)
    total = contexts * parameters.words
    _execute(lambda progress: run_cluster(parameters, targets, redis, progress), total, 3 * contexts, output)


@app.command()
def mcp(
    calls: Annotated[int, typer.Option("-n", "--calls", min=1, help="Calls each way, over each transport.")] = 2000,
    warm_up: Annotated[int, typer.Option(min=0, help="Calls before that are not counted.")] = 100,
    output: Json = None,
) -> None:
    """Call a tool of an MCP server over the official SDK and through the gateway's host in turn, over standard input
    and output and over Streamable HTTP: what the host adds. There is no gateway in between."""
    # It needs the official SDK, which takes a while to load.
    from bench.mcp import McpParameters, run_mcp

    parameters = McpParameters(calls=calls, warm_up=warm_up)
    _execute(lambda progress: run_mcp(parameters, progress), 4 * calls, 4, output)


def _targets(urls: list[str] | None, key: str | None, token: str | None) -> list[Target]:
    return [Target(url=url, key=key, token=token) for url in urls or ()]


def _target(url: str | None, key: str | None, ticket: str | None, token: str | None) -> Target | None:
    if url is None:
        return None
    return Target(url=url, key=key, ticket=ticket, token=token)


def _execute(run: Run, total: int, sockets: int, output: Path | None) -> None:
    console = Console(stderr=True)
    allowed = raise_file_limit(sockets + 512)
    if 0 <= allowed < sockets + 64:
        console.print(f"[yellow]Only {allowed} open files are allowed: raise it with ulimit -n.[/yellow]")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("running", total=total)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                report = runner.run(run(lambda done: bar.update(task, completed=done)))
    except* (Closed, GatewayFailed, OSError) as failures:
        console.print(f"[red]{_first(failures)}[/red]", highlight=False)
        raise typer.Exit(1) from None
    plain: dict[str, Any] = msgspec.to_builtins(report)
    _print(plain["results"])
    if output is not None:
        output.write_text(json.dumps(plain, indent=2) + "\n")
    if plain["results"].get("faults"):
        raise typer.Exit(2)


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _print(results: dict[str, Any]) -> None:
    table = Table(show_header=False)
    for name, value in results.items():
        table.add_row(name.replace("_", " "), _shown(value))
    Console().print(table)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key} {_shown(part)}" for key, part in value.items()) or "none"  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return "\n".join(str(part) for part in value) or "none"  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    app()
