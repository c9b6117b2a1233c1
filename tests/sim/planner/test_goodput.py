"""A run among failures: the closed forms against each other, against a simulation, and against a
plain walk through one run that was written for these tests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import lambertw

from sim.planner.goodput.estimate import estimated_days
from sim.planner.goodput.failures import Outcomes, simulate_runs
from sim.planner.goodput.intervals import (
    best_interval,
    daly_first_order,
    daly_interval,
    exact_time,
    expected_time,
    young_interval,
)
from sim.planner.goodput.run import DAY_NS, Run

SECOND = 10**9
HOUR = 3600 * SECOND


def run_with(
    *, work: float, mtbf: float, write: float, restart: float, interval: float, pending: float = 0.0
) -> Run:
    """All in units of a second; `pending` is the part of writing that stalls nothing."""
    run = Run(
        work_ns=round(work * SECOND),
        iteration_ns=SECOND // 100,
        num_devices=8,
        mtbf_ns=mtbf * SECOND,
        restart_ns=round(restart * SECOND),
        stall_ns=round(write * (1 - pending) * SECOND),
        pending_ns=round(write * pending * SECOND),
    )
    return run.saved_every(interval * SECOND)


def random_run(generator: np.random.Generator) -> Run:
    mtbf = math.exp(generator.uniform(math.log(500), math.log(5e5)))
    return run_with(
        mtbf=mtbf,
        work=mtbf * generator.uniform(0.2, 60),
        write=mtbf * math.exp(generator.uniform(math.log(1e-4), math.log(0.5))),
        restart=mtbf * generator.uniform(0, 0.5),
        interval=mtbf * math.exp(generator.uniform(math.log(0.02), math.log(1.5))),
        pending=float(generator.choice([0.0, 0.7, 1.0])),
    )


def simulated(run: Run, runs: int, seed: int) -> Outcomes:
    works = np.full(runs, run.work_ns, dtype=np.int64)
    return simulate_runs(run, works, np.random.default_rng(seed))


# The simulation against the closed form.


def test_simulation_has_the_mean_of_the_closed_form() -> None:
    generator = np.random.default_rng(11)
    scores = []
    for seed in range(120):
        run = random_run(generator)
        total = simulated(run, 1000, seed).total_ns
        error = float(total.std(ddof=1)) / math.sqrt(len(total))
        scores.append((float(total.mean()) - run.expected_ns) / error)
    assert max(map(abs, scores)) < 3.5  # Of 120 normal ones the largest is beyond it in 5 of 100.
    assert sum(abs(score) > 3 for score in scores) <= 2
    assert abs(np.mean(scores)) < 3 / math.sqrt(len(scores))
    assert 0.8 < np.std(scores) < 1.2


def test_all_time_is_accounted_for() -> None:
    generator = np.random.default_rng(5)
    for seed in range(40):
        run = random_run(generator)
        found = simulated(run, 50, seed)
        parts = found.useful_ns + found.checkpoint_ns + found.lost_ns + found.restart_ns
        assert (parts == found.total_ns).all()
        assert (found.useful_ns == run.work_ns).all()
        assert (found.checkpoint_ns == run.undisturbed_ns - run.work_ns).all()
        assert (found.lost_ns >= 0).all() and (found.restart_ns >= 0).all()
        assert (found.total_ns[found.failures == 0] == run.undisturbed_ns).all()


def test_a_runs_failures_do_not_hang_on_when_others_end() -> None:
    run = run_with(work=4e6, mtbf=1000, write=10, restart=20, interval=300)
    works = np.full(400, run.work_ns, dtype=np.int64)
    shorter = works.copy()
    shorter[::2] //= 10
    whole, found = (simulate_runs(run, w, np.random.default_rng(0)) for w in (works, shorter))
    assert (found.total_ns[1::2] == whole.total_ns[1::2]).all()
    assert (found.failures[1::2] == whole.failures[1::2]).all()
    assert (found.failures[::2] < whole.failures[::2]).all()


def test_restarts_and_failures_have_their_expected_share() -> None:
    run = run_with(work=4e5, mtbf=9000, write=60, restart=1200, interval=1500)
    assert run.mtbf_ns is not None
    found = simulated(run, 4000, 3)
    share = -math.expm1(-run.restart_ns / run.mtbf_ns)
    assert found.restart_ns.mean() == pytest.approx(share * run.expected_ns, rel=0.01)
    assert found.failures.mean() == pytest.approx(run.expected_ns / run.mtbf_ns, rel=0.01)


class Given:
    """Hands out given gaps between failures, for every run the same."""

    def __init__(self, gaps: Iterator[int]) -> None:
        self.gaps = gaps

    def exponential(self, scale: float, size: tuple[int, int]) -> np.ndarray:
        return np.array([[next(self.gaps) for _ in range(size[1])]] * size[0], dtype=float)


def walked(run: Run, gaps: Iterator[int]) -> tuple[int, int, int]:
    """Walk one run event by event: its total time, what restarts took, and failures."""
    full, last = run.stretches
    stretches = [run.interval_ns or 0] * full + [last]
    clock = restarting = failures = 0
    fails_at = next(gaps)
    complete = 0  # Stretches of a checkpoint that is written.
    while True:
        # Up, at the first instant of stretch `complete`.
        now, written = clock, complete
        pending: list[tuple[int, int]] = []
        failed = False
        for number in range(complete, len(stretches)):
            now += stretches[number] + run.stall_ns
            pending.append((now + run.pending_ns, number + 1))
        for at, number in pending:
            if at > fails_at:
                failed = True
                break
            written = number
        if not failed:
            return pending[-1][0], restarting, failures
        complete = written
        while True:  # Restart until it comes through.
            failures += 1
            clock, fails_at = fails_at, fails_at + next(gaps)
            if fails_at > clock + run.restart_ns:
                clock += run.restart_ns
                restarting += run.restart_ns
                break
            restarting += fails_at - clock


@given(seed=st.integers(0, 10**6))
@settings(max_examples=150)
def test_simulation_walks_as_a_plain_loop_does(seed: int) -> None:
    run = random_run(np.random.default_rng(seed))
    assert run.mtbf_ns is not None

    def gaps() -> Iterator[int]:
        generator = np.random.default_rng(seed + 1)
        while True:
            yield round(generator.exponential(run.mtbf_ns))

    generator = Given(gaps())
    works = np.array([run.work_ns], dtype=np.int64)
    found = simulate_runs(run, works, generator)  # type: ignore[arg-type]
    expected = walked(run, gaps())
    assert (found.total_ns[0], found.restart_ns[0], found.failures[0]) == expected


# Closed forms against each other.


def test_exact_time_is_dalys_where_stretches_are_equal() -> None:
    times = {"mtbf_ns": 7200.0, "stall_ns": 90.0, "restart_ns": 600.0}
    assert exact_time(9, 1000.0, 1000.0, **times) == pytest.approx(
        expected_time(10_000.0, 1000.0, **times), rel=1e-14
    )


@given(
    mtbf=st.floats(100, 1e7),
    write=st.floats(1e-3, 2),
    restart=st.floats(0, 2),
    lengths=st.lists(st.floats(0.05, 3), min_size=1, max_size=6),
    pending=st.floats(0, 0.05),
)
def test_exact_time_solves_the_renewal_equations(
    mtbf: float, write: float, restart: float, lengths: list[float], pending: float
) -> None:
    """Solve for the time left in every state at once; all but the last stretch have one length."""
    full, last = lengths[0] * mtbf, lengths[-1] * mtbf
    stretches = [full] * (len(lengths) - 1) + [last]
    c, r, wait = write * mtbf / 10, restart * mtbf, pending * mtbf
    num = len(stretches)
    up_again = mtbf * math.expm1(r / mtbf)
    # Unknown: a(0) to a(n - 1), up with checkpoint k written, then b(1) to b(n), with it pending.
    matrix, known = np.eye(2 * num), np.zeros(2 * num)

    def stay(row: int, length: float, back: int, onward: int | None, reach: float = 1.0) -> float:
        """From here with probability `reach`: stay up for a length or fail and go back."""
        lives = math.exp(-length / mtbf)
        known[row] += reach * (1 - lives) * (mtbf + up_again)
        matrix[row, back] -= reach * (1 - lives)
        if onward is not None:
            matrix[row, onward] -= reach * lives
        return lives

    for k in range(num):
        stay(k, stretches[k] + c, k, num + k)
    for k in range(1, num + 1):
        row = num + k - 1
        lives = stay(row, wait, k - 1, None)
        if k < num:
            stay(row, stretches[k] + c - wait, k, num + k, lives)
    left = np.linalg.solve(matrix, known)[0]
    found = exact_time(num - 1, full, last, mtbf_ns=mtbf, stall_ns=c, restart_ns=r, pending_ns=wait)
    assert found == pytest.approx(left, rel=1e-6)


@given(part=st.floats(1e-9, 20))
def test_best_interval_is_lamberts_and_the_lowest_point(part: float) -> None:
    exact = best_interval(1.0, part)
    if part > 1e-6:  # Near its branch point the function itself loses digits.
        lambert = 1 + lambertw(-math.exp(-1 - part)).real
        assert exact == pytest.approx(lambert, rel=1e-5)

    def time(log_interval: float) -> float:
        each = math.exp(log_interval)
        return math.log(expected_time(1.0, each, mtbf_ns=1.0, stall_ns=part, restart_ns=0.3))

    low, high = math.log(exact) - 2, math.log(exact) + 2
    golden = minimize_scalar(time, bracket=(low, math.log(exact) + 0.1, high), method="golden")
    assert time(math.log(exact)) <= golden.fun + 1e-12
    if 1e-4 < part < 5:
        assert math.exp(golden.x) == pytest.approx(exact, rel=1e-3)


@given(part=st.floats(1e-12, 1e-4), mtbf=st.floats(1e9, 1e18))
def test_best_interval_is_near_youngs_and_dalys_for_quick_checkpoints(
    part: float, mtbf: float
) -> None:
    exact = best_interval(mtbf, part * mtbf)
    # tau = sqrt(2 C M) - 2 C / 3 + ...: Young's is too long by sqrt(2 C / M) / 3.
    off = math.sqrt(2 * part) / 3
    assert young_interval(mtbf, part * mtbf) == pytest.approx(exact, rel=1.1 * off + 1e-6)
    assert daly_interval(mtbf, part * mtbf) == pytest.approx(exact, rel=0.1 * part + 1e-6)


def test_dalys_other_forms() -> None:
    assert daly_interval(10.0, 20.0) == 10.0 and daly_interval(10.0, 50.0) == 10.0
    assert daly_first_order(100.0, 2.0, 21.0) == pytest.approx(22.0)
    assert daly_first_order(100.0, 2.0, 0.0) == young_interval(100.0, 2.0)


def test_the_simulations_own_optimum_is_the_models() -> None:
    """The same failures at every interval; a tenth of a per cent of time is 4 of the interval."""
    run = run_with(work=2e6, mtbf=20_000, write=60, restart=600, interval=1)
    assert run.mtbf_ns is not None
    best = best_interval(run.mtbf_ns, run.stall_ns)
    times = {}
    for factor in np.geomspace(0.4, 2.5, 23):
        own = run.saved_every(best * factor)
        times[factor] = float(simulated(own, 1500, 1).total_ns.mean())
    factor = min(times, key=times.__getitem__)
    assert 0.7 < factor < 1.4
    best_ns = run.saved_every(best).expected_ns
    assert run.saved_every(best * factor).expected_ns == pytest.approx(best_ns, rel=1e-3)


# Limits.


def test_without_failures_there_is_only_work_and_checkpoints() -> None:
    run = run_with(work=86_400, mtbf=1e12, write=30, restart=600, interval=3600)
    assert run.expected_ns == pytest.approx(run.undisturbed_ns, rel=1e-6)
    assert run.undisturbed_ns == 86_400 * SECOND + 24 * 30 * SECOND
    never = replace(run, mtbf_ns=None)
    assert never.expected_ns == never.undisturbed_ns
    assert replace(never, interval_ns=None).expected_ns == 86_400 * SECOND


def test_a_run_that_fails_before_it_is_saved_never_finishes() -> None:
    run = run_with(work=30 * 86_400, mtbf=60, write=3600, restart=600, interval=600)
    assert not run.finishes
    assert estimated_days(run, [run.work_ns], 1000, 0) is None
    far = replace(run, mtbf_ns=1.0)
    assert far.expected_ns == math.inf and not far.finishes


def test_runs_with_too_many_failures_are_simulated_less_often() -> None:
    few = run_with(work=86_400, mtbf=9, write=0.01, restart=1, interval=1)
    found = estimated_days(few, [few.work_ns], 10**6, 0)
    assert found is not None and 1000 < found.num_runs < 10**4
    assert found.mean == pytest.approx(few.expected_ns / DAY_NS, abs=4 * found.error)
    many = run_with(work=30 * 86_400, mtbf=1, write=0.01, restart=0.1, interval=0.2)
    assert many.finishes and estimated_days(many, [many.work_ns], 1000, 0) is None


@pytest.mark.parametrize("runs", [1, 5, 19, 20])
def test_as_few_runs_as_are_asked_for_are_simulated(runs: int) -> None:
    run = run_with(work=86_400, mtbf=9000, write=10, restart=60, interval=400)
    found = estimated_days(run, [run.work_ns], runs, 0)
    assert found is not None and found.num_runs == runs


def test_no_simulated_time_is_more_than_64_bits_hold() -> None:
    """Saved at its end alone, a run's time is as good as exponential around its mean."""
    unsaved = run_with(work=10 * 86_400, mtbf=86_400, write=1, restart=1, interval=10 * 86_400)
    for mtbf_days in (0.953, 1.0, 1.2, 1.5):
        run = replace(unsaved, mtbf_ns=mtbf_days * DAY_NS)
        assert run.finishes
        found = estimated_days(run, [run.work_ns], 500, 0)
        if found is None:
            assert run.expected_ns > 10 * 365 * DAY_NS
        else:
            assert 0 < found.low < found.mean < found.high
            assert found.mean == pytest.approx(run.expected_ns / DAY_NS, abs=4 * found.error)
    far = replace(unsaved, work_ns=1 << 70, interval_ns=10**15)
    assert estimated_days(far, [far.work_ns], 500, 0) is None
    assert estimated_days(replace(far, mtbf_ns=None), [far.work_ns] * 2, 500, 0) is None


def test_the_last_checkpoint_is_not_begun_before_the_one_before_is_written() -> None:
    run = run_with(work=1000, mtbf=1e5, write=90, restart=0, interval=330, pending=1.0)
    assert run.stretches == (2, 340 * SECOND)  # 10 s alone would be shorter than writing.
    assert replace(run, pending_ns=0).stretches == (3, 10 * SECOND)
    assert run.saved_every(500 * SECOND).stretches == (1, 500 * SECOND)
    assert run.saved_every(60 * SECOND).interval_ns == 90 * SECOND
    assert run.saved_every(5000 * SECOND).stretches == (0, 1000 * SECOND)


@given(seed=st.integers(0, 10**6))
def test_writing_in_the_background_never_takes_longer(seed: int) -> None:
    run = replace(random_run(np.random.default_rng(seed)), pending_ns=0)
    assert run.interval_ns is not None
    write = min(run.stall_ns, run.interval_ns)
    blocking = replace(run, stall_ns=write)
    background = replace(run, stall_ns=0, pending_ns=write)
    # The one stretch that is longer, as no checkpoint follows too soon, is no loss of work.
    if background.stretches == blocking.stretches:
        assert background.expected_ns <= blocking.expected_ns * (1 + 1e-12)


def test_draws_of_slow_devices_widen_the_error() -> None:
    run = run_with(work=86_400, mtbf=9000, write=10, restart=60, interval=400)
    works = [run.work_ns, round(1.3 * run.work_ns)]
    both = estimated_days(run, works, 1000, 0)
    one = estimated_days(run, works[:1], 1000, 0)
    assert both is not None and one is not None
    assert both.error > 20 * one.error
    assert both.low < one.high < both.high
    undisturbed = estimated_days(replace(run, mtbf_ns=None), works, 1000, 0)
    assert undisturbed is not None and undisturbed.num_runs == 2
    saved = [replace(run, mtbf_ns=None, work_ns=work).expected_ns / DAY_NS for work in works]
    assert undisturbed.mean == pytest.approx(sum(saved) / 2, rel=1e-12)
    assert estimated_days(replace(run, mtbf_ns=None), works[:1], 1000, 0) is None


def test_llama_3_spends_nine_tenths_of_its_time_training() -> None:
    """419 unexpected interruptions in 54 days on 16,384 H100, and more than 90 % effective training
    time (arXiv 2407.21783, section 3.3.4). Storage takes 2 TB/s (section 3.3.1), a checkpoint is 14
    bytes a weight; that a restart takes 10 minutes is ours."""
    mtbf = 54 * 86_400 / 419
    assert mtbf * 16_384 / 3600 == pytest.approx(50_700, rel=0.001)
    write = 405e9 * 14 / 2e12
    run = run_with(work=48 * 86_400, mtbf=mtbf, write=write, restart=600, interval=1)
    assert run.mtbf_ns is not None
    saved = run.saved_every(best_interval(run.mtbf_ns, run.stall_ns))
    assert 0.90 < saved.work_ns / saved.expected_ns < 0.94
