"""How good predictions are, in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from reports import words
from reports.validation_points import Held, Set

ERRORS = (
    "An error is the predicted over the published or measured time, less one; of speed-ups and "
    "rates it is that of the figure itself. MAPE is the mean size of the errors, bias their mean "
    "with sign. Kendall's tau compares orders of plans that compete for the same work on as many "
    "of the same devices: 1 where all pairs are right, −1 where all are wrong. Regret is how much "
    "slower than the best of them the plan predicted best was."
)


def published_verdict(sets: Sequence[Set], points: Sequence[Held]) -> str:
    """Predictions of published results in one sentence."""
    judged = [p for p in points if p.judged]
    if not judged:
        count = words.plural(len(points), "published figure")
        return f"Of {count} none is judged: what predicts them was fitted to them."
    times = [p for p in judged if p.kind == "time"]
    rest = [p for p in judged if p.kind != "time" and not _derived(sets[p.place[0]])]
    parts = []
    if times:
        parts.append(
            f"{words.plural(len(times), 'published time')} that nothing was fitted to "
            f"{'is' if len(times) == 1 else 'are'} predicted {words.percent(mape(times))} off on "
            f"average (simulated){_orders(sets)}"
        )
    if rest:
        near = sum(abs(p.error) <= 0.15 for p in rest)
        parts.append(
            f"{near} of {len(rest)} published speed-ups and rates of whole runs are predicted "
            f"within 15{words.NBSP}%" + ("" if times else " (simulated)")
        )
    return "; ".join(parts) + "."


def _derived(one: Set) -> bool:
    """Whether a set's points follow from another's: speed-ups of a table's rows."""
    return "unit" not in one


def _orders(sets: Sequence[Set]) -> str:
    found = [one["orders"] for one in sets if one.get("orders", {}).get("pairs")]
    pairs = sum(orders["pairs"] for orders in found)
    right = sum(orders["right"] for orders in found)
    if not pairs:
        return ""
    return f", and {words.percent(right / pairs)} of {pairs:,} clear orders are right"


def log_verdict(one: Set) -> str:
    """Predictions of a log's runs in one sentence."""
    count = words.plural(one["n"], "run")
    text = f"{count} of {one['id']} are predicted {words.percent(one['mape'])} off on average"
    if one["n"] == 1:
        text = f"The run of {one['id']} is predicted {words.percent(one['mape'])} off"
    how = {
        "in-sample": "by a profile fitted to these very runs",
        "partly in-sample": "by a profile fitted to some of them",
        "cross-validated": "each from fits that have not seen it",
        "not calibrated": "by the device model, not calibrated",
        "other data": "by a profile fitted to other data",
    }[one["sample"]]
    return f"{text} (simulated, {how}), the worst {words.percent(one['worst'])}."


def mape(points: Sequence[Held]) -> float:
    """The mean size of errors."""
    return math.fsum(abs(p.error) for p in points) / len(points)


def overview_claim(points: Sequence[Held]) -> str:
    """How many points are within 10 %, and which is furthest off."""
    judged = [p for p in points if p.judged]
    if not judged:
        return "Everything shown was fitted to, so nothing is judged"
    near = sum(abs(p.error) <= 0.10 for p in judged)
    worst = max(judged, key=lambda p: abs(p.error))
    count = words.plural(len(judged), "judged point")
    one = len({p.set_id for p in points}) == 1
    which = worst.what if one else f"{worst.set_id} {worst.what}"
    return (
        f"{near:,} of {count} are within 10{words.NBSP}%; the furthest off is {which}, "
        f"{words.percent(worst.error, signed=True)}"
    )


def set_claim(one: Set, points: Sequence[Held]) -> str:
    """A set in one sentence."""
    judged = [p for p in points if p.judged]
    if not judged:
        fitted = mape(points)
        why = "fitted to" if all(p.fitted for p in points) else "not judged"
        return f"{one['id']}: {why}; the fit is {words.percent(fitted)} off on average"
    worst = max(judged, key=lambda p: abs(p.error))
    text = f"{one['id']}: {words.percent(mape(judged))} off on average"
    if len(judged) > 1:
        text += f", furthest at {worst.what} ({words.percent(worst.error, signed=True)})"
    orders = one.get("orders") or one
    if orders.get("pairs"):
        text += f"; {orders['right']} of {orders['pairs']} orders are right"
    return text


def found_notes(one: Set) -> tuple[str, ...]:
    """What else a table says: the best number of slices, the fastest row, slices searched."""
    notes = []
    for best in one.get("best_even_slices") or ():
        published = " or ".join(map(str, best["published"]))
        notes.append(
            f"{best['what']}: fastest in {best['predicted']} even slices by prediction, in "
            f"{published} as published."
        )
    if one.get("fastest"):
        published = " or ".join(one["fastest"]["published"])
        notes.append(
            f"Fastest: {one['fastest']['predicted']} by prediction, {published} as published."
        )
    notes += [
        f"{point['what']}: slices found by the search: {', '.join(map(str, point['slices']))}."
        for point in one["points"]
        if point.get("slices")
    ]
    wrong = (one.get("memory") or {}).get("wrong")
    if wrong:
        notes.append(f"Memory is wrong for {', '.join(wrong)}.")
    gain: Mapping[str, Any] | None = one.get("gain")
    if gain and gain["largest_difference"] is not None:
        notes.append(
            f"The gain of {gain['what']} differs by at most "
            f"{100 * gain['largest_difference']:.1f} percentage points from the published one."
        )
    return tuple(notes)
