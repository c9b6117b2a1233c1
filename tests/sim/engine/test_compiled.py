"""The compiled engine's own rules: ops, instants, ranges of time, tapes."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

from sim.cost.costs import ActionCosts, Cost, CostKey, CostTable, Transfer
from sim.engine import compiled, kernels, simpy_engine, tape_kernels
from sim.engine.choice import run, simulate
from sim.engine.encoded import NOTHING, Op
from sim.engine.encoding import encode, price
from sim.engine.shapes import encoded_shape
from sim.schedule.actions import SENDS, Action, Kind, parse_action
from sim.schedule.generators import gpipe, interleaved, one_forward_one_backward
from sim.schedule.lowering import Flush, Program, lower
from sim.schedule.schedule import Schedule
from sim.schedule.shape import Shape

F, B = Kind.FORWARD, Kind.BACKWARD


def table(program: Program, duration: int = 10, **fields: int) -> CostTable:
    """Passes of one duration; every message on a link of its pair of ranks."""
    schedule = program.schedule
    transfers = {}
    for action in program.distinct:
        if action.kind in SENDS:
            forward = action.kind is Kind.SEND_FORWARD
            source = schedule.rank_of(action.stage)
            target = schedule.rank_of(action.stage + (1 if forward else -1))
            transfers[CostKey(action.kind, action.stage)] = Transfer(
                occupancy_ns=fields.get("occupancy", 3),
                latency_ns=fields.get("latency", 1),
                resources=(100 * source + target,),
                payload_bytes=0,
            )
    cost = Cost(duration_ns=duration, parts={})
    passes = {CostKey(a.kind, a.stage): cost for a in program.distinct if a.kind in (F, B)}
    return CostTable(costs=passes, transfers=transfers)


def test_kernels_know_the_ops_by_their_numbers() -> None:
    for module in (kernels, tape_kernels):
        assert {op.name: getattr(module, op.name) for op in Op} == {op.name: int(op) for op in Op}


def test_ops_of_a_blocking_program_written_out() -> None:
    program = lower(gpipe(2, 1), "blocking", Flush(norm=True))
    encoded = encode(program)
    assert encoded.action_of is not None
    found = [
        [
            f"{Op(encoded.op[i]).name} {encoded.action_of(i)} {encoded.about[i]}"
            for i in range(encoded.first[rank], encoded.first[rank + 1])
        ]
        for rank in range(2)
    ]
    assert found == [
        [
            "PASS 0F0 -1",
            "SEND 0SEND_F0 1",
            "RECEIVE 0RECV_B0 0",
            "AWAIT 0RECV_B0 0",
            "AWAIT_SENT 0SEND_F0 1",
            "WORK 0EXCHANGE0 -1",
            "PASS 0B0 -1",
            "MEET 0NORM 0",
            "WORK 0STEP -1",
        ],
        [
            "RECEIVE 1RECV_F0 1",
            "AWAIT 1RECV_F0 1",
            "WORK 1EXCHANGE0 -1",
            "PASS 1F0 -1",
            "PASS 1B0 -1",
            "SEND 1SEND_B0 0",
            "AWAIT_SENT 1SEND_B0 0",
            "WORK 1EXCHANGE1 -1",
            "MEET 1NORM 0",
            "WORK 1STEP -1",
        ],
    ]
    first = encoded.first[1]
    assert encoded.slot[first + 2] == encoded.slot[first + 7]
    assert encoded.slots[encoded.slot[5]] == CostKey(Kind.EXCHANGE, 0)
    assert encoded.slot[2] == NOTHING
    assert encoded.sender.tolist() == [1, 0] and encoded.receiver.tolist() == [0, 1]
    assert encoded.meeting_size.tolist() == [2]


def test_what_a_message_of_no_time_lets_go_on_is_booked_in_a_later_round() -> None:
    """Rank 2 hears of rank 3's pass at once, on no link, and so posts 1's gradient at time 0, too,
    but in a later round than 1's own message for 2, though its number is lower. Both need link 0:
    had they come in one round, the gradient would go first."""
    orders = ("0F0 0F0@1", "1F0 1B0@1", "2F0@1 2B0@1 2F0", "3F0@1 3B0@1")
    schedule = Schedule(
        name="rounds",
        orders=tuple(tuple(map(parse_action, text.split())) for text in orders),
        placement=((0, 1, 2, 3), (0, 1, 2, 3)),
    )
    post, take = Action(Kind.SEND_FORWARD, 1, 0), Action(Kind.RECV_FORWARD, 2, 0)
    early, late = (
        Action(k, s, 0, 0, 1) for k, s in ((Kind.SEND_BACKWARD, 3), (Kind.SEND_BACKWARD, 2))
    )
    got_early = Action(Kind.RECV_BACKWARD, 2, 0, 0, 1)
    got_late = Action(Kind.RECV_BACKWARD, 1, 0, 0, 1)
    program = Program(
        schedule=schedule,
        mode="overlapped",
        steps=(
            (),
            ((post,), (got_late,)),
            ((take,), (got_early,), (Action(Kind.BACKWARD, 2, 0, 0, 1),), (late,)),
            ((early,),),
        ),
    )
    shared = Transfer(occupancy_ns=5, latency_ns=0, resources=(0,), payload_bytes=0)
    costs = ActionCosts(durations={}, transfers={post: shared, late: shared})
    expected = simpy_engine.simulate(program, costs)
    found = compiled.simulate(program, costs)
    assert sorted(found.spans) == sorted(expected.spans)
    starts = {s.action: s.start_ns for s in found.spans if s.lane != "compute"}
    assert (starts[post], starts[late], starts[early]) == (0, 5, 0)


@pytest.mark.parametrize("duration", [2**61, 2**62, 2**63, 2**70])
def test_times_that_do_not_fit_raise_or_are_simulated_by_simpy(duration: int) -> None:
    program = lower(gpipe(2, 2), "blocking")
    costs = table(program, duration)
    with pytest.raises(OverflowError, match="2\\^62"):
        run(program, costs, "compiled")
    assert simulate(program, costs).iteration_ns == 6 * duration + 4 * 4


def test_the_longest_times_that_fit_are_exact() -> None:
    """All of them together are just below 2^62."""
    program = lower(gpipe(2, 2), "blocking")
    costs = table(program, 2**62 // 8 - 10**10)
    expected = simpy_engine.simulate(program, costs)
    assert sorted(compiled.simulate(program, costs).spans) == sorted(expected.spans)


def test_no_time_is_negative() -> None:
    program = lower(gpipe(2, 2))
    with pytest.raises(ValueError, match="no time is negative"):
        compiled.simulate(program, table(program, -1))


def test_a_table_is_not_mistaken_for_costs_of_single_actions() -> None:
    program = lower(gpipe(2, 2))
    with pytest.raises(ValueError, match="encoded for a table"):
        price(encode(program), ActionCosts(durations={}))


def test_a_deadlock_tells_steps_where_the_program_is_known() -> None:
    program = lower(one_forward_one_backward(3, 3), "serial")
    costs = table(program)
    with pytest.raises(simpy_engine.Deadlock) as expected:
        simpy_engine.simulate(program, costs)
    for attempt in (
        lambda: compiled.simulate(program, costs),
        lambda: compiled.evaluate(encode(program, costs), price(encode(program), costs), program),
    ):
        with pytest.raises(simpy_engine.Deadlock) as found:
            attempt()
        assert found.value.waiting == expected.value.waiting
    shape = Shape(schedule="1f1b", num_ranks=3, num_microbatches=3, mode="serial")
    encoded = encoded_shape(shape)
    for _ in range(compiled.FROM_TAPE + 1):
        with pytest.raises(simpy_engine.Deadlock) as bare:
            compiled.evaluate(encoded, price(encoded, costs))
        assert bare.value.waiting == ()


def test_one_program_under_many_prices() -> None:
    """Walked, then from a tape, of which other prices are as good as the first ones."""
    flush = Flush(reduce_gradients=True, overlapped=True, reduce_tied=True, norm=True)
    program = lower(one_forward_one_backward(4, 9), "blocking", flush)
    encoded = encode(program)
    for duration in range(1, 3 * compiled.FROM_TAPE):
        costs = table(program, duration, occupancy=duration % 4)
        expected = simpy_engine.simulate(program, costs)
        found = compiled.evaluate(encoded, price(encoded, costs))
        assert found.iteration_ns == expected.iteration_ns
        busy = [sum(s.duration_ns for s in rank) for rank in expected.compute]
        assert found.busy_ns.tolist() == busy


def test_contention_is_found_for_each_way_of_sharing_links() -> None:
    """The same program, first with links of its own for each pair, then with one for all."""
    program = lower(interleaved(4, 8, 2), "blocking")
    encoded = encode(program)
    apart = table(program)
    one = {k: replace(t, resources=(7,)) for k, t in apart.transfers.items()}
    for costs in (apart, replace(apart, transfers=one), apart):
        for _ in range(compiled.FROM_TAPE):
            found = compiled.evaluate(encoded, price(encoded, costs)).iteration_ns
            assert found == simpy_engine.simulate(program, costs).iteration_ns


def test_what_is_known_of_a_program_goes_with_it() -> None:
    program = lower(gpipe(2, 2))
    encoded = encode(program)
    compiled.evaluate(encoded, price(encoded, table(program)))
    assert encoded in compiled._known
    kept = weakref.ref(encoded)
    del encoded
    gc.collect()
    assert kept() is None


def test_a_program_of_nothing_takes_no_time() -> None:
    schedule = Schedule(name="empty", orders=((), ()), placement=((0, 1),))
    program = lower(schedule, flush=Flush(optimizer=False))
    assert compiled.simulate(program, table(program)) == simpy_engine.simulate(
        program, table(program)
    )
    encoded = encode(program)
    found = compiled.evaluate(encoded, price(encoded, table(program)))
    assert found.iteration_ns == 0
    assert np.array_equal(found.finished_ns, [0, 0])


def test_a_program_in_which_no_op_takes_time_has_no_spans() -> None:
    """A receive that is posted, never sent and never waited for."""
    whole = lower(gpipe(2, 1), "overlapped", Flush(optimizer=False))
    program = replace(whole, steps=(((Action(Kind.RECV_FORWARD, 1, 0),),), ()))
    costs = CostTable(costs={})
    assert compiled.simulate(program, costs).spans == ()
    assert simpy_engine.simulate(program, costs).spans == ()
