"""Scores of a set of predictions: MAPE, bias, worst, Kendall's tau, regret; plain fractions."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

TIE = 1e-9
"""Predictions that differ by a smaller fraction are the same: a tie, not an order."""
WITHIN = 0.15
"""Speed-ups and rates nearer to the published ones count as right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """How well predictions order the plans that compete within groups.

    right, wrong, pairs: pairs of plans of a group that were measured to differ, in all, and of them
    those predicted in the right and in the wrong order (a predicted tie is neither).
    regrets: of each group, how much slower than its best plan was the plan predicted best; the mean
    where several are predicted to be equally good.
    """

    right: int
    wrong: int
    pairs: int
    regrets: tuple[float, ...]

    @property
    def kendall_tau(self) -> float | None:
        """(right - wrong) / pairs, pooled over groups; None without pairs."""
        return (self.right - self.wrong) / self.pairs if self.pairs else None

    @property
    def regret(self) -> float | None:
        """Mean regret over groups; None without groups."""
        return math.fsum(self.regrets) / len(self.regrets) if self.regrets else None


def score(
    points: Sequence[tuple[str, float, float]],
    *,
    groups: Sequence[Hashable] | None = None,
    plans: Sequence[Hashable] | None = None,
) -> dict[str, object]:
    """Score (what, predicted_s, measured_s) points.

    groups: of each point, what it competes in (the same work on the same devices); all points are
    one group unless given. plans: of each point, which plan it is; points of one group and plan are
    replicates, which count as one, by their means. Every point is a plan of its own unless given.

    mape: mean absolute error; bias: mean signed error; worst: the largest absolute error; these
    three over all points, None without any. kendall_tau: (pairs in the right order - in the wrong
    order) / pairs, over the pairs of plans within a group whose measured times differ, pooled; a
    predicted tie is neither right nor wrong; None without pairs. kendall_tau_mean: that of each
    group by itself, mean over groups, so that a small group counts as much as a large one. regret:
    how much slower than the best plan of its group the plan predicted best was, mean over groups;
    regret_worst: the largest. num_groups: groups of two plans or more; where there are none these
    four are over all points as one group. kendall_tau_all, regret_all: over all points as one
    group, whatever their work.
    """
    errors = [predicted / measured - 1 for _, predicted, measured in points]
    times = [(predicted, measured) for _, predicted, measured in points]
    places: Sequence[Hashable] = groups if groups is not None else [None] * len(points)
    # Plans of two groups are two plans, even where they are called the same.
    names = list(zip(places, plans if plans is not None else range(len(points)), strict=True))
    together = ranked([_means(times, names)])
    members: dict[Hashable, list[int]] = {}
    for index, place in enumerate(places):
        members.setdefault(place, []).append(index)
    competing = [
        means
        for indices in members.values()
        if len(means := _means([times[i] for i in indices], [names[i] for i in indices])) > 1
    ]
    within = ranked(competing) if competing else together
    apart = [ranked([means]) for means in competing] or [together]
    taus = [one.kendall_tau for one in apart if one.kendall_tau is not None]
    return {
        **of_errors(errors),
        "kendall_tau": within.kendall_tau,
        "kendall_tau_mean": math.fsum(taus) / len(taus) if taus else None,
        "regret": within.regret,
        "regret_worst": max(within.regrets, default=None),
        "num_groups": len(competing),
        "kendall_tau_all": together.kendall_tau,
        "regret_all": together.regret,
        "points": [
            {"what": what, "predicted_s": p, "measured_s": m, "error": e}
            for (what, p, m), e in zip(points, errors, strict=True)
        ],
    }


def of_errors(errors: Sequence[float]) -> dict[str, object]:
    """How many errors there are, their mean size, mean and largest size; plain fractions."""
    count = len(errors)
    return {
        "n": count,
        "mape": math.fsum(map(abs, errors)) / count if count else None,
        "bias": math.fsum(errors) / count if count else None,
        "worst": max(map(abs, errors), default=None),
    }


def of_ratios(
    errors: Sequence[float], compared: Sequence[tuple[float, float]]
) -> dict[str, object]:
    """Scores of speed-ups or rates: `of_errors`, how many errors are within 15 %, and the order of
    what is compared, (predicted, published)."""
    order = ranked([compared])
    return {
        **of_errors(errors),
        "within_15_percent": sum(abs(error) <= WITHIN for error in errors),
        "kendall_tau": order.kendall_tau,
        "pairs": order.pairs,
        "right": order.right,
        "wrong": order.wrong,
    }


def ranked(groups: Iterable[Sequence[tuple[float, float]]]) -> Ranked:
    """Compare orders within groups of (predicted, measured) times, one a plan."""
    right = wrong = pairs = 0
    regrets = []
    for plans in groups:
        for (p, m), (q, n) in combinations(plans, 2):
            if m == n:
                continue
            pairs += 1
            if not math.isclose(p, q, rel_tol=TIE):
                agree = (p < q) == (m < n)
                right += agree
                wrong += not agree
        if plans:
            least = min(p for p, _ in plans)
            picked = [m for p, m in plans if math.isclose(p, least, rel_tol=TIE)]
            regrets.append(math.fsum(picked) / len(picked) / min(m for _, m in plans) - 1)
    return Ranked(right=right, wrong=wrong, pairs=pairs, regrets=tuple(regrets))


def _means(
    times: Sequence[tuple[float, float]], plans: Sequence[Hashable]
) -> list[tuple[float, float]]:
    """Mean (predicted, measured) of each plan."""
    found: Mapping[Hashable, list[tuple[float, float]]] = {plan: [] for plan in plans}
    for plan, pair in zip(plans, times, strict=True):
        found[plan].append(pair)
    return [
        (math.fsum(p for p, _ in pairs) / len(pairs), math.fsum(m for _, m in pairs) / len(pairs))
        for pairs in found.values()
    ]
