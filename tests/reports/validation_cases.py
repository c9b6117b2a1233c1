"""Published tables, logs and fits with made-up predictions, for the tests of their pages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from scenarios.loader import load_cluster
from scenarios.published import load_table
from sim.cost.profile import Fitted, Profile
from sim.cost.runs import read_log
from sim.log_calibration import Sample, score_runs
from sim.published import JudgedRow, JudgedTable, Outcome
from sim.published_rows import figure_of, seconds_of

HOSTILE = "<script>alert(1)</script>"
LOG = """\
gpus,global_batch,micro_batch,hidden,heads,layers,sequence,tensor,data,pipeline,iteration_ms
64,512,8,3072,32,30,2048,1,64,1,3566.5
64,512,4,3072,32,30,2048,2,32,1,4100
64,512,4,3072,32,30,2048,2,16,2,4000
128,512,2,8192,64,48,2048,8,4,4,17000
128,512,2,8192,64,48,2048,4,4,8,16000
"""
OFF = (1.02, 0.97, 1.31, 0.88, 1.0)


def table(table_id: str) -> JudgedTable:
    """A table whose predicted times are the published ones times a factor that goes round; rows
    that were not run take a second, and rows that were fitted to are as they are."""
    found = load_table(table_id)
    rows = []
    for number, row in enumerate(found.rows):
        seconds = 1.0
        if row.figure is not None:
            seconds = seconds_of(row.scenario, found.unit, row.figure)
        time_ns = round(seconds * OFF[number % len(OFF)] * 1e9)
        scenario = row.scenario
        if scenario.plan.slices == "optimal":
            assert scenario.model is not None
            half = (scenario.model.sequence // 2,) * 2
            scenario = replace(scenario, plan=replace(scenario.plan, slices=half))
        rows.append(
            JudgedRow(
                row=replace(row, scenario=scenario),
                outcome=Outcome(
                    iteration_ns=time_ns,
                    peak_bytes=1 << 34,
                    fits=True,
                    scenario=scenario if scenario is not row.scenario else None,
                ),
                predicted_figure=figure_of(scenario, found.unit, time_ns / 1e9),
                measured_s=None if row.figure is None else seconds,
                resolution=None if row.figure is None else found.resolution / 2 / row.figure,
                calibration=row.fitted,
                profiled=False,
            )
        )
    return JudgedTable(table=found, rows=tuple(rows))


def called(judged: JudgedTable, name: str) -> JudgedTable:
    """A table whose title, source, notes and first row have a name."""
    first = judged.rows[0]
    first = replace(first, row=replace(first.row, name=f"{name}/{first.row.name}"))
    named = replace(judged.table, title=name, source=name, notes=(name,))
    return replace(judged, table=named, rows=(first, *judged.rows[1:]))


def log_set(folder: Path, sample: Sample, name: str = "log.csv") -> dict[str, Any]:
    """A set of scores of the log's runs, as `validate --runs --json` prints it."""
    path = folder / "log.csv"
    path.write_text(LOG)
    runs = read_log(path, load_cluster("a100-80gb", ())).runs
    times = [run.measured_ns * off for run, off in zip(runs, OFF, strict=True)]
    return score_runs(name, runs, times, sample)


def profile() -> Profile:
    """A profile with a parameter determined, one not, and one at its bound."""
    return Profile(
        device=f"A100 {HOSTILE}",
        provenance=f"fitted to {HOSTILE}",
        created="2026-01-01T00:00:00+00:00",
        efficiency={
            "matmul_max": Fitted(value=0.835, interval=(0.81, 0.86)),
            "launch": Fitted(value=21e3, interval=(15e3, 29e3), at_bound="high"),
            "memory": Fitted(value=0.91, interval=None),
        },
    )
