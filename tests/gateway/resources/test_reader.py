from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.auth.principal import Principal
from gateway.core.policy import Policy
from gateway.resources.port import (
    Change,
    NotFound,
    Refused,
    ResourceContent,
    ResourceProvider,
    TooLarge,
    Unavailable,
    Unchanged,
)
from gateway.resources.reader import ReaderLimits, ResourceReader
from tests.gateway.resources.shelf import ANN, BOB, Shelf

A = "shelf://a"
ROLES = {
    "reader": ("resource:shelf://*", "!resource:shelf://secret*", "!resource:shelf://deep/in*"),
    "staff": ("resource:*", "staff"),
    "nobody": (),
}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def reading(
    *providers: ResourceProvider, clock: Clock | None = None, **limits: Any
) -> AsyncGenerator[ResourceReader]:
    policy = Policy(ROLES)
    reader = ResourceReader(providers, policy.may_use, ReaderLimits(**limits), clock or Clock())
    async with asyncio.TaskGroup() as group:
        task = group.create_task(reader.run())
        await asyncio.sleep(0)
        yield reader
        task.cancel()


def as_(*roles: str) -> Principal:
    return Principal(tenant="t", subject="ann", roles=roles)


async def text(asked: Awaitable[ResourceContent]) -> str | None:
    return (await asked).text


async def raised(asked: Awaitable[object], kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        await asked
    assert type(caught.value) is kind
    return str(caught.value)


# ---- who may


async def test_what_may_not_be_read_does_not_exist() -> None:
    shelf = Shelf(texts={A: "a", "shelf://secret": "s", "shelf://deep/in/it": "d"})
    async with reading(shelf) as reader:
        who = as_("reader")
        page = await reader.list(who)
        assert [info.uri for info in page.resources] == [A]
        assert await text(reader.read(who, A)) == "a"
        missing = await raised(reader.read(who, "shelf://absent"), NotFound)
        for uri in (
            "shelf://secret",
            "SHELF://s%65cret",
            "shelf://deep/%69n/it",
            "shelf://deep/x/../in/it",
            "shelf://deep//in/it",
            "shelf://deep/in%2Fit",
        ):
            assert not await reader.may_read(who, uri)
            assert await raised(reader.read(who, uri), NotFound) == missing
        assert [uri for _, uri, _ in shelf.readings] == [A, "shelf://absent"]


async def test_a_denial_holds_for_what_a_careless_server_takes_it_for() -> None:
    policy = Policy({"r": ("resource:*", "!resource:shelf://h/secret/*")})
    shelf = Shelf()
    reader = ResourceReader([shelf], policy.may_use)
    assert await reader.may_read(as_("r"), "shelf://h/open/x")
    assert not await reader.may_read(as_("r"), "shelf://h/secret%2Fx")
    assert not await reader.may_read(as_("r"), "shelf://h/open/..%2Fsecret/x")
    assert not await reader.may_read(as_("r"), "shelf://h/open/%252e%252e/secret/x")


async def test_a_restricted_provider_needs_both_permissions() -> None:
    async with reading(Shelf(permission="staff")) as reader:
        assert await text(reader.read(as_("staff"), A)) == "text of a"
        for who in (ANN, as_("reader"), as_("nobody"), as_()):
            assert not await reader.may_read(who, A)
            assert (await reader.list(who)).resources == []
            assert await reader.templates(who) == []
            await raised(reader.read(who, A), NotFound)


async def test_what_leads_to_something_denied_is_not_read_from_the_cache_either() -> None:
    shelf = Shelf()
    shelf.via[A] = ("shelf://secret",)
    async with reading(shelf) as reader:
        assert await text(reader.read(ANN, A)) == "text of a"
        await raised(reader.read(as_("reader"), A), NotFound)
        assert await text(reader.read(ANN, A)) == "text of a"
        assert len(shelf.readings) == 1


async def test_templates_show_where_an_expansion_may_be_read() -> None:
    async with reading(Shelf(), Shelf("other")) as reader:
        assert [template.uri_template for template in await reader.templates(as_("reader"))] == ["shelf://{name}"]
        assert len(await reader.templates(ANN)) == 2


async def test_a_uri_that_is_none_is_not_found() -> None:
    async with reading(Shelf()) as reader:
        assert not await reader.may_read(ANN, "a")
        assert not await reader.may_read(ANN, "other://a")
        assert "begins with its scheme" in await raised(reader.read(ANN, "a"), NotFound)
        await raised(reader.read(ANN, "other://a"), NotFound)


async def test_without_providers_there_is_nothing() -> None:
    async with reading() as reader:
        assert not reader.configured
        assert (await reader.list(ANN)).resources == []
        assert await reader.templates(ANN) == []
        assert not await reader.may_read(ANN, A)


# ---- lists


async def test_pages_are_in_the_order_of_the_uris() -> None:
    one = Shelf("one", {f"one://{n}": "" for n in (3, 1, 2)})
    two = Shelf("two", {"two://x": "", "one://2": "shadowed"})
    async with reading(two, one) as reader:
        first = await reader.list(ANN, limit=2)
        assert [info.uri for info in first.resources] == ["one://1", "one://2"]
        assert first.next == "one://2"
        rest = await reader.list(ANN, first.next, 2)
        assert [info.uri for info in rest.resources] == ["one://3", "two://x"]
        assert rest.next is None
        assert (one.lists, two.lists) == (1, 1)


async def test_lists_are_kept_for_a_moment_and_until_a_change() -> None:
    clock, shelf = Clock(), Shelf()
    async with reading(shelf, clock=clock) as reader:
        await asyncio.gather(reader.list(ANN), reader.list(BOB))
        assert shelf.lists == 1
        clock.now = 3.0
        await reader.list(ANN)
        assert shelf.lists == 2
        shelf.texts["shelf://b"] = "b"
        shelf.change(Change())
        assert len((await reader.list(ANN)).resources) == 2
    own = Shelf(private=True)
    async with reading(own) as reader:
        await asyncio.gather(reader.list(ANN), reader.list(BOB))
        assert own.lists == 2


async def test_a_change_while_a_list_is_made_makes_it_anew() -> None:
    shelf = Shelf()
    shelf.gate.clear()
    async with reading(shelf) as reader:
        old = asyncio.create_task(reader.list(ANN))
        while not shelf.lists:
            await asyncio.sleep(0)
        shelf.change(Change())
        new = asyncio.create_task(reader.list(ANN))
        while shelf.lists < 2:
            await asyncio.sleep(0)
        shelf.gate.set()
        await asyncio.gather(old, new)


@pytest.mark.parametrize("failure", [Unavailable("away"), ZeroDivisionError()])
async def test_a_provider_that_fails_costs_its_own_resources_only(failure: Exception) -> None:
    well, ill = Shelf("well"), Shelf("ill")
    ill.failure = failure
    async with reading(ill, well) as reader:
        assert [info.uri for info in (await reader.list(ANN)).resources] == ["well://a"]
        assert len(await reader.templates(ANN)) == 1
        assert await text(reader.read(ANN, "well://a")) == "text of a"
        await raised(reader.read(ANN, "ill://a"), type(failure))


async def test_a_provider_that_hangs_is_waited_for_a_while() -> None:
    well, hung = Shelf("well"), Shelf("hung")
    hung.gate.clear()
    async with reading(hung, well, seconds=0.05) as reader:
        assert "within 0.05 s" in await raised(reader.read(ANN, "hung://a"), Unavailable)
        await hung.cancelled.wait()
        assert [info.uri for info in (await reader.list(ANN)).resources] == ["well://a"]


# ---- what was read before


async def test_what_is_fresh_is_not_asked_for_and_what_is_old_is_asked_by_its_etag() -> None:
    clock, shelf = Clock(), Shelf(ttl=10)
    async with reading(shelf, clock=clock) as reader:
        for now in (0, 9.9):
            clock.now = now
            assert await text(reader.read(ANN, A)) == "text of a"
            assert await text(reader.read(BOB, "SHELF://a")) == "text of a"
        assert shelf.readings == [("ann", A, None)]
        clock.now = 10.0
        assert await text(reader.read(BOB, A)) == "text of a"
        assert shelf.readings[1:] == [("bob", A, "text of a")]
        clock.now = 19.0
        await reader.read(ANN, A)
        assert len(shelf.readings) == 2
        clock.now = 21.0
        shelf.texts[A] = "new"
        assert await text(reader.read(ANN, A)) == "new"
        assert shelf.readings[2:] == [("ann", A, "text of a")]


async def test_what_can_not_be_asked_for_is_read_anew() -> None:
    shelf = Shelf(ttl=0, etags=False)
    async with reading(shelf) as reader:
        await reader.read(ANN, A)
        await reader.read(ANN, A)
        assert [etag for _, _, etag in shelf.readings] == [None, None]


async def test_a_change_is_seen_at_once() -> None:
    shelf = Shelf(ttl=1000)
    async with reading(shelf) as reader:
        await reader.read(ANN, A)
        shelf.texts[A] = "new"
        shelf.change(Change(uri="shelf://other"))
        assert await text(reader.read(ANN, A)) == "text of a"
        shelf.change(Change(uri=A))
        assert await text(reader.read(ANN, A)) == "new"
        assert shelf.readings[-1] == ("ann", A, None)


async def test_what_was_read_while_it_changed_is_not_kept() -> None:
    shelf = Shelf(ttl=1000)
    shelf.gate.clear()
    async with reading(shelf) as reader:
        first = asyncio.create_task(reader.read(ANN, A))
        await shelf.begun.wait()
        shelf.change(Change(uri=A))
        # Whoever asks after the change does not join the reading that began before it.
        second = asyncio.create_task(reader.read(ANN, A))
        while len(shelf.readings) < 2:
            await asyncio.sleep(0)
        shelf.gate.set()
        await asyncio.gather(first, second)
        await reader.read(ANN, A)
        assert len(shelf.readings) == 2


async def test_what_is_too_large_is_refused_and_not_kept() -> None:
    shelf = Shelf(texts={A: "x" * 101})
    async with reading(shelf, max_bytes=100) as reader:
        assert await raised(reader.read(ANN, A), TooLarge) == "The resource has 101 bytes; 100 are allowed."
        shelf.texts[A] = "ö" * 50
        assert await text(reader.read(ANN, A)) == "ö" * 50


async def test_a_provider_that_answers_what_it_was_not_asked_is_not_believed() -> None:
    class Odd(Shelf):
        async def read(self, *asked: Any, **options: Any) -> Unchanged:
            return Unchanged(ttl=1)

    async with reading(Odd()) as reader:
        await raised(reader.read(ANN, A), Unavailable)


# ---- readers that come together


async def test_readers_that_come_together_share_one_reading() -> None:
    shelf = Shelf()
    shelf.gate.clear()
    async with reading(shelf) as reader:
        asked = [asyncio.create_task(reader.read(who, A)) for who in (ANN, BOB) * 20]
        await shelf.begun.wait()
        asked[0].cancel()
        await asyncio.wait({asked[0]})
        shelf.gate.set()
        contents = await asyncio.gather(*asked[1:])
        assert {content.text for content in contents} == {"text of a"}
        assert len(shelf.readings) == 1


@pytest.mark.parametrize("known", [True, False])
async def test_what_is_private_is_never_shared(known: bool) -> None:
    shelf = Shelf(private=known, says_private=not known, ttl=1000)
    shelf.gate.clear()
    async with reading(shelf) as reader:
        whose = [ANN, BOB] * 10
        asked = [asyncio.create_task(reader.read(who, A)) for who in whose]
        await shelf.begun.wait()
        shelf.gate.set()
        contents = await asyncio.gather(*asked)
        assert [content.text for content in contents] == [f"text of a for {who.subject}" for who in whose]
        for who in (BOB, ANN):
            assert await text(reader.read(who, A)) == f"text of a for {who.subject}"
        assert sorted(who for who, _, _ in shelf.readings) == ["ann", "bob"]
        # Nobody is asked by the etag of what another one has.
        assert {etag for _, _, etag in shelf.readings} == {None}
        shelf.change(Change(owner=ANN.owner))
        await asyncio.gather(reader.read(ANN, A), reader.read(BOB, A))
        assert sorted(who for who, _, _ in shelf.readings) == ["ann", "ann", "bob"]


async def test_the_same_name_in_another_tenant_is_another() -> None:
    shelf = Shelf(private=True)
    async with reading(shelf) as reader:
        await reader.read(ANN, A)
        await reader.read(Principal(tenant="u", subject="ann"), A)
        assert len(shelf.readings) == 2


async def test_a_failure_is_told_to_all_and_not_kept() -> None:
    shelf = Shelf()
    shelf.gate.clear()
    shelf.failure = Refused("no")
    async with reading(shelf) as reader:
        asked = [asyncio.create_task(reader.read(who, A)) for who in (ANN, BOB)]
        await shelf.begun.wait()
        shelf.gate.set()
        for one in asked:
            assert await raised(one, Refused) == "no"
        shelf.failure = None
        assert await text(reader.read(ANN, A)) == "text of a"


async def test_a_reading_that_nobody_waits_for_ends() -> None:
    shelf = Shelf()
    shelf.gate.clear()
    async with reading(shelf) as reader:
        asked = [asyncio.create_task(reader.read(who, A)) for who in (ANN, BOB)]
        await shelf.begun.wait()
        for one in asked:
            one.cancel()
        await asyncio.wait(asked)
        # Whoever comes while it ends begins anew.
        again = asyncio.create_task(reader.read(ANN, A))
        await shelf.cancelled.wait()
        shelf.gate.set()
        assert await text(again) == "text of a"
        assert len(shelf.readings) == 2


async def test_at_the_end_readings_are_ended_and_providers_closed() -> None:
    shelf = Shelf()
    shelf.gate.clear()
    async with reading(shelf) as reader:
        asked = asyncio.create_task(reader.read(ANN, A))
        await shelf.begun.wait()
    assert shelf.closed
    assert shelf.cancelled.is_set()
    await raised(asked, Unavailable)


async def test_a_provider_does_so_many_readings_at_a_time() -> None:
    texts = {f"shelf://{n}": "x" for n in range(20)}
    slow, other = Shelf(texts=texts), Shelf("other")
    slow.gate.clear()
    async with reading(slow, other) as reader:
        asked = [asyncio.create_task(reader.read(ANN, uri)) for uri in texts]
        assert await text(reader.read(ANN, "other://a")) == "text of a"
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(slow.readings) == 16
        slow.gate.set()
        await asyncio.gather(*asked)
        assert len(slow.readings) == 20
