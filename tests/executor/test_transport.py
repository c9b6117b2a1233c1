"""Transports: order, sizes, full rings, deadlines, delays, and the same interface over each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import HashStore

from executor.launch import RankContext, launch
from executor.transport import (
    PeerGone,
    ReceivePost,
    SendPost,
    Transport,
    TransportError,
    TransportTimeout,
    make_transport,
)
from executor.transport.mailbox import MailboxTransport
from executor.transport.null import NullTransport
from executor.transport.wrappers import (
    CheckingTransport,
    DelayingTransport,
    FailingTransport,
    InjectedFailure,
)
from sim.schedule.actions import Action, Kind

pytestmark = pytest.mark.timeout(90)
CPU = torch.device("cpu")


def send_f(microbatch: int, slice_index: int = 0) -> Action:
    return Action(Kind.SEND_FORWARD, 0, microbatch, slice_index)


def recv_f(microbatch: int, slice_index: int = 0) -> Action:
    return Action(Kind.RECV_FORWARD, 1, microbatch, slice_index)


def send_b(microbatch: int) -> Action:
    return Action(Kind.SEND_BACKWARD, 1, microbatch)


def recv_b(microbatch: int) -> Action:
    return Action(Kind.RECV_BACKWARD, 0, microbatch)


def mailboxes(**settings: Any) -> tuple[MailboxTransport, MailboxTransport]:
    """Two mailboxes in this process, both of whose ends the test drives."""
    store = HashStore()
    store.set_timeout(timedelta(seconds=20))
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(MailboxTransport, store, rank, 2, **settings) for rank in (0, 1)]
        return made[0].result(), made[1].result()


@pytest.fixture
def pair() -> Iterator[tuple[MailboxTransport, MailboxTransport]]:
    left, right = mailboxes(debug=True, num_slots=4)
    yield left, right
    left.close()
    right.close()


def test_messages_arrive_in_order_in_each_channel(
    pair: tuple[MailboxTransport, MailboxTransport],
) -> None:
    left, right = pair
    forward = [right.post_receive(recv_f(i), 0, (3,), torch.float64) for i in range(3)]
    backward = left.post_receive(recv_b(0), 1, (2, 2), torch.bfloat16)
    right.send(send_b(0), 0, torch.full((2, 2), 7.0, dtype=torch.bfloat16))
    for i in range(3):
        left.send(send_f(i), 1, torch.full((3,), float(i), dtype=torch.float64))
    assert [receive.wait(5).tolist() for receive in forward] == [[float(i)] * 3 for i in range(3)]
    assert backward.wait(5).tolist() == [[7.0, 7.0], [7.0, 7.0]]
    first = forward[0]
    assert first.sent_ns is not None and first.arrived_ns is not None
    assert first.sent_ns <= first.arrived_ns <= time.monotonic_ns()
    left.flush(1)
    right.flush(1)


def test_sizes_grow_and_shrink(pair: tuple[MailboxTransport, MailboxTransport]) -> None:
    left, right = pair
    sizes = [1, 0, 5000, 3, 1_000_000, 1023, 1024, 1025, 2_000_000, 1]
    for round_index in range(3):
        for i, size in enumerate(sizes):
            tensor = torch.arange(size, dtype=torch.float32) + i + round_index
            left.send(send_f(i), 1, tensor)
            received = right.post_receive(recv_f(i), 0, (size,), torch.float32).wait(5)
            assert torch.equal(received, tensor)


def test_tensors_without_contiguous_memory_and_with_gradients(
    pair: tuple[MailboxTransport, MailboxTransport],
) -> None:
    left, right = pair
    tensor = torch.randn(6, 4, requires_grad=True).t()
    left.send(send_f(0), 1, tensor)
    received = right.post_receive(recv_f(0), 0, (4, 6), torch.float32).wait(5)
    assert torch.equal(received, tensor) and not received.requires_grad


def test_a_full_ring_queues_and_loses_nothing(
    pair: tuple[MailboxTransport, MailboxTransport],
) -> None:
    left, right = pair
    pendings = [left.send(send_f(i), 1, torch.full((2,), float(i))) for i in range(10)]
    assert [pending.done() for pending in pendings] == [True] * 4 + [False] * 6
    assert "0SEND_F4 to rank 1: waits for a free slot" in left.describe()
    with pytest.raises(TransportTimeout, match=r"0SEND_F9 to rank 1.*not taken within 0.1 s"):
        left.flush(0.1)
    for i in range(10):
        received = right.post_receive(recv_f(i), 0, (2,), torch.float32).wait(5)
        assert received.tolist() == [float(i)] * 2
        left.look()
    left.flush(1)
    assert all(pending.done() for pending in pendings)


def test_two_ranks_that_send_into_full_rings_do_not_deadlock() -> None:
    left, right = mailboxes(num_slots=1)
    number = 30

    def drive(
        mailbox: MailboxTransport, peer: int, send: Callable[[int], Action], receive: Any
    ) -> None:
        for i in range(number):
            mailbox.send(send(i), peer, torch.full((9000,), float(i)))
        for i in range(number):
            got = mailbox.post_receive(receive(i), peer, (9000,), torch.float32).wait(20)
            assert got[0] == i
        mailbox.flush(20)

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(drive, left, 1, send_f, recv_b)
        two = pool.submit(drive, right, 0, send_b, recv_f)
        one.result(60)
        two.result(60)
    left.close()
    right.close()


def test_a_deadline_is_kept_and_names_message_and_peer(
    pair: tuple[MailboxTransport, MailboxTransport],
) -> None:
    _, right = pair
    receive = right.post_receive(recv_f(3, 2), 0, (1,), torch.float32)
    assert not receive.done()
    began, cpu = time.monotonic(), time.process_time()
    with pytest.raises(TransportTimeout, match=r"1RECV_F3.2 from rank 0 .*within 0.3 s"):
        receive.wait(0.3)
    assert 0.29 < time.monotonic() - began < 2.0
    assert time.process_time() - cpu < 0.15
    assert right.describe() == "1RECV_F3.2 from rank 0: not arrived"
    with pytest.raises(TransportError, match=r"at the end of an iteration: 1RECV_F3.2"):
        right.flush(1)


def test_an_ended_peer_is_noticed_and_its_last_messages_still_arrive(
    pair: tuple[MailboxTransport, MailboxTransport],
) -> None:
    left, right = pair
    left.send(send_f(0), 1, torch.ones(2))
    left.close()
    assert right.post_receive(recv_f(0), 0, (2,), torch.float32).wait(5).tolist() == [1.0, 1.0]
    with pytest.raises(PeerGone, match="rank 0 has ended; 1RECV_F1 will not come"):
        right.post_receive(recv_f(1), 0, (2,), torch.float32).wait(5)
    with pytest.raises(PeerGone, match="rank 0 cannot be reached"):
        right.send(send_b(0), 0, torch.ones(2))


def test_a_wrong_order_or_size_is_refused(
    pair: tuple[MailboxTransport, MailboxTransport],
) -> None:
    left, right = pair
    left.send(send_f(0), 1, torch.ones(2))
    left.send(send_f(1), 1, torch.ones(2))
    with pytest.raises(TransportError, match="1RECV_F5 from rank 0 got 0SEND_F0"):
        right.post_receive(recv_f(5), 0, (2,), torch.float32).wait(5)
    with pytest.raises(TransportError, match=r"expects 12 bytes .* 0SEND_F1 has 8"):
        right.post_receive(recv_f(1), 0, (3,), torch.float32).wait(5)
    with pytest.raises(ValueError, match="0SEND_F0 is not a receive: post its other end, 1RECV_F0"):
        right.post_receive(send_f(0), 0, (2,), torch.float32)


def test_it_has_no_name_in_the_file_system() -> None:
    def names() -> set[str]:
        folders = (Path("/dev/shm"), Path("/tmp"))
        return {str(p) for f in folders if f.exists() for p in f.glob("*pipetwin-*")}

    before, descriptors = names(), len(list(Path("/proc/self/fd").iterdir()))
    left, right = mailboxes()
    left.send(send_f(0), 1, torch.ones(2))
    right.post_receive(recv_f(0), 0, (2,), torch.float32).wait(5)
    assert names() <= before
    left.close()
    right.close()
    del left, right
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors


def test_batches_give_a_pending_for_each_post(
    pair: tuple[MailboxTransport, MailboxTransport],
) -> None:
    left, right = pair
    sent, received = left.batch(
        [
            SendPost(message=send_f(0), destination=1, tensor=torch.ones(2)),
            ReceivePost(message=recv_b(0), source=1, shape=(2,), dtype=torch.float32),
        ]
    )
    right.send(send_b(0), 0, torch.zeros(2))
    assert sent.wait(5) is None
    tensor = received.wait(5)
    assert tensor is not None and tensor.tolist() == [0.0, 0.0]


def test_null_gives_one_fixed_tensor_per_shape() -> None:
    null = NullTransport(CPU, seed=3)
    first = null.post_receive(recv_f(0), 0, (4, 2), torch.float64).wait(0)
    second = null.post_receive(recv_f(1), 0, (4, 2), torch.float64).wait(0)
    assert first.data_ptr() == second.data_ptr() and first is not second
    assert bool(first.any()) and null.send(send_f(0), 1, first).done()
    assert torch.equal(
        first, NullTransport(CPU, seed=3).post_receive(recv_f(0), 0, (4, 2), torch.float64).wait(0)
    )
    null.flush(0)
    null.close()


def test_failures_are_injected_at_the_nth_message() -> None:
    failing = FailingTransport(NullTransport(CPU), at_message=2)
    failing.send(send_f(0), 1, torch.ones(1))
    failing.post_receive(recv_f(0), 0, (1,), torch.float32).wait(1)
    with pytest.raises(InjectedFailure, match="0SEND_F1"):
        failing.send(send_f(1), 1, torch.ones(1))


def test_checking_finds_a_wrong_message() -> None:
    left, right = mailboxes()
    checked_left, checked_right = CheckingTransport(left), CheckingTransport(right)
    for i in range(2):
        checked_left.send(send_f(i), 1, torch.full((2,), float(i)))
    good = checked_right.post_receive(recv_f(0), 0, (2,), torch.float32)
    assert good.wait(5).tolist() == [0.0, 0.0]
    bad = checked_right.post_receive(recv_f(2), 0, (2,), torch.float32)
    with pytest.raises(TransportError, match="1RECV_F2 from rank 0 got 0SEND_F1"):
        bad.wait(5)
    left.close()
    right.close()


def exchange(transport: Transport, rank: int, *, number: int, window: int = 2) -> list[float]:
    """A pipeline of two: forward tensors one way, their doubles back; the sums seen."""
    seen = []
    pending: list[Any] = []
    if rank == 0:
        for i in range(number):
            pending.append(transport.post_receive(recv_b(i), 1, (50,), torch.float32))
            transport.send(send_f(i), 1, torch.full((50,), float(i)))
            if len(pending) > window:
                seen.append(float(pending.pop(0).wait(30).sum()))
        seen += [float(receive.wait(30).sum()) for receive in pending]
    else:
        for i in range(number):
            got = transport.post_receive(recv_f(i), 0, (50,), torch.float32).wait(30)
            transport.send(send_b(i), 0, 2 * got)
            seen.append(float(got.sum()))
    transport.flush(30)
    return seen


def test_random_delays_change_nothing() -> None:
    expected = [50.0 * i for i in range(8)]
    for seed in range(20):
        pair = mailboxes(debug=True, num_slots=2)
        delayed = [
            DelayingTransport(CheckingTransport(t), seed=seed, rank=r, longest_s=0.003)
            for r, t in enumerate(pair)
        ]
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(exchange, t, r, number=8) for r, t in enumerate(delayed)]
            assert futures[1].result(60) == expected
            assert futures[0].result(60) == [2 * value for value in expected]
        for transport in pair:
            transport.close()


def exchange_between_processes(context: RankContext, payload: dict[str, Any]) -> Any:
    transport = make_transport(
        payload["transport"],
        rank=context.rank,
        num_ranks=context.num_ranks,
        store=context.store,
        device=context.device,
        deadline_s=context.deadline_s,
        debug=True,
    )
    name = type(transport).__name__
    plain = exchange(transport, context.rank, number=40)
    checked = exchange(CheckingTransport(transport), context.rank, number=5)
    # Receives posted in another order than the sender's: gloo's tags put it right.
    swapped = None
    if name == "ProcessGroupTransport":
        if context.rank == 0:
            for i in (0, 1):
                transport.send(send_f(i), 1, torch.full((2,), float(i)))
        else:
            posted = [transport.post_receive(recv_f(i), 0, (2,), torch.float32) for i in (1, 0)]
            swapped = [float(receive.wait(20)[0]) for receive in posted]
        transport.flush(20)
    transport.close()
    return name, plain, checked, swapped


@pytest.mark.parametrize(
    ("transport", "name"), [("auto", "MailboxTransport"), ("gloo", "ProcessGroupTransport")]
)
def test_each_carrier_has_the_same_interface(transport: str, name: str) -> None:
    zero, one = launch(
        2,
        f"{__name__}:exchange_between_processes",
        {"transport": transport},
        deadline_s=60,
        pin=False,
    )
    assert zero[0] == one[0] == name
    assert one[1] == [50.0 * i for i in range(40)] and zero[1] == [100.0 * i for i in range(40)]
    assert one[2] == [50.0 * i for i in range(5)]
    if name == "ProcessGroupTransport":
        assert one[3] == [1.0, 0.0]


def test_an_unknown_name_and_nccl_without_gpu() -> None:
    settings: dict[str, Any] = {"rank": 0, "num_ranks": 1, "store": HashStore(), "device": CPU}
    with pytest.raises(ValueError, match="it is auto, mailbox, gloo, nccl or none"):
        make_transport("pigeon", deadline_s=1, **settings)  # type: ignore[arg-type]
    with pytest.raises(TransportError, match="default process group"):
        make_transport("gloo", deadline_s=1, **settings)


def test_a_wait_lets_other_threads_run(pair: tuple[MailboxTransport, MailboxTransport]) -> None:
    left, right = pair
    receive = right.post_receive(recv_f(0), 0, (1,), torch.float32)
    timer = threading.Timer(0.1, lambda: left.send(send_f(0), 1, torch.ones(1)))
    timer.start()
    assert receive.wait(10).tolist() == [1.0]
    timer.join()
