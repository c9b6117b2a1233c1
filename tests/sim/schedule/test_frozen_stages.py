"""Stages that train nothing: forward passes alone, no gradient sent back, nothing reduced."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.schedule.actions import COMPUTE, Action, Kind, parse_action
from sim.schedule.checks import ScheduleError, check, check_complete
from sim.schedule.drawing import unit_slots
from sim.schedule.generators import gpipe, one_forward_one_backward
from sim.schedule.lowering import Flush, Mode, lower, message_orders
from sim.schedule.schedule import dependencies
from sim.schedule.torch_csv import compute_csv, parse_csv, program_csv

MODES: tuple[Mode, ...] = ("overlapped", "blocking", "exchange", "serial")
sizes = st.tuples(st.integers(1, 7), st.integers(1, 12), st.integers(0, 6)).filter(
    lambda size: size[2] < size[0]
)


def test_orders_written_out() -> None:
    orders = gpipe(3, 2, frozen_stages=1).orders
    assert [" ".join(map(str, order)) for order in orders] == [
        "0F0 0F1",
        "1F0 1F1 1B0 1B1",
        "2F0 2F1 2B0 2B1",
    ]
    orders = one_forward_one_backward(3, 3, frozen_stages=1).orders
    assert [" ".join(map(str, order)) for order in orders] == [
        "0F0 0F1 0F2",
        "1F0 1F1 1B0 1F2 1B1 1B2",
        "2F0 2B0 2F1 2B1 2F2 2B2",
    ]


@given(sizes)
def test_sound_and_in_flight_in_the_trained_stages_alone(size: tuple[int, int, int]) -> None:
    p, m, k = size
    report = check(gpipe(p, m, frozen_stages=k))
    assert report.in_flight == (0,) * k + (m,) * (p - k)
    assert not any(report.deadlocks.values())
    report = check(one_forward_one_backward(p, m, frozen_stages=k))
    assert report.in_flight == (0,) * k + tuple(min(m, p - r) for r in range(k, p))
    assert not report.deadlocks["buffered"]
    assert not report.deadlocks["rendezvous, receives posted early"]
    assert not report.deadlocks["batched"]


@given(sizes)
def test_none_frozen_is_the_plain_schedule(size: tuple[int, int, int]) -> None:
    p, m, _ = size
    assert gpipe(p, m, frozen_stages=0) == gpipe(p, m)
    assert one_forward_one_backward(p, m, frozen_stages=0) == one_forward_one_backward(p, m)


@given(sizes, st.sampled_from(MODES))
def test_no_message_and_no_pass_goes_back_into_a_frozen_stage(
    size: tuple[int, int, int], mode: Mode
) -> None:
    p, m, k = size
    schedule = one_forward_one_backward(p, m, frozen_stages=k)
    program = lower(schedule, mode, Flush(reduce_gradients=True, norm=True))
    flat = [[a for step in steps for a in step] for steps in program.steps]
    for rank, actions in enumerate(flat):
        kinds = {a.kind for a in actions}
        assert (Kind.BACKWARD in kinds) == (rank >= k)
        assert (Kind.SEND_BACKWARD in kinds) == (rank > k)
        assert (Kind.RECV_BACKWARD in kinds) == (k <= rank < p - 1)
        assert (Kind.REDUCE_GRADIENTS in kinds) == (rank >= k)
        assert {Kind.GRADIENT_NORM, Kind.OPTIMIZER} <= kinds
        assert [a for a in actions if a.kind in COMPUTE] == list(schedule.orders[rank])
    assert set(message_orders(schedule)) == {
        *((r, r + 1) for r in range(p - 1)),
        *((r + 1, r) for r in range(k, p - 1)),
    }


def test_overlapped_reductions_follow_trained_stages_alone() -> None:
    program = lower(
        gpipe(2, 1, frozen_stages=1), flush=Flush(reduce_gradients=True, overlapped=True)
    )
    kinds = [[a.kind for step in steps for a in step] for steps in program.steps]
    assert kinds == [
        [Kind.FORWARD, Kind.SEND_FORWARD, Kind.OPTIMIZER],
        [
            Kind.RECV_FORWARD,
            Kind.FORWARD,
            Kind.BACKWARD,
            Kind.REDUCE_GRADIENTS,
            Kind.OPTIMIZER,
        ],
    ]


def test_dependencies_of_the_first_trained_stage() -> None:
    schedule = gpipe(3, 1, frozen_stages=1)
    F, B = Kind.FORWARD, Kind.BACKWARD
    assert dependencies(Action(B, 1, 0), schedule) == (Action(F, 1, 0), Action(B, 2, 0))


def test_a_backward_pass_on_a_frozen_stage_is_a_fault() -> None:
    sound = gpipe(2, 1, frozen_stages=1)
    orders = ((*sound.orders[0], parse_action("0B0")), sound.orders[1])
    with pytest.raises(ScheduleError, match="stage 0 is frozen, but 0F0 has a backward pass"):
        check_complete(replace(sound, orders=orders))
    with pytest.raises(ScheduleError, match="0F0 needs either one B"):
        check_complete(replace(sound, frozen_stages=0))


@pytest.mark.parametrize("generate", [gpipe, one_forward_one_backward])
def test_the_last_stage_is_never_frozen(generate: object) -> None:
    assert callable(generate)
    with pytest.raises(ValueError, match="at most 1 can be"):
        generate(2, 4, frozen_stages=2)
    with pytest.raises(ValueError, match="at most 0 can be"):
        generate(1, 4, frozen_stages=1)


@given(sizes)
def test_frozen_schedules_go_through_torchs_notation(size: tuple[int, int, int]) -> None:
    p, m, k = size
    schedule = gpipe(p, m, frozen_stages=k)
    for text in (compute_csv(schedule), program_csv(lower(schedule))):
        read = parse_csv(text, shown="gpipe.csv", num_ranks=p, num_microbatches=m)
        assert read == schedule
    reduced = [line.count("REDUCE_GRAD") for line in program_csv(lower(schedule)).splitlines()]
    assert reduced == [0] * k + [1] * (p - k)


def test_the_picture_in_unit_times() -> None:
    slots = unit_slots(gpipe(2, 2, frozen_stages=1))
    assert [[str(a) if a else "." for a in row] for row in slots] == [
        ["0F0", "0F1", ".", ".", ".", ".", "."],
        [".", "1F0", "1F1", "1B0", "1B0", "1B1", "1B1"],
    ]
