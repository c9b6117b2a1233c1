"""Whole-iteration times of real runs, read from a CSV, as scenarios with what was measured.

A row needs the columns `COLUMNS`. Any of `OPTIONS` may stand beside them; where its column is
missing, or its cell empty, a run is taken as Megatron-DeepSpeed's:

| column | values | unless given |
|---|---|---|
| vocabulary | a number | 50257 (GPT-2's) |
| ffn_hidden | a number | 4 x hidden |
| family | gpt, bert | gpt |
| tied_embeddings | yes, no | yes |
| gpus_per_node | a number | the cluster's, or all GPUs where they are fewer |
| schedule | gpipe, 1f1b, interleaved | 1f1b; interleaved where chunks > 1 |
| chunks | a number | 1 |
| precision | fp16, bf16, fp32, fp64 | fp16 |
| gradient_precision | as precision | as precision |
| optimizer | adam, sgd | adam |
| recomputation | none, selective, full | full |
| recompute_every | a number | 1 |
| sequence_parallel | yes, no | no |
| sharding | none, optimizer, full | none |
| gradient_reduction | after, overlapped | after |
| p2p | blocking, overlapped, exchange | blocking |
| scatter_gather | yes, no | yes where tensor > 1, without sequence_parallel |
| clip_gradients (or clip) | yes, no | yes |
| placement | as plan.placement | tensor-data-pipeline |
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from scenarios import reading
from scenarios.rules import check
from scenarios.schema import Cluster, Model, Plan, Scenario

COLUMNS = (
    "gpus",
    "global_batch",
    "micro_batch",
    "hidden",
    "heads",
    "layers",
    "sequence",
    "tensor",
    "data",
    "pipeline",
    "iteration_ms",
)
VOCABULARY = 50257
MAX_BYTES = 16 << 20


Item = TypeVar("Item")


class RunsError(ValueError):
    """A file of measurements is wrong; the message holds every problem found, with its line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run: what was trained how, the iteration time it took (ns), and its line in the file.

    spread: standard deviation over its iterations, as a fraction of the time; 0 where unknown.
    """

    scenario: Scenario
    measured_ns: float
    line: int
    spread: float = 0.0

    @property
    def group(self) -> Hashable:
        """What the run competes in: its model, its global batch, and its number of devices."""
        model, plan = self.scenario.model, self.scenario.plan
        assert model is not None
        return replace(model, name=""), plan.num_sequences, plan.num_devices

    @property
    def plan(self) -> Hashable:
        """Which plan of its group it is: runs of one group and plan are replicates."""
        return self.scenario.plan


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLog:
    """A file of runs: the runs, its SHA-256 (hex), and what a reader should know of the reading."""

    runs: tuple[Run, ...]
    digest: str
    notes: tuple[str, ...]


def fingerprint(run: Run) -> str:
    """What identifies a run in whichever file it stands: of its sizes, degrees and time (hex)."""
    model, plan = run.scenario.model, run.scenario.plan
    assert model is not None
    sizes = (model.layers, model.hidden, model.heads, model.sequence)
    degrees = (plan.tensor, plan.data, plan.pipeline, plan.num_sequences, plan.micro_batch)
    text = repr((*sizes, *degrees, run.measured_ns))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def read_runs(path: Path, cluster: Cluster) -> tuple[Run, ...]:
    """Read a CSV of runs on nodes like a cluster's; see `read_log`."""
    return read_log(path, cluster).runs


def read_log(path: Path, cluster: Cluster) -> RunLog:
    """Read a CSV of runs (the module's columns, times in ms) on nodes like a cluster's.

    The number of nodes is each run's own. Columns are found by name, in any order and case; those
    unknown are not read, and named in the notes.
    Raises RunsError with all problems of the file, `file:line: column: what is wrong`.
    """
    runs, notes = _parse(read_text(path), cluster, str(path))
    return RunLog(runs=runs, digest=file_digest(path), notes=notes)


def file_digest(path: Path) -> str:
    """The SHA-256 of a file (hex)."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_text(path: Path) -> str:
    """The text of a file of measurements; raises RunsError where it cannot be read."""
    return reading.read_text(
        path,
        RunsError,
        max_bytes=MAX_BYTES,
        too_large=": a file of runs is a small CSV",
        no_text="is not UTF-8: a file of runs is a CSV in UTF-8",
    )


def parse_runs(text: str, cluster: Cluster, *, shown: str = "runs") -> tuple[Run, ...]:
    """Read the text of a file of runs; see `read_log`."""
    return _parse(text, cluster, shown)[0]


def _parse(text: str, cluster: Cluster, shown: str) -> tuple[tuple[Run, ...], tuple[str, ...]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        names = [ALIASES.get(name, name) for name in map(_plain, reader.fieldnames or ())]
        reader.fieldnames = names
        missing = [c for c in COLUMNS if c not in names]
        if missing:
            raise RunsError(
                f"{shown}:1: {', '.join(missing)}: missing; the first line must name the columns "
                f"{','.join(COLUMNS)}"
            )
        twice = sorted({name for name in names if name and names.count(name) > 1})
        if twice:
            raise RunsError(f"{shown}:1: {', '.join(twice)}: named twice; name each column once")
        runs = read_rows(reader, lambda row: _run(row, cluster, reader.line_num), shown)
    except csv.Error as error:
        raise RunsError(f"{shown}:{reader.line_num}: is not a CSV: {error}") from None
    if not runs:
        raise RunsError(f"{shown}:2: has no run: write one a line below the columns' names")
    unknown = [name for name in names if name and name not in COLUMNS and name not in OPTIONS]
    notes: tuple[str, ...] = ()
    if unknown:
        known = ", ".join(OPTIONS)
        notes = (f"columns not read: {', '.join(unknown)} (beside the needed ones: {known})",)
    return runs, notes


def read_rows(
    reader: csv.DictReader[str], read: Callable[[dict[str, str]], Item], shown: str
) -> tuple[Item, ...]:
    """Read each row of a file, whose name is shown.

    Raises RunsError with the problems that `read` raised as such, each with its line; at most 20.
    """
    found: list[Item] = []
    problems: list[str] = []
    for row in reader:
        try:
            found.append(read(row))
        except RunsError as error:
            problems += [f"{shown}:{reader.line_num}: {p}" for p in str(error).split("\n")]
    if problems:
        more = f"\n... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise RunsError("\n".join(problems[:20]) + more)
    return tuple(found)


def _plain(name: str | None) -> str:
    return (name or "").strip().lower().replace(" ", "_").replace("-", "_")


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text) > 0):
        raise ValueError(f"{text!r} is not a whole number above 0, as `8`")
    return int(text)


def _truth(text: str) -> bool:
    word = text.lower()
    if word not in ("yes", "true", "1", "no", "false", "0"):
        raise ValueError(f"{text!r} is neither `yes` nor `no`")
    return word in ("yes", "true", "1")


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"{text!r} is none of {', '.join(choices)}")
        return text.lower()

    return parse


def _as_plan(field: str) -> Callable[[str], str]:
    """Any of the words that a field of Plan may be, but `given`, which needs a file."""
    return _one_of(*(c for c in get_args(get_type_hints(Plan)[field]) if c != "given"))


_PRECISIONS = _as_plan("precision")
_OF_MODEL: Mapping[str, Callable[[str], object]] = {
    "vocabulary": _whole,
    "ffn_hidden": _whole,
    "family": _one_of("gpt", "bert"),
    "tied_embeddings": _truth,
}
_OF_PLAN: Mapping[str, Callable[[str], object]] = {
    "schedule": _as_plan("schedule"),
    "chunks": _whole,
    "precision": _PRECISIONS,
    "gradient_precision": _PRECISIONS,
    "optimizer": _as_plan("optimizer"),
    "recomputation": _as_plan("recomputation"),
    "recompute_every": _whole,
    "sequence_parallel": _truth,
    "sharding": _as_plan("sharding"),
    "gradient_reduction": _as_plan("gradient_reduction"),
    "p2p": _as_plan("p2p"),
    "scatter_gather": _truth,
    "clip_gradients": _truth,
    "placement": _as_plan("placement"),
}
OPTIONS: Mapping[str, Callable[[str], object]] = {
    **_OF_MODEL,
    "gpus_per_node": _whole,
    **_OF_PLAN,
}
"""Columns that may be there, and how a cell is read."""
ALIASES = {"clip": "clip_gradients"}


def _run(row: Mapping[str, str | None], cluster: Cluster, line: int) -> Run:
    needed: dict[str, int] = {}
    given: dict[str, Any] = {}
    problems = []
    if None in row:
        problems.append(f"has more cells than the {len(row) - 1} columns of the first line")
    for column in COLUMNS[:-1]:
        try:
            needed[column] = _whole((row[column] or "").strip())
        except ValueError as error:
            problems.append(f"{column}: {error}")
    for column, parse in OPTIONS.items():
        text = (row.get(column) or "").strip()
        if text:
            try:
                given[column] = parse(text)
            except ValueError as error:
                problems.append(f"{column}: {error}")
    text = (row["iteration_ms"] or "").strip()
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = math.nan
    if not (math.isfinite(milliseconds) and milliseconds > 0):
        problems.append(f"iteration_ms: {text!r} is not a time in ms above 0, as `3566.5`")
    if problems:
        raise RunsError("\n".join(problems))
    scenario = Scenario(
        name=f"run at line {line}",
        model=_model(needed, given),
        cluster=_nodes(cluster, needed, given),
        plan=_plan(needed, given),
    )
    findings = check(scenario)
    if findings:
        raise RunsError("\n".join(f"{field}: {what}" for field, what in findings))
    return Run(scenario=scenario, measured_ns=milliseconds * 1e6, line=line)


def _nodes(cluster: Cluster, needed: Mapping[str, int], given: Mapping[str, Any]) -> Cluster:
    gpus, product = needed["gpus"], needed["tensor"] * needed["data"] * needed["pipeline"]
    if gpus != product:
        raise RunsError(f"gpus: is {gpus}, but tensor x data x pipeline is {product}")
    on_node = min(given.get("gpus_per_node", cluster.devices_per_node), gpus)
    if gpus % on_node:
        raise RunsError(f"gpus: {gpus} do not fill nodes of {on_node}")
    # Each device keeps its share of the NICs.
    nics = max(1, cluster.nics_per_node * on_node // cluster.devices_per_node)
    return replace(
        cluster,
        nodes=gpus // on_node,
        devices_per_node=on_node,
        nics_per_node=math.gcd(nics, on_node) if nics < on_node else nics,
    )


def _model(needed: Mapping[str, int], given: Mapping[str, Any]) -> Model:
    sizes: dict[str, Any] = {
        name: needed[name] for name in ("layers", "hidden", "heads", "sequence")
    }
    chosen = {name: given[name] for name in _OF_MODEL if name in given}
    name = f"{given.get('family', 'gpt')} {needed['layers']} x {needed['hidden']}"
    return Model(name=name, **sizes, **{"vocabulary": VOCABULARY, **chosen})


def _plan(needed: Mapping[str, int], given: Mapping[str, Any]) -> Plan:
    """The plan of a row; the defaults are those of the module's table."""
    degrees = ("pipeline", "tensor", "data", "micro_batch", "global_batch")
    defaults: dict[str, Any] = {
        "schedule": "interleaved" if given.get("chunks", 1) > 1 else "1f1b",
        "precision": "fp16",
        "recomputation": "full",
        "p2p": "blocking",
        # Megatron's default wherever there is a tensor group to scatter over.
        "scatter_gather": needed["tensor"] > 1 and not given.get("sequence_parallel", False),
        "clip_gradients": True,
    }
    chosen = {name: given[name] for name in _OF_PLAN if name in given}
    sizes: dict[str, Any] = {name: needed[name] for name in degrees}
    return Plan(**sizes, **{**defaults, **chosen})
