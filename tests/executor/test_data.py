"""The data: real bytes, determined by their place, alike on every rank."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

from executor.data import Data, corpus
from scenarios.schema import Execution, MicrobatchGroup, Model, Plan, Scenario


def scenario(**model: Any) -> Scenario:
    shape: dict[str, Any] = {"layers": 1, "hidden": 8, "heads": 2, "sequence": 40}
    shape |= {"vocabulary": 256, "tied_embeddings": False} | model
    plan = Plan(micro_batch=3, microbatches=2, data=2, precision="fp32")
    return Scenario(name="t", model=Model(**shape), plan=plan)


def test_it_is_python_source() -> None:
    text, ends = corpus()
    assert int(ends[-1]) == len(text) > 200_000
    raw = bytes(text.tolist())
    assert raw.count(b"def ") > 1000
    assert 0 not in raw


def test_targets_are_the_next_token() -> None:
    inputs, targets = Data(scenario()).batch(0, 0, 0)
    assert inputs.shape == targets.shape == (3, 40)
    assert inputs.dtype == torch.int64
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    raw = bytes(corpus()[0].tolist())
    assert all(bytes(row.tolist()) in raw for row in inputs)


def test_a_batch_is_determined_by_its_place() -> None:
    one, other = Data(scenario()), Data(scenario())
    batches = {}
    for place in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        inputs, _ = one.batch(*place)
        assert torch.equal(inputs, other.batch(*place)[0])
        batches[place] = bytes(inputs.flatten().tolist())
    assert len(set(batches.values())) == 4
    seeded = Data(replace(scenario(), execution=Execution(seed=7))).batch(0, 0, 0)[0]
    assert bytes(seeded.flatten().tolist()) not in batches.values()


@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_sequences_are_the_same_however_they_are_shared_out(family: str) -> None:
    """Twelve sequences: two replicas of two microbatches of three, and one replica of others."""
    one = scenario(family=family)
    groups = tuple(MicrobatchGroup(micro_batch=n) for n in (5, 1, 4, 2))
    other = replace(one, plan=Plan(microbatch_groups=groups, precision="fp32"))
    for column in (0, 1):
        found = [
            torch.cat([Data(s).batch(3, *place)[column] for place in places])
            for s, places in ((one, product((0, 1), (0, 1))), (other, product((0,), range(4))))
        ]
        assert torch.equal(*found)


def test_slices_are_the_microbatch_cut() -> None:
    whole = scenario()
    cut = replace(whole, plan=replace(whole.plan, slices=(17, 1, 22)))
    batch = Data(whole).batch(1, 1, 1)
    parts = Data(cut).slices(1, 1, 1)
    assert [part.inputs.shape for part in parts] == [(3, 17), (3, 1), (3, 22)]
    for column in (0, 1):
        assert torch.equal(torch.cat([part[column] for part in parts], dim=1), batch[column])


@pytest.mark.parametrize(("vocabulary", "largest"), [(50, 49), (256, 255), (50257, 255)])
def test_ids_fit_the_vocabulary(vocabulary: int, largest: int) -> None:
    inputs, targets = Data(scenario(vocabulary=vocabulary)).batch(0, 0, 0)
    assert int(torch.stack((inputs, targets)).max()) <= largest
    assert int(inputs.min()) >= 0


@pytest.mark.parametrize(("vocabulary", "mask"), [(30522, 256), (256, 0)])
def test_bert_masks_fifteen_percent(vocabulary: int, mask: int) -> None:
    inputs, targets = Data(scenario(family="bert", vocabulary=vocabulary)).batch(0, 0, 0)
    masked = inputs == mask
    assert masked.sum(1).tolist() == [6, 6, 6]
    assert torch.equal(masked, targets != -100)
    assert int(targets[masked].min()) > 0


def test_vit_gets_synthetic_patches_and_classes() -> None:
    whole = scenario(family="vit", patch_inputs=12, vocabulary=10)
    patches, classes = Data(whole).batch(0, 0, 0)
    assert patches.shape == (3, 39, 12)
    assert patches.dtype == torch.float32
    assert -1 <= float(patches.min()) < float(patches.max()) < 1
    assert classes.shape == (3,)
    assert 0 <= int(classes.min()) <= int(classes.max()) < 10


def test_a_sequence_longer_than_the_corpus() -> None:
    length = len(corpus()[0]) + 5
    inputs, _ = Data(scenario(sequence=length)).batch(0, 0, 0)
    assert inputs.shape == (3, length)
