"""The question of a running tool as a form that is filled in line by line. No I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit

import orjson
from msgspec import Struct

from gateway.chat.words import one_line, printable
from protocol.frames import ToolCall

__all__ = ["Form", "question_text"]

_MAX_FIELDS: Final = 64
_MAX_CHOICES: Final = 64
_TRUE: Final = frozenset({"y", "yes", "true"})
_FALSE: Final = frozenset({"n", "no", "false"})
_KINDS: Final = ("string", "integer", "number", "boolean")


class Unfit(ValueError):
    """What was typed is no value of the field, in words for who typed it."""


class Field(Struct, frozen=True, kw_only=True):
    """`kind` "json" is whatever has no line of its own: it is typed as JSON. `choices` are values with their titles."""

    name: str
    title: str
    kind: Literal["string", "integer", "number", "boolean", "choice", "json"]
    required: bool
    choices: tuple[tuple[Any, str], ...] = ()
    default: Any = None

    @property
    def prompt(self) -> str:
        hint = {
            "integer": "a whole number",
            "number": "a number",
            "boolean": "y/n",
            "choice": " | ".join(f"{place} {one_line(title, 24)}" for place, (_, title) in enumerate(self.choices, 1)),
            "json": "JSON",
        }.get(self.kind, "")
        empty = f"Enter: {one_line(_shown(self.default), 24)}" if self.default is not None else ""
        notes = [note for note in (hint, empty or ("" if self.required else "Enter: none")) if note]
        noted = f" [{'; '.join(notes)}]" if notes else ""
        return f"{one_line(self.title, 60)}{noted}: "

    def value(self, line: str) -> Any:
        """Raises Unfit."""
        match self.kind:
            case "string":
                return line
            case "boolean":
                if line.lower() in _TRUE | _FALSE:
                    return line.lower() in _TRUE
                raise Unfit("answer y or n")
            case "choice":
                return self._chosen(line)
            case "json":
                try:
                    return orjson.loads(line)
                except orjson.JSONDecodeError:
                    raise Unfit("this is no JSON") from None
            case _:
                return self._number(line)

    def _number(self, line: str) -> int | float:
        try:
            number = int(line) if self.kind == "integer" else float(line)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise Unfit("this is no whole number" if self.kind == "integer" else "this is no number")
        return number

    def _chosen(self, line: str) -> Any:
        for value, title in self.choices:
            if line in (title, _shown(value)):
                return value
        if line.isdecimal() and len(line) < 4 and 1 <= int(line) <= len(self.choices):
            return self.choices[int(line) - 1][0]
        raise Unfit("this is none of the choices")


class Form:
    """Asks for one field after the other; where there is none, for a yes or no."""

    def __init__(self, question: ToolCall) -> None:
        self.question = question
        self.content: dict[str, Any] = {}
        self._fields = _fields(question.parameters.get("schema"))
        self._place = 0

    @property
    def prompt(self) -> str:
        """What the next line is about."""
        if self._place < len(self._fields):
            return self._fields[self._place].prompt
        return "accept? [y/n] "

    @property
    def filled(self) -> bool:
        return self._place >= len(self._fields)

    @property
    def has_fields(self) -> bool:
        return bool(self._fields)

    def fill(self, line: str) -> str | None:
        """Take the next field's line; why it does not fit, if it does not."""
        field = self._fields[self._place]
        text = line.strip()
        try:
            if text:
                self.content[field.name] = field.value(text)
            elif field.default is not None:
                self.content[field.name] = field.default
            elif field.required:
                return "this has to be filled in; /deny declines"
        except Unfit as error:
            return str(error)
        self._place += 1
        return None


def question_text(question: ToolCall) -> str:
    """What the tool wants to know. A URL is shown with its host, as the rest of it may look like another one."""
    asked = question.parameters
    text = f"{one_line(question.tool, 64)} asks: {printable(str(asked.get('message', '')))}"
    url = asked.get("url")
    if not isinstance(url, str):
        return text
    try:
        host = urlsplit(url).hostname or "?"
    except ValueError:
        host = "?"
    return f"{text}\nIt wants you to open this address at {one_line(host, 253)}:\n{one_line(url, 4_096)}"


def _fields(schema: Any) -> list[Field]:
    properties = _object(_object(schema).get("properties"))
    required = _object(schema).get("required")
    needed: list[Any] = cast("list[Any]", required) if isinstance(required, list) else []
    return [
        _field(name, _object(given), required=name in needed) for name, given in list(properties.items())[:_MAX_FIELDS]
    ]


def _field(name: str, given: Mapping[str, Any], *, required: bool) -> Field:
    kind, choices = given.get("type"), _choices(given)
    title = " - ".join(str(given[key]) for key in ("title", "description") if isinstance(given.get(key), str))
    return Field(
        name=name,
        title=title or name,
        kind="choice" if choices else kind if kind in _KINDS else "json",
        required=required,
        choices=choices,
        default=given.get("default"),
    )


def _choices(given: Mapping[str, Any]) -> tuple[tuple[Any, str], ...]:
    values, options = given.get("enum"), given.get("oneOf")
    if isinstance(values, list):
        return tuple((value, _shown(value)) for value in cast("list[Any]", values)[:_MAX_CHOICES])
    if isinstance(options, list):
        each = [_object(option) for option in cast("list[Any]", options)[:_MAX_CHOICES]]
        return tuple(
            (option["const"], _shown(option.get("title", option["const"]))) for option in each if "const" in option
        )
    return ()


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
