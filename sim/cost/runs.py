"""Whole-iteration times of real runs, read from a CSV, as scenarios with what was measured."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

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


class RunsError(ValueError):
    """A file of runs is wrong; the message holds every problem found, with its line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run: what was trained how, the iteration time it took (ns), and its line in the file."""

    scenario: Scenario
    measured_ns: float
    line: int


def read_runs(path: Path, cluster: Cluster, *, vocabulary: int = VOCABULARY) -> tuple[Run, ...]:
    """Read a CSV of runs (columns `COLUMNS`, times in ms) on nodes like a cluster's.

    The runs are taken as Megatron-DeepSpeed's: full recomputation, fp16, 1F1B, blocking
    point-to-point, clipped gradients. The number of nodes is each run's own.
    Raises RunsError with all problems of the file, `file:line: column: what is wrong`.
    """
    return parse_runs(_read(path), cluster, shown=str(path), vocabulary=vocabulary)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise RunsError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise RunsError(f"{path}: is over {MAX_BYTES >> 20} MiB: a file of runs is a small CSV")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RunsError(f"{path}: is not UTF-8: a file of runs is a CSV in UTF-8") from None


def parse_runs(
    text: str, cluster: Cluster, *, shown: str = "runs", vocabulary: int = VOCABULARY
) -> tuple[Run, ...]:
    """Read the text of a file of runs; see `read_runs`."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        missing = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
        if missing:
            raise RunsError(
                f"{shown}:1: {', '.join(missing)}: missing; the first line must name the columns "
                f"{','.join(COLUMNS)}"
            )
        runs: list[Run] = []
        problems: list[str] = []
        for row in reader:
            line = reader.line_num
            try:
                runs.append(_run(row, cluster, line, vocabulary))
            except RunsError as error:
                problems += [f"{shown}:{line}: {p}" for p in str(error).split("\n")]
    except csv.Error as error:
        raise RunsError(f"{shown}:{reader.line_num}: is not a CSV: {error}") from None
    if problems:
        more = f"\n... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise RunsError("\n".join(problems[:20]) + more)
    if not runs:
        raise RunsError(f"{shown}:2: has no run: write one a line below the columns' names")
    return tuple(runs)


def _run(row: Mapping[str, str | None], cluster: Cluster, line: int, vocabulary: int) -> Run:
    values: dict[str, int] = {}
    problems = []
    for column in COLUMNS[:-1]:
        text = (row[column] or "").strip()
        if text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text) > 0:
            values[column] = int(text)
        else:
            problems.append(f"{column}: {text!r} is not a whole number above 0, as `8`")
    text = (row["iteration_ms"] or "").strip()
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = math.nan
    if not (math.isfinite(milliseconds) and milliseconds > 0):
        problems.append(f"iteration_ms: {text!r} is not a time in ms above 0, as `3566.5`")
    if problems:
        raise RunsError("\n".join(problems))
    gpus, product = values["gpus"], values["tensor"] * values["data"] * values["pipeline"]
    if gpus != product:
        raise RunsError(f"gpus: is {gpus}, but tensor x data x pipeline is {product}")
    on_node = min(cluster.devices_per_node, gpus)
    if gpus % on_node:
        raise RunsError(f"gpus: {gpus} do not fill nodes of {on_node}")
    scenario = Scenario(
        name=f"run at line {line}",
        model=Model(
            name=f"gpt {values['layers']} x {values['hidden']}",
            layers=values["layers"],
            hidden=values["hidden"],
            heads=values["heads"],
            sequence=values["sequence"],
            vocabulary=vocabulary,
        ),
        cluster=replace(cluster, nodes=gpus // on_node, devices_per_node=on_node),
        plan=Plan(
            schedule="1f1b",
            pipeline=values["pipeline"],
            tensor=values["tensor"],
            data=values["data"],
            micro_batch=values["micro_batch"],
            global_batch=values["global_batch"],
            # Megatron's default wherever there is a tensor group to scatter over.
            scatter_gather=values["tensor"] > 1,
            precision="fp16",
            recomputation="full",
            p2p="blocking",
            clip_gradients=True,
        ),
    )
    findings = check(scenario)
    if findings:
        raise RunsError("\n".join(f"{field}: {what}" for field, what in findings))
    return Run(scenario=scenario, measured_ns=milliseconds * 1e6, line=line)
