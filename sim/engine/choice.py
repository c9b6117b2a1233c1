"""Which engine runs a program: the compiled one where it pays and numba is there, else SimPy.

Both give the same spans to the nanosecond. Loading the compiled one takes about half a second once
a process (and a few seconds to compile, the first time on a machine), so that by itself it is only
taken for programs that SimPy would need longer for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from sim.cost.costs import Costs
from sim.engine import simpy_engine
from sim.schedule.lowering import Program
from sim.timeline.spans import Timeline

Engine = Literal["auto", "simpy", "compiled"]
MANY_ACTIONS = 20_000
"""Actions from which on the compiled engine is taken by itself: SimPy runs about 10^5 a second."""
NO_NUMBA = "numba cannot be imported ({}), so SimPy simulates: the same figures, more slowly"
TOO_LONG = "the program's times reach 2^62 ns, so SimPy simulates, whose integers have no end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The engine that runs, and a note for the user where it is not the one to be expected."""

    engine: Literal["simpy", "compiled"]
    note: str | None = None


def choose(program: Program, engine: Engine = "auto", *, times: int = 1) -> Choice:
    """The engine for a program that is simulated so many times."""
    if engine == "simpy":
        return Choice(engine="simpy")
    if engine == "auto" and num_actions(program) * times < MANY_ACTIONS:
        return Choice(engine="simpy")
    missing = why_no_numba()
    if missing is not None:
        return Choice(engine="simpy", note=NO_NUMBA.format(missing))
    return Choice(engine="compiled")


def num_actions(program: Program) -> int:
    """All actions of a program: passes, both ends of messages, and the flush."""
    return sum(len(step) for steps in program.steps for step in steps)


@cache
def why_no_numba() -> str | None:
    """Why numba cannot be imported, in its own words; None where it can."""
    try:
        import numba  # noqa: F401
    except Exception as error:  # An old numba raises of itself beside a newer numpy.
        return f"{type(error).__name__}: {error}"
    return None


def simulate(program: Program, costs: Costs, engine: Engine = "auto") -> Timeline:
    """Run a program under costs; see `run`."""
    return run(program, costs, engine)[0]


def run(program: Program, costs: Costs, engine: Engine = "auto") -> tuple[Timeline, Choice]:
    """Run a program under costs, and tell which engine did.

    Raises Deadlock where ranks wait for each other for ever; with the compiled engine asked for
    OverflowError for times that 64 bits may not hold, which else SimPy runs.
    """
    chosen = choose(program, engine)
    if chosen.engine == "simpy":
        return simpy_engine.simulate(program, costs), chosen
    from sim.engine import compiled

    try:
        return compiled.simulate(program, costs), chosen
    except OverflowError:
        if engine == "compiled":
            raise
        return simpy_engine.simulate(program, costs), Choice(engine="simpy", note=TOO_LONG)


def iterations(
    program: Program, costs: Costs, engine: Engine = "auto", *, times: int = 1
) -> Callable[[Costs], int]:
    """A function from costs to the iteration time of one program in nanoseconds, without spans.

    costs: as those that it will be called with: tables of the same variants, or of single actions.
    times: how often about. What numba takes to load no longer counts once it is.
    """
    loaded = engine == "auto" and "sim.engine.compiled" in sys.modules
    if choose(program, "compiled" if loaded else engine, times=times).engine == "simpy":
        return lambda one: simpy_engine.simulate(program, one).iteration_ns
    from sim.engine import compiled
    from sim.engine.encoding import encode, price

    encoded = encode(program, costs)

    def iteration_ns(one: Costs) -> int:
        try:
            return compiled.evaluate(encoded, price(encoded, one), program).iteration_ns
        except OverflowError:
            if engine == "compiled":
                raise
            return simpy_engine.simulate(program, one).iteration_ns

    return iteration_ns
