"""How often to save a run that fails at random, and how long it then takes: closed forms.

All times are in nanoseconds (floats). Failures are exponential with mean `mtbf_ns` M of the whole
job; between two checkpoints lies work tau; a checkpoint stalls the run for C and, written in the
background, is complete only L later; a restart takes R, and may itself be hit by a failure.
"""

from __future__ import annotations

import math


def young_interval(mtbf_ns: float, stall_ns: float) -> float:
    """Work between checkpoints by Young's approximation: sqrt(2 C M).

    J. W. Young, "A first order approximation to the optimum checkpoint interval", CACM 17(9), 1974.
    Not modelled: restarts, failures within a checkpoint; good for C << M.
    """
    return math.sqrt(2 * stall_ns * mtbf_ns)


def daly_first_order(mtbf_ns: float, stall_ns: float, restart_ns: float) -> float:
    """Work between checkpoints by Daly's form of first order: sqrt(2 C (M + R)).

    As in T. Herault and Y. Robert, "Fault-Tolerance Techniques for High-Performance Computing",
    2015, chapter 1. Not modelled: failures within restarts; R moves the optimum here, which it does
    not in the exact model.
    """
    return math.sqrt(2 * stall_ns * (mtbf_ns + restart_ns))


def daly_interval(mtbf_ns: float, stall_ns: float) -> float:
    """Work between checkpoints by Daly's form of higher order: sqrt(2 C M) (1 + sqrt(C / 2 M) / 3 +
    C / 2 M / 9) - C for C < 2 M, else M.

    J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps",
    Future Generation Computer Systems 22(3), 2006.
    """
    if stall_ns >= 2 * mtbf_ns:
        return mtbf_ns
    part = stall_ns / (2 * mtbf_ns)
    return young_interval(mtbf_ns, stall_ns) * (1 + math.sqrt(part) / 3 + part / 9) - stall_ns


def best_interval(mtbf_ns: float, stall_ns: float) -> float:
    """Work between checkpoints of least expected time in Daly's exact model; neither R nor L moves
    it.

    Where the derivative of (e^((tau + C)/M) - 1)/tau is 0: (1 - x) e^(x + C/M) = 1 for x = tau/M in
    [0, 1); with x = 1 - e^-z by Newton's steps on 1 - e^-z - z + C/M, which is concave and falls,
    from above its root.
    """
    part = stall_ns / mtbf_ns
    if part <= 0:
        return 0.0
    z = part + math.sqrt(2 * part)  # The root is at x + C/M, and x is below sqrt(2 C/M).
    for _ in range(100):
        x = -math.expm1(-z)
        step = (x - z + part) / x
        z += step
        if step >= -1e-13 * z:  # Steps go down; what goes up is rounding.
            break
    return -math.expm1(-z) * mtbf_ns


def expected_time(
    work_ns: float,
    interval_ns: float,
    *,
    mtbf_ns: float,
    stall_ns: float,
    restart_ns: float,
    pending_ns: float = 0.0,
) -> float:
    """Expected time of a run of `work_ns`: M e^((R + L)/M) (e^((tau + C)/M) - 1) T/tau, exactly
    Daly's model for L = 0 (Daly 2006, its complete form); inf where that is beyond floats.

    pending_ns: L, from the end of a checkpoint's stall until it is complete; at most the interval.
    A failure within L of a checkpoint takes the run back to the one before, which comes to the same
    as a restart longer by L. Without the share of the last checkpoint's own L, see `exact_time`.
    """
    exponent = (restart_ns + pending_ns) / mtbf_ns
    each = (interval_ns + stall_ns) / mtbf_ns
    try:
        return mtbf_ns * math.exp(exponent) * math.expm1(each) * (work_ns / interval_ns)
    except OverflowError:
        return math.inf


def exact_time(
    num_full: int,
    full_ns: float,
    last_ns: float,
    *,
    mtbf_ns: float,
    stall_ns: float,
    restart_ns: float,
    pending_ns: float = 0.0,
) -> float:
    """Expected time of `num_full` equal stretches of work and a last one, a checkpoint after each.

    By a renewal argument. With E = M e^(R/M), a stretch s = tau + C from a complete checkpoint on
    takes E (e^(s/M) - 1) until it ends without failure. Let a(k) be the time left at the first
    instant of stretch k + 1 with checkpoint k complete, and b(k) with checkpoint k still to be
    written for L, so that a failure within L goes back to a(k - 1). Solving both recurrences,
    a(0) = E (e^(L/M) (sum e^(s/M) - n) + e^(L/M) - 1). No stretch but the first is shorter than L.
    """
    try:
        full = math.expm1((full_ns + stall_ns) / mtbf_ns) if num_full else 0.0
        last = math.expm1((last_ns + stall_ns) / mtbf_ns)
        pending = math.exp(pending_ns / mtbf_ns)
        whole = pending * (num_full * full + last) + math.expm1(pending_ns / mtbf_ns)
        return mtbf_ns * math.exp(restart_ns / mtbf_ns) * whole
    except OverflowError:
        return math.inf
