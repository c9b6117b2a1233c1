"""What a profile is fitted to: a log of runs, rows of published tables (iterations, or passes of
a part of the model), measured all-reduces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scenarios.published import PublishedRow, PublishedTable, choose_tables, load_table
from scenarios.schema import Cluster
from sim.calibration import CalibrationError
from sim.cost.collective_runs import CollectivePoint, read_collectives
from sim.cost.fit import PartPoint
from sim.cost.profile import Source, same_device
from sim.cost.runs import Run, RunLog, file_digest, fingerprint, read_log
from sim.published_rows import part_of, seconds_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What a profile is fitted to.

    log: a file of runs, the only part that folds are made of. published: runs from published
    tables, by source. collectives: all-reduces within a node. parts: passes of parts of the model,
    by source. notes: what was left out, and why.
    """

    log: RunLog | None
    log_name: str
    published: Mapping[Source, tuple[Run, ...]]
    collectives: tuple[CollectivePoint, ...]
    sources: tuple[Source, ...]
    notes: tuple[str, ...]
    parts: Mapping[Source, tuple[PartPoint, ...]] = field(default_factory=dict)

    @property
    def runs(self) -> tuple[Run, ...]:
        """The log's runs; none without a log."""
        return self.log.runs if self.log is not None else ()

    @property
    def others(self) -> tuple[Run, ...]:
        """The published runs."""
        return tuple(run for runs in self.published.values() for run in runs)

    @property
    def part_points(self) -> tuple[PartPoint, ...]:
        """The passes of parts of the model."""
        return tuple(point for points in self.parts.values() for point in points)


def read_training(
    cluster: Cluster,
    *,
    log: Path | None = None,
    published: str = "",
    collectives: Path | None = None,
) -> Training:
    """Read what a profile of a cluster's device is fitted to.

    published: ids of tables, with commas between them, each with `:n` for its first n rows only.
    Rows on another kind of device are left out, and a note says so.
    Raises RunsError, with line and column, ScenarioError and CalibrationError where input is wrong.
    """
    found = read_log(log, cluster) if log is not None else None
    notes = list(found.notes) if found is not None else []
    sources = []
    if log is not None and found is not None:
        points = tuple(map(fingerprint, found.runs))
        sources.append(Source(kind="runs", name=log.name, digest=found.digest, points=points))
    tables: dict[Source, tuple[Run, ...]] = {}
    parts: dict[Source, tuple[PartPoint, ...]] = {}
    for entry in filter(None, (part.strip() for part in published.split(","))):
        for table, rows in _published(entry, cluster.device.name, notes):
            points = tuple(row.scenario.name for row in rows)
            source = Source(kind="published", name=table.id, points=points)
            if table.part is not None:
                parts[source] = tuple(_part(table, row) for row in rows)
            else:
                tables[source] = tuple(_run(table, row) for row in rows)
            sources.append(source)
    reductions: tuple[CollectivePoint, ...] = ()
    if collectives is not None:
        reductions = read_collectives(collectives, cluster.device.name)
        digest = file_digest(collectives)
        sources.append(Source(kind="collectives", name=collectives.name, digest=digest))
    if found is None and not any(tables.values()):
        what = "there are no whole-iteration times to fit to"
        raise CalibrationError("\n".join([*notes, f"{what}: give --runs or --published"]))
    return Training(
        log=found,
        log_name=log.name if log is not None else "",
        published=tables,
        collectives=reductions,
        sources=tuple(sources),
        notes=tuple(notes),
        parts=parts,
    )


def _published(
    entry: str, device: str, notes: list[str]
) -> list[tuple[PublishedTable, tuple[PublishedRow, ...]]]:
    """The rows that one entry of --published means, table by table, on a kind of device."""
    name, colon, first = entry.partition(":")
    if colon and not (first.isascii() and first.isdigit() and int(first) > 0):
        raise CalibrationError(
            f"--published {entry}: after the colon stands how many of a table's first rows to "
            f"take, as `{name}:4`"
        )
    found = []
    for table_id in choose_tables([name]):
        table = load_table(table_id)
        rows = [row for row in table.rows if row.figure is not None]
        if colon and int(first) > len(rows):
            raise CalibrationError(f"--published {entry}: {table_id} has only {len(rows)} rows")
        chosen = rows[: int(first)] if colon else rows
        taken = []
        elsewhere: Counter[str] = Counter()
        for row in chosen:
            cluster = row.scenario.cluster
            assert cluster is not None
            if not same_device(cluster.device.name, device):
                elsewhere[f"are on {cluster.device.name}"] += 1
            elif row.scenario.plan.slices == "optimal":
                elsewhere["have slices that are not published"] += 1
            else:
                taken.append(row)
        for other, number in elsewhere.items():
            notes.append(f"{table_id}: {number} of {len(chosen)} rows {other}: left out")
        if taken:
            found.append((table, tuple(taken)))
    return found


def _run(table: PublishedTable, row: PublishedRow) -> Run:
    assert row.figure is not None
    seconds = seconds_of(row.scenario, table.unit, row.figure)
    return Run(
        scenario=row.scenario,
        measured_ns=seconds * 1e9,
        line=row.origin.line or 0,
        spread=(row.deviation or 0.0) / row.figure,
    )


def _part(table: PublishedTable, row: PublishedRow) -> PartPoint:
    assert row.figure is not None
    part, name = part_of(table)
    seconds = seconds_of(row.scenario, table.unit, row.figure)
    return PartPoint(scenario=row.scenario, part=part, name=name, time_ns=seconds * 1e9)
