"""How much sooner an elastic run ends than a static one on this machine, measured and predicted
beforehand, and how far off the prediction is phase by phase.

Run on an otherwise idle machine:
.venv/bin/python benchmarks/elastic.py [SCENARIO ...] [--set FIELD=VALUE] [--repeats N]
The last line is one JSON object with every run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

# Run as a script, this file's own folder comes first, in which `executor` is a benchmark.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from executor.elastic.commands import run_elastic
from scenarios.loader import load
from sim.elastic_comparison import ElasticComparison, summary

SCENARIOS = ("local-elastic-vit", "local-elastic-bert")


def main() -> int:
    """Run the scenarios; 130 where they were interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="*", default=SCENARIOS)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    found: list[dict[str, object]] = []
    for name in given.scenarios:
        loaded = load(name, given.set)
        runs = []
        for _ in range(given.repeats):
            one = run_elastic(loaded, progress=_tell)
            assert one is not None, "these ranks were started here"
            show(one)
            runs.append(one)
            if one.interrupted:
                break
        found.append(_data(name, runs))
        if runs[-1].interrupted:
            break
    print(json.dumps({"scenarios": found}))
    return 130 if len(found) < len(given.scenarios) else 0


def show(found: ElasticComparison) -> None:
    """A line for each phase of each run, one for each run, and the speed-ups."""
    print(
        f"{'run':<20}{'epochs':>8}{'frozen':>8}{'cached':>8}{'ranks':>7}"
        f"{'iteration, ms':>22}{'epoch, s':>20}{'error':>9}"
    )
    for case in found.cases:
        for p in case.phases:
            layout = p.phase.layout
            last = p.phase.first_epoch + p.num_epochs - 1
            print(
                f"{case.name:<20}{f'{p.phase.first_epoch}-{last}':>8}{p.phase.frozen_layers:>8}"
                f"{p.phase.cached_layers:>8}{f'{layout.pipeline}x{layout.data}':>7}"
                f"{_pair(p.predicted_iteration_s, p.measured_iteration_s, 1e3):>22}"
                f"{_pair(p.predicted_epoch_s, p.measured_epoch_s):>20}{_percent(p.error):>9}"
            )
        accuracy = case.measurement.final_accuracy
        print(
            f"{case.name:<20} training {_pair(case.predicted_s, case.measured_s)} s "
            f"({_percent(case.error)}), whole run {case.measurement.seconds:.1f} s, accuracy "
            f"{'unknown' if accuracy is None else f'{accuracy:.2%}'}"
        )
    for gain in found.speedups:
        print(
            f"over {gain.other}: predicted and measured {_pair(gain.predicted, gain.measured)} "
            f"({_percent(gain.error)})"
        )
    print(found.note)


def _data(name: str, runs: list[ElasticComparison]) -> dict[str, object]:
    """What the last line says of a scenario: every run, and medians over the repeats."""
    gains = [run.speedups[0] for run in runs if run.speedups]
    errors = [abs(p.error) for run in runs for c in run.cases for p in c.phases if p.error]
    return {
        "scenario": name,
        "measured_ratio": statistics.median(g.measured for g in gains) if gains else None,
        "predicted_ratio": statistics.median(g.predicted or 0.0 for g in gains) if gains else None,
        "median_phase_error": statistics.median(errors) if errors else None,
        "worst_phase_error": max(errors, default=None),
        "runs": [summary(run) for run in runs],
    }


def _pair(predicted: float | None, measured: float, scale: float = 1.0) -> str:
    before = "unknown" if predicted is None else f"{predicted * scale:.2f}"
    return f"{before} / {measured * scale:.2f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:+.1%}"


_told: set[str] = set()


def _tell(text: str) -> None:
    """Each line once, and of epochs none: a run has many."""
    if "epoch" not in text and text not in _told:
        _told.add(text)
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
