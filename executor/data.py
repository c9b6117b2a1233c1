"""Real training data without a download: the bytes of Python's own standard library sources.

Each sequence is determined by (seed, iteration, its number in the iteration over all replicas) and
nothing else, so every rank makes its own without a message, and the sequences are the same however
they are shared out to replicas and microbatches. The text is the same for the same version of
Python.

gpt: ids are bytes (modulo a smaller vocabulary), targets the next byte. bert: 15 % of each sequence
is masked, targets are -100 elsewhere; with classes nothing is masked, and the class is the number
of the source file that a sequence begins in. vit: *synthetic* images, for there are no pictures in
a standard library: patches are runs of bytes scaled to [-1, 1), of the same classes.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from executor.model import DTYPES, StageModule
from scenarios.schema import Scenario
from sim.workload.partition import pieces

_SOURCES = (
    "argparse.py",
    "ast.py",
    "configparser.py",
    "difflib.py",
    "doctest.py",
    "enum.py",
    "imaplib.py",
    "inspect.py",
    "mailbox.py",
    "optparse.py",
    "pickle.py",
    "pickletools.py",
    "smtplib.py",
    "socket.py",
    "statistics.py",
    "subprocess.py",
    "tarfile.py",
    "threading.py",
    "typing.py",
    "uuid.py",
)
_NUM_BYTES = 256
_MASKED_FRACTION = 0.15
_IGNORED = -100


@cache
def corpus() -> tuple[Tensor, Tensor]:
    """The text as uint8 (bytes,), and the position at which each of its files ends (files,).

    Raises FileNotFoundError where Python was installed without its sources.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    texts = [path.read_bytes() for name in _SOURCES if (path := folder / name).is_file()]
    if not texts:
        raise FileNotFoundError(
            f"{folder} holds none of the standard library's sources, which are the training data: "
            "run a Python that was installed with them"
        )
    ends = torch.tensor([len(text) for text in texts]).cumsum(0)
    return torch.frombuffer(bytearray(b"".join(texts)), dtype=torch.uint8), ends


class Batch(NamedTuple):
    """What one pass of the first stage reads, and the last one.

    inputs: of the model (depth 0), or the output of its first `depth` layers, (micro_batch, own
    tokens, hidden). targets: as `Data.batch`'s. samples: their numbers in the data, (micro_batch,);
    None where nobody counts.
    """

    inputs: Tensor
    targets: Tensor
    depth: int = 0
    samples: Tensor | None = None


class Source(Protocol):
    """Where the ends of a pipeline have their microbatches from."""

    def slices(self, iteration: int, replica: int, microbatch: int) -> tuple[Batch, ...]:
        """One microbatch, slice by slice."""


class Data:
    """The microbatches of a scenario, made on `device` (the CPU unless given)."""

    def __init__(self, scenario: Scenario, *, device: torch.device | str = "cpu") -> None:
        model = scenario.model
        if model is None:
            raise ValueError(f"scenario {scenario.name} has no model to make data for")
        self._model, self._dtype = model, DTYPES[scenario.plan.precision]
        self._pieces = pieces(scenario)
        sizes = [cut[0].micro_batch for cut in self._pieces]
        self._ends_of_microbatches = tuple(accumulate(sizes))
        self._seed = scenario.execution.seed
        self._device = torch.device(device)
        self._text, self._ends = corpus()
        if model.family == "vit":
            length = (model.sequence - 1) * (model.patch_inputs or 0)
        else:
            length = model.sequence + 1
        self._length = length
        if length > len(self._text) // 2:
            repeats = 2 * length // len(self._text) + 1
            self._text = self._text.repeat(repeats)

    def batch(self, iteration: int, replica: int, microbatch: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of one microbatch.

        gpt, bert: int64 ids (micro_batch, sequence), and targets of the same shape.
        vit: patches (micro_batch, sequence - 1, patch_inputs) in the plan's precision.
        Where the model classifies, targets are classes, (micro_batch,).
        """
        end = replica * self._ends_of_microbatches[-1] + self._ends_of_microbatches[microbatch]
        begin = end - self._pieces[microbatch][0].micro_batch
        generators = [self._generator(iteration, sequence) for sequence in range(begin, end)]
        last = len(self._text) - self._length
        starts = torch.cat([torch.randint(last + 1, (1, 1), generator=g) for g in generators])
        if self._model.family == "vit":
            inputs, targets = self._images(starts)
        else:
            windows = self._windows(starts).long() % self._model.vocabulary
            if self._model.family == "gpt":
                inputs, targets = windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
            elif self._model.classifies:
                inputs, targets = windows[:, :-1].contiguous(), self._classes(starts)
            else:
                inputs, targets = self._mask(windows[:, :-1].contiguous(), generators)
        return inputs.to(self._device), targets.to(self._device)

    def slices(self, iteration: int, replica: int, microbatch: int) -> tuple[Batch, ...]:
        """The same microbatch cut as the plan says: inputs and targets of each slice's tokens."""
        inputs, targets = self.batch(iteration, replica, microbatch)
        cut = self._pieces[microbatch]
        if len(cut) == 1:
            return (Batch(inputs, targets),)
        parts = [slice(context, context + tokens) for _, context, tokens in cut]
        return tuple(Batch(inputs[:, p].contiguous(), targets[:, p].contiguous()) for p in parts)

    def _generator(self, iteration: int, sequence: int) -> torch.Generator:
        digest = hashlib.sha256(f"{self._seed}/{iteration}/{sequence}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def _windows(self, starts: Tensor) -> Tensor:
        return self._text[starts + torch.arange(self._length)]

    def _images(self, starts: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(starts), self._model.sequence - 1, self._model.patch_inputs or 0)
        pixels = self._windows(starts).double().sub_(128).div_(128).view(shape)
        return pixels.to(self._dtype), self._classes(starts)

    def _classes(self, starts: Tensor) -> Tensor:
        """The number of the file that each sequence begins in, modulo the model's classes."""
        files = torch.searchsorted(self._ends, starts[:, 0] % self._ends[-1], right=True)
        return files % self._model.outputs

    def _mask(self, tokens: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Mask the same number of positions in each sequence, so that all weigh the same."""
        count = max(1, round(_MASKED_FRACTION * tokens.shape[1]))
        draws = torch.stack([torch.rand(tokens.shape[1], generator=g) for g in generators])
        chosen = draws.argsort(dim=1)[:, :count]
        targets = torch.full_like(tokens, _IGNORED).scatter_(1, chosen, tokens.gather(1, chosen))
        return tokens.scatter(1, chosen, self._mask_id), targets

    @property
    def _mask_id(self) -> int:
        """The id after the bytes; where there is none, byte 0, which no source holds."""
        return _NUM_BYTES if self._model.vocabulary > _NUM_BYTES else 0


class CachedData:
    """The same microbatches as a cache would give them: with the output of the model's first
    `depth` layers, made beforehand by the first stage itself, instead of the inputs."""

    def __init__(self, data: Source, first: StageModule, depth: int) -> None:
        """first: the stage that holds those layers, frozen."""
        self._data, self._first, self._depth = data, first, depth

    def slices(self, iteration: int, replica: int, microbatch: int) -> tuple[Batch, ...]:
        """One microbatch, slice by slice."""
        return tuple(
            batch._replace(
                inputs=self._first.frozen(batch.inputs, depth=batch.depth, until=self._depth),
                depth=self._depth,
            )
            for batch in self._data.slices(iteration, replica, microbatch)
        )
