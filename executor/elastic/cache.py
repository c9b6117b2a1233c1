"""The outputs of frozen layers by sample, shared by the ranks of a host (PipeTransformer's
AutoCache, arXiv 2102.03161, section 3.5).

An array in shared memory holds the first samples, as many as the memory allowed has room for, and a
file on disk the others; beside them is the depth of each sample's output: how many layers made it,
0 for none. All ranks of a host map the same files, so a sample is found again whichever replica
trains on it next. Nobody reads what another rank writes in the same epoch, for each sample is seen
once in it; between epochs the ranks meet.

The files lose their names as soon as every rank has mapped them, so that the system drops them with
the last process, however it ends; the launcher removes what a start that failed has left.

Not covered: outputs are not sent between hosts; a sample that another host has is computed anew.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from executor.clocks import gather, host_id
from executor.elastic.errors import ElasticError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_SHARED_MEMORY = Path("/dev/shm")
_OF_FREE = 0.9
"""Of the free shared memory, the share that is taken at most."""
_MOST_LAYERS = np.iinfo(np.int16).max


@dataclass(slots=True, kw_only=True)
class Counts:
    """Samples that were read from the cache, written to it, and missed."""

    read: int = 0
    written: int = 0
    missed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSize:
    """What the cache of a run takes on a host.

    in_memory, on_disk: samples. sample_bytes: of one.
    """

    in_memory: int
    on_disk: int
    sample_bytes: int

    @property
    def total_bytes(self) -> int:
        """Of all samples."""
        return (self.in_memory + self.on_disk) * self.sample_bytes


def folders(name: str) -> tuple[Path, Path]:
    """Where the cache of a run with this name has its files: in shared memory (the temporary
    directory where there is none) and on disk."""
    disk = Path(tempfile.gettempdir())
    memory = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else disk
    return memory / f"pipetwin-cache-{name}", disk / f"pipetwin-cache-disk-{name}"


def remove(name: str) -> None:
    """Remove the files of a run's cache, whatever is left of them."""
    for folder in folders(name):
        shutil.rmtree(folder, ignore_errors=True)


class Cache:
    """One rank's view of its host's cache; see the module.

    counts: what this rank did since `reset_counts`. leaders: the first rank of every host.
    """

    def __init__(
        self,
        outputs: tuple[Tensor, Tensor],
        depths: Tensor,
        size: CacheSize,
        *,
        leaders: tuple[int, ...] = (0,),
        device: torch.device | str = "cpu",
    ) -> None:
        """outputs: (samples, sequence, hidden) of those in memory, and of those on disk.

        depths: int16 (samples,), of all.
        """
        self._memory, self._disk = outputs
        self._depths, self.size, self.leaders = depths, size, leaders
        self._device = torch.device(device)
        self.counts = Counts()

    @staticmethod
    def open(
        name: str,
        *,
        store: Store,
        rank: int,
        num_ranks: int,
        samples: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        memory_bytes: int,
        device: torch.device | str = "cpu",
    ) -> Cache:
        """The cache of a run; all ranks call it together, with the same name.

        shape: of one sample's output. memory_bytes: what it may take of a host's memory.
        Raises ElasticError where the disk has no room for the rest.
        """
        hosts = gather(store, f"cache/{name}/host", rank, num_ranks, host_id())
        leader = hosts.index(hosts[rank])
        place = f"cache/{name}/{leader}"
        if rank == leader:
            sample_bytes = int(np.prod(shape)) * dtype.itemsize
            size = _create(name, samples, sample_bytes, memory_bytes)
            store.set(f"{place}/size", f"{size.in_memory} {size.on_disk} {size.sample_bytes}")
        in_memory, on_disk, sample_bytes = map(int, store.get(f"{place}/size").decode().split())
        size = CacheSize(in_memory=in_memory, on_disk=on_disk, sample_bytes=sample_bytes)
        memory, disk = folders(name)
        opened = (
            _outputs(memory / "outputs", in_memory, shape, dtype),
            _outputs(disk / "outputs", on_disk, shape, dtype),
        )
        depths = _map(memory / "depths", torch.int16, samples)
        # From here on nothing is left of them when the processes end.
        gather(store, f"{place}/mapped", rank, num_ranks, "")
        if rank == leader:
            remove(name)
        leaders = tuple(sorted({hosts.index(host) for host in hosts}))
        return Cache(opened, depths, size, leaders=leaders, device=device)

    def depth_of(self, samples: Tensor) -> int | None:
        """The depth at which all of these samples are there; None where it is not the same, or
        one is not there."""
        depths = self._depths[samples]
        depth = int(depths[0]) if len(depths) else 0
        return depth if depth and bool((depths == depth).all()) else None

    def read(self, samples: Tensor) -> Tensor:
        """The outputs of samples that are there, (samples, sequence, hidden) on the device."""
        self.counts.read += len(samples)
        disk = samples >= self.size.in_memory
        if not bool(disk.any()):
            return self._memory[samples].to(self._device)
        found = self._disk.new_empty((len(samples), *self._disk.shape[1:]))
        found[~disk] = self._memory[samples[~disk]]
        found[disk] = self._disk[samples[disk] - self.size.in_memory]
        return found.to(self._device)

    def missed(self, samples: Tensor) -> None:
        """Count samples that were to be there and were not."""
        self.counts.missed += len(samples)

    @torch.no_grad()
    def write(self, samples: Tensor, outputs: Tensor, depth: int) -> None:
        """Keep the outputs of the model's first `depth` layers for these samples."""
        if not 0 < depth <= _MOST_LAYERS:
            raise ValueError(f"depth is {depth}: an output of 1 to {_MOST_LAYERS} layers is kept")
        self.counts.written += len(samples)
        samples, outputs = samples.cpu(), outputs.detach().cpu()
        self._depths[samples] = 0  # What is half written is not there.
        disk = samples >= self.size.in_memory
        if bool(disk.any()):
            self._disk[samples[disk] - self.size.in_memory] = outputs[disk]
            samples_in_memory = samples[~disk]
            if len(samples_in_memory):
                self._memory[samples_in_memory] = outputs[~disk]
        else:
            self._memory[samples] = outputs
        self._depths[samples] = depth

    def forget(self, samples: Tensor) -> None:
        """Drop samples, as if they had never been written."""
        self._depths[samples] = 0

    def content(self) -> dict[str, Tensor]:
        """All that a host has, to be stored: by name, views of what is in use."""
        return {"depths": self._depths, "memory": self._memory, "disk": self._disk}

    def restore(self, content: Mapping[str, Tensor]) -> None:
        """Take over what `content` gave, however much of it was in memory then.

        Raises ValueError where it is of other samples.
        """
        outputs = torch.cat((content["memory"], content["disk"]))
        expected = (len(self._depths), *self._memory.shape[1:])
        if outputs.shape != expected or outputs.dtype != self._memory.dtype:
            raise ValueError(f"the cache is of {expected} here, and was {tuple(outputs.shape)}")
        self._memory.copy_(outputs[: self.size.in_memory])
        self._disk.copy_(outputs[self.size.in_memory :])
        self._depths.copy_(content["depths"])

    def reset_counts(self) -> Counts:
        """What was counted so far; counting begins anew."""
        found, self.counts = self.counts, Counts()
        return found


def _create(name: str, samples: int, sample_bytes: int, memory_bytes: int) -> CacheSize:
    """Make the files of a host, with all the room that they will need: a mapped page that finds
    none later would end the process."""
    memory, disk = folders(name)
    for folder in (memory, disk):
        folder.mkdir(mode=0o700)
    free = shutil.disk_usage(memory).free * _OF_FREE
    in_memory = min(samples, int(min(memory_bytes, free)) // sample_bytes)
    _reserve(memory / "depths", samples * 2)
    try:
        _reserve(memory / "outputs", in_memory * sample_bytes)
    except OSError:
        # Others have taken the shared memory meanwhile, or its use is limited.
        in_memory = 0
        _reserve(memory / "outputs", 0)
    on_disk = samples - in_memory
    try:
        _reserve(disk / "outputs", on_disk * sample_bytes)
    except OSError as error:
        raise ElasticError(
            f"the cache needs {on_disk * sample_bytes / 1e9:.2f} GB in {disk.parent}, which has "
            f"{shutil.disk_usage(disk.parent).free / 1e9:.2f} GB free ({error.strerror}): set "
            "TMPDIR to a larger disk, or `elastic.autocache: false`"
        ) from error
    return CacheSize(in_memory=in_memory, on_disk=on_disk, sample_bytes=sample_bytes)


def _reserve(path: Path, size: int) -> None:
    with path.open("wb") as file:
        if not size:
            return
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def _outputs(path: Path, samples: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    count = samples * int(np.prod(shape))
    return _map(path, dtype, count).view(samples, *shape)


def _map(path: Path, dtype: torch.dtype, count: int) -> Tensor:
    """A file as a tensor that all who map it share."""
    if not count:
        return torch.empty(0, dtype=dtype)
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), count * dtype.itemsize)
    return torch.frombuffer(mapped, dtype=dtype, count=count)
