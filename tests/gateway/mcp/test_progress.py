from __future__ import annotations

import asyncio

from gateway.mcp.progress import Progress

Seen = list[tuple[float, float | None, str | None]]


class Reports:
    def __init__(self) -> None:
        self.seen: Seen = []
        self.times: list[float] = []
        self.arrived = asyncio.Event()

    def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        self.seen.append((progress, total, message))
        self.times.append(asyncio.get_running_loop().time())
        self.arrived.set()

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.seen) < count:
                self.arrived.clear()
                await self.arrived.wait()


async def test_a_flood_is_told_at_a_rate_with_its_beginning_and_its_end() -> None:
    reports = Reports()
    begin = asyncio.get_running_loop().time()
    progress = Progress(reports, per_second=50)
    step = 0
    while len(reports.seen) < 5:
        step += 1
        await progress(step, None, None)
        await asyncio.sleep(0)
    progress.close()
    assert reports.seen[0] == (1, None, None)
    assert reports.seen[-1] == (step, None, None)
    # Four spans of 20 ms lie between the first report and the fifth.
    assert reports.times[4] - begin > 0.079
    assert step > 10


async def test_the_latest_is_told_although_nothing_follows() -> None:
    reports = Reports()
    progress = Progress(reports)
    await progress(1, 3, "one")
    await progress(2, 3, "two")
    await progress(3, 3, "th\x1bree")
    assert reports.seen == [(1, 3, "one")]
    await reports.wait(2)
    assert reports.seen == [(1, 3, "one"), (3, 3, "three")]
    progress.close()
    assert len(reports.seen) == 2


async def test_nothing_is_told_after_the_end() -> None:
    reports = Reports()
    progress = Progress(reports, per_second=1_000)
    await progress(1, None, None)
    await progress(2, None, None)
    progress.close()
    await progress(3, None, None)
    progress.close()
    assert [seen[0] for seen in reports.seen] == [1, 2]


async def test_one_that_reports_now_and_then_is_told_at_once() -> None:
    reports = Reports()
    progress = Progress(reports, per_second=1_000)
    for step in range(3):
        await progress(step, None, None)
        assert reports.seen[-1][0] == step
        end = asyncio.get_running_loop().time() + 0.002
        while asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0)
    progress.close()
