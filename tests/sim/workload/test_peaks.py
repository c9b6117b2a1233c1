"""Peaks found from a program's shape against the walk through its order."""

import random
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios.loader import load
from sim.schedule.actions import Kind
from sim.schedule.build import build_schedule
from sim.schedule.shape import Shape, ShapeSchedule, shape_of
from sim.workload.memory import MemoryModel, memory_model, peak_bytes
from sim.workload.peaks import contents_of, moments_of, peak_bytes_of_shape


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    schedule: ShapeSchedule = draw(st.sampled_from(get_args(ShapeSchedule)))
    ranks, microbatches = draw(st.integers(1, 6)), draw(st.integers(1, 30))
    chunks = slices = 1
    if schedule == "interleaved":
        chunks = draw(st.integers(1, 4))
        microbatches = microbatches if chunks == 1 else ranks * draw(st.integers(1, 7))
    else:
        slices = draw(st.integers(1, 5))
    return Shape(
        schedule=schedule,
        num_ranks=ranks,
        num_microbatches=microbatches,
        num_chunks=chunks,
        num_slices=slices,
        gpipe_backward=draw(st.sampled_from(("same", "reversed"))),
    )


def a_model(shape: Shape, seed: int) -> MemoryModel:
    """Any sizes, of which many are 0 and some far larger than the others."""
    rng = random.Random(seed)

    def some() -> int:
        return rng.choice((0, 1, rng.randrange(10), rng.randrange(1 << 40)))

    def by_slice() -> tuple[tuple[int, ...], ...]:
        return (tuple(some() for _ in range(shape.num_slices)),)

    stages, ranks = range(shape.num_stages), range(shape.num_ranks)
    kinds = [(by_slice(), by_slice(), some(), some()) for _ in range(rng.choice((1, 2, 3, 24)))]
    of_stage = [rng.choice(kinds) for _ in stages]
    return MemoryModel(
        static=tuple({"parameters": some(), "reserved": some()} for _ in ranks),
        activations=tuple(kind[0] for kind in of_stage),
        working=tuple({Kind.FORWARD: kind[2], Kind.BACKWARD: kind[3]} for kind in of_stage),
        optimizer=tuple(some() for _ in ranks),
        caches=tuple(kind[1] for kind in of_stage) if rng.random() < 0.7 else (),
    )


@settings(max_examples=400, deadline=None)
@given(shapes(), st.integers(0, 1 << 30))
def test_the_peaks_of_a_shape_are_those_of_its_order(shape: Shape, seed: int) -> None:
    schedule = shape.generated()
    for number in range(8):
        model = a_model(shape, seed + number)
        assert peak_bytes_of_shape(shape, model) == peak_bytes(model, schedule)


@pytest.mark.parametrize(
    "plan",
    [
        (),
        ("plan.schedule=gpipe", "plan.gpipe_backward=reversed"),
        ("plan.schedule=interleaved", "plan.chunks=2"),
        ("plan.slices=4", "plan.recomputation=full"),
        ("plan.slices=[512, 1000, 536]", "plan.schedule=terapipe"),
        ("plan.sharding=optimizer", "plan.recomputation=selective"),
    ],
)
def test_the_peaks_of_a_scenario(plan: tuple[str, ...]) -> None:
    scenario = load("megatron/175b", (*plan, "plan.global_batch=256")).scenario
    shape, schedule = shape_of(scenario), build_schedule(scenario)
    model = memory_model(scenario, schedule)
    assert shape is not None
    assert model is not None
    assert peak_bytes_of_shape(shape, model) == peak_bytes(model, schedule)


def test_more_microbatches_than_are_ever_in_flight_need_no_other_walk() -> None:
    few, many = (
        Shape(schedule="1f1b", num_ranks=4, num_microbatches=m, num_slices=2) for m in (9, 900)
    )
    model = a_model(few, 1)
    content = contents_of(few, model).content
    assert moments_of(few, content) is moments_of(many, content)
    assert peak_bytes_of_shape(few, model) == peak_bytes_of_shape(many, model)


def test_microbatches_that_differ_are_refused() -> None:
    shape = Shape(schedule="1f1b", num_ranks=2, num_microbatches=2)
    with pytest.raises(ValueError, match="differ"):
        peak_bytes_of_shape(shape, replace(a_model(shape, 1), variants=(0, 1)))
