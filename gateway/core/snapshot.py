"""A snapshot: the log's fold plus the store's rows up to its `seq` (docs/protocol.md, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from protocol.codec import encode, with_seq
from protocol.frames import Partial, Running, Snapshot, ToolCall, ToolResponse
from stores.records import EventRow, History, LogFold

__all__ = ["SNAPSHOT_EVENTS", "complete_history", "make_snapshot"]

SNAPSHOT_EVENTS = 100

_decode_call = msgspec.json.Decoder(ToolCall).decode
_decode_response = msgspec.json.Decoder(ToolResponse).decode


def make_snapshot(context_id: str, fold: LogFold, history: History, open_calls: Sequence[EventRow]) -> bytes:
    """The frame's bytes. The fold was read first, then `history` (its newest page), then `open_calls`."""
    placed = [(row.seq, row) for row in history.rows if row.seq is not None and row.seq <= fold.seq]
    for row in history.unsequenced:
        seq = fold.ids.get(row.id)
        if seq is not None and seq <= fold.seq:
            placed.append((seq, row))
    placed.sort(key=lambda pair: pair[0])
    has_more = history.has_more or len(placed) > SNAPSHOT_EVENTS
    placed = placed[-SNAPSHOT_EVENTS:]
    snapshot = Snapshot(
        context_id=context_id,
        epoch=str(fold.epoch),
        seq=fold.seq,
        # The events are bytes already: they are put in as they are.
        events=cast("Any", [msgspec.Raw(with_seq(row.body, seq)) for seq, row in placed]),
        has_more=has_more,
        partial=[
            Partial(
                message_id=opened.message_id,
                turn_id=opened.turn_id,
                model=opened.model,
                attempt=opened.attempt,
                text=opened.text,
                reasoning=opened.reasoning,
            )
            for opened in fold.open
        ],
        running=_running(fold, history, open_calls),
    )
    return encode(snapshot)


def _running(fold: LogFold, history: History, open_calls: Sequence[EventRow]) -> list[Running]:
    answered = {
        _decode_response(row.body).tool_call_id
        for row in history.unsequenced
        if row.type == "tool_response" and fold.ids.get(row.id, fold.seq + 1) <= fold.seq
    }
    running: list[Running] = []
    for row in open_calls:
        seq = row.seq or fold.ids.get(row.id)
        if seq is None or seq > fold.seq or row.id in answered:
            continue
        progress = fold.progress.get(row.id)
        running.append(
            Running(
                call=_decode_call(with_seq(row.body, seq)),
                progress=progress.progress if progress else None,
                total=progress.total if progress else None,
                message=progress.message if progress else None,
            )
        )
    return running


def complete_history(history: History, fold: LogFold | None) -> list[bytes]:
    """A page of history as frames: what the log has numbered but the store has not takes its place, and what has no
    `seq` at all comes last, without one."""
    placed = [(row.seq, row) for row in history.rows if row.seq is not None]
    without: list[bytes] = []
    for row in history.unsequenced:
        seq = fold.ids.get(row.id) if fold is not None else None
        if seq is None:
            without.append(row.body)
        else:
            placed.append((seq, row))
    placed.sort(key=lambda pair: pair[0])
    return [with_seq(row.body, seq) for seq, row in placed] + without
