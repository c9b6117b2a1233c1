"""Each static check catches its planted fault, and says where it is."""

from dataclasses import replace

import pytest

from sim.schedule.actions import Action, Kind, parse_action
from sim.schedule.checks import (
    ScheduleError,
    check,
    check_acyclic,
    check_complete,
    check_message_order,
    run_untimed,
)
from sim.schedule.generators import gpipe, one_forward_one_backward
from sim.schedule.lowering import lower
from sim.schedule.schedule import Schedule


def edited(schedule: Schedule, rank: int, order: list[Action]) -> Schedule:
    orders = list(schedule.orders)
    orders[rank] = tuple(order)
    return replace(schedule, orders=tuple(orders))


def actions(text: str) -> list[Action]:
    return [parse_action(word) for word in text.split()]


def test_a_missing_action_is_named() -> None:
    broken = edited(gpipe(2, 2), 1, actions("1F0 1F1 1B0"))
    with pytest.raises(ScheduleError, match=r"1F1 needs either one B, or one I and one W"):
        check(broken)
    broken = edited(gpipe(2, 2), 1, actions("1F0 1B0 1B1"))
    with pytest.raises(ScheduleError, match=r"1F1 is missing"):
        check_complete(broken)


def test_repeated_and_misplaced_actions_are_named() -> None:
    broken = edited(gpipe(2, 1), 1, actions("1F0 1F0 1B0 0F0"))
    with pytest.raises(ScheduleError) as caught:
        check_complete(broken)
    text = str(caught.value)
    assert "1F0 appears 2 times" in text
    assert "0F0 is on rank 1, but rank 0 holds stage 0" in text


def test_i_without_w_is_named() -> None:
    broken = edited(gpipe(1, 1), 0, actions("0F0 0I0"))
    with pytest.raises(ScheduleError, match="found I"):
        check(broken)


def test_a_cycle_shows_who_waits_and_the_marked_grid() -> None:
    broken = edited(gpipe(2, 2), 0, actions("0B0 0F0 0F1 0B1"))
    with pytest.raises(ScheduleError) as caught:
        check_acyclic(broken)
    text = str(caught.value)
    assert "rank 0 at 0B0 waits for 0F0" in text
    assert "rank 1 at 1F0 waits for 0F0" in text
    assert ">0B0<" in text


def test_a_swapped_message_order_is_found() -> None:
    """Rank 1 takes microbatch 1 first: no hang, but with equal shapes wrong gradients."""
    broken = edited(gpipe(2, 2), 1, actions("1F1 1F0 1B0 1B1"))
    check_complete(broken)
    check_acyclic(broken)
    with pytest.raises(ScheduleError, match=r"message 0 from rank 0 to rank 1 is sent as 0SEND_F0"):
        check_message_order(lower(broken, "serial"))
    with pytest.raises(ScheduleError, match="not received in the order"):
        check(broken)


def test_a_blocking_send_deadlock_is_found_with_who_waits() -> None:
    schedule = one_forward_one_backward(2, 2)
    waiting = run_untimed(lower(schedule, "serial"), synchronous=True)
    assert [str(w) for w in waiting] == [
        "rank 0 at 0SEND_F1 waits for 1RECV_F1",
        "rank 1 at 1SEND_B0 waits for 0RECV_B0",
    ]
    assert run_untimed(lower(schedule, "serial"), synchronous=False) == ()
    assert run_untimed(lower(schedule, "blocking"), synchronous=True) == ()
    assert run_untimed(lower(gpipe(4, 8), "serial"), synchronous=True) == ()


def test_a_stage_nobody_has_is_named() -> None:
    broken = edited(gpipe(2, 1), 0, [*actions("0F0 0B0"), Action(Kind.FORWARD, 7, 0)])
    with pytest.raises(ScheduleError, match="7F0 on rank 0: no such stage"):
        check_complete(broken)
