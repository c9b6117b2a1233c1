"""Shapes: their orders against the generators', and of which scenarios they are."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios.loader import load
from scenarios.schema import Scenario
from sim.schedule import compiling, rules
from sim.schedule.actions import Kind
from sim.schedule.build import build_schedule, flush_of
from sim.schedule.compiling import compiled_with
from sim.schedule.shape import Shape, ShapeSchedule, shape_of

ROOT = Path(__file__).resolve().parents[3]


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    schedule: ShapeSchedule = draw(st.sampled_from(get_args(ShapeSchedule)))
    ranks, microbatches = draw(st.integers(1, 9)), draw(st.integers(1, 20))
    chunks = draw(st.integers(1, 4)) if schedule == "interleaved" else 1
    return Shape(
        schedule=schedule,
        num_ranks=ranks,
        num_microbatches=microbatches * (ranks if chunks > 1 else 1),
        num_chunks=chunks,
        num_slices=1 if schedule == "interleaved" else draw(st.integers(1, 5)),
        gpipe_backward=draw(st.sampled_from(("same", "reversed"))),
    )


@settings(deadline=None)
@given(shapes())
def test_a_shape_has_the_orders_of_its_schedule(shape: Shape) -> None:
    schedule, orders = shape.generated(), shape.orders()
    assert schedule.name == shape.schedule
    assert schedule.num_stages == shape.num_stages
    for rank, order in enumerate(schedule.orders):
        assert orders.backward[rank].tolist() == [a.kind is Kind.BACKWARD for a in order]
        assert orders.stage[rank].tolist() == [a.stage for a in order]
        assert orders.microbatch[rank].tolist() == [a.microbatch for a in order]
        assert orders.slice_index[rank].tolist() == [a.slice_index for a in order]
        kinds = [a.kind for a in order]
        assert kinds.index(Kind.BACKWARD) - shape.warm_ups[rank] in (0, 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_ranks": 0}, "at least 1"),
        ({"num_slices": 0}, "at least 1"),
        ({"num_chunks": 2}, "1 chunk a rank"),
        ({"schedule": "interleaved", "num_slices": 2}, "whole microbatches"),
        ({"schedule": "interleaved", "num_chunks": 2}, "multiple of 4"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(wrong: dict[str, object], message: str) -> None:
    sizes: dict[str, object] = {"schedule": "1f1b", "num_ranks": 4, "num_microbatches": 6}
    with pytest.raises(ValueError, match=message):
        Shape(**sizes | wrong)  # type: ignore[arg-type]


def scenario(*overrides: str) -> Scenario:
    return load("megatron/175b", ("plan.global_batch=512", *overrides)).scenario


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("plan.schedule=gpipe", "plan.gpipe_backward=reversed", "plan.p2p=overlapped"),
        ("plan.schedule=gpipe",),
        ("plan.schedule=terapipe", "plan.slices=[512, 1000, 536]"),
        ("plan.schedule=interleaved", "plan.chunks=3", "plan.p2p=exchange"),
        ("plan.schedule=interleaved",),
        ("plan.slices=8", "plan.sharding=optimizer", "plan.gradient_reduction=overlapped"),
    ],
)
def test_the_shape_of_a_scenario(overrides: tuple[str, ...]) -> None:
    found = scenario(*overrides)
    shape = shape_of(found)
    assert shape is not None
    assert shape.generated() == build_schedule(found)
    assert (shape.mode, shape.flush) == (found.plan.p2p, flush_of(found))


def test_equal_groups_of_microbatches_have_a_shape() -> None:
    whole = "plan.micro_batch=null", "plan.global_batch=null"
    equal = load(
        "megatron/175b",
        (*whole, "plan.microbatch_groups=[{microbatches: 16}, {microbatches: 32}]"),
    ).scenario
    shape = shape_of(equal)
    assert shape is not None
    assert shape.num_microbatches == 48
    unequal = load(
        "megatron/175b",
        (*whole, "plan.microbatch_groups=[{microbatches: 16}, {micro_batch: 2, microbatches: 8}]"),
    ).scenario
    assert shape_of(unequal) is None


@pytest.mark.parametrize(
    "overrides",
    [
        ("plan.frozen_layers=6",),
        ("plan.schedule=given", "plan.schedule_order=['0F0,0B0', '1F0,1B0']"),
    ],
)
def test_what_has_no_shape(overrides: tuple[str, ...]) -> None:
    found = load("local-2rank", ("plan.microbatches=1", *overrides)).scenario
    assert shape_of(found) is None


def test_only_functions_of_one_file_are_compiled_together() -> None:
    with pytest.raises(AssertionError, match="another file"):
        compiled_with(rules.turn, compiling.compiled)


def test_what_is_compiled_together_is_what_it_was() -> None:
    together = compiled_with(rules.fill_orders, rules.turn, *PIECES)
    found, plain = (np.zeros((4, 2, 12), np.int32) for _ in range(2))
    together(np.array([3, 2]), 3, 2, 1, False, *found)
    rules.fill_orders([3, 2], 3, 2, 1, False, *plain)
    assert found.tolist() == plain.tolist()
    assert rules.fill_orders.__globals__["turn"] is rules.turn


PIECES = rules.forward_piece, rules.backward_piece


def test_shapes_do_not_wait_for_a_compiler() -> None:
    code = (
        "import sys; import sim.engine.shapes, sim.workload.peaks; sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
