"""The fit of t(b, l, c): made laws are found again, errors are told, and nothing goes wild."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.slice_fit import PAPER, WIDER, PassFit, Point, fit_pass

Law = Callable[[int, int, int], float]
TOKENS = (16, 32, 64, 128, 256, 512, 1024)


def paper(b: int, n: int, c: int) -> float:
    """The paper's form over a base that no polynomial of the curve's is: small slices are slow."""
    base = 60e3 + 400.0 * b * n * (1 + 20 / (20 + b * n)) + 0.1 * b * n * n
    return base + (15e3 + 8.0 * b * n + 5.0 * b * c + 0.2 * b * n * c) * (c > 0)


def unmasked(b: int, n: int, c: int) -> float:
    """A kernel that skips what is hidden without context, and does not with it."""
    return 50e3 + 300.0 * b * n + 0.1 * b * n * (n if not c else 2 * (n + c))


def grid(law: Law, batches: tuple[int, ...] = (1, 2, 4), step: int = 256) -> list[Point]:
    return [
        Point(b, n, c, law(b, n, c))
        for b in batches
        for n in TOKENS
        for c in range(0, 1024 - n + 1, max(n, step))
    ]


def fitted(points: list[Point]) -> PassFit:
    found = fit_pass(points)
    assert found is not None
    return found


def test_the_papers_form_is_found() -> None:
    fit = fitted(grid(paper))
    assert fit.terms == PAPER and fit.other_terms == WIDER
    assert fit.coefficients == pytest.approx((15e3, 8.0, 5.0, 0.2), rel=1e-6)
    assert max(map(abs, fit.context_errors)) < 1e-9
    assert 0 < max(map(abs, fit.curve_errors)) < 0.02  # Left out, a point is not met exactly.
    for b, n, c in ((1, 100, 500), (3, 48, 900), (4, 700, 324)):
        assert fit.time_ns(b, n, c) == pytest.approx(paper(b, n, c), rel=0.01)


def test_a_kernel_that_computes_the_hidden_gets_its_square() -> None:
    fit = fitted(grid(unmasked))
    assert fit.terms == WIDER and fit.other_terms == PAPER
    assert max(map(abs, fit.context_errors)) < 1e-6
    assert fit.other_errors and max(map(abs, fit.other_errors)) > 0.01
    assert "b l^2 (left out" in str(fit) and "without b l^2 (left out" in str(fit)
    for b, n, c in ((1, 100, 500), (2, 600, 400), (3, 48, 900)):
        assert fit.time_ns(b, n, c) == pytest.approx(unmasked(b, n, c), rel=5e-3)


def test_measured_points_are_met_exactly_and_arrays_are_as_numbers() -> None:
    generator = random.Random(1)
    points = [
        p._replace(time_ns=p.time_ns * (1 + generator.gauss(0, 0.05))) for p in grid(unmasked)
    ]
    fit = fitted(points)
    for point in points:
        assert fit.time_ns(point.micro_batch, point.tokens, point.context) == point.time_ns
    tokens, context = np.array([[16], [100], [512]]), np.array([[0, 64, 512]])
    table = fit.time_ns(2, tokens, context)
    for i, n in enumerate((16, 100, 512)):
        for j, c in enumerate((0, 64, 512)):
            assert table[i, j] == fit.time_ns(2, n, c)


def test_the_error_told_is_that_of_noise() -> None:
    generator = random.Random(3)
    points = [
        p._replace(time_ns=p.time_ns * (1 + generator.gauss(0, 0.03)))
        for p in grid(paper, (1,), step=64)
    ]
    fit = fitted(points)
    assert fit.median_error is not None and 0.01 < fit.median_error < 0.05
    assert fit.worst_error is not None and fit.median_error < fit.worst_error < 0.3
    assert f"{sum(p.context > 0 for p in points)} with it" in str(fit)


def test_what_lies_beyond_is_said_and_stays_sane() -> None:
    fit = fitted(grid(paper))
    assert fit.beyond(2, 100, 300) == ""
    assert fit.beyond(2, 8, 300) == "tokens 16 to 1024"
    assert fit.beyond(8, 100, 5000) == "batch 1 to 4, context 0 to 768"
    least = fit.time_ns(1, 16, 0)
    assert least / 2 <= fit.time_ns(1, 1, 0) <= fit.time_ns(1, 8, 0) <= least
    # Without a fixed part in what was measured, fewer tokens still cost half of the fewest.
    linear = fitted([Point(1, n, 0, 100.0 * n) for n in (64, 128, 256)])
    assert linear.time_ns(1, 8, 0) == pytest.approx(3200)
    assert linear.time_ns(1, 512, 0) == pytest.approx(51200)


def test_too_little_is_no_fit() -> None:
    assert fit_pass([Point(1, 64, 0, 5.0), Point(2, 64, 0, 9.0), Point(1, 64, 64, 7.0)]) is None
    assert fit_pass([Point(1, 64, 64, 5.0), Point(1, 32, 64, 4.0)]) is None
    without = fitted([Point(1, 64, 0, 5e5), Point(1, 32, 0, 3e5)])
    assert not without.terms and without.time_ns(1, 48, 96) == without.time_ns(1, 48, 0)
    one = fitted([Point(1, 64, 0, 5e5), Point(1, 32, 0, 3e5), Point(1, 32, 32, 3.5e5)])
    assert one.terms == ("pairs",) and not one.context_errors
    assert one.time_ns(1, 32, 64) == pytest.approx(4e5)


def test_parts_that_do_not_attend_ignore_context() -> None:
    points = [Point(1, n, c, 10.0 * n + c % 3) for n in (32, 64, 128) for c in (0, 64, 128)]
    fit = fit_pass(points, attends=False)
    assert fit is not None and not fit.terms
    assert fit.time_ns(1, 48, 500) == fit.time_ns(1, 48, 0) == pytest.approx(480, abs=3)


@given(
    times=st.lists(st.floats(0, 1e9), min_size=12, max_size=12),
    b=st.integers(1, 9),
    n=st.integers(1, 5000),
    c=st.integers(0, 5000),
)
def test_any_times_give_times(times: list[float], b: int, n: int, c: int) -> None:
    shapes = [(b, n, c) for b in (1, 2) for n in (16, 64, 100) for c in (0, 64)]
    fit = fitted([Point(*shape, time) for shape, time in zip(shapes, times, strict=True)])
    found = fit.time_ns(b, n, c)
    assert 0 <= found < 1e18
    str(fit)
