"""Variants beside one another: their figures as JSON values, the verdict, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from reports import tables, words
from reports.tables import Cell, Table
from sim.loop import LoopCase
from sim.scores import score
from sim.variants import VariantsResult, slicing_text
from sim.workload.partition import pieces


def variants_json(found: VariantsResult) -> dict[str, object]:
    """Variants as `run --json` and `validate --json` print them."""
    rows = [case.row for case in found.cases]
    points = [(r.scenario, r.predicted_ns / 1e9, r.measured_ns / 1e9) for r in rows]
    structural = [
        (n, m * (1 + r.structural_error), m) for (n, _, m), r in zip(points, rows, strict=True)
    ]
    return {
        "scenario": found.name,
        "variants": [_variant_json(found, case) for case in found.cases],
        "sets": [_error_set("predictive", points), _error_set("structural", structural)],
        "calibrated": found.profile is not None,
        "interrupted": found.interrupted,
        "note": found.note,
    }


def _variant_json(found: VariantsResult, case: LoopCase) -> dict[str, object]:
    row, scenario = case.row, case.loaded.scenario
    low, high = case.whole.quartiles_ns
    measured, predicted = found.speedups(case)
    check = found.checks.get(scenario.name)
    cut = [[piece.tokens for piece in microbatch] for microbatch in pieces(scenario)]
    return {
        "variant": case.variant,
        "scenario": scenario.name,
        "digest": scenario.digest,
        "slicing": slicing_text(scenario),
        "slices": cut[0] if len({tuple(c) for c in cut}) == 1 else cut,
        "measured_s": row.measured_ns / 1e9,
        "measured_quartiles_s": [low / 1e9, case.whole.iteration_ns / 1e9, high / 1e9],
        "measured_spread": row.run_to_run_spread,
        "predicted_s": row.predicted_ns / 1e9,
        "predictive_error": row.predictive_error,
        "structural_error": row.structural_error,
        "measured_speedup": measured,
        "predicted_speedup": predicted,
        "iterations": case.comparison.num_iterations,
        "disturbed_iterations": case.comparison.num_disturbed,
        "rounds": row.rounds,
        "rounds_s": [[p / 1e9, m / 1e9] for p, m in case.rounds_ns],
        "in_sample": case.comparison.in_sample,
        "check": asdict(check) | {"passed": check.passed} if check is not None else None,
    }


def _error_set(name: str, points: Sequence[tuple[str, float, float]]) -> dict[str, object]:
    return {"id": name, **score(points)}


def verdict(found: VariantsResult) -> str:
    """The fastest variant in one sentence, measured and predicted."""
    first = found.cases[0]
    best = min(found.cases, key=lambda case: case.row.measured_ns)
    time = words.duration(best.row.measured_ns)
    name = found.name
    if best is first:
        return f"{name}: {best.variant} is fastest, {time} an iteration (measured)"
    measured, predicted = found.speedups(best)
    return (
        f"{name}: {best.variant} is fastest, {time} an iteration (measured), {measured:.2f} times "
        f"as fast as {first.variant} (predicted: {predicted:.2f} times)"
    )


def variants_table(found: VariantsResult) -> Table:
    """Every variant: its slicing, measured, predicted, the two errors, the speed-ups."""
    rows = []
    for case in found.cases:
        row = case.row
        measured, predicted = found.speedups(case)
        rows.append(
            (
                tables.text(case.variant),
                tables.text(slicing_text(case.loaded.scenario).replace(" x ", "\u00a0×\u00a0")),
                tables.seconds(row.measured_ns / 1e9),
                Cell(text=f"±{words.percent(row.run_to_run_spread)}", value=row.run_to_run_spread),
                tables.seconds(row.predicted_ns / 1e9),
                tables.error(row.predictive_error),
                tables.error(row.structural_error),
                Cell(text=f"{measured:.2f}×", value=measured),
                Cell(text=f"{predicted:.2f}×", value=predicted),
            )
        )
    columns = (
        "Variant",
        "Slices",
        "Measured",
        "Spread",
        "Predicted",
        "Predictive error",
        "Structural error",
        "Measured speed-up",
        "Predicted speed-up",
    )
    return Table(caption="Variants", columns=columns, rows=tuple(rows))


def slices_table(found: VariantsResult) -> Table:
    """Every kind of pass of every variant: predicted and measured medians."""
    rows: list[tuple[Cell, ...]] = []
    groups: dict[int, str] = {}
    for case in found.cases:
        groups[len(rows)] = case.variant
        for action in case.comparison.actions:
            name = action.kind.name.lower()
            piece = action.piece
            rows.append(
                (
                    tables.text(words.PATH_NAMES.get(name, name)),
                    Cell(text=str(action.stage), value=action.stage),
                    Cell(
                        text=words.count(piece.tokens if piece else None),
                        value=piece and piece.tokens,
                    ),
                    Cell(
                        text=words.count(piece.context if piece else None),
                        value=piece and piece.context,
                    ),
                    tables.seconds(action.simulated_ns / 1e9),
                    tables.seconds(action.measured_ns / 1e9),
                    tables.error(action.error),
                )
            )
    columns = ("What", "Stage", "Tokens", "Context", "Predicted", "Measured", "Error")
    return Table(
        caption="Every kind of action, medians",
        columns=columns,
        rows=tuple(rows),
        groups=groups,
        fold=True,
    )
