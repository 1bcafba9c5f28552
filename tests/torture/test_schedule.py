"""The schedule of faults: the same for the same seed, dense enough, and of every kind."""

from __future__ import annotations

from tests.torture.schedule import plan


def test_a_seed_is_a_schedule() -> None:
    assert plan(7, 600, cluster=True) == plan(7, 600, cluster=True)
    assert plan(7, 600, cluster=True) != plan(8, 600, cluster=True)
    assert plan(7, 300, cluster=True) == [fault for fault in plan(7, 600, cluster=True) if fault.at < 300]


def test_an_hour_has_two_thousand_faults_of_every_kind() -> None:
    for seed in range(20):
        faults = plan(seed, 3600, cluster=True)
        assert len(faults) > 2200
        assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
        assert len({fault.kind for fault in faults}) == 18


def test_one_instance_has_no_servers_to_lose() -> None:
    assert not [fault for fault in plan(1, 3600, cluster=False) if "redis" in fault.kind or "postgres" in fault.kind]
