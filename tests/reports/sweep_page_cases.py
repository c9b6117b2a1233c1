"""Results of sweeps made up for the tests of their page."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim.sweeps.reading import Results, read_results

HOSTILE = "<script>alert(1)</script>"
GIB = 2**30


def record(index: int, set_: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A record as a sweep writes it: `changes` are of its result, `error` makes it a failed one."""
    error = changes.pop("error", None)
    result = {
        "iteration_s": 10.0 + index,
        "sequences_per_s": 100.0 / (10.0 + index),
        "mfu": 0.3,
        "peak_memory_bytes": (20 + index) * GIB,
        "fits": 20 + index <= 40,
        "memory_capacity_bytes": 40 * GIB,
        "training_cost_dollars": 1e6 * (10.0 + index),
        **changes,
    }
    return {
        "key": f"k{index}",
        "sweep": "s",
        "index": index,
        "points": None,
        "set": dict(set_),
        "scenario": HOSTILE,
        "digest": "d",
        "status": "done" if error is None else "failed",
        "result": result if error is None else None,
        "error": None if error is None else {"type": "E", "message": error},
        "seconds": 0.1,
    }


def write(path: Path, records: list[dict[str, Any]], asked: int | None = None) -> Path:
    """A file of results."""
    lines = [{**one, "points": asked} for one in records]
    text = "".join(json.dumps(one, separators=(",", ":")) + "\n" for one in lines)
    path.write_text(text)
    return path


def results(
    folder: Path, name: str, records: list[dict[str, Any]], asked: int | None = None
) -> Results:
    """Results read from a file of them."""
    return read_results(write(folder / f"{name}.jsonl", records, asked))


def grid(**fields: list[Any]) -> list[dict[str, Any]]:
    """What the points of a grid set; fields are of the plan."""
    return [
        {f"plan.{name}": value for name, value in zip(fields, values, strict=True)}
        for values in itertools.product(*fields.values())
    ]


def one_field() -> list[dict[str, Any]]:
    """Five microbatches; the largest fails, and the one before does not fit."""
    made = [record(i, s) for i, s in enumerate(grid(micro_batch=[1, 2, 4, 8, 16]))]
    made[3] = record(3, made[3]["set"], fits=False, peak_memory_bytes=50 * GIB)
    made[4] = record(4, made[4]["set"], error=f"too large {HOSTILE}")
    return made


def two_fields() -> list[dict[str, Any]]:
    """Microbatches and a hostile word, 8 points: one failed, two that do not fit."""
    points = grid(recomputation=["none", HOSTILE], micro_batch=[1, 2, 4, 8])
    made = [record(i, s) for i, s in enumerate(points)]
    made[1] = record(1, made[1]["set"], error="deadlock")
    for place in (3, 7):
        made[place] = record(place, made[place]["set"], fits=False)
    return made


def three_fields() -> list[dict[str, Any]]:
    """24 points over three fields and a fourth that goes with the third."""
    points = grid(pipeline=[2, 4, 8], micro_batch=[1, 2], slices=[1, 2, 4, 8])
    return [
        record(i, {**s, "plan.chunks": 2 * s["plan.slices"]}, iteration_s=5.0 + (7 * i) % 24)
        for i, s in enumerate(points)
    ]
