"""Programs made from their shapes, without actions, against those that were lowered and encoded."""

from dataclasses import fields
from typing import get_args

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.engine.encoded import Encoded
from sim.engine.encoding import encode
from sim.engine.shapes import Shape, encoded_shape
from sim.schedule.lowering import Flush, Mode, lower
from sim.schedule.shape import ShapeSchedule

MODES = get_args(Mode)
NO_FUNCTIONS = ("action_of", "step_of")


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    schedule: ShapeSchedule = draw(st.sampled_from(get_args(ShapeSchedule)))
    ranks = draw(st.integers(1, 6))
    microbatches, chunks, slices = draw(st.integers(1, 14)), 1, 1
    if schedule == "interleaved":
        chunks = draw(st.integers(1, 4))
        if chunks > 1:
            microbatches = ranks * draw(st.integers(1, 4))
    else:
        slices = draw(st.integers(1, 4))
    return Shape(
        schedule=schedule,
        num_ranks=ranks,
        num_microbatches=microbatches,
        num_chunks=chunks,
        num_slices=slices,
        gpipe_backward=draw(st.sampled_from(("same", "reversed"))),
        mode=draw(st.sampled_from(MODES)),
        flush=Flush(**{field.name: draw(st.booleans()) for field in fields(Flush)}),
    )


def assert_equal(found: Encoded, wanted: Encoded) -> None:
    for field in fields(Encoded):
        if field.name in NO_FUNCTIONS:
            continue
        mine, other = getattr(found, field.name), getattr(wanted, field.name)
        if isinstance(other, np.ndarray):
            assert mine.dtype == other.dtype, field.name
            assert mine.tolist() == other.tolist(), field.name
        else:
            assert mine == other, field.name


def lowered(shape: Shape) -> Encoded:
    return encode(lower(shape.generated(), shape.mode, shape.flush))


@settings(max_examples=600, deadline=None)
@given(shapes())
def test_a_shape_has_the_ops_of_its_program(shape: Shape) -> None:
    assert_equal(encoded_shape(shape), lowered(shape))
