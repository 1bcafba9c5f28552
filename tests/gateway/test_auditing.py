"""From events to audit records; what is recorded where there is no event; what is owed when a turn is gone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Literal

import pytest
from msgspec.structs import replace

from gateway.auditing import Auditor, TurnAudit, via_of
from gateway.auth.principal import Principal
from gateway.core.stored_turn import StoredTurn
from gateway.stored_events import new_event
from protocol.frames import DurableEvent, Message, ToolApproval, ToolCall, ToolResponse
from stores.audit_records import AuditQuery, AuditRecord
from stores.ports import Fenced, Unavailable
from stores.records import Claimed, ContextKey, NewEvent
from stores.sqlite import SqliteStore
from tests.stores.context_stores import message, turn

ANN = Principal(tenant="t", subject="ann")
KEY = ContextKey("t/ann", "chat")
NOW = 1_767_225_599.5
AT = "2026-01-01T00:00:00.000Z"
ALL = 1000


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "store.db", clock=lambda: NOW)
    yield opened
    await opened.close()


def call(id: str = "c1", turn_id: str = "a", **fields: Any) -> ToolCall:
    made: dict[str, Any] = {"tool": "weather", "parameters": {"city": "Ystad"}, "runs_on": "server", "message_id": "m1"}
    return ToolCall(context_id="chat", turn_id=turn_id, id=id, timestamp=AT, **(made | fields))


def answer(
    call_id: str = "c1", status: Literal["success", "error", "denied", "cancelled"] = "success", id: str = "r1"
) -> ToolResponse:
    return ToolResponse(
        context_id="chat", turn_id="a", id=id, tool_call_id=call_id, result=None, status=status, timestamp=AT
    )


def auditor(store: SqliteStore | None = None, **options: Any) -> Auditor:
    return Auditor(store, clock=lambda: NOW, **options)


async def records(store: SqliteStore, **query: Any) -> list[AuditRecord]:
    return list((await store.audits("t", AuditQuery(**query), None, ALL)).records)


# ---- one record


def test_a_call_is_recorded_with_the_hash_of_its_parameters() -> None:
    record = auditor().called(ANN, call(parameters={"b": [1, 2.5, None], "a": "é"}), "model")
    text = '{"a":"é","b":[1,2.5,null]}'
    assert record == AuditRecord(
        id=record.id,
        at=NOW,
        tenant="t",
        subject="ann",
        kind="decision",
        outcome="run",
        via="model",
        by="policy",
        tool="weather",
        context_id="chat",
        turn_id="a",
        call_id="c1",
        parameters_hash=hashlib.sha256(text.encode()).hexdigest(),
    )
    assert auditor(parameters=True).called(ANN, call(parameters={"a": "é"}), "model").parameters == '{"a":"é"}'.encode()


def test_equal_parameters_have_equal_hashes() -> None:
    hashes = {
        auditor().called(ANN, call(parameters=json.loads(text)), "model").parameters_hash
        for text in ('{"a":1,"b":{"d":2,"c":3}}', '{ "b": {"c":3, "d":2}, "a": 1}')
    }
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("made", "came", "outcome", "by"),
    [
        (call(), None, "run", "policy"),
        (call(approval="required"), None, "asked", "policy"),
        (call(approval="required", asked_by="c0", message_id=None), None, "asked", "tool"),
        (call(), answer(status="error"), "refused", "policy"),
        (call(), answer(status="denied"), "denied", "policy"),
    ],
)
def test_what_the_gateway_decides(made: ToolCall, came: ToolResponse | None, outcome: str, by: str) -> None:
    record = auditor().called(ANN, made, "model", came)
    assert (record.outcome, record.by) == (outcome, by)


def test_what_a_person_decides_with_what_it_changed() -> None:
    def decided(approved: bool, parameters: dict[str, Any] | None = None) -> AuditRecord:
        event = ToolApproval(
            context_id="chat", turn_id="a", tool_call_id="c1", approved=approved, parameters=parameters
        )
        return auditor().decided(ANN, call(), event, "http")

    yes, changed, no = decided(True), decided(True, {"city": "Lund"}), decided(False)
    assert [record.outcome for record in (yes, changed, no)] == ["approved", "approved", "rejected"]
    assert {(record.kind, record.by, record.via, record.tool) for record in (yes, no)} == {
        ("decision", "ann", "http", "weather")
    }
    assert (yes.parameters_hash, no.parameters_hash) == (None, None)
    assert changed.parameters_hash == hashlib.sha256(b'{"city":"Lund"}').hexdigest()


def test_a_call_that_reads_a_resource_names_it() -> None:
    read = call(tool="read_resource", parameters={"uri": "docs://a"})
    assert auditor().called(ANN, read, "model").uri == "docs://a"
    assert auditor().answered(ANN, read, "success", "model").uri == "docs://a"
    assert auditor().called(ANN, call(tool="read_resource", parameters={"uri": 5}), "model").uri is None
    assert auditor().called(ANN, call(parameters={"uri": "docs://a"}), "model").uri is None


def test_names_are_what_every_store_takes() -> None:
    record = auditor().refused(ANN, "x\0\ud800" + "y" * 5000, {"half": "\ud800"}, "client")
    assert record.tool == "x\N{REPLACEMENT CHARACTER}?" + "y" * 497
    assert (record.kind, record.outcome, record.call_id) == ("decision", "refused", None)


def test_a_reading_that_is_no_call() -> None:
    record = auditor().read(ANN, "z" * 5000, "denied", "http", seconds=0.5)
    assert (record.kind, record.outcome, record.via, record.seconds) == ("read", "denied", "http", 0.5)
    assert (record.uri, record.tool) == ("z" * 2000, None)


def test_how_a_call_came_in() -> None:
    assert via_of(call()) == "model"
    assert via_of(call(message_id=None, asked_by="c0")) == "tool"
    assert via_of(call(message_id=None)) == "client"


# ---- what has no event


async def test_what_is_noted_is_stored_and_raises_where_it_can_not_be(store: SqliteStore) -> None:
    made = auditor(store)
    record = made.read(ANN, "docs://a", "success", "http", seconds=0.25)
    for _ in range(2):
        await made.note(ANN, record)
    assert await records(store) == [record]
    await store.close()
    with pytest.raises(Unavailable):
        await made.note(ANN, record)


async def test_old_records_are_swept_where_that_is_wanted(store: SqliteStore) -> None:
    for days in (0.5, 1.5, 2.5):
        made = Auditor(store, clock=lambda: NOW - days * 86_400)  # noqa: B023 - used within the round
        await made.note(ANN, made.read(ANN, f"{days}", "success", "http"))
    for keep, kept in ((None, 3), (2, 2), (2, 2), (1, 1)):
        await auditor(store, keep_days=keep).sweep()
        assert len(await records(store)) == kept
    await auditor(keep_days=1).sweep()


async def test_whether_the_end_of_a_call_is_recorded(store: SqliteStore) -> None:
    made = auditor(store)
    assert not await made.open(ANN, call())
    await made.note(ANN, made.called(ANN, call(), "model", answer(status="denied")))
    assert await made.open(ANN, call())
    assert not await made.open(ANN, call("c2"))
    await made.note(ANN, made.answered(ANN, call(), "denied", "model"))
    assert not await made.open(ANN, call())


# ---- the calls of a turn


async def running(store: SqliteStore, event: NewEvent | None = None) -> Claimed:
    """The turn "a" of a message, or of a direct call, claimed."""
    await store.submit(KEY, event or message("a", "a"), turn("a", "tool" if event is not None else "message"))
    claimed = await store.claim(KEY, "a", "inst", 0)
    assert claimed is not None
    return claimed


def audit_of(store: SqliteStore | None, claimed: Claimed, stored: StoredTurn | None = None) -> TurnAudit:
    return TurnAudit(auditor(store), ANN, claimed.rows.turn, stored or StoredTurn(claimed), "mcp")


def audited(audit: TurnAudit, *events: DurableEvent) -> list[tuple[str, str, str] | None]:
    rows = audit.audited([new_event(event) for event in events], events)
    return [(row.audit.kind, row.audit.outcome, row.audit.via) if row.audit is not None else None for row in rows]


async def test_the_events_of_a_turn_bring_their_records(store: SqliteStore) -> None:
    audit = audit_of(store, await running(store))
    said = Message(
        context_id="chat", turn_id="a", id="m1", content="", role="assistant", timestamp=AT, status="complete"
    )
    assert audited(audit, said, call()) == [None, ("decision", "run", "model")]
    assert audited(audit, call("c2"), answer("c2", "error", "r2")) == [
        ("decision", "refused", "model"),
        ("call", "error", "model"),
    ]
    question = call("q1", message_id=None, asked_by="c1", approval="required")
    assert audited(audit, question) == [("decision", "asked", "tool")]
    assert audited(audit, answer("q1", "cancelled", "r3"), answer()) == [
        ("call", "cancelled", "tool"),
        ("call", "success", "model"),
    ]


async def test_only_what_ran_here_has_a_duration(store: SqliteStore) -> None:
    audit = audit_of(store, await running(store))
    audited(audit, call("c1"), call("c2"))
    audit.begins("c1")
    events = [answer("c1", id="r1"), answer("c2", id="r2")]
    one, other = audit.audited([new_event(event) for event in events], events)
    assert one.audit is not None
    assert one.audit.seconds is not None
    assert 0 <= one.audit.seconds < 5
    assert other.audit is not None
    assert other.audit.seconds is None


async def test_a_runner_that_takes_over_knows_the_calls_of_the_one_before(store: SqliteStore) -> None:
    direct = call("a", message_id=None)
    audit = audit_of(store, await running(store, new_event(direct)))
    assert audited(audit, answer("a")) == [("call", "success", "mcp")]
    assert audited(audit, answer("unknown")) == [None]


async def test_what_a_deleted_context_leaves_open_is_interrupted_once(store: SqliteStore) -> None:
    claimed = await running(store)
    first = StoredTurn(claimed)
    events = [call("c1"), call("c2")]
    made = audit_of(store, claimed, first).audited([new_event(event) for event in events], events)
    first.wrote("a", made, await store.write(KEY, "a", claimed.rows.turn.fence, made))
    # Another runner takes it over; a client answers one of the calls, and nobody sees it.
    again = await store.claim(KEY, "a", "other", claimed.rows.turn.fence)
    assert again is not None
    ended = auditor(store).answered(ANN, call("c2"), "success", "model")
    await auditor(store).note(ANN, ended)
    audits = [audit_of(store, claimed, first), audit_of(store, again)]
    for audit in audits:
        await audit.settle(store)
    assert await records(store, kind="call") == [ended], "the turn is still there"
    await store.delete_context(KEY)
    for audit in audits:
        await audit.settle(store)
    interrupted = await records(store, outcome="interrupted")
    assert [(record.call_id, record.kind, record.via) for record in interrupted] == [("c1", "call", "model")]
    assert len(await records(store, kind="call")) == 2


async def test_a_call_that_ended_too_late_to_be_stored_is_recorded_as_it_ended(store: SqliteStore) -> None:
    claimed = await running(store)
    stored = StoredTurn(claimed)
    audit = audit_of(store, claimed, stored)
    events = [call("c1"), call("c2")]
    made = audit.audited([new_event(event) for event in events], events)
    stored.wrote("a", made, await store.write(KEY, "a", claimed.rows.turn.fence, made))
    audit.begins("c1")
    await store.delete_context(KEY)
    late = answer("c1")
    with pytest.raises(Fenced):
        await store.write(KEY, "a", claimed.rows.turn.fence, audit.audited([new_event(late)], [late]))
    await audit.settle(store)
    ends = {record.call_id: record for record in await records(store, kind="call")}
    assert {id: end.outcome for id, end in ends.items()} == {"c1": "success", "c2": "interrupted"}
    assert ends["c1"].seconds is not None


async def test_a_later_context_of_the_same_name_has_ends_of_its_own(store: SqliteStore) -> None:
    direct = call("a", message_id=None)
    for count in (1, 2, 3):
        made = replace(new_event(direct), audit=auditor().called(ANN, direct, "mcp"))
        claimed = await running(store, made)
        await store.delete_context(KEY)
        await audit_of(store, claimed).settle(store)
        assert len(await records(store, outcome="interrupted", call_id="a")) == count


async def test_nothing_is_owed_where_all_is_answered(store: SqliteStore) -> None:
    claimed = await running(store)
    stored = StoredTurn(claimed)
    made = [new_event(call()), new_event(answer())]
    stored.wrote("a", made, await store.write(KEY, "a", claimed.rows.turn.fence, made))
    await store.delete_context(KEY)
    await audit_of(store, claimed, stored).settle(store)
    assert await records(store) == []
    # Without a store nothing is kept, and nothing fails.
    await audit_of(None, claimed).settle(store)
