"""Questions of running tools (docs/protocol.md, Questions); what else becomes of calls is in test_turn.py."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.turn import TurnMachine
from gateway.core.turn_effects import Append, CallModel, Effect, Park, Route, RunTool, Store, TellTool
from gateway.core.turn_effects import StopTool as StopToolEffect
from gateway.core.turn_state import Phase, Recovered, TurnCall
from protocol.frames import ToolCall, ToolResponse
from tests.gateway.core.turn_parts import (
    CLIENT,
    assistant,
    begun,
    called,
    decided,
    machine,
    responded,
    resumed,
    statuses,
    stored,
    the_end,
)
from tests.gateway.core.turn_rig import CONTEXT, TURN

ASKED = {"message": "Which card?", "schema": {"type": "object"}}


def calling(*routes: Route) -> tuple[TurnMachine, list[str]]:
    """A turn whose step has called and is over."""
    turn = begun()
    made = [event for route in routes for event in stored(turn.call("charge", {}, route))]
    turn.finish("stop", None)
    return turn, [event.id for event in made if isinstance(event, ToolCall)]


def asking() -> tuple[TurnMachine, str]:
    turn, (call_id,) = calling(Route())
    turn.asked(call_id, "q1", ASKED)
    return turn, call_id


def question(id: str, asked_by: str) -> ToolCall:
    return ToolCall(
        context_id=CONTEXT,
        turn_id=TURN,
        id=id,
        tool="charge",
        parameters=ASKED,
        timestamp="now",
        runs_on="server",
        approval="required",
        asked_by=asked_by,
    )


def answers(effects: list[Effect]) -> list[tuple[str, str, Any]]:
    return [(e.tool_call_id, e.status, e.result) for e in stored(effects) if isinstance(e, ToolResponse)]


# ---- asked and answered


def test_a_question_is_a_call_of_the_turn_that_waits_for_a_person() -> None:
    turn, (call_id,) = calling(Route())
    assert turn.asked(call_id, "q1", ASKED) == [Store((question("q1", call_id),))]
    assert turn.phase is Phase.CALLS


def test_an_approval_answers_it_and_then_the_tool_is_told() -> None:
    turn, _ = asking()
    approval = decided("q1", approved=True, edited=True)
    effects = turn.approval(approval)
    assert effects[0] == Append(approval)
    assert answers(effects) == [("q1", "success", {"amount": 2})]
    assert effects[-1] == TellTool("q1", "accept", {"amount": 2})


def test_one_without_parameters_accepts_an_empty_form() -> None:
    turn, _ = asking()
    effects = turn.approval(decided("q1", approved=True))
    assert answers(effects) == [("q1", "success", {})]
    assert effects[-1] == TellTool("q1", "accept", {})


def test_a_denial_declines() -> None:
    turn, call_id = asking()
    assert turn.waits_for_people
    effects = turn.approval(decided("q1", approved=False, reason="none of them"))
    assert answers(effects) == [("q1", "denied", "none of them")]
    assert effects[-1] == TellTool("q1", "decline")
    assert not turn.waits_for_people
    assert turn.tool_done(call_id, "success", "paid")[-1] == CallModel("msg_1", 0)


def test_a_cancelled_question_is_answered_by_nobody_and_its_call_goes_on() -> None:
    turn, _ = asking()
    effects = turn.cancel_call("q1")
    assert answers(effects) == [("q1", "cancelled", None)]
    assert effects[-1] == TellTool("q1", "cancel")
    assert turn.phase is Phase.CALLS


def test_the_first_decision_counts() -> None:
    turn, _ = asking()
    turn.approval(decided("q1", approved=False))
    late = decided("q1", approved=True)
    assert turn.approval(late) == [Append(late)]
    assert turn.cancel_call("q1") == turn.withdrawn("q1") == []


def test_a_tool_takes_its_question_back() -> None:
    turn, call_id = asking()
    assert answers(turn.withdrawn("q1")) == [("q1", "cancelled", None)]
    assert turn.withdrawn("q1") == turn.withdrawn("unknown") == []
    late = decided("q1", approved=True)
    assert turn.approval(late) == [Append(late)]
    assert statuses(turn.tool_done(call_id, "success", 1)) == ["success"]


def test_questions_of_parallel_calls_are_told_apart() -> None:
    turn, (one, other) = calling(Route(), Route())
    for call_id, question_id in ((one, "q1"), (other, "q2"), (other, "q3")):
        turn.asked(call_id, question_id, ASKED)
    assert turn.approval(decided("q2", approved=True))[-1] == TellTool("q2", "accept", {})
    assert answers(turn.tool_done(one, "success", 1)) == [("q1", "cancelled", None), (one, "success", 1)]
    assert turn.approval(decided("q3", approved=False))[-1] == TellTool("q3", "decline")
    assert answers(turn.tool_done(other, "success", 2)) == [(other, "success", 2)]


def test_a_tool_asks_while_the_model_talks() -> None:
    turn = begun()
    (call,) = stored(turn.call("charge", {}, Route()))
    assert isinstance(call, ToolCall)
    assert [type(effect) for effect in turn.asked(call.id, "q1", ASKED)] == [Store]
    assert turn.approval(decided("q1", approved=True))[-1] == TellTool("q1", "accept", {})
    assert turn.phase is Phase.MODEL


# ---- a call that is over asks nothing


def test_a_turn_is_not_parked_while_a_tool_waits_for_its_user() -> None:
    turn, (call_id, client) = calling(Route(), CLIENT)
    assert turn.waits_for_people
    turn.asked(call_id, "q1", ASKED)
    assert Park() not in turn.cancel_call("unknown")
    assert turn.phase is Phase.CALLS
    assert turn.tool_done(call_id, "success", 1)[-1] == Park()
    assert turn.answered(responded(client))[-1] == CallModel("msg_1", 0)
    assert not TurnCall(question("q1", call_id)).waits


@pytest.mark.parametrize("status", ["success", "error", "timeout"])
def test_with_its_call_a_question_ends_in_one_transaction(status: Any) -> None:
    turn, call_id = asking()
    effect = turn.tool_done(call_id, status, None)[0]
    assert isinstance(effect, Store)
    assert [event.tool_call_id for event in effect.events if isinstance(event, ToolResponse)] == ["q1", call_id]
    assert answers([effect]) == [("q1", "cancelled", None), (call_id, status, None)]


def test_so_it_does_with_a_call_that_is_cancelled() -> None:
    turn, call_id = asking()
    effects = turn.cancel_call(call_id)
    assert effects[0] == StopToolEffect(call_id)
    assert answers(effects) == [("q1", "cancelled", None), (call_id, "cancelled", None)]


def test_and_with_a_turn_that_is() -> None:
    turn, call_id = asking()
    effects = turn.cancel()
    assert effects[0] == StopToolEffect(call_id)
    assert answers(effects) == [("q1", "cancelled", None), (call_id, "cancelled", None)]
    assert the_end(effects).status == "cancelled"


def test_a_call_that_does_not_run_asks_nobody() -> None:
    turn, (call_id, client) = calling(Route(), CLIENT)
    turn.tool_done(call_id, "success", 1)
    for id in (call_id, client, "unknown"):
        assert turn.asked(id, "q1", ASKED) == [TellTool("q1", "cancel")]
    assert turn.withdrawn("q1") == []


def test_a_direct_call_asks_too() -> None:
    turn = machine(kind="tool")
    turn.begin(Recovered(events=[called("tool_1", None)]))
    assert [type(effect) for effect in turn.asked("tool_1", "q1", ASKED)] == [Store]
    assert turn.approval(decided("q1", approved=True))[-1] == TellTool("q1", "accept", {})
    assert the_end(turn.tool_done("tool_1", "success", 1)).steps == 0


# ---- taking over


def test_nobody_hears_the_answer_to_a_question_of_an_earlier_runner() -> None:
    calls = [called("tool_1"), assistant("msg_0", ""), question("q1", "tool_1"), question("q2", "tool_1")]
    answered = [question("q3", "tool_1"), decided("q3", approved=True), responded("q3")]
    decisions = [decided("q2", approved=True, edited=True)]
    _, effects = resumed(*calls, *answered, *decisions, interrupted=frozenset({"tool_1"}))
    assert answers(effects) == [
        ("q1", "cancelled", None),
        ("q2", "cancelled", None),
        ("tool_1", "interrupted", None),
    ]
    assert effects[-1] == CallModel("msg_1", 0)


def test_a_call_that_is_run_again_asks_again() -> None:
    turn, effects = resumed(called("tool_1"), assistant("msg_0", ""), question("q1", "tool_1"))
    assert answers(effects) == [("q1", "cancelled", None)]
    assert effects[-1] == RunTool("tool_1", "charge", {"amount": 1})
    assert [type(effect) for effect in turn.asked("tool_1", "q2", ASKED)] == [Store]


def test_a_cancelled_question_of_an_earlier_runner_is_answered_once() -> None:
    calls = [called("tool_1"), assistant("msg_0", ""), question("q1", "tool_1")]
    _, effects = resumed(*calls, cancelled_calls=frozenset({"q1"}))
    assert answers(effects) == [("q1", "cancelled", None)]
    _, effects = resumed(*calls, cancelled=True)
    assert answers(effects) == [("q1", "cancelled", None), ("tool_1", "cancelled", None)]
