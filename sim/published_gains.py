"""What published tables say beside times: speed-ups, and which slices or which row is best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sim.published import JudgedRow, JudgedTable
from sim.scores import of_ratios


def speedup_set(found: JudgedTable) -> dict[str, object] | None:
    """The speed-ups of a table's comparison as one of the `sets` of `validate --json`; None where
    the table has no set for them.

    Each point has `what`, the `predicted` and the `published` speed-up, and its `error`: predicted
    over published, less one. `same_run` is one whose two times are of one run, so that it is 1 both
    ways. within_15_percent: how many errors are; mape, bias and worst: of errors; kendall_tau, and
    right and wrong pairs: of the order of the speed-ups, over pairs published as different.
    """
    gain = found.table.gain
    if gain is None or gain.speedups is None:
        return None
    rows = {row.row.name: row for row in found.rows}
    points: list[dict[str, object]] = []
    errors: list[float] = []
    pairs: list[tuple[float, float]] = []
    for one in found.gains:
        predicted, published = 1 + one.predicted, 1 + one.published
        scenarios = [rows[f"{block}/{one.key}"].row.scenario for block in (gain.of, gain.over)]
        errors.append(predicted / published - 1)
        pairs.append((predicted, published))
        points.append(
            {
                "what": one.key,
                "predicted": predicted,
                "published": published,
                "error": errors[-1],
                "same_run": scenarios[0].plan == scenarios[1].plan,
            }
        )
    return {
        "id": gain.speedups,
        "title": f"speed-up by {gain.what}: {found.table.title}",
        "source": found.table.source,
        "url": found.table.url,
        **of_ratios(errors, pairs),
        "points": points,
    }


def best_even(found: JudgedTable) -> list[dict[str, object]]:
    """For each block of a table whose rows' keys are numbers of even slices: the fastest predicted
    and published one, and how many of the published numbers lie between them."""
    blocks: dict[str, list[JudgedRow]] = {}
    for row in found.rows:
        block, _, key = row.row.name.partition("/")
        if key.isdigit() and row.row.scenario.plan.groups[0].num_slices == int(key):
            blocks.setdefault(block, []).append(row)
    return [_best(block, rows) for block, rows in blocks.items() if len(rows) > 1]


def _best(block: str, rows: Sequence[JudgedRow]) -> dict[str, object]:
    times: Mapping[int, tuple[float, float]] = {
        row.row.scenario.plan.groups[0].num_slices: (row.predicted_s, row.measured_s or math.nan)
        for row in rows
    }
    numbers = sorted(times)
    predicted = min(numbers, key=lambda n: times[n][0])
    least = min(measured for _, measured in times.values())
    published = [n for n in numbers if times[n][1] == least]
    steps = min(abs(numbers.index(predicted) - numbers.index(n)) for n in published)
    return {
        "what": block,
        "predicted": predicted,
        "published": published,
        "steps_apart": steps,
        "over_best": [
            {
                "slices": n,
                "predicted": times[n][0] / times[predicted][0],
                "published": times[n][1] / least,
            }
            for n in numbers
        ],
    }


def fastest(found: JudgedTable) -> dict[str, object] | None:
    """The rows predicted and published as the fastest, by name; None where not all rows of the
    table are the same work on as many of the same devices, or there are fewer than three."""
    rows = [row for row in found.rows if row.measured_s is not None]
    if len(rows) < 3 or found.table.part is not None or len({row.group for row in rows}) > 1:
        return None
    least = min(row.measured_s or math.inf for row in rows)
    return {
        "predicted": min(rows, key=lambda row: row.predicted_s).row.name,
        "published": [row.row.name for row in rows if row.measured_s == least],
    }
