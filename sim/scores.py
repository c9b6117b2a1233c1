"""Scores of a set of predictions: MAPE, bias, worst, Kendall's tau, regret; plain fractions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations


def score(points: Sequence[tuple[str, float, float]]) -> dict[str, object]:
    """Score (what, predicted_s, measured_s) points.

    mape: mean absolute error; bias: mean signed error; worst: the largest absolute error.
    kendall_tau: (concordant - discordant) / all pairs that differ in both, None without any.
    regret: how much slower than the best point the one predicted to be best was.
    """
    errors = [predicted / measured - 1 for _, predicted, measured in points]
    concordant = discordant = 0
    for (_, p, m), (_, q, n) in combinations(points, 2):
        sign = (p - q) * (m - n)
        concordant += sign > 0
        discordant += sign < 0
    pairs = concordant + discordant
    picked = min(points, key=lambda p: p[1], default=None)
    best = min((m for _, _, m in points), default=0.0)
    count = max(1, len(points))
    return {
        "n": len(points),
        "mape": sum(map(abs, errors)) / count,
        "bias": sum(errors) / count,
        "worst": max(map(abs, errors), default=0.0),
        "kendall_tau": (concordant - discordant) / pairs if pairs else None,
        "regret": picked[2] / best - 1 if picked is not None and best else None,
        "points": [
            {"what": what, "predicted_s": p, "measured_s": m, "error": e}
            for (what, p, m), e in zip(points, errors, strict=True)
        ],
    }
