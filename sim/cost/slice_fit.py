"""What a slice costs by its batch, tokens and context, fitted to measured slices.

The form is TeraPipe's (Li et al. 2021, arXiv 2102.07988, section 3.3), with the batch b:

    t(b, l, c) = t(b, l, 0) + a0 + a1 b l + a2 b c + a3 b l c        for c > 0

t(b, l, 0) is measured point by point, and between the points a smooth curve, f0 + f1 b l + f2 b l^2
(none negative), times what was measured over the curve, interpolated over the logarithm of l (by
monotone cubics) and then of b. The a's are fitted with weights 1/t. A kernel that does not skip
what the mask hides takes b l (l + c), not b (l^2 / 2 + l c): then a term a4 b l^2 is added, where
that predicts points left out of the fit better.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.cost.shapes import Part, PartTime, Pass, Shape, family_of

Numbers: TypeAlias = NDArray[np.float64]
Key: TypeAlias = tuple[Part, Pass]
Term = Literal["fixed", "tokens", "context", "pairs", "square"]
Terms: TypeAlias = tuple[Term, ...]

PAPER: Terms = ("fixed", "tokens", "context", "pairs")
WIDER: Terms = (*PAPER, "square")
_NARROWER: tuple[Terms, ...] = (("context", "pairs"), ("pairs",))
"""For too few measured contexts for the paper's form."""
_SYMBOLS: dict[Term, str] = {
    "fixed": "",
    "tokens": " b l",
    "context": " b c",
    "pairs": " b l c",
    "square": " b l^2",
}
_LEAST_SHARE = 0.5
"""Of the time of the fewest tokens measured: what fewer are taken to need at least, for a slice's
fixed time is known from below no better."""


class Point(NamedTuple):
    """A measured time of `micro_batch` x `tokens` after `context` others."""

    micro_batch: int
    tokens: int
    context: int
    time_ns: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """t(b, l, 0): a smooth curve times the measured points' ratios to it.

    coefficients: of 1, b l and b l^2. ratios: by b, the measured tokens, ascending, and at each the
    measured time over the smooth one.
    """

    coefficients: tuple[float, ...]
    ratios: Mapping[int, tuple[tuple[int, ...], tuple[float, ...]]]

    def time_ns(self, micro_batch: int, tokens: Numbers) -> Numbers:
        """The time of slices without context: at measured points exactly what was measured.

        Beyond them the smooth curve goes on in proportion, and fewer tokens than were measured take
        at least half the time of the fewest.
        """
        measured = sorted(self.ratios)
        below = max((b for b in measured if b <= micro_batch), default=measured[0])
        above = min((b for b in measured if b >= micro_batch), default=measured[-1])
        part = 0.0
        if below < above:
            part = float(np.log(micro_batch / below) / np.log(above / below))

        def at(length: Numbers) -> Numbers:
            ratio = (1 - part) * self._ratio(below, length) + part * self._ratio(above, length)
            return _smooth(self.coefficients, micro_batch, length) * ratio

        fewest = min(self.ratios[below][0][0], self.ratios[above][0][0])
        least = _LEAST_SHARE * at(np.array(float(fewest)))
        found = at(tokens)
        return np.where(tokens < fewest, np.maximum(found, least), found)

    def _ratio(self, micro_batch: int, tokens: Numbers) -> Numbers:
        measured, ratios = self.ratios[micro_batch]
        at, known = np.log(np.clip(tokens, measured[0], measured[-1])), np.log(measured)
        if len(known) < 3:
            return np.asarray(np.interp(at, known, ratios))
        from scipy.interpolate import PchipInterpolator

        # Monotone between the points, but for rounding, which may fall below zero.
        return np.maximum(PchipInterpolator(known, ratios)(at), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassFit:
    """The fit of one part in one pass.

    points: what it was fitted to. terms, coefficients: what context adds, in ns; none where no
    context was measured, or where the part does not attend to it.
    least_ratio: of a slice with context to one without: the least measured, 1 at most.
    curve_errors, context_errors: relative errors of points each left out of the fit: of those
    without context (the ends of the measured tokens aside), and of those with it.
    other_terms, other_errors: the form that was not taken, and the context_errors it has; empty
    where there was no choice.
    """

    points: tuple[Point, ...]
    curve: Curve
    terms: Terms
    coefficients: tuple[float, ...]
    least_ratio: float
    curve_errors: tuple[float, ...]
    context_errors: tuple[float, ...]
    other_terms: Terms = ()
    other_errors: tuple[float, ...] = ()

    @property
    def median_error(self) -> float | None:
        """Median size of the errors of points left out; None where none could be."""
        return _median((*self.curve_errors, *self.context_errors))

    @property
    def worst_error(self) -> float | None:
        """The largest of them."""
        return max(map(abs, (*self.curve_errors, *self.context_errors)), default=None)

    def time_ns(self, micro_batch: int, tokens: Any, context: Any) -> Any:
        """The time of slices, whose tokens and context are numbers or arrays that broadcast: at
        measured points exactly what was measured."""
        tokens, context = np.asarray(tokens, dtype=float), np.asarray(context, dtype=float)
        base = self.curve.time_ns(micro_batch, tokens)
        found = base + np.zeros(np.shape(context))
        if self.terms:
            factors = _terms(self.terms, micro_batch, tokens, context)
            added = sum(a * x for a, x in zip(self.coefficients, factors, strict=True))
            after = np.maximum(base + added, self.least_ratio * base)
            found = np.where(context > 0, after, found)
        for point in self.points:
            if point.micro_batch == micro_batch:
                here = (tokens == point.tokens) & (context == point.context)
                found = np.where(here, point.time_ns, found)
        return found if found.ndim else float(found)

    def beyond(self, micro_batch: int, tokens: int, context: int) -> str:
        """In what a slice lies outside the measured ones, as words; empty where it does not."""
        ends: dict[str, tuple[int, list[int]]] = {
            "batch": (micro_batch, [p.micro_batch for p in self.points]),
            "tokens": (tokens, [p.tokens for p in self.points]),
        }
        if self.terms:
            ends["context"] = (context, [p.context for p in self.points])
        outside = [
            f"{name} {min(measured)} to {max(measured)}"
            for name, (value, measured) in ends.items()
            if not min(measured) <= value <= max(measured)
        ]
        return ", ".join(outside)

    def __str__(self) -> str:
        with_context = sum(p.context > 0 for p in self.points)
        text = f"{len(self.points) - with_context} points without context{_said(self.curve_errors)}"
        if not self.terms:
            return text
        formula = " + ".join(
            f"{value:{',.0f' if abs(value) >= 100 else '.3g'}} ns{_SYMBOLS[term]}"
            for term, value in zip(self.terms, self.coefficients, strict=True)
        ).replace("+ -", "- ")
        text += f"; {with_context} with it: {formula}{_said(self.context_errors)}"
        if self.other_terms:
            name = "without b l^2" if self.other_terms == PAPER else "with b l^2"
            text += f", {name}{_said(self.other_errors)}"
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceFit:
    """The fits of all parts and passes of one family of shapes, alike in all but b, l and c.

    shape: one of the family, with zeros for these three.
    """

    shape: Shape
    passes: Mapping[Key, PassFit]

    @property
    def median_error(self) -> float | None:
        """Median size of the errors of a layer's points left out of their fit; None without."""
        return _median(self._errors())

    @property
    def worst_error(self) -> float | None:
        """The largest of them."""
        return max(map(abs, self._errors()), default=None)

    def lines(self) -> tuple[str, ...]:
        """What a layer's passes take, a line each."""
        return tuple(
            f"{part} {name}: t(b, l, c) from {fit}"
            for (part, name), fit in self.passes.items()
            if part == "layer"
        )

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _errors(self) -> tuple[float, ...]:
        fits = [fit for (part, _), fit in self.passes.items() if part == "layer"]
        return tuple(e for fit in fits for e in (*fit.curve_errors, *fit.context_errors))


def fit_slices(
    times: Mapping[Shape, Mapping[tuple[Part, Pass], PartTime]],
) -> dict[Shape, SliceFit]:
    """A fit for each family in which slices of different tokens were measured, by `family_of`."""
    families: dict[Shape, dict[Key, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for shape, parts in times.items():
        for (part, name), time in parts.items():
            if name != "optimizer":
                point = Point(shape.micro_batch, shape.tokens, shape.context, time.median_ns)
                families[family_of(shape)][part, name].append(point)
    found = {}
    for family, by_key in families.items():
        fits = {key: fit_pass(p, attends=key[0] == "layer") for key, p in by_key.items()}
        passes = {key: fit for key, fit in fits.items() if fit is not None}
        if any(part == "layer" for part, _ in passes):
            found[family] = SliceFit(shape=family, passes=passes)
    return found


def fit_pass(points: Sequence[Point], *, attends: bool = True) -> PassFit | None:
    """Fit one part in one pass; None unless two different numbers of tokens were measured.

    attends: whether context adds anything; else points that differ in context alone count as one.
    """
    points = tuple(sorted(points))
    base = {(p.micro_batch, p.tokens): p.time_ns for p in points if not p.context}
    after = [p for p in points if p.context] if attends else []
    if not attends:
        alike: dict[tuple[int, int], list[float]] = defaultdict(list)
        for p in points:
            alike[p.micro_batch, p.tokens].append(p.time_ns)
        base = {key: statistics.median(found) for key, found in alike.items()}
    if len({tokens for _, tokens in base}) < 2:
        return None
    curve = _fit_curve(base)
    forms = _fit_context(after, curve)
    # The paper's form unless another predicts what it has not seen better, by 0.01 % at least.
    forms.sort(key=lambda form: (round(_mean(form.errors), 4), form.terms != PAPER))
    chosen = forms[0] if forms else _Form((), (), ())
    other = forms[1] if len(forms) > 1 else _Form((), (), ())
    ratios = [p.time_ns / max(1.0, _base_of(curve, p)) for p in after]
    return PassFit(
        points=points,
        curve=curve,
        terms=chosen.terms,
        coefficients=chosen.coefficients,
        least_ratio=min([1.0, *ratios]),
        curve_errors=_left_out(base),
        context_errors=chosen.errors,
        other_terms=other.terms,
        other_errors=other.errors,
    )


class _Form(NamedTuple):
    """What context adds, in one of the forms."""

    terms: Terms
    coefficients: tuple[float, ...]
    errors: tuple[float, ...]


def _fit_curve(base: Mapping[tuple[int, int], float]) -> Curve:
    from scipy.optimize import nnls

    times = np.array(list(base.values()))
    weights = _weights(times)
    design = np.array([_powers(batch, np.float64(tokens)) for batch, tokens in base])
    scale = design.max(axis=0)
    found, _ = nnls(design / scale * weights[:, None], times * weights)
    coefficients = tuple(float(value) for value in found / scale)
    ratios: dict[int, tuple[tuple[int, ...], tuple[float, ...]]] = {}
    for batch in sorted({batch for batch, _ in base}):
        measured = tuple(sorted(tokens for other, tokens in base if other == batch))
        smooth = [float(_smooth(coefficients, batch, np.array(float(n)))) for n in measured]
        ratios[batch] = (
            measured,
            tuple(
                base[batch, n] / time if time > 0 else 1.0
                for n, time in zip(measured, smooth, strict=True)
            ),
        )
    return Curve(coefficients=coefficients, ratios=ratios)


def _left_out(base: Mapping[tuple[int, int], float]) -> tuple[float, ...]:
    """The relative error at each point between others of its batch, from a curve without it."""
    found = []
    for (batch, tokens), time in base.items():
        others = [other for b, other in base if b == batch and other != tokens]
        if time > 0 and others and min(others) < tokens < max(others):
            rest = {key: t for key, t in base.items() if key != (batch, tokens)}
            guess = _fit_curve(rest).time_ns(batch, np.array(float(tokens)))
            found.append(float(guess) / time - 1)
    return tuple(found)


def _fit_context(points: Sequence[Point], curve: Curve) -> list[_Form]:
    """What context adds, in the paper's form and the wider one; in a narrower one where there are
    too few points for these; nothing without points."""
    if not points:
        return []
    forms = [form for terms in (PAPER, WIDER) if (form := _fit_form(terms, points, curve))]
    for terms in _NARROWER:
        if not forms and (form := _fit_form(terms, points, curve)):
            forms.append(form)
    return forms


def _fit_form(terms: Terms, points: Sequence[Point], curve: Curve) -> _Form | None:
    """Least squares with weights 1/t, and each point's error where it is left out; None where the
    points do not determine the coefficients or, but for a single one, leave no point over.

    A point left out errs by its residual over 1 - h, h its leverage: the diagonal of the projection
    onto the columns (Allen 1974, the PRESS statistic).
    """
    if len(points) <= len(terms) and len(terms) > 1:
        return None
    times = np.array([p.time_ns for p in points])
    weights = _weights(times)
    rows = [_terms(terms, p.micro_batch, float(p.tokens), float(p.context)) for p in points]
    design = np.array(rows) * weights[:, None]
    scale = np.abs(design).max(axis=0)
    left, sizes, right = np.linalg.svd(design / scale, full_matrices=False)
    if sizes[-1] < 1e-9 * sizes[0]:
        return None
    added = times - np.array([_base_of(curve, p) for p in points])
    found = right.T @ ((left.T @ (added * weights)) / sizes) / scale
    residuals = (np.array(rows) @ found - added) * weights
    free = 1.0 - (left**2).sum(axis=1)
    errors = tuple(float(r / f) for r, f in zip(residuals, free, strict=True) if f > 1e-6)
    return _Form(terms, tuple(float(value) for value in found), errors)


def _base_of(curve: Curve, point: Point) -> float:
    return float(curve.time_ns(point.micro_batch, np.array(float(point.tokens))))


def _terms(terms: Terms, batch: int, tokens: Any, context: Any) -> list[Any]:
    """The terms' factors, numbers or arrays that broadcast."""
    values: dict[Term, Any] = {
        "fixed": 1.0,
        "tokens": batch * tokens,
        "context": batch * context,
        "pairs": batch * tokens * context,
        "square": batch * tokens * tokens,
    }
    return [values[term] for term in terms]


def _powers(batch: int, tokens: Any) -> list[Any]:
    """What the smooth curve is a sum of."""
    return [1.0, batch * tokens, batch * tokens * tokens]


def _smooth(coefficients: tuple[float, ...], batch: int, tokens: Numbers) -> Numbers:
    pairs = zip(coefficients, _powers(batch, tokens), strict=True)
    return np.asarray(sum(value * power for value, power in pairs))


def _weights(times: Numbers) -> Numbers:
    """1/t; a time of almost nothing counts as a thousandth of the longest."""
    least = max(float(times.max(initial=0.0)) / 1000, 1.0)
    return 1.0 / np.maximum(times, least)


def _mean(errors: Sequence[float]) -> float:
    return statistics.fmean(map(abs, errors)) if errors else 0.0


def _median(errors: Sequence[float]) -> float | None:
    return statistics.median(map(abs, errors)) if errors else None


def _said(errors: Sequence[float]) -> str:
    if not errors:
        return ""
    sizes = list(map(abs, errors))
    return f" (left out: median error {statistics.median(sizes):.1%}, worst {max(sizes):.1%})"
