"""Which shard has what, and how all are asked; what the whole store does over them is in test_sharded.py."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
from structlog.testing import capture_logs

from stores.ports import Unavailable
from stores.shards import Shards, shard_urls
from stores.store_url import StoreUrlError

NAMES = ("one", "two", "three")
CONTEXTS = [("context", f"t/{number % 50}", f"conv_{number}") for number in range(6000)]


def named(*names: str) -> Shards[str]:
    """Shards that stand for their names."""
    return Shards({name: name for name in names})


# ---- places


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_each_shard_has_an_even_part(count: int) -> None:
    shards = named(*(f"postgresql://db{number}/tidegate" for number in range(count)))
    parts = Counter(shards.of(*context) for context in CONTEXTS)
    assert len(parts) == count
    assert max(parts.values()) < 1.15 * len(CONTEXTS) / count
    assert min(parts.values()) > 0.85 * len(CONTEXTS) / count


def test_what_one_owner_has_is_on_all_shards() -> None:
    parts = Counter(named(*NAMES).of("context", "t/ann", f"conv_{number}") for number in range(600))
    assert min(parts.values()) > 150


def test_the_order_of_the_shards_moves_nothing() -> None:
    first, *others = [named(*names) for names in permutations(NAMES)]
    for other in others:
        assert [other.of(*context) for context in CONTEXTS[:500]] == [first.of(*context) for context in CONTEXTS[:500]]


def test_another_shard_takes_its_part_of_all_and_moves_nothing_else() -> None:
    before, after = named(*NAMES), named("another", *NAMES)
    moved = [after.of(*context) for context in CONTEXTS if before.of(*context) != after.of(*context)]
    assert set(moved) == {"another"}
    assert 0.85 / 4 < len(moved) / len(CONTEXTS) < 1.15 / 4


def test_places_stay_from_version_to_version() -> None:
    shards = named("postgresql://db1/tidegate", "postgresql://db2/tidegate", "postgresql://db3/tidegate")
    names: list[tuple[str | bytes, ...]] = [
        ("context", "t/ann", "conv_1"),
        ("context", "t/ann", "conv_2"),
        ("context", "t/ann", "conv_3"),
        ("context", "t/bob", "conv_1"),
        ("owner", "t/ann"),
        ("owner", "t/bob"),
        ("key", b"\0" * 32),
        ("key", b"\xff" * 32),
    ]
    assert [shards.place(*name) for name in names] == [0, 2, 0, 0, 0, 0, 0, 1]


def test_parts_of_a_name_do_not_run_together() -> None:
    shards = named(*(f"s{number}" for number in range(1000)))
    assert len({shards.of("c", *name) for name in (("a", "bc"), ("ab", "c"), ("abc", ""), ("", "abc"))}) == 4


def test_a_name_of_many_signs_has_its_place() -> None:
    assert named(*NAMES).of("context", "t/ä🌊", "\0") in NAMES


def test_no_shard_is_no_store() -> None:
    with pytest.raises(ValueError, match="one store at least"):
        Shards[str]({})


# ---- names from URLs


def test_who_connects_and_how_is_no_part_of_a_name() -> None:
    one = shard_urls(["postgresql://u:secret@db1:5433/tide?sslmode=require", "sqlite:////data/tide.db"])
    other = shard_urls(["sqlite:////data/tide.db", "postgresql://v:other@db1:5433/tide"])
    assert set(one) == set(other) == {"postgresql://db1:5433/tide", "sqlite:////data/tide.db"}
    assert one["postgresql://db1:5433/tide"] == "postgresql://u:secret@db1:5433/tide?sslmode=require"


def test_a_name_may_be_given_behind_the_url() -> None:
    urls = shard_urls(["postgresql://u:secret@db1/tide?a=b#east", "postgresql://u:secret@db2/tide"])
    assert urls == {
        "east": "postgresql://u:secret@db1/tide?a=b",
        "postgresql://db2/tide": "postgresql://u:secret@db2/tide",
    }


def test_a_single_url_is_left_as_it_is() -> None:
    assert list(shard_urls(["sqlite:///a#b.db"]).values()) == ["sqlite:///a#b.db"]


@pytest.mark.parametrize(
    "urls",
    [
        ["postgresql://u:secret@db1/tide", "postgresql://v:secret@db1/tide?a=b"],
        ["postgresql://u:secret@db1/tide#one", "postgresql://u:secret@db2/tide#one"],
        ["sqlite:///a.db", "sqlite:///a.db"],
        ["sqlite:///a.db", "postgresql://u:secret@[/db"],
    ],
)
def test_two_shards_of_one_name_are_refused_without_secrets(urls: list[str]) -> None:
    with pytest.raises(StoreUrlError, match="at place 2") as refused:
        shard_urls(urls)
    assert "secret" not in str(refused.value)


# ---- asking all


class _Asked:
    def __init__(self) -> None:
        self.away: set[str] = set()
        self.count = 0

    async def __call__(self, name: str) -> str:
        self.count += 1
        if name in self.away:
            raise Unavailable(name)
        return name


async def test_all_are_asked_though_one_fails() -> None:
    shards, ask = named(*NAMES), _Asked()
    assert await shards.all(ask) == list(NAMES)
    ask.away = {"three", "two"}
    with pytest.raises(Unavailable, match="two"):
        await shards.all(ask)
    assert ask.count == 6


async def test_those_that_are_there_answer_and_it_is_logged_once() -> None:
    shards, ask = named(*NAMES), _Asked()
    with capture_logs() as logs:
        for away, answers in (
            (set[str](), list(NAMES)),
            ({"two"}, ["one", "three"]),
            ({"two"}, ["one", "three"]),
            ({"three"}, ["one", "two"]),
            (set[str](), list(NAMES)),
        ):
            ask.away = away
            assert await shards.those_there(ask) == answers
    told = [(entry["log_level"], entry["event"], entry["shard"]) for entry in logs]
    assert told == [
        ("warning", "shard away", 2),
        ("warning", "shard away", 3),
        ("info", "shard back", 2),
        ("info", "shard back", 3),
    ]
    assert not any("two" in str(entry) for entry in logs)


async def test_where_all_are_away_nobody_answers() -> None:
    shards, ask = named(*NAMES), _Asked()
    ask.away = set(NAMES)
    with pytest.raises(Unavailable):
        await shards.those_there(ask)


async def test_what_is_no_absence_is_not_passed_over() -> None:
    async def ask(name: str) -> str:
        raise KeyError(name)

    for asked in (named(*NAMES).all, named(*NAMES).those_there):
        with pytest.raises(KeyError):
            await asked(ask)
