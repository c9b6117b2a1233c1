"""Each sample is seen once an epoch, however the replicas share them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sim.elastic.phases import Layout, iterations_of
from sim.elastic.sharding import epoch_order, microbatch_samples


def layout_of(stages: int, data: int, micro_batch: int, microbatches: int) -> Layout:
    return Layout(
        frozen_layers=0,
        layers_per_stage=(1,) * stages,
        data=data,
        micro_batch=micro_batch,
        microbatches=microbatches,
    )


def seen(order: np.ndarray, layout: Layout, iteration: int) -> list[int]:
    return [
        int(sample)
        for replica in range(layout.data)
        for microbatch in range(layout.microbatches)
        for sample in microbatch_samples(order, layout, iteration, replica, microbatch)
    ]


@given(
    samples=st.integers(1, 200),
    data=st.integers(1, 5),
    micro_batch=st.integers(1, 5),
    microbatches=st.integers(1, 5),
    seed=st.integers(-3, 3),
    epoch=st.integers(0, 3),
)
def test_every_sample_once_an_epoch(
    samples: int, data: int, micro_batch: int, microbatches: int, seed: int, epoch: int
) -> None:
    layout = layout_of(2, data, micro_batch, microbatches)
    order = epoch_order(seed, epoch, samples)
    iterations = iterations_of(samples, layout.global_batch)
    found = [sample for i in range(iterations) for sample in seen(order, layout, i)]
    assert sorted(found) == list(range(samples))
    assert found == order.tolist()


def test_orders_differ_between_epochs_and_seeds() -> None:
    orders = {tuple(epoch_order(seed, epoch, 50)) for seed in (-1, 0, 1) for epoch in range(3)}
    assert len(orders) == 9
    assert (epoch_order(4, 2, 50) == epoch_order(4, 2, 50)).all()


def test_an_iteration_has_the_same_samples_when_replicas_share_its_batch() -> None:
    order = epoch_order(0, 0, 96)
    one, four = layout_of(4, 1, 2, 12), layout_of(1, 4, 3, 2)
    assert one.global_batch == four.global_batch == 24
    for iteration in range(4):
        assert seen(order, one, iteration) == seen(order, four, iteration)


def test_the_last_microbatches_of_an_odd_epoch_are_short_or_empty() -> None:
    order, layout = epoch_order(0, 0, 5), layout_of(1, 2, 2, 2)
    sizes = [len(microbatch_samples(order, layout, 0, r, m)) for r in range(2) for m in range(2)]
    assert sizes == [2, 2, 1, 0]
