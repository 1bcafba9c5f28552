"""The command `tidegate chat`."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Annotated

import typer

__all__ = ["chat"]


def chat(
    url: Annotated[
        str, typer.Argument(help="The gateway; also the URL with a ticket that `tidegate serve` prints.")
    ] = "http://127.0.0.1:8000",
    token: Annotated[str | None, typer.Option(envvar="TIDEGATE_TOKEN", help="An API key or a token.")] = None,
    context: Annotated[str | None, typer.Option(help="Go on with this conversation, or begin it.")] = None,
    model: Annotated[str | None, typer.Option(help="Who answers; default: the gateway's default model.")] = None,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Send this, after what is piped in; print the answer.")
    ] = None,
    reasoning: Annotated[bool, typer.Option(help="Show what a model thinks.")] = True,
    yes: Annotated[bool, typer.Option("--yes", help="In a pipe: allow calls that wait for a person.")] = False,
) -> None:
    """Chat in the terminal. In a pipe: all of standard input is one message, whose answer is printed."""
    # Loaded here, so that the other commands start at once.
    from gateway.chat.start import Wishes, message_of, start
    from gateway.chat.trouble import TROUBLE, explain

    try:
        # Before the loop: only so Ctrl-C ends the reading.
        said = message_of(message)
        status = asyncio.run(
            start(
                Wishes(url=url, token=token, context=context, model=model, message=said, reasoning=reasoning, yes=yes)
            )
        )
    except TROUBLE as error:
        typer.echo(f"tidegate: {explain(error, url.partition('?')[0])}", err=True)
        status = 1
    except BrokenPipeError:
        # Whoever read the answer has left; nothing may be flushed to them at the end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except KeyboardInterrupt:
        status = 130
    raise typer.Exit(status)
