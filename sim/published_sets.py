"""Published tables predicted, as `validate --published --json` prints them: `sets` and `pooled`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim.published import JudgedTable, pooled_scores, scores_of
from sim.published_elastic import JudgedRuns, run_scores
from sim.published_gains import best_even, fastest, speedup_set


def published_sets(
    found: Sequence[JudgedTable], runs: Sequence[JudgedRuns] = ()
) -> dict[str, list[dict[str, Any]]]:
    """The scores of tables of rows, then of their speed-ups, then of tables of runs, as `sets`; and
    over several tables, as `pooled`."""
    gained = [scores for table in found if (scores := speedup_set(table)) is not None]
    return {
        "sets": [
            *(
                {
                    **scores_of(table),
                    "best_even_slices": best_even(table),
                    "fastest": fastest(table),
                }
                for table in found
            ),
            *gained,
            *(run_scores(table) for table in runs),
        ],
        "pooled": pooled_scores(found),
    }


def errors_of(found: Sequence[JudgedTable], runs: Sequence[JudgedRuns] = ()) -> tuple[float, ...]:
    """The errors of all that is judged."""
    errors = [r.error for table in found for r in table.judged if r.error is not None]
    return (*errors, *(figure.error for table in runs for figure in table.judged))
