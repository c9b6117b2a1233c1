"""Clock offsets between hosts, and their absence on one."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch._C._distributed_c10d import TCPStore

from executor.clocks import ClockMap, ClockOffset, host_id, measure_offset

pytestmark = pytest.mark.timeout(60)


def measure(hosts: list[str], ahead_ns: list[int]) -> list[ClockOffset]:
    """Each rank's offset, with clocks that are ahead by so much."""
    server = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=20), False)

    def one(rank: int) -> ClockOffset:
        store = TCPStore("127.0.0.1", server.port, None, False, timedelta(seconds=20), False)
        return measure_offset(
            store,
            rank,
            len(hosts),
            name="before",
            host=hosts[rank],
            clock_ns=lambda: time.monotonic_ns() + ahead_ns[rank],
        )

    with ThreadPoolExecutor(len(hosts)) as pool:
        return list(pool.map(one, range(len(hosts))))


def test_on_one_host_the_offset_is_nothing() -> None:
    for offset in measure(["a", "a"], [0, 0]):
        assert offset.offset_ns == 0 and offset.uncertainty_ns == 0
    assert host_id() == host_id()


def test_the_offset_is_found_within_its_uncertainty() -> None:
    ahead_ns = [1_000_000, 1_000_000, 7_000_000_000, -3_000_000_000]
    offsets = measure(["a", "a", "b", "c"], ahead_ns)
    assert offsets[1].offset_ns == 0
    for rank in (2, 3):
        true_ns = ahead_ns[0] - ahead_ns[rank]
        assert abs(offsets[rank].offset_ns - true_ns) <= offsets[rank].uncertainty_ns + 1
        assert 0 < offsets[rank].uncertainty_ns < 50_000_000


def test_between_two_measurements_the_offset_drifts_evenly() -> None:
    clock_map = ClockMap(
        before=ClockOffset(offset_ns=100, uncertainty_ns=5, at_ns=1000),
        after=ClockOffset(offset_ns=200, uncertainty_ns=7, at_ns=2000),
    )
    assert clock_map.to_reference_ns(1000) == 1100
    assert clock_map.to_reference_ns(1500) == 1650
    assert clock_map.to_reference_ns(2000) == 2200
    assert clock_map.uncertainty_ns == 7
