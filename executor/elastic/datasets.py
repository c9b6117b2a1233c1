"""Labelled data that needs no download: scikit-learn's digits, and passages of Python's own files.

digits: 1,797 images of 8 x 8 pixels (Alpaydin and Kaynak 1998, UCI; bundled with scikit-learn), cut
into square patches; pixels are scaled to [-1, 1]. text: passages of the standard library's sources
that do not overlap; the class is the file they come from.

Both are divided into training and test samples class by class, always in the same way whatever the
scenario's seed, so that seeds compare on the same test samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from executor.data import corpus
from executor.elastic.errors import ElasticError
from executor.model import DTYPES
from scenarios.schema import Model, Scenario
from sim.elastic.phases import elastic_of

_SPLIT_SEED = 20211
_SIDE = 8
_PIXELS = 16.0
_DIGITS = 10
_CLASS_TOKEN = 256
_TEST_SHARE = 4
"""Of the text, at most a quarter as many test samples as training samples are taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Samples and their classes, on the CPU.

    inputs: patches (samples, sequence - 1, patch_inputs) in the plan's precision, or int64 ids
    (samples, sequence). targets: int64 classes (samples,). The test ones alike.
    """

    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor


def load_dataset(scenario: Scenario) -> Dataset:
    """The data that a scenario's elastic run trains on, `elastic.samples` of it for training.

    Raises ElasticError where it names none, asks for more than there is, or its model cannot read
    it; FileNotFoundError where Python was installed without its sources.
    """
    elastic, model = elastic_of(scenario), scenario.model
    if model is None:
        raise ElasticError(f"scenario {scenario.name} has no model to train")
    if elastic.dataset is None:
        raise ElasticError(
            "elastic.dataset is not given, which only `simulate` can do without: `digits` (with a "
            "model of family vit) and `text` (with family bert and classes) would work"
        )
    make = _digits if elastic.dataset == "digits" else _text
    inputs, targets = make(model, elastic.samples)
    train, test = _split(targets.numpy(), elastic.samples)
    if elastic.dataset == "text":
        test = test[: max(1, elastic.samples // _TEST_SHARE)]
    if inputs.is_floating_point():
        inputs = inputs.to(DTYPES[scenario.plan.precision])
    return Dataset(
        inputs=inputs[train],
        targets=targets[train],
        test_inputs=inputs[test],
        test_targets=targets[test],
    )


def check_samples(scenario: Scenario, global_batches: Sequence[int]) -> None:
    """Raise ElasticError unless every phase's global batch divides the samples of an epoch."""
    samples = elastic_of(scenario).samples
    step = math.lcm(*global_batches)
    if samples % step:
        below, above = samples - samples % step, samples + step - samples % step
        works = f"{below} or {above}" if below else f"{above}"
        raise ElasticError(
            f"elastic.samples is {samples}, no multiple of {step} (the phases' global batches are "
            f"{', '.join(map(str, sorted(set(global_batches))))}), so that an epoch would end "
            f"within an iteration: {works} would work"
        )


def _digits(model: Model, samples: int) -> tuple[Tensor, Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ElasticError(
            "elastic.dataset digits comes with scikit-learn: `pip install 'pipetwin[data]'`"
        ) from error
    side = math.isqrt(model.patch_inputs or 0)
    if model.family != "vit" or side * side != model.patch_inputs or _SIDE % max(1, side):
        raise ElasticError(
            f"elastic.dataset digits is of {_SIDE} x {_SIDE} pixels, which a model of family vit "
            f"reads in square patches: `patch_inputs: 4` with `sequence: 17` would work (or 16 "
            f"with 5, 1 with 65), not family {model.family} with patch_inputs {model.patch_inputs}"
        )
    patches = (_SIDE // side) ** 2
    if model.sequence != patches + 1:
        raise ElasticError(
            f"model.sequence is {model.sequence}, and {_SIDE} x {_SIDE} pixels make {patches} "
            f"patches of {side} x {side}: `sequence: {patches + 1}`, with the class token, would "
            "work"
        )
    _check_outputs(model, _DIGITS, "digits")
    images, classes = load_digits(return_X_y=True)
    _check_available(samples, len(images), "digits")
    pixels = torch.from_numpy(np.ascontiguousarray(images)).mul(2 / _PIXELS).sub_(1)
    rows = _SIDE // side
    cut = pixels.view(-1, rows, side, rows, side).transpose(2, 3).reshape(-1, patches, side * side)
    return cut, torch.from_numpy(np.ascontiguousarray(classes)).long()


def _text(model: Model, samples: int) -> tuple[Tensor, Tensor]:
    text, ends = corpus()
    if model.family != "bert" or model.classes is None:
        raise ElasticError(
            "elastic.dataset text is classified: a model of family bert with `classes`, how many "
            f"source files are told apart (2 to {len(ends)}), would work"
        )
    _check_outputs(model, 2, "text")
    if model.classes > len(ends):
        raise ElasticError(
            f"model.classes is {model.classes}, and the text has {len(ends)} files: "
            f"`classes: {len(ends)}` would work"
        )
    if model.vocabulary < _CLASS_TOKEN:
        raise ElasticError(
            f"model.vocabulary is {model.vocabulary}, and text is bytes with a class token: "
            f"`vocabulary: {_CLASS_TOKEN + 1}` would work"
        )
    length = model.sequence - 1
    begins = [0, *ends.tolist()]
    kept = range(model.classes)
    counts = [(begins[c + 1] - begins[c]) // max(1, length) for c in kept]
    # As many of each class: else the longest file would be the best guess.
    each = min(counts)
    _check_available(samples, each * model.classes, "text")
    starts = torch.cat([begins[c] + length * _spread(counts[c], each) for c in kept])
    windows = text[starts[:, None] + torch.arange(length)].long()
    # No byte of a source is 0, so that it can stand for the class token in 256 entries.
    token = _CLASS_TOKEN if model.vocabulary > _CLASS_TOKEN else 0
    first = windows.new_full((len(windows), 1), token)
    return torch.cat((first, windows), dim=1), torch.arange(model.classes).repeat_interleave(each)


def _spread(count: int, wanted: int) -> Tensor:
    """`wanted` of `count` passages, evenly spread over their file."""
    return torch.arange(wanted) * count // wanted


def _check_outputs(model: Model, least: int, name: str) -> None:
    if model.outputs < least:
        raise ElasticError(
            f"the model tells {model.outputs} classes apart, and {name} has {least}: "
            f"`{'classes' if model.family == 'bert' else 'vocabulary'}: {least}` would work"
        )


def _check_available(samples: int, available: int, name: str) -> None:
    """At least one sample is left for the test."""
    if samples >= available:
        raise ElasticError(
            f"elastic.samples is {samples}, and {name} has {available} with these shapes, of which "
            f"some are kept for the test: at most {available * 9 // 10} would work"
        )


def _split(classes: NDArray[np.int64], samples: int) -> tuple[Tensor, Tensor]:
    """The numbers of the training and of the test samples: of every class the same share, each
    side in an order of its own."""
    generator = np.random.Generator(np.random.PCG64(_SPLIT_SEED))
    found = np.unique(classes)
    members = [generator.permutation(np.flatnonzero(classes == c)) for c in found]
    exact = np.array([len(m) * samples / len(classes) for m in members])
    shares = np.floor(exact).astype(int)
    # What rounding down leaves goes to the classes that lost most by it.
    for c in np.argsort(shares - exact, kind="stable")[: samples - shares.sum()]:
        shares[c] += 1
    train = np.concatenate([m[:n] for m, n in zip(members, shares, strict=True)])
    test = np.concatenate([m[n:] for m, n in zip(members, shares, strict=True)])
    return (
        torch.from_numpy(generator.permutation(train)),
        torch.from_numpy(generator.permutation(test)),
    )
