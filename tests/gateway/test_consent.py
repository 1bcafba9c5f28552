from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gateway.auth.principal import Principal
from gateway.consent import Consent, KnownTool, to_remember
from gateway.core.approval import Approvals, Rule, When
from stores.records import Asked, ContextKey, Remembered

ALICE = Principal(tenant="acme", subject="alice")
ADMIN = Principal(tenant="acme", subject="root", roles=("admin",))
CHAT = ContextKey(ALICE.owner, "chat")
PAY = KnownTool(name="pay", description="Pay.", parameters={"type": "object"}, approval="always")


class Decisions:
    """What is remembered, and how often it was asked for."""

    def __init__(self) -> None:
        self.kept: dict[str, bool] = {}
        self.asked = 0

    async def remembered(self, key: ContextKey, definition: str) -> bool | None:
        assert key == CHAT
        self.asked += 1
        return self.kept.get(definition)


async def test_what_is_remembered_is_asked_for_only_where_a_call_would_wait() -> None:
    decisions = Decisions()
    consent = Consent(Approvals({}, {}), decisions)
    assert await consent.of(ALICE, CHAT, replace(PAY, approval="never"), {}) == "run"
    assert decisions.asked == 0
    assert await consent.of(ALICE, CHAT, PAY, {}) == "ask"
    for approved, becomes in ((True, "run"), (False, "deny")):
        decisions.kept[PAY.definition] = approved
        assert await consent.of(ALICE, CHAT, PAY, {}) == becomes


@pytest.mark.parametrize(
    "change",
    [
        {"name": "pay2"},
        {"description": "Pay, and tell nobody."},
        {"parameters": {"type": "object", "properties": {"to": {"type": "string"}}}},
        {"runs_on": "client"},
    ],
)
async def test_a_tool_that_became_another_one_is_asked_about_again(change: dict[str, Any]) -> None:
    decisions = Decisions()
    decisions.kept[PAY.definition] = True
    consent = Consent(Approvals({}, {}), decisions)
    assert await consent.of(ALICE, CHAT, replace(PAY, **change), {}) == "ask"
    # Another rule for it, or another session that offers it, makes no other tool of it.
    assert await consent.of(ALICE, CHAT, replace(PAY, approval="first", session_id="s1"), {}) == "run"


@pytest.mark.parametrize(("rule", "first"), [("always", False), ("first", True), (When({"amount": {"gt": 5}}), False)])
def test_what_is_asked_is_bound_to_the_tool_as_it_is_when_the_call_is_made(rule: Rule, first: bool) -> None:
    consent = Consent(Approvals({}, {}), Decisions())
    assert consent.asked(ALICE, replace(PAY, approval=rule), {"amount": 7}) == Asked(PAY.definition, first)


@pytest.mark.parametrize(
    ("first", "approved", "wanted", "remembers"),
    [
        (False, True, False, None),
        (False, True, True, Remembered(PAY.definition, approved=True)),
        (False, False, True, Remembered(PAY.definition, approved=False)),
        (True, True, False, Remembered(f"{PAY.definition}/first", approved=True)),
        (True, True, True, Remembered(PAY.definition, approved=True)),
        (True, False, False, None),
        (True, False, True, Remembered(PAY.definition, approved=False)),
    ],
)
def test_a_decision_counts_from_then_on_where_the_rule_or_the_person_says_so(
    first: bool, approved: bool, wanted: bool, remembers: Remembered | None
) -> None:
    assert to_remember(Asked(PAY.definition, first), approved=approved, wanted=wanted) == remembers


@pytest.mark.parametrize(("wanted", "becomes"), [(False, "ask"), (True, "run")])
async def test_what_was_allowed_the_first_time_does_not_allow_what_always_waits(wanted: bool, becomes: str) -> None:
    clerk = Principal(tenant="acme", subject="alice", roles=("clerk", "guest"))
    rules: dict[str, dict[str, Rule]] = {"clerk": {"pay": "first"}, "guest": {"pay": When({"amount": {"gt": 100}})}}
    decisions = Decisions()
    consent = Consent(Approvals(rules, {}), decisions)
    assert await consent.of(clerk, CHAT, PAY, {"amount": 1}) == "ask"
    found = to_remember(consent.asked(clerk, PAY, {"amount": 1}), approved=True, wanted=wanted)
    assert found is not None
    decisions.kept[found.definition] = found.approved
    assert await consent.of(clerk, CHAT, PAY, {"amount": 2}) == "run"
    assert await consent.of(clerk, CHAT, PAY, {"amount": 1_000_000}) == becomes
    # Nor where the rule became another one, or the person said no for good.
    assert await consent.of(ALICE, CHAT, PAY, {"amount": 1}) == becomes
    decisions.kept[PAY.definition] = False
    assert await consent.of(clerk, CHAT, PAY, {"amount": 2}) == "deny"


def test_nothing_is_remembered_of_what_was_asked_about_no_tool() -> None:
    assert to_remember(None, approved=True, wanted=True) is None


async def test_rules_of_the_settings_come_before_the_tool_s_own() -> None:
    approvals = Approvals({"admin": {"pay": "never"}}, {"pa*": When({"amount": {"gt": 5}})})
    consent = Consent(approvals, Decisions())
    assert await consent.of(ALICE, CHAT, PAY, {"amount": 5}) == "run"
    assert await consent.of(ALICE, CHAT, PAY, {"amount": 6}) == "ask"
    assert await consent.of(ADMIN, CHAT, PAY, {"amount": 6}) == "run"
    assert consent.may_ask(ALICE, PAY)
    assert not consent.may_ask(ADMIN, PAY)
