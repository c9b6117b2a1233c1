"""Checkpoints of an elastic run, between epochs: what each part of the model needs to go on, in a
shard for each rank that holds a replica's stage, and a manifest that makes them one.

Every file is written whole or not at all, the manifest last, so that a checkpoint is complete where
its manifest is; what a run that was ended has half written is not looked at. Parts, not ranks, are
what is kept: a run may go on in another layout. Where ranks are on several hosts, the directory is
to be one that all of them see.

What the next epoch reads from the cache is kept with it where that is small; else the first epoch
of a resumed run computes it anew, which is the same but for rounding in products of another size.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from executor.elastic.cache import Cache
from executor.elastic.errors import ElasticError
from executor.elastic.parts import Parts
from scenarios.schema import Scenario
from scenarios.writing import write_whole
from sim.elastic.phases import Layout
from sim.elastic_measurement import MeasuredEpoch, MeasuredTransition

FORMAT = "pipetwin-elastic-checkpoint-1"
LARGEST_CACHE = 256 << 20
"""Bytes of a host's cache that are still kept with a checkpoint."""
_KEPT = 2
_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What two runs must have in common for one to go on where the other ended.

    digest: of the scenario (model, plan, elastic run). layouts, caches_from: the decisions made
    beforehand, which a profile may have changed.
    """

    digest: str
    seed: int
    learning_rate: float
    layouts: str
    caches_from: int | None

    @staticmethod
    def of(scenario: Scenario, layouts: Sequence[Layout], caches_from: int | None) -> Identity:
        """The identity of a run."""
        text = json.dumps([asdict(layout) for layout in layouts], sort_keys=True)
        return Identity(
            digest=scenario.digest,
            seed=scenario.execution.seed,
            learning_rate=scenario.execution.learning_rate,
            layouts=hashlib.sha256(text.encode()).hexdigest(),
            caches_from=caches_from,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A complete checkpoint.

    epoch: the next one. frozen_by_epoch: the layers frozen in the epochs done and in the next.
    seconds: of the run so far. shards: each file's SHA-256, by its name. parts: the file each
    part's tensors are in.
    """

    identity: Identity
    epoch: int
    frozen_by_epoch: tuple[int, ...]
    epochs: tuple[MeasuredEpoch, ...]
    transitions: tuple[MeasuredTransition, ...]
    seconds: float
    shards: Mapping[str, str]
    parts: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """What one rank has written: a file's name, its SHA-256, and the parts in it."""

    name: str
    digest: str
    parts: tuple[str, ...]


def folder_of(checkpoints: Path, epoch: int) -> Path:
    """Where the checkpoint before an epoch is."""
    return checkpoints / f"epoch-{epoch:05d}"


def begin(checkpoints: Path, epoch: int) -> None:
    """Before anyone writes a checkpoint: nothing there is complete any more. One rank calls it, and
    the others go on after it."""
    folder = folder_of(checkpoints, epoch)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MANIFEST).unlink(missing_ok=True)


def write_shard(checkpoints: Path, epoch: int, rank: int, parts: Parts) -> Shard:
    """Write what this rank holds, with the state of all that it trains."""
    found = {part: dict(parts.tensors(part, state=True)) for part in parts.names}
    return _write(folder_of(checkpoints, epoch) / f"rank-{rank}.pt", found, parts.names)


def write_cache(checkpoints: Path, epoch: int, rank: int, cache: Cache) -> list[Shard]:
    """Write what this rank's host has in the cache; nothing where that is more than is kept."""
    if cache.size.total_bytes > LARGEST_CACHE:
        return []
    return [_write(folder_of(checkpoints, epoch) / cache_name(rank), cache.content(), ())]


def cache_name(leader: int) -> str:
    """The file of a host's cache, by its first rank."""
    return f"cache-{leader}.pt"


def _write(path: Path, found: Mapping[str, Any], parts: tuple[str, ...]) -> Shard:
    buffer = io.BytesIO()
    # Cloned: torch would store all of the storage that a view is of.
    torch.save(_cloned(found), buffer)
    data = buffer.getvalue()
    write_whole(path, data, force=True)
    return Shard(name=path.name, digest=hashlib.sha256(data).hexdigest(), parts=parts)


def _cloned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cpu().clone()
    return {name: _cloned(inner) for name, inner in value.items()}


def write_manifest(checkpoints: Path, manifest: Manifest) -> None:
    """Complete a checkpoint, once every shard is written; older ones than the last two go."""
    document = {"format": FORMAT, **asdict(manifest)}
    folder = folder_of(checkpoints, manifest.epoch)
    write_whole(folder / _MANIFEST, json.dumps(document, indent=1), force=True)
    for old in complete(checkpoints)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def complete(checkpoints: Path) -> list[Path]:
    """The folders of complete checkpoints, the oldest first."""
    return sorted(path.parent for path in checkpoints.glob(f"epoch-*/{_MANIFEST}"))


def last_manifest(checkpoints: Path, identity: Identity) -> Manifest:
    """The last complete checkpoint of a run.

    Raises ElasticError where there is none, it cannot be read, or it is another run's.
    """
    found = complete(checkpoints)
    if not found:
        raise ElasticError(
            f"{checkpoints} holds no complete checkpoint to resume from: leave out the resuming to "
            "begin the run"
        )
    manifest = _read(found[-1] / _MANIFEST)
    for name, mine in asdict(identity).items():
        theirs = getattr(manifest.identity, name)
        if mine != theirs:
            what = {
                "digest": "a scenario with another model, cluster, plan or elastic run",
                "layouts": "other layouts of the pipeline, as another profile gives",
            }.get(name, f"{name} {theirs}, and this run has {mine}")
            raise ElasticError(
                f"{found[-1]} is the checkpoint of a run with {what}: resume that one, or choose "
                "another directory"
            )
    return manifest


def read_parts(
    checkpoints: Path, manifest: Manifest, wanted: Sequence[str]
) -> dict[str, dict[str, Tensor]]:
    """The tensors of some parts; ElasticError as `read_shard`."""
    found: dict[str, dict[str, Tensor]] = {}
    for name in sorted({manifest.parts[part] for part in wanted}):
        shard = read_shard(checkpoints, manifest, name)
        found |= {part: tensors for part, tensors in shard.items() if part in wanted}
    return found


def read_shard(checkpoints: Path, manifest: Manifest, name: str) -> dict[str, Any]:
    """What one file of a checkpoint holds.

    Raises ElasticError where it is missing or is not what was written.
    """
    path = folder_of(checkpoints, manifest.epoch) / name
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != manifest.shards[name]:
        raise ElasticError(
            f"{path} is {'not what was written' if data else 'missing'}: remove {path.parent} to "
            "resume from the checkpoint before it"
        )
    shard: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return shard


def require_unused(checkpoints: Path) -> None:
    """Raise ElasticError where a directory has another run's checkpoints, which a new run's would
    be taken for."""
    if complete(checkpoints):
        raise ElasticError(
            f"{checkpoints} holds a run's checkpoints: resume that run, or choose another directory"
        )


def _read(path: Path) -> Manifest:
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        if document.pop("format") != FORMAT:
            raise ElasticError(f"{path} is of another version of checkpoints than {FORMAT}")
        return Manifest(
            identity=Identity(**document.pop("identity")),
            frozen_by_epoch=tuple(document.pop("frozen_by_epoch")),
            epochs=tuple(_epoch(data) for data in document.pop("epochs")),
            transitions=tuple(MeasuredTransition(**data) for data in document.pop("transitions")),
            **document,
        )
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ElasticError(f"{path} cannot be read: {error}") from error


def _epoch(data: dict[str, Any]) -> MeasuredEpoch:
    times, losses = tuple(data.pop("iteration_s")), tuple(data.pop("losses"))
    return MeasuredEpoch(iteration_s=times, losses=losses, **data)
