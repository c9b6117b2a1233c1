"""Tables of a sweep's points, and the same as JSON: every cell that is a figure names its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reports import words
from reports.sweep_axes import Swept, field_names, value_label
from reports.sweep_words import reasons, time_word
from reports.tables import FOLD_ROWS, Cell, Table, memory, seconds, share, text
from sim.sweeps.reading import Point

MAX_ROWS = 500
"""Points in the page's table and JSON; the file has them all."""
BEST = 10


def shown_points(swept: Swept) -> tuple[Point, ...]:
    """The points that the page lists: the fastest first, then those that failed."""
    return (*swept.ranked[:MAX_ROWS], *swept.results.failed[:MAX_ROWS])


def sweep_page_json(swept: Swept) -> dict[str, Any]:
    """What the page shows as JSON: `points` in the order of its table, the fastest that fit first,
    those that failed last, with the keys and the exact figures of the results."""
    results = swept.results
    return {
        "results": results.path.name,
        "scenario": results.scenario,
        "points_asked": results.num_asked,
        "points_in_file": len(results.points),
        "done": len(swept.done),
        "failed": len(results.failed),
        "do_not_fit": len(swept.unfit),
        "torn": results.torn,
        "axes": [{"fields": list(axis.fields), "values": list(axis.labels)} for axis in swept.axes],
        "effects": [
            {
                "fields": list(effect.axis.fields),
                "size": effect.size,
                "best_s": list(effect.best),
                "median_s": list(effect.median),
            }
            for effect in swept.effects
        ],
        "points": [_point_json(point) for point in shown_points(swept)],
        "failures": [{"message": why, "points": count} for why, count in reasons(swept)],
    }


def _point_json(point: Point) -> dict[str, Any]:
    seen = point.seen
    return {
        "key": seen.key,
        "index": seen.index,
        "set": dict(seen.set),
        "status": seen.status,
        "total_s" if point.timed == "run" else "iteration_s": seen.seconds,
        "sequences_per_s": seen.sequences_per_s,
        "mfu": seen.mfu,
        "peak_memory_bytes": seen.peak_bytes,
        "fits": seen.fits,
        "training_cost_dollars": point.dollars,
        "error": seen.error,
    }


def best_table(swept: Swept) -> Table:
    """The best points."""
    count = min(BEST, len(swept.done))
    caption = "The best points" if count > 1 else "The best point"
    return _table(swept, swept.ranked[:count], f"{caption} (simulated)", fold=False)


def all_table(swept: Swept) -> Table:
    """Every simulated point, the fastest first; as many as a page can hold."""
    points = swept.ranked[:MAX_ROWS]
    caption = f"All {len(points):,} simulated points, the fastest first"
    if len(points) < len(swept.done):
        caption = f"The fastest {len(points):,} of {len(swept.done):,} simulated points"
    return _table(swept, points, caption, fold=len(points) > FOLD_ROWS)


def cut_note(swept: Swept) -> tuple[str, ...]:
    """What of the points the page leaves to the file."""
    left = len(swept.done) - MAX_ROWS
    if left <= 0:
        return ()
    return (
        f"The table and the page's JSON have the {MAX_ROWS:,} fastest points; the other "
        f"{left:,} are in {swept.results.path.name} only.",
    )


def _table(swept: Swept, points: Sequence[Point], caption: str, *, fold: bool) -> Table:
    names = swept.short_names
    key = "total_s" if swept.is_run else "iteration_s"
    optional = {
        "Sequences/s": any(p.seen.sequences_per_s is not None for p in swept.done),
        "MFU": any(p.seen.mfu is not None for p in swept.done),
        "Peak memory": any(p.seen.peak_bytes is not None for p in swept.done),
        "Fits": any(p.seen.fits is not None for p in swept.done),
        "Cost of training": any(p.dollars is not None for p in swept.done),
    }
    if swept.is_run:
        optional = {"Samples/s" if k == "Sequences/s" else k: v for k, v in optional.items()}
    kept = [position for position, has in enumerate(optional.values()) if has]
    rows = []
    for number, point in enumerate(points):
        at, seen = f"points.{number}", point.seen
        cells = (
            Cell(
                text=words.significant(seen.sequences_per_s),
                value=seen.sequences_per_s,
                figure=f"{at}.sequences_per_s",
            ),
            share(seen.mfu, f"{at}.mfu"),
            memory(seen.peak_bytes, f"{at}.peak_memory_bytes"),
            text({True: "yes", False: "no", None: words.UNKNOWN}[seen.fits]),
            Cell(
                text=words.dollars(point.dollars),
                value=point.dollars,
                figure=f"{at}.training_cost_dollars",
            ),
        )
        rows.append(
            (
                Cell(text=str(number + 1), value=number + 1),
                *(_field_cell(point, name) for name in names),
                seconds(seen.seconds, f"{at}.{key}"),
                *(cells[position] for position in kept),
            )
        )
    columns = (
        "Rank",
        *names.values(),
        time_word(swept).capitalize(),
        *(list(optional)[k] for k in kept),
    )
    return Table(caption=caption, columns=columns, rows=tuple(rows), fold=fold)


def _field_cell(point: Point, name: str) -> Cell:
    value = point.seen.set.get(name)
    shown = value_label(point, name)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Cell(text=shown, value=value)
    return text(shown)


def reasons_table(swept: Swept) -> Table:
    """Why points failed, the most frequent reason first."""
    rows = [
        (Cell(text=f"{count:,}", value=count, figure=f"failures.{i}.points"), text(why))
        for i, (why, count) in enumerate(reasons(swept)[:MAX_ROWS])
    ]
    columns = ("Points", "Message")
    return Table(caption="Why points failed", columns=columns, rows=tuple(rows))


def failed_table(swept: Swept) -> Table:
    """The points that failed, each with its message."""
    names = field_names(swept.results.points)
    failed = swept.results.failed
    rows = [
        (
            Cell(text=str(point.seen.index), value=point.seen.index),
            *(_field_cell(point, name) for name in names),
            text(point.seen.error or ""),
        )
        for point in failed[:MAX_ROWS]
    ]
    caption = f"The {words.plural(len(failed), 'point')} that failed"
    if len(rows) < len(failed):
        caption = f"The first {len(rows):,} of {len(failed):,} points that failed"
    columns = ("Number", *names, "Message")
    return Table(caption=caption, columns=columns, rows=tuple(rows), fold=len(rows) > FOLD_ROWS)


def effect_table(swept: Swept) -> Table:
    """Of each value of each field the best point's time and the middle one's."""
    rows: list[tuple[Cell, ...]] = []
    groups: dict[int, str] = {}
    for number, effect in enumerate(swept.effects):
        groups[len(rows)] = effect.axis.name
        least = min(effect.known.values(), default=None)
        for place, label in enumerate(effect.axis.labels):
            best, median = effect.best[place], effect.median[place]
            at = f"effects.{number}"
            rows.append(
                (
                    text(label),
                    seconds(best, f"{at}.best_s.{place}"),
                    seconds(median, f"{at}.median_s.{place}"),
                    share(None if best is None or least is None else best / least - 1),
                )
            )
    columns = ("Value", "Best point", "Median point", "Over the best value")
    return Table(
        caption="The time with each value of a field (simulated)",
        columns=columns,
        rows=tuple(rows),
        groups=groups,
        fold=len(rows) > 2 * FOLD_ROWS,
    )
