"""The lower bound of a layout's time: never above the simulated one, and how near it comes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_layouts import costs, plans, scenario, shape

from sim.engine.compiled import evaluate
from sim.engine.shapes import encoded_shape
from sim.planner.layouts import bounds
from sim.planner.layouts.bounds import bound_ns
from sim.planner.layouts.evaluation import Evaluator
from sim.planner.layouts.layout_costs import LayoutCosts, links_of
from sim.planner.layouts.pricing import priced
from sim.schedule.shape import Shape


def simulated_ns(of: Shape, under: LayoutCosts) -> int:
    encoded = encoded_shape(of)
    return evaluate(encoded, priced(encoded, under)).iteration_ns


@pytest.fixture(params=[1_000, 20, 1])
def most_passes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Paths through all passes, through some and through few."""
    bounds._route.cache_clear()
    monkeypatch.setattr(bounds, "MOST_PASSES", request.param)
    yield request.param
    bounds._route.cache_clear()


def test_no_program_ends_before_its_bound(most_passes: int) -> None:
    """Whatever passes and messages take, with ties, contended links and times of 0."""
    for seed in range(700):
        draw = random.Random(f"{most_passes} {seed}")
        of = shape(draw)
        under = costs(draw, of)
        assert bound_ns(of, under) <= simulated_ns(of, under), (seed, of)


@given(st.integers(0, 2**40))
def test_no_drawn_program_ends_before_its_bound(seed: int) -> None:
    draw = random.Random(seed)
    of = shape(draw)
    under = costs(draw, of)
    assert bound_ns(of, under) <= simulated_ns(of, under)


def test_no_layout_ends_before_its_bound(most_passes: int) -> None:
    near = []
    for seed in range(25):
        draw = random.Random(seed)
        base = scenario(draw, draw.choice([2, 4, 8, 16, 32]))
        evaluator = Evaluator(base)
        for plan in itertools.islice(plans(draw, base), 6):
            bound, time = evaluator.bound_ns(plan), evaluator.iteration_ns(plan)
            assert bound <= time, plan
            near.append(bound / time)
    assert np.median(near) > 0.999
    assert np.quantile(near, 0.1) > 0.95


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "terapipe", "interleaved"])
@pytest.mark.parametrize("mode", ["overlapped", "blocking", "exchange"])
def test_the_bound_is_exact_where_no_link_is_contended(schedule: str, mode: str) -> None:
    """Of equal stages and messages that all have links of their own, overlapped or blocking; what
    interleaved ranks wait for while messages block is not all in it."""
    for seed in range(20):
        draw = random.Random(seed)
        ranks = draw.choice([1, 2, 3, 4])
        of = Shape(
            schedule=schedule,  # type: ignore[arg-type]
            num_ranks=ranks,
            num_microbatches=ranks * draw.randint(1, 4),
            num_chunks=2 if schedule == "interleaved" else 1,
            mode=mode,  # type: ignore[arg-type]
        )
        under = alike(draw, of)
        bound, time = bound_ns(of, under), simulated_ns(of, under)
        if schedule == "interleaved" and mode != "overlapped":
            assert 0.9 * time <= bound <= time
        else:
            assert bound == time, (seed, of)


def alike(draw: random.Random, of: Shape) -> LayoutCosts:
    """Costs of equal stages and messages, each rank's way out of a link of its own."""
    under = costs(draw, of)
    p = of.num_ranks
    own = links_of([(link,) if p > 1 else () for link in range(2 * p)])
    under.passes.by_rank_ns[0], under.passes.by_rank_ns[1] = 100, 200
    under.passes.forward_ns[:], under.passes.backward_ns[:] = 100, 200
    under.passes.alike[1:-1] = True
    under.messages.occupancy_ns[:], under.messages.latency_ns[:] = draw.randint(0, 20), 3
    messages = under.messages._replace(links=own)
    return LayoutCosts(
        cut=under.cut,
        passes=under.passes,
        messages=messages,
        stages=under.stages,
        ranks=under.ranks,
        exchange_ns=under.exchange_ns,
    )
