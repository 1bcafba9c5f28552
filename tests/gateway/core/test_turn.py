from __future__ import annotations

import pytest
from msgspec.structs import replace

from gateway.core.turn_effects import Append, CallModel, End, Park, Publish, Route, RunTool, StopModel, Store
from gateway.core.turn_effects import StopTool as StopToolEffect
from gateway.core.turn_state import LEGAL, CallState, IllegalTransition, Phase, Recovered, TurnCall, Written
from protocol.frames import (
    Delta,
    Message,
    MessageStart,
    ToolCall,
    ToolResponse,
    TurnEnd,
    Usage,
)
from tests.gateway.core.turn_parts import (
    ASK,
    CLIENT,
    FINAL,
    RETRYABLE,
    assistant,
    begun,
    called,
    decided,
    machine,
    responded,
    resumed,
    said,
    statuses,
    stored,
    the_end,
)
from tests.gateway.core.turn_rig import CONTEXT, TURN, user_message

# ---- one step


def test_a_step_is_start_deltas_message_and_then_the_end() -> None:
    turn = machine()
    start, ask = turn.begin(Recovered(events=[user_message(TURN)]))
    assert start == Publish(
        MessageStart(context_id=CONTEXT, turn_id=TURN, id="msg_0", role="assistant", model="m", attempt=1)
    )
    assert ask == CallModel("msg_0", 0)
    assert [delta.text for delta in said(turn.text("Hel")) if isinstance(delta, Delta)] == ["Hel"]
    turn.text("lo")
    turn.text("why", "reasoning")
    assert turn.written == Written("msg_0", 1, "Hello")
    usage = Usage(input_tokens=3, output_tokens=2)
    effects = turn.finish("stop", usage)
    message = stored(effects)[0]
    assert isinstance(message, Message)
    assert (message.content, message.status, message.usage) == ("Hello", "complete", usage)
    assert (the_end(effects).status, the_end(effects).steps, the_end(effects).usage) == ("complete", 1, usage)
    assert turn.written is None
    turn.ended()
    assert turn.phase is Phase.OVER


@pytest.mark.parametrize(("answered", "named"), [(None, "m"), ("other", "other")])
def test_a_message_names_the_model_that_answered(answered: str | None, named: str) -> None:
    message = stored(begun().finish("stop", None, answered))[0]
    assert isinstance(message, Message)
    assert message.model == named


def test_the_providers_limit_truncates_the_message_and_completes_the_turn() -> None:
    effects = begun().finish("length", None)
    message = stored(effects)[0]
    assert isinstance(message, Message)
    assert (message.status, the_end(effects).status) == ("truncated", "complete")


def test_tools_run_in_parallel_while_the_model_talks_and_the_next_step_waits_for_all() -> None:
    turn = begun()
    first, second = (turn.call("charge", {"n": n}, Route()) for n in (1, 2))
    assert [type(effect) for effect in first] == [Store, RunTool]
    ids = [event.id for event in stored([*first, *second]) if isinstance(event, ToolCall)]
    assert statuses(turn.tool_done(ids[0], "success", 1)) == ["success"]
    assert said(turn.text("meanwhile"))
    assert [type(effect) for effect in turn.finish("stop", None)] == [Store]
    assert turn.phase is Phase.CALLS
    assert turn.tool_progress(ids[1], 1, 2, "half") != []
    effects = turn.tool_done(ids[1], "timeout", None)
    assert effects[-1] == CallModel("msg_1", 0)
    assert turn.tool_done(ids[1], "success", 1) == turn.tool_progress(ids[1], 2, 2, None) == []


def test_a_refused_call_is_stored_with_its_answer_so_that_nobody_runs_it() -> None:
    turn = begun()
    (effect,) = turn.call("nothing", {}, Route(refusal=("error", "There is no such tool.")))
    assert isinstance(effect, Store)
    call, response = effect.events
    assert isinstance(call, ToolCall)
    assert isinstance(response, ToolResponse)
    assert (response.tool_call_id, response.status, response.result) == (call.id, "error", "There is no such tool.")
    assert turn.finish("stop", None)[-1] == CallModel("msg_1", 0)


def test_no_more_steps_than_allowed() -> None:
    turn = begun(max_steps=1)
    turn.call("nothing", {}, Route(refusal=("error", "no")))
    effects = turn.finish("stop", None)
    assert (the_end(effects).status, the_end(effects).steps) == ("max_steps", 1)
    assert isinstance(effects[-1], End)
    assert effects[-1].may_continue


# ---- the provider fails


def test_a_retryable_failure_before_any_call_begins_the_step_again() -> None:
    turn = begun()
    turn.text("bad")
    start, again = turn.failed(RETRYABLE)
    assert again == CallModel("msg_0", 1)
    assert [event.attempt for event in said([start]) if isinstance(event, MessageStart)] == [2]
    turn.text("good")
    assert turn.written == Written("msg_0", 2, "good")
    effects = turn.failed(RETRYABLE)
    message = stored(effects)[0]
    assert isinstance(message, Message)
    assert (message.content, message.status) == ("good", "failed")
    assert (the_end(effects).status, the_end(effects).error) == ("failed", RETRYABLE)
    assert effects[0] == StopModel()


def test_a_failure_for_good_ends_the_turn_and_answers_its_calls() -> None:
    turn = begun()
    (running,) = (e.id for e in stored(turn.call("charge", {}, Route())) if isinstance(e, ToolCall))
    turn.call("pay", {}, ASK)
    effects = turn.failed(FINAL)
    assert effects[1] == StopToolEffect(running)
    assert statuses(effects) == ["cancelled", "cancelled"]
    assert the_end(effects).error == FINAL
    assert isinstance(effects[-1], End)
    assert not effects[-1].may_continue


def test_a_failure_after_a_call_closes_the_message_and_goes_on() -> None:
    turn = begun()
    call = turn.call("charge", {}, Route())[0]
    assert [event.status for event in stored(turn.failed(RETRYABLE)) if isinstance(event, Message)] == ["truncated"]
    (event,) = stored([call])
    assert isinstance(event, ToolCall)
    assert turn.tool_done(event.id, "success", None)[-1] == CallModel("msg_1", 0)


# ---- people and clients


def test_a_call_that_waits_for_a_person_parks_the_turn_until_it_is_approved_with_other_parameters() -> None:
    turn = begun()
    effects = turn.call("charge", {"amount": 1}, ASK)
    (call,) = stored(effects)
    assert isinstance(call, ToolCall)
    assert call.approval == "required"
    assert [type(effect) for effect in effects] == [Store]
    assert turn.finish("stop", None)[-1] == Park()
    assert turn.phase is Phase.PARKED
    approval = decided(call.id, approved=True, edited=True)
    assert turn.approval(approval) == [Append(approval), RunTool(call.id, "charge", {"amount": 2}, decided=True)]
    assert turn.phase is Phase.CALLS
    again = decided(call.id, approved=False)
    assert turn.approval(again) == [Append(again)]


def test_a_denied_call_is_answered_so() -> None:
    turn = begun()
    (call,) = stored(turn.call("charge", {}, ASK))
    assert isinstance(call, ToolCall)
    turn.finish("stop", None)
    effects = turn.approval(decided(call.id, approved=False, reason="too much"))
    assert [(e.status, e.result) for e in stored(effects) if isinstance(e, ToolResponse)] == [("denied", "too much")]
    assert effects[-1] == CallModel("msg_1", 0)


def test_a_call_of_a_client_waits_for_its_answer_also_after_approval() -> None:
    turn = begun()
    (call,) = stored(turn.call("browser", {}, Route(runs_on="client", session_id="sess_1", ask=True)))
    assert isinstance(call, ToolCall)
    turn.finish("stop", None)
    approval = decided(call.id, approved=True)
    assert turn.approval(approval) == [Append(approval), Park()]
    answer = responded(call.id)
    assert turn.answered(answer)[0] == Append(answer)
    assert turn.phase is Phase.MODEL


def test_inputs_for_calls_that_nobody_knows_are_only_shown() -> None:
    turn = begun()
    approval, answer = decided("tool_x", approved=True), responded("tool_x")
    assert turn.approval(approval) == [Append(approval)]
    assert turn.answered(answer) == [Append(answer)]
    assert turn.cancel_call("tool_x") == turn.tool_done("tool_x", "success", 1) == []
    assert turn.tool_progress("tool_x", 1, None, None) == []


def test_a_steering_message_gets_one_more_step() -> None:
    turn = begun()
    steer = user_message("msg_steer")
    assert turn.steer(steer) == [Append(steer)]
    first = turn.finish("stop", None)
    assert first[-1] == CallModel("msg_1", 0, "msg_steer")
    assert [event.reads for event in stored(first) if isinstance(event, Message)] == [None]
    second = turn.finish("stop", None)
    assert [event.reads for event in stored(second) if isinstance(event, Message)] == ["msg_steer"]
    assert the_end(second).steps == 2


def test_a_step_that_is_begun_again_is_given_what_it_was_given() -> None:
    turn = begun()
    turn.steer(user_message("msg_steer"))
    turn.finish("stop", None)
    turn.steer(user_message("msg_late"))
    assert turn.failed(RETRYABLE)[-1] == CallModel("msg_1", 1, "msg_steer")
    assert turn.finish("stop", None)[-1] == CallModel("msg_2", 0, "msg_late")


def test_a_torn_step_was_given_what_its_draft_says() -> None:
    steer, late = user_message("msg_steer"), user_message("msg_late")
    draft = Written("msg_1", 1, "torn", reads="msg_steer")
    events = (steer, assistant("msg_0", "one"), called("tool_1", "msg_1"), late, responded("tool_1"))
    _, effects = resumed(*events, draft=draft)
    assert [event.reads for event in stored(effects) if isinstance(event, Message)] == ["msg_steer"]
    assert effects[-1] == CallModel("msg_2", 0, "msg_late")


def test_an_end_that_the_store_refused_goes_on_with_what_was_unread() -> None:
    turn = begun()
    turn.finish("stop", None)
    assert turn.phase is Phase.ENDING
    assert turn.cancel() == []
    assert turn.go_on() == []
    assert turn.steer(user_message("msg_steer"))[-1] == CallModel("msg_1", 0, "msg_steer")


def test_an_end_that_was_refused_for_a_cancel_of_a_finished_call_is_proposed_again() -> None:
    turn = begun()
    turn.finish("stop", None)
    turn.go_on()
    assert the_end(turn.cancel_call("tool_x")).status == "complete"


def test_a_cancel_closes_the_message_and_answers_every_call() -> None:
    turn = begun()
    turn.text("so far")
    (call,) = (e.id for e in stored(turn.call("charge", {}, Route())) if isinstance(e, ToolCall))
    turn.call("browser", {}, CLIENT)
    effects = turn.cancel()
    assert effects[:2] == [StopModel(), StopToolEffect(call)]
    message = stored(effects)[0]
    assert isinstance(message, Message)
    assert (message.content, message.status) == ("so far", "cancelled")
    assert statuses(effects) == ["cancelled", "cancelled"]
    assert the_end(effects).status == "cancelled"
    turn.ended()
    assert turn.cancel() == []


def test_a_cancel_between_steps_has_no_message_to_close() -> None:
    turn = begun()
    turn.call("charge", {}, Route())
    turn.finish("stop", None)
    effects = turn.cancel()
    assert not any(isinstance(event, Message) for event in stored(effects))


def test_one_call_can_be_cancelled() -> None:
    turn = begun()
    (call,) = (e.id for e in stored(turn.call("charge", {}, Route())) if isinstance(e, ToolCall))
    assert turn.cancel_call(call)[0] == StopToolEffect(call)
    (client,) = (e.id for e in stored(turn.call("browser", {}, CLIENT)) if isinstance(e, ToolCall))
    assert [type(effect) for effect in turn.cancel_call(client)] == [Store]
    assert turn.cancel_call(client) == []


# ---- direct calls


def test_a_direct_call_is_a_turn_without_a_model() -> None:
    turn = machine(kind="tool")
    assert turn.begin(Recovered(events=[called("tool_1", None)])) == [RunTool("tool_1", "charge", {"amount": 1})]
    effects = turn.tool_done("tool_1", "success", 1)
    assert (the_end(effects).status, the_end(effects).steps) == ("complete", 0)


# ---- taking over


def test_a_turn_that_has_ended_is_over() -> None:
    end = TurnEnd(
        context_id=CONTEXT, turn_id=TURN, status="complete", steps=0, usage=Usage(input_tokens=0, output_tokens=0)
    )
    turn, effects = resumed(end)
    assert (effects, turn.phase) == ([], Phase.OVER)


def test_a_message_without_calls_is_begun_again() -> None:
    _, effects = resumed(live=Written("msg_0", 3, "text"), begun_before=True)
    assert [event.attempt for event in said(effects) if isinstance(event, MessageStart)] == [4]
    _, effects = resumed(begun_before=True)
    assert [event.attempt for event in said(effects) if isinstance(event, MessageStart)] == [2]


def test_a_message_with_calls_is_closed_as_readers_saw_it() -> None:
    _, effects = resumed(called("tool_1"), live=Written("msg_0", 1, "seen"), draft=Written("msg_0", 1, "seen and said"))
    message = stored(effects)[0]
    assert isinstance(message, Message)
    assert (message.content, message.status) == ("seen", "truncated")
    assert effects[-1] == RunTool("tool_1", "charge", {"amount": 1})


@pytest.mark.parametrize("live", [None, Written("msg_0", 1, "the attempt before")])
def test_a_message_that_the_log_lost_is_told_again_from_the_draft(live: Written | None) -> None:
    _, effects = resumed(called("tool_1"), live=live, draft=Written("msg_0", 2, "drafted"))
    start, delta = said(effects)
    assert isinstance(start, MessageStart)
    assert isinstance(delta, Delta)
    assert (start.attempt, delta.text) == (3, "drafted")
    assert [event.content for event in stored(effects) if isinstance(event, Message)] == ["drafted"]


def test_a_message_that_is_lost_without_a_draft_is_closed_empty() -> None:
    _, effects = resumed(called("tool_1"), draft=Written("msg_other", 1, "of another step"))
    assert [event.content for event in stored(effects) if isinstance(event, Message)] == [""]
    assert len(said(effects)) == 1


def test_what_was_running_is_run_again_only_if_it_may_be() -> None:
    calls = [called("tool_1"), called("tool_2"), called("tool_3"), assistant("msg_0", "")]
    _, effects = resumed(*calls, responded("tool_1"), interrupted=frozenset({"tool_2"}))
    assert statuses(effects) == ["interrupted"]
    assert [effect.call_id for effect in effects if isinstance(effect, RunTool)] == ["tool_3"]


def test_when_all_calls_are_answered_the_next_step_begins() -> None:
    _, effects = resumed(called("tool_1"), assistant("msg_0", ""), responded("tool_1"))
    assert effects[-1] == CallModel("msg_1", 0)


def test_a_decision_that_came_while_nobody_ran_the_turn_counts() -> None:
    calls = [called("tool_1", route=ASK), called("tool_2", route=ASK), assistant("msg_0", "")]
    decisions = [decided("tool_1", approved=False, reason="no"), decided("tool_2", approved=True, edited=True)]
    _, effects = resumed(*calls, *decisions)
    assert [(e.status, e.result) for e in stored(effects) if isinstance(e, ToolResponse)] == [("denied", "no")]
    assert effects[-1] == RunTool("tool_2", "charge", {"amount": 2}, decided=True)


def test_a_call_that_was_cancelled_while_nobody_ran_the_turn_is_not_run() -> None:
    calls = [called("tool_1", route=CLIENT), called("tool_2"), assistant("msg_0", "")]
    _, effects = resumed(*calls, cancelled_calls=frozenset({"tool_1", "tool_2"}))
    assert statuses(effects) == ["cancelled", "cancelled"]
    assert effects[-1] == CallModel("msg_1", 0)


def test_a_turn_that_still_waits_is_parked_again() -> None:
    turn, effects = resumed(called("tool_1", route=CLIENT), assistant("msg_0", ""))
    assert effects == [Park()]
    assert turn.cancel_call("tool_other") == [Park()]


def test_a_steering_message_that_may_be_unread_is_read() -> None:
    steer = user_message("msg_steer")
    _, effects = resumed(steer, assistant("msg_0", "one"))
    assert effects[-1] == CallModel("msg_1", 0, "msg_steer")
    read = replace(assistant("msg_1", "two"), reads="msg_steer")
    _, effects = resumed(steer, assistant("msg_0", "one"), read)
    assert the_end(effects).steps == 2


def test_a_cancelled_turn_is_closed_where_it_stood() -> None:
    _, effects = resumed(cancelled=True, begun_before=True)
    assert (the_end(effects).status, the_end(effects).steps) == ("cancelled", 0)
    _, effects = resumed(cancelled=True, live=Written("msg_0", 1, "so far"))
    message, end = stored(effects)
    assert isinstance(message, Message)
    assert isinstance(end, TurnEnd)
    assert (message.content, message.status, end.steps) == ("so far", "cancelled", 1)
    _, effects = resumed(called("tool_1"), cancelled=True, live=Written("msg_0", 1, "torn"))
    assert [event.status for event in stored(effects) if isinstance(event, Message)] == ["cancelled"]
    assert statuses(effects) == ["cancelled"]


def test_a_message_that_the_log_has_not_closed_yet_is_not_closed_twice() -> None:
    live = Written("msg_0", 1, "on")
    _, effects = resumed(assistant("msg_0", "one"), live=live, begun_before=True, cancelled=True)
    assert [type(event) for event in stored(effects)] == [TurnEnd]
    assert the_end(effects).steps == 1


# ---- another epoch


def test_under_a_new_epoch_the_open_message_is_told_again() -> None:
    turn = begun()
    turn.text("text")
    turn.text("why", "reasoning")
    start, reasoning, text = said(turn.republish())
    assert isinstance(start, MessageStart)
    assert isinstance(reasoning, Delta)
    assert isinstance(text, Delta)
    assert (start.attempt, reasoning.channel, reasoning.text, text.text) == (2, "reasoning", "why", "text")
    turn.finish("stop", None)
    assert turn.republish() == []


# ---- what may follow what


def test_what_comes_too_late_is_not_heard() -> None:
    turn = begun()
    turn.finish("stop", None)
    assert turn.text("x") == turn.call("charge", {}, Route()) == turn.finish("stop", None) == turn.failed(FINAL) == []


def test_an_illegal_transition_leaves_the_machine_as_it_was() -> None:
    turn = begun()
    for illegal in (turn.ended, turn.go_on, lambda: turn.begin(Recovered(events=[called("tool_1")]))):
        with pytest.raises(IllegalTransition):
            illegal()
        assert turn.phase is Phase.MODEL
    assert said(turn.text("goes on"))


def test_the_table_leads_every_phase_to_the_end_and_none_out_of_it() -> None:
    assert set(LEGAL) == set(Phase)
    assert LEGAL[Phase.OVER] == frozenset()
    reaches = {Phase.OVER}
    for _ in Phase:
        reaches |= {phase for phase, following in LEGAL.items() if following & reaches}
    assert reaches == set(Phase)
    assert all(Phase.NEW not in following for following in LEGAL.values())
    turn = begun()
    turn.finish("stop", None)
    turn.ended()
    with pytest.raises(IllegalTransition):
        turn._go(Phase.MODEL)  # pyright: ignore[reportPrivateUsage] - no input leads there
    assert turn.phase is Phase.OVER


def test_only_the_first_decision_on_a_call_counts() -> None:
    call = TurnCall(called("tool_1", route=ASK))
    assert call.waits
    assert call.decide(decided("tool_1", approved=False)) is CallState.DENIED
    assert call.decide(decided("tool_1", approved=True)) is CallState.DENIED
