"""Whether caching pays, and what room it takes."""

from elastic_runs import authors_run, changed, small_run

from sim.elastic.caching import cache_bytes, cache_bytes_on_disk, caches_from
from sim.elastic.freezing import frozen_by_epoch
from sim.elastic.iterations import Iterations
from sim.elastic.layouts import layouts

FAST = {"read": 1e15, "write": 1e15}
SLOW = {"read": 1e3, "write": 1e3}


def test_a_cache_that_takes_no_time_pays_from_the_first_freeze() -> None:
    run = small_run(cache=FAST)
    assert caches_from(run, layouts(run)) == frozen_by_epoch(run)[1]


def test_a_slow_cache_never_pays() -> None:
    run = small_run(cache=SLOW)
    assert caches_from(run, layouts(run)) is None


def test_layers_lie_as_without_a_cache_where_none_pays() -> None:
    assert layouts(small_run(cache=SLOW)) == layouts(small_run(autocache=False))


def test_a_cache_that_is_slow_to_write_pays_only_where_it_is_read_often() -> None:
    """Alpha 0.9 freezes all at the first decision: written once, read in each epoch after."""
    slow = {"read": 1e15, "write": 2e4}
    long, short = (
        small_run(cache=slow, alpha=0.9, epochs=40),
        small_run(cache=slow, alpha=0.9, epochs=2),
    )
    assert caches_from(long, layouts(long)) == 8
    assert caches_from(short, layouts(short)) is None


def test_no_other_depth_is_faster() -> None:
    run = small_run(cache={"read": 3e6, "write": 1e6}, epochs=8)
    found = layouts(run)
    frozen, simulated = frozen_by_epoch(run), Iterations(run)
    best = caches_from(run, found)
    least = simulated.run_ns(frozen, found, best)
    others = [n for n in set(frozen) if n and found[n].layers_per_stage[0] >= n]
    assert all(simulated.run_ns(frozen, found, other) >= least for other in [None, *others])


def test_it_is_as_given_or_not_at_all() -> None:
    run = small_run(cache=SLOW | {"pays_from": 5})
    assert caches_from(run, layouts(run)) == 5
    for off in ({"autocache": False}, {"autopipe": False}, {"freeze": "off"}):
        without = changed(run, **off)
        assert caches_from(without, layouts(without)) is None


def test_room_by_hand() -> None:
    """197 tokens of 768 numbers of 4 bytes for each of 1,281,167 images: 775 GB, of which two nodes
    hold 8 GiB each in memory."""
    run = authors_run()
    whole = 1_281_167 * 197 * 768 * 4
    assert cache_bytes(run) == whole
    assert abs(cache_bytes_on_disk(run) - (whole - 2 * (8 << 30))) < 1_000_000
    assert cache_bytes_on_disk(authors_run(cache={"memory": 1 << 40})) == 0
