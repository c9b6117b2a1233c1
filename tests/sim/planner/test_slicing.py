"""The slicing search against every splitting there is, where they can all be listed."""

import itertools
import json
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sim.planner.slicing import (
    NoSplit,
    Splitting,
    _Search,
    best_splitting,
    frontier,
    uniform_slices,
)
from sim.planner.slicing_kernels import NEVER
from sim.schedule.compiling import compiled

ROOT = Path(__file__).resolve().parents[3]
Case = tuple[NDArray[np.int64], NDArray[np.bool_], int]


def compositions(units: int) -> Iterator[tuple[int, ...]]:
    for cuts in itertools.product((False, True), repeat=units - 1):
        begins = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), units]
        yield tuple(b - a for a, b in itertools.pairwise(begins))


def partitions(total: int, largest: int) -> Iterator[tuple[int, ...]]:
    if total == 0:
        yield ()
    for size in range(min(total, largest), 0, -1):
        for rest in partitions(total - size, size):
            yield (size, *rest)


def slice_times(
    times: NDArray[np.int64], allowed: NDArray[np.bool_], size: int, slices: tuple[int, ...]
) -> list[int] | None:
    contexts = [0, *itertools.accumulate(slices)]
    cells = [(size, length, contexts[i]) for i, length in enumerate(slices)]
    return [int(times[cell]) for cell in cells] if all(allowed[cell] for cell in cells) else None


def every_outcome(case: Case) -> set[tuple[int, int]]:
    """(sum, largest) of every splitting: each slicing of each microbatch of each partition."""
    times, allowed, sequences = case
    sizes, units = times.shape[0] - 1, times.shape[2]
    of_size = {
        size: {
            (sum(found), max(found))
            for slices in compositions(units)
            if (found := slice_times(times, allowed, size, slices)) is not None
        }
        for size in range(1, sizes + 1)
    }
    outcomes = set()
    for partition in partitions(sequences, sizes):
        reached = {(0, 0)}
        for size in partition:
            reached = {(a + c, max(b, d)) for a, b in reached for c, d in of_size[size]}
        outcomes |= reached
    return outcomes


def undominated(outcomes: set[tuple[int, int]], stages: int) -> list[tuple[int, int]]:
    kept = [
        (total, peak)
        for total, peak in outcomes
        if not any((t, p) != (total, peak) and t <= total and p <= peak for t, p in outcomes)
    ]
    return sorted(kept, key=lambda pair: (pair[0] + (stages - 1) * pair[1], pair[1]))


def assert_is_what_it_says(case: Case, stages: int, splitting: Splitting) -> None:
    times, allowed, sequences = case
    found: list[int] = []
    for split in splitting.microbatches:
        assert sum(split.slices) == times.shape[2] and min(split.slices) >= 1
        of_split = slice_times(times, allowed, split.micro_batch, split.slices)
        assert of_split is not None
        found += of_split
    sizes = [split.micro_batch for split in splitting.microbatches]
    assert sum(sizes) == sequences and sizes == sorted(sizes, reverse=True)
    assert (splitting.total_ns, splitting.largest_ns) == (sum(found), max(found))
    assert splitting.objective_ns == sum(found) + (stages - 1) * max(found)
    assert splitting.bounds_tried >= 1


@st.composite
def cases(draw: st.DrawFn, most_units: int, most_sequences: int, top: int) -> Case:
    """Tables of any numbers, or that grow with everything; what is not to be looked at is -7."""
    units = draw(st.integers(1, most_units))
    sequences = draw(st.integers(1, most_sequences))
    sizes = draw(st.integers(1, most_sequences + 1))
    shape = (sizes + 1, units + 1, units)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    times = rng.integers(0, draw(st.integers(0, top)) + 1, shape)
    if draw(st.booleans()):
        times = times.cumsum(0).cumsum(1).cumsum(2)
    batch, length, context = np.indices(shape)
    times[(batch == 0) | (length == 0) | (length + context > units)] = -7
    allowed = rng.random(shape) < draw(st.sampled_from([1.0, 0.9, 0.6, 0.3]))
    return times, allowed, sequences


@settings(max_examples=1000, deadline=None)
@given(
    case=st.one_of(
        cases(3, 4, 3), cases(4, 3, 5), cases(7, 4, 4), cases(4, 4, 60), cases(5, 3, 10**9)
    ),
    stages=st.one_of(st.integers(1, 6), st.sampled_from([40, 1000])),
)
def test_equals_the_best_of_all_splittings(case: Case, stages: int) -> None:
    times, allowed, sequences = case
    outcomes = every_outcome(case)
    if not outcomes:
        with pytest.raises(NoSplit, match="no splitting"):
            best_splitting(times, sequences, stages, allowed=allowed)
        return
    best = best_splitting(times, sequences, stages, allowed=allowed)
    assert_is_what_it_says(case, stages, best)
    assert (best.objective_ns, best.largest_ns) == min(
        (total + (stages - 1) * peak, peak) for total, peak in outcomes
    )


@settings(max_examples=150, deadline=None)
@given(
    case=st.one_of(cases(6, 3, 4), cases(4, 3, 60), cases(6, 2, 1000)),
    stages=st.integers(1, 50),
    limit=st.sampled_from([1, 2, 5, 1000]),
    apart=st.sampled_from([0.0, 0.0, 0.1, 0.5]),
)
def test_the_frontier_is_what_nothing_dominates(
    case: Case, stages: int, limit: int, apart: float
) -> None:
    times, allowed, sequences = case
    expected: list[tuple[int, int]] = []
    for total, peak in undominated(every_outcome(case), stages):
        if all(max(peak, p) >= min(peak, p) * (1 + apart) for _, p in expected):
            expected.append((total, peak))
    if not expected:
        return
    found = frontier(times, sequences, num_stages=stages, allowed=allowed, limit=limit, apart=apart)
    assert [(s.total_ns, s.largest_ns) for s in found] == expected[:limit]
    for splitting in found:
        assert_is_what_it_says(case, stages, splitting)


@settings(max_examples=400, deadline=None)
@given(case=st.one_of(cases(4, 4, 2), cases(5, 4, 4)), seed=st.integers(0, 1000))
def test_what_is_known_of_other_bounds_never_misleads(case: Case, seed: int) -> None:
    times, allowed, sequences = case
    search = _Search.of(times, sequences, 1, allowed)
    outcomes = every_outcome(case)
    for bound in np.random.default_rng(seed).permutation(search.ceiling + 1)[:20]:
        within = [(total, peak) for total, peak in outcomes if peak <= bound]
        assert search.joint(int(bound)) == min(within, default=(NEVER, 0))


def test_a_batch_size_not_sliced_yet_is_not_thought_dearer_than_it_may_be() -> None:
    times = np.full((3, 4, 3), 10**6)
    times[1, 3, 0], times[1, 1, 0], times[1, 2, 1] = 10, 5, 6
    times[2, 1] = 8, 8, 7
    found = frontier(times, 2, num_stages=3, limit=3)
    assert [(s.total_ns, s.largest_ns) for s in found] == [(22, 6), (20, 10)]
    search = _Search.of(times, 2, 3, None)
    assert [search.joint(bound) for bound in (10, 9, 8, 5)] == [
        (20, 10),
        (22, 6),
        (22, 6),
        (NEVER, 0),
    ]


def table(units: int, sizes: int, seed: int = 0, noise: float = 0.0) -> NDArray[np.int64]:
    """A fixed part, a part per token from a smallest amount of them on, attention; some noise."""
    batch, length, context = np.indices((sizes + 1, units + 1, units)).astype(float)
    tokens = batch * length
    whole = 3000 + 50 * np.maximum(tokens, 5) + 2 * tokens * (context + length / 2)
    rng = np.random.default_rng(seed)
    return (whole * (1 + noise * rng.random(whole.shape))).astype(np.int64)


@pytest.mark.parametrize("stages", [1, 8, 96])
@pytest.mark.parametrize("noise", [0.0, 0.02, 1.0])
def test_equals_the_enumeration_of_all_bounds(stages: int, noise: float) -> None:
    units, sequences = 16, 4
    times = table(units, 3, noise=noise)
    bounds = np.unique(times[1:, 1:, :])
    best = min(
        total + (stages - 1) * int(bound)
        for bound in bounds
        if (total := least_sum(times, sequences, int(bound))) is not None
    )
    found = best_splitting(times, sequences, stages)
    assert found.objective_ns == best
    assert found.bounds_tried < len(bounds) / 5
    assert_is_what_it_says((times, np.ones_like(times, bool), sequences), stages, found)


def least_sum(times: NDArray[np.int64], sequences: int, bound: int) -> int | None:
    sizes, units = times.shape[0] - 1, times.shape[2]
    of_size = {}
    for size in range(1, sizes + 1):
        sums: list[float] = [0.0]
        for end in range(1, units + 1):
            options = [
                sums[context] + times[size, end - context, context]
                for context in range(end)
                if times[size, end - context, context] <= bound
            ]
            sums.append(min(options, default=float("inf")))
        of_size[size] = sums[-1]
    totals: list[float] = [0.0]
    for count in range(1, sequences + 1):
        totals.append(
            min(totals[count - size] + of_size[size] for size in range(1, min(count, sizes) + 1))
        )
    return None if totals[-1] == float("inf") else int(totals[-1])


def test_a_mask_keeps_long_slices_out_and_batches_are_left_out_by_it() -> None:
    times = table(16, 4)
    length = np.indices(times.shape)[1]
    batch = np.indices(times.shape)[0]
    whole = best_splitting(times, 4, 1)
    assert [split.slices for split in whole.microbatches] == [(16,)]
    short = best_splitting(times, 4, 1, allowed=(length <= 5) & (batch != 4) & (batch != 1))
    assert [split.micro_batch for split in short.microbatches] == [2, 2]
    assert {max(split.slices) for split in short.microbatches} <= {4, 5}
    with pytest.raises(NoSplit, match="5 sequences"):
        best_splitting(times, 5, 1, allowed=(batch == 2) | (batch == 4))
    with pytest.raises(NoSplit):
        best_splitting(times, 4, 1, allowed=np.zeros(times.shape, bool))


def with_times(units: int, found: dict[tuple[int, int], int]) -> NDArray[np.int64]:
    """One sequence's table: what is found is by (length, context), all else far too long."""
    times = np.full((2, units + 1, units), 10**12)
    for cell, time in found.items():
        times[1, *cell] = time
    return times


@pytest.mark.parametrize("scale", [1, 10**8])
def test_of_equal_objectives_the_smallest_largest_time(scale: int) -> None:
    found = {(1, 0): 5, (3, 1): 5, (2, 0): 4, (1, 2): 4, (1, 3): 3}
    times = with_times(4, {cell: time * scale for cell, time in found.items()})
    best = best_splitting(times, 1, 2)
    assert best.microbatches[0].slices == (2, 1, 1)
    assert (best.objective_ns, best.largest_ns) == (15 * scale, 4 * scale)


def test_the_least_improvement_is_found_among_large_times() -> None:
    found = {(1, 0): 10**9, (3, 1): 10**9, (2, 0): 10**9 - 1001, (1, 2): 10**9 - 1001}
    best = best_splitting(with_times(4, found | {(1, 3): 3001}), 1, 2)
    assert best.microbatches[0].slices == (2, 1, 1)
    assert best.objective_ns == 3 * 10**9 - 2  # 2 x 999998999 + 3001 + 999998999


def test_of_splittings_alike_the_longest_slices_in_the_largest_microbatches() -> None:
    best = best_splitting(np.zeros((3, 5, 4), np.int64), 5, 7)
    assert [split.micro_batch for split in best.microbatches] == [2, 2, 1]
    assert [split.slices for split in best.microbatches] == [(4,)] * 3
    length = np.indices((2, 6, 5))[1]
    short = best_splitting(np.zeros((2, 6, 5), np.int64), 1, 7, allowed=length <= 3)
    assert short.microbatches[0].slices == (2, 3)


def test_more_stages_mean_smaller_slices() -> None:
    times = table(64, 1)
    counts = [
        len(best_splitting(times, 1, stages).microbatches[0].slices) for stages in (1, 4, 16, 64)
    ]
    assert counts[0] == 1 and counts == sorted(counts) and counts[-1] > 4


def test_the_same_without_numba() -> None:
    code = """
import json, sys
sys.modules["numba"] = None
import numpy as np
from sim.planner.slicing import frontier
rng = np.random.default_rng(5)
found = []
for units, sequences, stages in ((12, 5, 7), (9, 3, 1), (16, 2, 60)):
    times = rng.integers(0, 50, (sequences + 1, units + 1, units)).cumsum(1)
    allowed = rng.random(times.shape) < 0.9
    found.append(
        [
            (s.objective_ns, s.largest_ns, s.bounds_tried,
             [(m.micro_batch, m.slices) for m in s.microbatches])
            for s in frontier(times, sequences, num_stages=stages, allowed=allowed, limit=6)
        ]
    )
"""
    plain = subprocess.run(
        [sys.executable, "-c", code + "print(json.dumps(found))"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert plain.returncode == 0, plain.stderr
    spaces: dict[str, object] = {}
    exec(code.replace('sys.modules["numba"] = None', ""), spaces)
    assert json.loads(plain.stdout) == json.loads(json.dumps(spaces["found"]))


def test_the_front_door_does_not_wait_for_numba() -> None:
    code = "import sys; import sim.planner.slicing; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def test_compiles_without_a_cache_where_there_is_nowhere_to_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def njit(*functions: object, cache: bool = False) -> object:
        asked.append(cache)
        if not cache:
            return "compiled", *functions

        def decorate(function: object) -> object:
            raise RuntimeError(f"cannot cache function {function!r}: no locator available")

        return decorate

    monkeypatch.setitem(sys.modules, "numba", types.SimpleNamespace(njit=njit))
    function = uniform_slices
    assert compiled(function) == ("compiled", function)
    assert asked == [True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": np.zeros((2, 3, 3), np.int64)}, "shape"),
        ({"times": np.zeros((2, 4, 3))}, "whole nanoseconds"),
        ({"times": np.full((2, 4, 3), -1)}, "between 0 and"),
        ({"times": np.full((2, 4, 3), 2**60)}, "between 0 and"),
        ({"times": np.zeros((1, 4, 3), np.int64)}, "batch of one"),
        ({"num_sequences": 0}, "a sequence"),
        ({"num_stages": 0}, "num_stages"),
        ({"allowed": np.ones((2, 3, 3), bool)}, "allowed"),
        ({"allowed": np.ones((2, 4, 3), np.int64)}, "allowed"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "times": np.ones((2, 4, 3), np.int64),
        "num_sequences": 1,
        "num_stages": 1,
    } | change
    with pytest.raises(ValueError, match=message) as caught:
        best_splitting(**arguments)  # type: ignore[arg-type]
    assert not isinstance(caught.value, NoSplit)


def test_times_that_are_large_or_not_to_be_written_to_are_no_trouble() -> None:
    times = np.full((2, 4, 3), 2**57, np.int64)
    times[1, 3, 0] = 2**58 + 2**57 + 1
    times.flags.writeable = False
    assert best_splitting(times, 1, 1).total_ns == 2**57 * 2


def test_uniform_slices() -> None:
    assert uniform_slices(8, 4) == (2, 2, 2, 2)
    assert uniform_slices(10, 4) == (3, 3, 2, 2)
    assert uniform_slices(3, 3) == (1, 1, 1)
    for slices in (0, 4):
        with pytest.raises(ValueError, match="3 units"):
            uniform_slices(3, slices)
