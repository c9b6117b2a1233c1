"""Programs made from their shapes, without actions, against those that were lowered and encoded."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios.loader import load
from sim.engine.encoded import Encoded
from sim.engine.encoding import encode
from sim.engine.shapes import KeptShapes, Shape, encoded_bytes, encoded_shape, shape_of
from sim.schedule.build import build_program
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


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize(
    ("schedule", "num_chunks", "num_slices"),
    [("1f1b", 1, 1), ("interleaved", 3, 1), ("1f1b", 1, 4)],
)
def test_a_deep_pipeline_too(
    schedule: ShapeSchedule, num_chunks: int, num_slices: int, mode: Mode
) -> None:
    shape = Shape(
        schedule=schedule,
        num_ranks=16,
        num_microbatches=48,
        num_chunks=num_chunks,
        num_slices=num_slices,
        mode=mode,
        flush=Flush(reduce_gradients=True, overlapped=True, reduce_tied=True, norm=True),
    )
    assert_equal(encoded_shape(shape), lowered(shape))


@pytest.mark.parametrize(
    "plan",
    [
        (),
        ("plan.schedule=interleaved", "plan.chunks=2", "plan.gradient_reduction=overlapped"),
        ("plan.slices=2", "plan.p2p=exchange", "plan.sharding=optimizer"),
        ("plan.schedule=gpipe", "plan.p2p=overlapped"),
    ],
)
def test_the_program_of_a_scenario(plan: tuple[str, ...]) -> None:
    scenario = load("megatron/175b", ("plan.global_batch=256", *plan)).scenario
    shape = shape_of(scenario)
    assert shape is not None
    assert_equal(encoded_shape(shape), encode(build_program(scenario)))


def small(num_microbatches: int) -> Shape:
    return Shape(schedule="1f1b", num_ranks=2, num_microbatches=num_microbatches)


def test_shapes_used_last_are_kept_up_to_a_number_of_bytes() -> None:
    each = encoded_bytes(encoded_shape(small(100)))
    kept = KeptShapes(max_bytes=3 * each + 3000)
    first = kept.encoded(small(100))
    assert kept.encoded(small(100)) is first
    for m in (101, 102, 103, 104):
        kept.encoded(small(m))
        assert kept.encoded(small(100)) is first
        assert kept.num_bytes == sum(map(encoded_bytes, kept.found.values())) <= kept.max_bytes
    assert [shape.num_microbatches for shape in kept.found] == [103, 104, 100]


def test_a_shape_larger_than_all_that_is_kept_is_not_kept() -> None:
    kept = KeptShapes(max_bytes=1000)
    assert_equal(kept.encoded(small(300)), lowered(small(300)))
    assert not kept.found
    assert kept.num_bytes == 0


def test_the_same_without_numba() -> None:
    code = """
import hashlib, json, sys
sys.modules["numba"] = None
import numpy as np
from sim.engine.shapes import Shape, encoded_shape
from sim.schedule.lowering import Flush
from sim.workload.peaks import moments_of
found = []
for schedule, chunks, slices in (("1f1b", 1, 2), ("interleaved", 2, 1), ("terapipe", 1, 2)):
    for mode in ("overlapped", "blocking"):
        shape = Shape(
            schedule=schedule, num_ranks=3, num_microbatches=6, num_chunks=chunks,
            num_slices=slices, mode=mode, flush=Flush(reduce_gradients=True, overlapped=True),
        )
        made = encoded_shape(shape)
        content = np.arange(shape.num_stages, dtype=np.int32)
        arrays = [made.op, made.slot, made.about, made.sender, made.receiver, made.transfer_slot]
        arrays += list(moments_of(shape, content))
        found.append([array.tolist() for array in arrays])
"""
    plain = subprocess.run(
        [sys.executable, "-c", code + "print(json.dumps(found))"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[3],
        timeout=120,
    )
    assert plain.returncode == 0, plain.stderr
    spaces: dict[str, object] = {}
    exec(code.replace('sys.modules["numba"] = None', ""), spaces)
    assert json.loads(plain.stdout) == json.loads(json.dumps(spaces["found"]))
