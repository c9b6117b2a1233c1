"""The data of elastic runs, and how an epoch's microbatches come from it or from the cache."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import elastic_cases as cases
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributed import HashStore

from executor.data import corpus
from executor.elastic import cache as caches
from executor.elastic.cache import Cache, folders
from executor.elastic.datasets import Dataset, check_samples, load_dataset
from executor.elastic.epochs import EpochCard, measured, told
from executor.elastic.errors import ElasticError
from executor.elastic.feeding import EpochData
from executor.elastic.foreign import Use, foreign_share
from scenarios.schema import Scenario
from sim.elastic.phases import Phase


def digits(**model: Any) -> Scenario:
    run = cases.scenario(samples=1440)
    assert run.model is not None
    return replace(run, model=replace(run.model, **model))


def test_the_digits_are_scikit_learn_s_cut_into_patches() -> None:
    from sklearn.datasets import load_digits

    found = load_dataset(digits())
    assert found.inputs.shape == (1440, 4, 16) and found.test_inputs.shape == (357, 4, 16)
    assert found.inputs.dtype == torch.float64 and found.targets.dtype == torch.int64
    assert float(found.inputs.min()) == -1 and float(found.inputs.max()) == 1
    images, classes = load_digits(return_X_y=True)
    # Put together again, the patches are the images, each with its class.
    both = torch.cat((found.inputs, found.test_inputs))
    whole = both.view(-1, 2, 2, 4, 4).transpose(2, 3).reshape(-1, 64).add(1).mul(8).numpy()
    targets = torch.cat((found.targets, found.test_targets)).numpy()
    mine = Counter((row.tobytes(), int(c)) for row, c in zip(whole, targets, strict=True))
    theirs = Counter((row.tobytes(), int(c)) for row, c in zip(images, classes, strict=True))
    assert mine == theirs


@pytest.mark.parametrize("shape", [(2, 17, 4), (1, 65, 1), (8, 2, 64)])
def test_patches_of_any_size_that_divides(shape: tuple[int, int, int]) -> None:
    _, sequence, inputs = shape
    found = load_dataset(digits(sequence=sequence, patch_inputs=inputs))
    assert found.inputs.shape == (1440, sequence - 1, inputs)


def test_the_split_has_the_same_share_of_every_class_whatever_the_seed() -> None:
    found = load_dataset(digits())
    for targets, share in ((found.targets, 1440 / 1797), (found.test_targets, 357 / 1797)):
        for count, total in zip(
            torch.bincount(targets),
            torch.bincount(torch.cat((found.targets, found.test_targets))),
            strict=True,
        ):
            assert abs(int(count) - share * int(total)) <= 1
    other = replace(digits(), execution=replace(digits().execution, seed=7))
    assert torch.equal(load_dataset(other).test_inputs, found.test_inputs)


def test_text_is_passages_of_the_files_behind_a_class_token() -> None:
    found = load_dataset(cases.text())
    assert found.inputs.shape == (96, 17) and found.inputs.dtype == torch.int64
    assert set(found.inputs[:, 0].tolist()) == {256} and int(found.inputs[:, 1:].max()) < 256
    assert len(found.test_targets) == 24
    source, ends = corpus()
    begins = [0, *ends.tolist()]
    for row, target in zip(found.inputs[:8], found.targets[:8].tolist(), strict=True):
        own = bytes(source[begins[target] : begins[target + 1]].tolist())
        assert bytes(row[1:].tolist()) in own
    counts = torch.bincount(found.targets)
    assert counts.max() - counts.min() <= 1


def test_no_passage_is_both_for_training_and_for_the_test() -> None:
    found = load_dataset(cases.text(samples=9600))
    source, _ = corpus()
    windows = torch.cat((found.inputs, found.test_inputs))[:, 1:]
    assert len(windows) == 12000
    # Passages of one file begin at multiples of their length; found by content they are distinct,
    # but for those that the file itself repeats.
    repeated = Counter(bytes(row.tolist()) for row in windows)
    every = bytes(source.tolist())
    for passage, count in repeated.most_common(20):
        assert every.count(passage) >= count


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (digits(patch_inputs=9, sequence=5), "`patch_inputs: 4` with `sequence: 17` would work"),
        (digits(patch_inputs=6, sequence=5), "reads in square patches"),
        (digits(sequence=6), "`sequence: 5`, with the class token, would work"),
        (digits(vocabulary=9), "`vocabulary: 10` would work"),
        (cases.scenario(samples=1797), "at most 1617 would work"),
        (cases.text(classes=None), "with `classes`, how many source files"),
        (cases.text(classes=99), "the text has [0-9]+ files"),
        (cases.text(vocabulary=64), "`vocabulary: 257` would work"),
        (cases.text(samples=10**6), "are kept for the test"),
        (cases.scenario(dataset=None), "which only `simulate` can do without"),
    ],
)
def test_what_a_model_cannot_read_is_refused(run: Scenario, message: str) -> None:
    with pytest.raises(ElasticError, match=message):
        load_dataset(run)


def test_without_scikit_learn_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ElasticError, match=r"pip install 'pipetwin\[data\]'"):
        load_dataset(digits())


def test_samples_must_be_whole_iterations() -> None:
    check_samples(cases.scenario(samples=96), [32, 48])
    with pytest.raises(ElasticError, match=r"no multiple of 96 .* 96 or 192 would work"):
        check_samples(cases.scenario(samples=100), [32, 48])
    with pytest.raises(ElasticError, match=": 96 would work"):
        check_samples(cases.scenario(samples=64), [32, 48])


# The cache.


def opened(
    name: str, *, samples: int = 10, memory: int = 1 << 20, store: Any = None, ranks: int = 1
) -> Cache:
    return Cache.open(
        name,
        store=store or HashStore(),
        rank=0,
        num_ranks=ranks,
        samples=samples,
        shape=(3, 4),
        dtype=torch.float32,
        memory_bytes=memory,
    )


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A cache of a test's own, its part on disk in the test's folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return f"test-{tmp_path.name}-{tmp_path.parent.name}"


def outputs(samples: Tensor) -> Tensor:
    return samples.float()[:, None, None] + torch.arange(12).view(3, 4) / 16


@pytest.mark.parametrize("in_memory", [10, 4, 0])
def test_what_was_written_is_read_wherever_it_lies(in_memory: int, name: str) -> None:
    cache = opened(name, memory=in_memory * 48 + 47)
    assert (cache.size.in_memory, cache.size.on_disk) == (in_memory, 10 - in_memory)
    first, second = torch.tensor([9, 0, 3, 4]), torch.tensor([5, 1])
    assert cache.depth_of(first) is None
    cache.write(first, outputs(first), 2)
    cache.write(second, outputs(second), 3)
    assert cache.depth_of(first) == 2 and cache.depth_of(second) == 3
    assert cache.depth_of(torch.tensor([9, 5])) is None, "of two depths"
    assert cache.depth_of(torch.tensor([9, 2])) is None, "one is not there"
    mixed = torch.tensor([1, 4, 9, 0])
    assert torch.equal(cache.read(mixed), outputs(mixed))
    cache.write(first, outputs(first) + 1, 4)
    assert torch.equal(cache.read(first), outputs(first) + 1) and cache.depth_of(first) == 4
    counts = cache.reset_counts()
    assert (counts.read, counts.written, cache.counts.read) == (8, 10, 0)
    again = opened(f"{name}-again", memory=3 * 48)
    again.restore(cache.content())
    assert torch.equal(again.read(mixed), cache.read(mixed))
    assert again.depth_of(first) == 4
    with pytest.raises(ValueError, match="depth is 0"):
        cache.write(first, outputs(first), 0)


def test_the_cache_s_files_lose_their_names_at_once(name: str) -> None:
    cache = opened(name, memory=5 * 48)
    assert not any(folder.exists() for folder in folders(name))
    samples = torch.tensor([0, 9])
    cache.write(samples, outputs(samples), 1)
    assert torch.equal(cache.read(samples), outputs(samples))


def test_what_a_failed_start_leaves_is_removed(name: str) -> None:
    caches._create(name, 4, 48, 96)
    assert all(folder.exists() for folder in folders(name))
    caches.remove(name)
    assert not any(folder.exists() for folder in folders(name))
    caches.remove(name)


def test_where_the_disk_is_full_it_says_what_would_do(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, size: int) -> None:
        if size and "cache-disk-" in str(path):
            raise OSError(28, "No space left on device")
        path.write_bytes(bytes(size))

    monkeypatch.setattr(caches, "_reserve", full)
    with pytest.raises(ElasticError, match=r"No space left on device\): set TMPDIR"):
        opened(name, memory=48)
    caches.remove(name)


def test_bf16_outputs_are_kept_to_the_bit(name: str) -> None:
    cache = Cache.open(
        name,
        store=HashStore(),
        rank=0,
        num_ranks=1,
        samples=3,
        shape=(5,),
        dtype=torch.bfloat16,
        memory_bytes=10,
    )
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(1)).bfloat16()
    cache.write(torch.arange(3), values, 1)
    assert cache.size.on_disk == 2 and torch.equal(cache.read(torch.arange(3)), values)


# An epoch's microbatches.


def test_microbatches_come_from_the_cache_where_all_samples_are_there(name: str) -> None:
    layout = cases.layout(2, (4,), 2)
    phase = Phase(
        index=0, first_epoch=0, epochs=1, layout=layout, cached_layers=2, fills_cache=False,
        iterations=1,
    )  # fmt: skip
    samples = layout.global_batch
    targets = torch.arange(samples)
    dataset = Dataset(
        inputs=outputs(targets) * 100,
        targets=targets + 1000,
        test_inputs=torch.empty(0),
        test_targets=torch.empty(0),
    )
    cache = opened(name, samples=samples)
    seen: list[int] = []
    feeding = {"seed": 0, "device": torch.device("cpu"), "cache": cache}
    first = EpochData(
        dataset, phase, reads_inputs=True, seen=lambda s: seen.extend(s.tolist()), **feeding
    )
    last = EpochData(dataset, phase, reads_inputs=False, **feeding)
    for data in (first, last):
        data.begin_epoch(3)
    (missed,) = first.slices(0, 1, 2)
    assert missed.samples is not None and missed.depth == 0
    assert torch.equal(missed.inputs, dataset.inputs[missed.samples])
    assert cache.counts.missed == layout.micro_batch
    cache.write(missed.samples, outputs(missed.samples), 2)
    (found,) = first.slices(0, 1, 2)
    assert found.depth == 2 and torch.equal(found.inputs, outputs(missed.samples))
    cache.write(missed.samples[:1], outputs(missed.samples[:1]), 1)
    assert first.slices(0, 1, 2)[0].depth == 0, "one of another depth"
    (end,) = last.slices(0, 1, 2)
    assert torch.equal(end.targets, missed.targets) and len(end.inputs) == 0
    assert torch.equal(end.targets, missed.samples + 1000)
    seen.clear()
    for replica in range(layout.data):
        for microbatch in range(layout.microbatches):
            first.slices(0, replica, microbatch)
    assert sorted(seen) == list(range(samples))


# What is measured of an epoch.


def card(ends: tuple[float, ...], losses: tuple[float, ...] = (), read: int = 0) -> EpochCard:
    return EpochCard(ends_s=ends, losses=losses, counts=caches.Counts(read=read), use=None)


def test_an_epoch_is_as_slow_as_its_slowest_rank() -> None:
    cards = [card((1.0, 2.5), read=3), card((1.5, 2.0), (4.0, 2.0), read=4), card(())]
    cards.append(card((1.0, 2.0), (2.0, 1.0)))
    found = measured(cards, 4, 2)
    assert (found.epoch, found.phase, found.seconds) == (4, 2, 2.5)
    assert found.iteration_s == (1.5, 1.0) and found.losses == (3.0, 1.5)
    assert found.cache_read == 7 and found.foreign is None
    elastic = cases.scenario(epochs=9, samples=100).elastic
    assert elastic is not None
    assert told(found, cases.layout(3, (2, 2), 2), elastic, num_layers=4) == (
        "epoch 5 of 9: 3 of 4 layers frozen, 2 x 2 ranks, loss 2.25, 40 samples/s"
    )


def test_others_share_is_what_the_cores_did_and_the_ranks_did_not() -> None:
    def use(core: int, busy: float, own: float, host: str = "a") -> Use:
        return Use(host=host, cores={core: busy}, own_s=own, wall_s=10.0)

    # Two ranks on one core, which was busy all the time: the others' share of it is 1 s of 10.
    assert foreign_share([use(0, 10.0, 4.0), use(0, 9.9, 5.0)]) == pytest.approx(0.1)
    two = [use(0, 5.0, 5.0), use(1, 7.0, 5.0), use(0, 10.0, 6.0, "b")]
    assert foreign_share(two) == pytest.approx(6 / 30)
    assert foreign_share([use(0, 4.0, 5.0)]) == 0
    assert foreign_share([use(0, 4.0, 5.0), None]) is None and foreign_share([]) is None
    assert np.isfinite(foreign_share([use(0, 4.0, 3.0)]) or 0)
