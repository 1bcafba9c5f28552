"""What a typed line asks for. No I/O."""

from __future__ import annotations

from typing import Final, NamedTuple

from msgspec import Struct

__all__ = ["HELP", "Command", "Say", "Wrong", "parse"]


class Say(Struct, frozen=True):
    """A message."""

    text: str


class Command(Struct, frozen=True):
    """A command by its name, without the slash; `argument` is the rest of the line, stripped."""

    name: str
    argument: str = ""


class Wrong(Struct, frozen=True):
    """A line that begins like a command and is none; `reason` is for the user."""

    reason: str


class _Form(NamedTuple):
    """`takes` names the argument, in brackets where it may be left out; "" where there is none."""

    takes: str
    does: str


_FORMS: Final[dict[str, _Form]] = {
    "stop": _Form("", "cancel the answer that is being written (so does Ctrl-C)"),
    "retry": _Form("", "have the last message answered once more"),
    "edit": _Form("[TEXT]", "send the last message with other words, TEXT or those you type"),
    "contexts": _Form("", "list your conversations, newest first"),
    "open": _Form("N|ID", "go on with one of them, by its number in the list or its id"),
    "new": _Form("", "begin a new conversation"),
    "title": _Form("TEXT", "name this conversation"),
    "model": _Form("[NAME]", "list the models, or choose one for the next messages"),
    "tools": _Form("", "list the tools that the model may use"),
    "approve": _Form("", "allow the call that waits (so does y)"),
    "deny": _Form("[REASON]", "deny it (so does n)"),
    "help": _Form("", "this list"),
    "quit": _Form("", "leave (so do Ctrl-D and Ctrl-C); an answer goes on without you"),
}

_WIDTH: Final = max(len(name) + len(form.takes) for name, form in _FORMS.items()) + 4

HELP: Final = "\n".join(
    [f"{f'/{name} {form.takes}':<{_WIDTH}}{form.does}" for name, form in _FORMS.items()]
    + [f"{'//…':<{_WIDTH}}a message that begins with a slash"]
)


def parse(line: str) -> Say | Command | Wrong | None:
    """What the line asks for; None where it is empty. A line that begins with two slashes is a message with one."""
    text = line.strip()
    if not text:
        return None
    if text.startswith("//"):
        return Say(text[1:])
    if not text.startswith("/"):
        return Say(text)
    name, _, rest = text[1:].partition(" ")
    name, argument = name.lower(), rest.strip()
    form = _FORMS.get(name)
    if form is None:
        return Wrong(f"there is no command /{name}; /help lists them, // begins a message with a slash")
    if argument and not form.takes:
        return Wrong(f"/{name} takes nothing after it")
    if not argument and form.takes and not form.takes.startswith("["):
        return Wrong(f"/{name} needs {form.takes}")
    return Command(name, argument)
