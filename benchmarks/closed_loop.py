"""The closed loop over eight scenarios of two ranks: structural and predictive error of each.

Run on an otherwise idle machine: .venv/bin/python benchmarks/closed_loop.py [rounds]
The last line is one JSON object with every row.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

# Run as a script, this file's own folder comes first, in which `executor` is a benchmark.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from executor.loop import closed_loop

JUDGED = (
    "local-2rank",
    "local-2rank-gpipe",
    "local-2rank-deep",
    "local-2rank-shallow",
    "local-2rank-many",
    "local-2rank-few",
    "local-2rank-uneven",
    "local-2rank-reversed",
)
CALIBRATION = ("calibrate-2rank-a", "calibrate-2rank-b")


def main() -> None:
    """Run the loop and print its rows."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    result = closed_loop(JUDGED, CALIBRATION, rounds=rounds)
    sys.stdout.write(f"{'scenario':22} {'predictive':>10} {'structural':>10} {'run to run':>10}\n")
    for case in result.cases:
        row = case.row
        sys.stdout.write(
            f"{row.scenario:22} {row.predictive_error:+10.2%} {row.structural_error:+10.2%} "
            f"{row.run_to_run_spread:10.2%}\n"
        )
    sys.stdout.write(
        f"predictive: median {result.median_predictive:.2%}, worst {result.worst_predictive:.2%}; "
        f"structural: worst {result.worst_structural:.2%}\n"
    )
    sys.stdout.write(json.dumps({"rows": [asdict(case.row) for case in result.cases]}) + "\n")


if __name__ == "__main__":
    main()
