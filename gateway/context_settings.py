"""What a context's owner may set for it (docs/protocol.md, Settings of a context)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

__all__ = ["ContextSettings", "decode_settings", "encode_settings"]


class ContextSettings(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """`system` is said before the conversation, after the model's own; `strategy` is what happens to a conversation
    that is longer than the window (None: what the model's settings say); `max_context_tokens` is how much of it a
    model is given at most (None: its whole window)."""

    system: Annotated[str, Meta(max_length=65_536)] | None = None
    strategy: Literal["trim", "summarise"] | None = None
    max_context_tokens: Annotated[int, Meta(gt=0, lt=2**53)] | None = None


_decoder = msgspec.json.Decoder(ContextSettings)
encode_settings = msgspec.json.Encoder().encode


def decode_settings(data: bytes | None) -> ContextSettings:
    return _decoder.decode(data) if data is not None else ContextSettings()
