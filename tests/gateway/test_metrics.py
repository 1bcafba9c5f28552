from __future__ import annotations

import pytest

from gateway.metrics import Stats, timed
from protocol.frames import Message, TurnEnd, Usage


def value(stats: Stats, name: str, **labels: str) -> float | None:
    return stats.registry.get_sample_value(name, labels)


def turn_end(status: str) -> TurnEnd:
    usage = Usage(input_tokens=1, output_tokens=1)
    return TurnEnd(context_id="c", turn_id="t", status=status, steps=1, usage=usage)  # pyright: ignore[reportArgumentType]


def test_two_gateways_in_one_process_count_apart() -> None:
    one, other = Stats(), Stats()
    one.frames_in.inc()
    assert (value(one, "tidegate_frames_in_total"), value(other, "tidegate_frames_in_total")) == (1, 0)


def test_turns_are_counted_by_how_they_ended() -> None:
    stats = Stats()
    for status in ("complete", "complete", "cancelled"):
        stats.turn_ended(turn_end(status))
    stats.turn_ended(
        Message(context_id="c", id="m", content="x", role="user", timestamp="2026-01-01T00:00:00Z", status="complete")
    )
    assert value(stats, "tidegate_turns_ended_total", status="complete") == 2
    assert value(stats, "tidegate_turns_ended_total", status="cancelled") == 1
    stats.fenced()
    assert value(stats, "tidegate_turns_fenced_total") == 1


def test_only_the_first_piece_of_a_step_is_timed() -> None:
    stats = Stats()
    for pieces in (3, 1, 0):
        with stats.step() as piece:
            for _ in range(pieces):
                piece()
    assert value(stats, "tidegate_first_token_seconds_count") == 2


def test_what_is_observed_is_looked_up_at_each_scrape() -> None:
    stats = Stats()
    depth = [3.0]
    stats.observe("tidegate_depth", "How deep.", lambda: depth[0])
    assert b"tidegate_depth 3.0\n" in stats.scrape()
    depth[0] = 5
    assert b"tidegate_depth 5.0\n" in stats.scrape()


class Port:
    async def double(self, number: int, *, plus: int = 0) -> int:
        return 2 * number + plus

    async def fail(self) -> None:
        raise ZeroDivisionError


async def test_a_timed_port_answers_as_the_port_does_and_each_method_is_timed() -> None:
    stats = Stats()
    port = timed(Port(), stats.store_seconds)
    assert await port.double(2) == 4
    assert await port.double(2, plus=1) == 5
    assert value(stats, "tidegate_store_seconds_count", call="double") == 2


async def test_a_call_that_fails_is_timed_and_fails() -> None:
    stats = Stats()
    port = timed(Port(), stats.log_seconds)
    with pytest.raises(ZeroDivisionError):
        await port.fail()
    assert value(stats, "tidegate_log_seconds_count", call="fail") == 1


def test_a_timed_port_has_no_methods_that_the_port_has_not() -> None:
    with pytest.raises(AttributeError):
        getattr(timed(Port(), Stats().log_seconds), "missing")  # noqa: B009 - the checker knows that it is missing
