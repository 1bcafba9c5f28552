"""Pages of several shards made into one; what comes of it over real stores is in test_sharded.py."""

from __future__ import annotations

from stores.records import ContextKey, ContextRecord, SearchHit, UsagePage, UsageRow
from stores.search_pages import TITLE
from stores.shard_pages import merge_contexts, merge_hits, merge_strays, merge_usage, moment_of

BEGINNING = (float("inf"), "", 0)


def hit(context: str, updated_at: float, message: str | None = "m") -> SearchHit:
    return SearchHit(
        key=ContextKey("t/ann", context), title=None, updated_at=updated_at, at=0, snippet=[], message_id=message
    )


def record(id: str, updated_at: float) -> ContextRecord:
    return ContextRecord(key=ContextKey("t/ann", id), epoch=0, created_at=0, updated_at=updated_at)


def test_hits_behind_what_another_shard_has_looked_at_wait_for_it() -> None:
    """One shard stopped at c5, where it had looked at enough, and may have hits that are newer than c3."""
    first, second, third = hit("c9", 9), hit("c7", 7), hit("c3", 3)
    stopped = (5.0, "c5", 0)
    pages = [([first], stopped), ([second, third], None)]
    assert merge_hits(pages, BEGINNING, 10) == ([first, second], stopped)
    assert merge_hits(pages, BEGINNING, 1) == ([first], first)
    assert merge_hits([([], stopped), ([third], None)], BEGINNING, 10) == ([], stopped)
    assert merge_hits([([], None), ([third], None)], BEGINNING, 10) == ([third], None)


def test_the_next_page_begins_where_the_first_of_the_shards_stopped() -> None:
    none: list[SearchHit] = []
    pages = [([hit("c9", 9)], (8.0, "c8", 4)), (none, (8.0, "c8", 0)), (none, (6.0, "c6", 0))]
    assert merge_hits(pages, BEGINNING, 10) == ([hit("c9", 9)], (8.0, "c8", 4))


def test_a_context_that_stopped_half_way_has_its_hits() -> None:
    """The place where it stopped lies within it."""
    title, newest = hit("c5", 5, None), hit("c5", 5, "m9")
    assert merge_hits([([title, newest], (5.0, "c5", 9)), ([hit("c4", 5)], None)], BEGINNING, 10) == (
        [title, newest],
        (5.0, "c5", 9),
    )


def test_a_context_that_is_resumed_counts_from_where_it_stood() -> None:
    """c2 was begun at 2, and has changed since: its other messages come before those of c1 and after nothing."""
    resumed, following = hit("c2", 50), hit("c1", 1)
    begun = (2.0, "c2", TITLE)
    assert moment_of(resumed, begun) == 2.0
    assert moment_of(resumed, (2.0, "c2", 0)) == 50
    assert merge_hits([([following], None), ([resumed], None)], begun, 10)[0] == [resumed, following]
    assert merge_hits([([following], None), ([resumed], (2.0, "c2", 3))], begun, 10) == ([resumed], (2.0, "c2", 3))


def test_contexts_behind_a_page_that_another_follows_are_not_told_yet() -> None:
    short = [record("c9", 9), record("c8", 8)]
    other = [record("c7", 7), record("c1", 1)]
    taken, token = merge_contexts([(short, "more"), (other, None)], 10)
    assert [found.key.id for found in taken] == ["c9", "c8"]
    assert token is not None
    assert merge_contexts([(short, None), (other, None)], 10) == ([*short, *other], None)
    assert merge_contexts([([], None), ([], None)], 10) == ([], None)


def test_strays_of_all_come_in_turn() -> None:
    many = [ContextKey("t/ann", f"c{number}") for number in range(5)]
    few = [ContextKey("t/bob", "c")]
    assert merge_strays([many, few, []], 3) == [many[0], few[0], many[1]]


def test_sums_of_a_name_are_added_and_the_total_is_that_of_all() -> None:
    one = UsagePage(
        [UsageRow(name="a", steps=1, cost=5), UsageRow(name="c", steps=2)], True, UsageRow(name="", steps=9)
    )
    two = UsagePage([UsageRow(name="b", steps=4), UsageRow(name="c", steps=8)], False, UsageRow(name="", steps=12))
    found = merge_usage([one, two], 3)
    assert [(row.name, row.steps, row.cost) for row in found.rows] == [("a", 1, 5), ("b", 4, 0), ("c", 10, 0)]
    assert (found.has_more, found.total.steps) == (True, 21)
    assert merge_usage([two, two], 1).has_more
    assert not merge_usage([two, two], 2).has_more
