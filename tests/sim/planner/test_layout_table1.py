"""Megatron-LM's published layouts (arXiv 2104.04473, table 1) among those that its software had."""

import pytest

from benchmarks.planner import of_its_time
from scenarios.published import PublishedRow, load_table
from sim.planner.layouts.evaluation import Evaluator

ROWS = load_table("ptdp.table1").rows
NEAR = ("1.7b", "76b", "310b", "530b", "1t")
"""Rows whose published layout is within 5 % of the best found; of the others the search prefers
less tensor parallelism, which needs up to all of the memory."""


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_the_best_found_is_no_worse_than_the_published_one(row: PublishedRow) -> None:
    published = Evaluator(row.scenario).iteration_ns(row.scenario.plan)
    best = of_its_time(row.scenario, jobs=1)
    assert best.iteration_ns <= published
    if row.name in NEAR:
        assert published <= 1.05 * best.iteration_ns
    else:
        assert best.plan.tensor < row.scenario.plan.tensor
