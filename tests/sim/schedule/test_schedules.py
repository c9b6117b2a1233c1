"""Generators, lowering and dependencies against the rules they come from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.schedule.actions import COMPUTE, RECEIVES, SENDS, Action, Kind, NotationError, parse_action
from sim.schedule.checks import check, in_flight
from sim.schedule.drawing import grid, unit_slots
from sim.schedule.generators import gpipe, interleaved, one_forward_one_backward
from sim.schedule.lowering import Flush, lower, message_orders, partner, peer
from sim.schedule.schedule import Schedule, dependencies

sizes = st.tuples(st.integers(1, 9), st.integers(1, 24))


@given(
    st.sampled_from(sorted(COMPUTE | SENDS | RECEIVES | {Kind.EXCHANGE})),
    st.integers(0, 99),
    st.integers(0, 999),
    st.integers(0, 40),
    st.integers(0, 3),
)
def test_actions_are_printed_and_parsed(
    kind: Kind, stage: int, microbatch: int, slice_index: int, pipe: int
) -> None:
    action = Action(kind, stage, microbatch, slice_index, pipe)
    assert parse_action(str(action)) == action


def test_notation_is_torchs() -> None:
    assert str(Action(Kind.FORWARD, 2, 0)) == "2F0"
    assert str(Action(Kind.FORWARD, 2, 0, 3)) == "2F0.3"
    assert str(Action(Kind.SEND_BACKWARD, 1, 4)) == "1SEND_B4"
    assert str(Action(Kind.REDUCE_GRADIENTS, 1)) == "1REDUCE_GRAD"


@pytest.mark.parametrize("text", ["", "F0", "2X0", "2F", "2F-1", "2f0", "1STEP3", "2F0.", "a2F0"])
def test_bad_notation_is_refused_with_the_text(text: str) -> None:
    with pytest.raises(NotationError, match=r"action|needs|takes"):
        parse_action(text)


@given(sizes)
def test_orders_are_sound_and_in_flight_is_the_closed_form(size: tuple[int, int]) -> None:
    p, m = size
    report = check(gpipe(p, m))
    assert report.in_flight == (m,) * p
    assert not any(report.deadlocks.values())
    assert check(gpipe(p, m, backward="reversed")).in_flight == (m,) * p
    report = check(one_forward_one_backward(p, m))
    assert report.in_flight == tuple(min(m, p - r) for r in range(p))
    assert not report.deadlocks["buffered"]
    assert not report.deadlocks["rendezvous, receives posted early"]
    assert not report.deadlocks["batched"]
    assert bool(report.deadlocks["blocking rendezvous"]) == (p > 1 and m > 1)


def test_the_orders_of_a_small_1f1b_written_out() -> None:
    orders = one_forward_one_backward(2, 3).orders
    assert " ".join(map(str, orders[0])) == "0F0 0F1 0B0 0F2 0B1 0B2"
    assert " ".join(map(str, orders[1])) == "1F0 1B0 1F1 1B1 1F2 1B2"
    assert " ".join(map(str, gpipe(1, 2, backward="reversed").orders[0])) == "0F0 0F1 0B1 0B0"


def test_dependencies_over_slices_stages_and_split_backwards() -> None:
    F, I, W = Kind.FORWARD, Kind.BACKWARD_INPUT, Kind.BACKWARD_WEIGHT  # noqa: E741
    order = (
        [Action(F, s, 0, j) for s in range(2) for j in range(2)]
        + [Action(I, s, 0, j) for s in (1, 0) for j in (1, 0)]
        + [Action(W, s, 0, j) for s in (1, 0) for j in (1, 0)]
    )
    schedule = Schedule(name="t", orders=(tuple(order),), placement=((0, 0),))
    assert dependencies(Action(F, 1, 0, 1), schedule) == (Action(F, 0, 0, 1), Action(F, 1, 0, 0))
    assert set(dependencies(Action(I, 0, 0, 0), schedule)) == {
        Action(F, 0, 0, 0),
        Action(I, 1, 0, 0),
        Action(I, 0, 0, 1),
    }
    assert dependencies(Action(W, 0, 0, 1), schedule) == (Action(I, 0, 0, 1),)
    assert in_flight(schedule) == (4,)


@given(sizes)
def test_lowering_keeps_passes_and_pairs_every_message(size: tuple[int, int]) -> None:
    p, m = size
    schedule = one_forward_one_backward(p, m)
    for mode in ("overlapped", "blocking", "exchange", "serial"):
        program = lower(schedule, mode)
        flat = [[a for step in steps for a in step] for steps in program.steps]
        for rank, actions in enumerate(flat):
            assert tuple(a for a in actions if a.kind in COMPUTE) == schedule.orders[rank]
            assert actions[-1] == Action(Kind.OPTIMIZER, rank)
        sent = {a for actions in flat for a in actions if a.kind in SENDS}
        received = {a for actions in flat for a in actions if a.kind in RECEIVES}
        assert {partner(a) for a in sent} == received
        assert len(sent) == 2 * (p - 1) * m


@given(sizes)
def test_receives_are_posted_in_the_senders_order_four_ahead(size: tuple[int, int]) -> None:
    p, m = size
    schedule = gpipe(p, m, backward="reversed")
    program = lower(schedule, "overlapped")
    for (sender, receiver), sent in message_orders(schedule).items():
        posted = [
            a
            for step in program.steps[receiver]
            for a in step
            if a.kind in RECEIVES and peer(a, schedule) == sender
        ]
        assert posted == [partner(a) for a in sent]
    outstanding = 0
    for step in program.steps[p - 1]:
        outstanding += sum(a.kind in RECEIVES for a in step)
        if step[0].kind is Kind.FORWARD and p > 1:
            outstanding -= 1
        assert outstanding <= 4


def test_blocking_pairs_what_megatron_pairs() -> None:
    steps = lower(one_forward_one_backward(3, 4), "blocking").steps[1]
    text = [" ".join(map(str, step)) for step in steps]
    assert text[:8] == [
        "1RECV_F0",
        "1F0",
        "1SEND_F0",
        "1RECV_F1",
        "1F1",
        "1SEND_F1 1RECV_B0",
        "1B0",
        "1SEND_B0 1RECV_F2",
    ]


def test_an_exchange_has_all_messages_between_two_passes() -> None:
    steps = lower(gpipe(3, 2, backward="reversed"), "exchange").steps[1]
    assert [" ".join(map(str, step)) for step in steps] == [
        "1RECV_F0",
        "1F0",
        "1SEND_F0 1RECV_F1",
        "1F1",
        "1SEND_F1 1RECV_B1",
        "1B1",
        "1SEND_B1 1RECV_B0",
        "1B0",
        "1SEND_B0",
        "1STEP",
    ]


def test_the_flush_follows_the_last_pass() -> None:
    flush = Flush(reduce_gradients=True, reduce_tied=True, norm=True)
    steps = lower(one_forward_one_backward(3, 2), "overlapped", flush).steps
    tail = [[str(a) for step in rank[-4:] for a in step] for rank in steps]
    assert tail[0] == ["0REDUCE_GRAD", "0TIED", "0NORM", "0STEP"]
    assert tail[1][1:] == ["1REDUCE_GRAD", "1NORM", "1STEP"]
    assert tail[2] == ["2REDUCE_GRAD", "0TIED", "2NORM", "2STEP"]


def test_overlapped_reductions_follow_their_stage_s_last_backward_pass() -> None:
    flush = Flush(reduce_gradients=True, overlapped=True, norm=True, gather_weights=True)
    for mode in ("overlapped", "blocking"):
        program = lower(interleaved(2, 4, 2), mode, flush)  # type: ignore[arg-type]
        assert program.overlapped_reduction
        steps = [str(step[0]) for step in program.steps[1]]
        for stage in (1, 3):
            posted = steps.index(f"{stage}REDUCE_GRAD")
            assert steps[posted - 1] == f"{stage}B3"
            assert steps.count(f"{stage}REDUCE_GRAD") == 1
        assert steps.index("3REDUCE_GRAD") < steps.index("1B3")
        assert steps[-4:] == ["1NORM", "1STEP", "1GATHER", "3GATHER"]
    after = lower(interleaved(2, 4, 2), "overlapped", Flush(reduce_gradients=True))
    assert not after.overlapped_reduction
    tail = [str(step[0]) for step in after.steps[1][-3:]]
    assert tail == ["1REDUCE_GRAD", "3REDUCE_GRAD", "1STEP"]


def test_a_reduction_follows_the_last_w_where_backward_passes_are_split() -> None:
    kinds = (Kind.FORWARD, Kind.BACKWARD_INPUT, Kind.BACKWARD_WEIGHT)
    order = tuple(Action(kind, 0, i) for i in range(2) for kind in kinds)
    schedule = Schedule(name="split", orders=(order,), placement=((0,),))
    flush = Flush(reduce_gradients=True, overlapped=True)
    steps = lower(schedule, "overlapped", flush).steps[0]
    assert [str(step[0]) for step in steps[-3:]] == ["0W1", "0REDUCE_GRAD", "0STEP"]


def test_the_picture_in_unit_times() -> None:
    slots = unit_slots(one_forward_one_backward(4, 8))
    assert {len(row) for row in slots} == {(8 + 3) * 3}
    assert [sum(a is not None for a in row) for row in slots] == [24] * 4
    assert "rank  0: 0F0 0F1" in grid(gpipe(2, 2).orders)


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 rank and 1 microbatch"):
        gpipe(0, 3)
