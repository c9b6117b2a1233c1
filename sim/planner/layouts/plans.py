"""Plans and scenarios that differ from another in a few fields, made without checking anew.

A search makes several 100,000 of them. `dataclasses.replace` has pydantic check all fields each
time; here the fields are taken as they are, and what was computed from the old ones is left behind.
"""

from __future__ import annotations

from dataclasses import fields
from operator import attrgetter

from scenarios.schema import Cluster, Plan, Scenario

_PLAN = tuple(field.name for field in fields(Plan))
_SCENARIO = tuple(field.name for field in fields(Scenario))
_IN_PLAN = frozenset(_PLAN)

piece_fields = attrgetter(
    "tensor",
    "micro_batch",
    "slices",
    "recomputation",
    "recompute_every",
    "sequence_parallel",
    "precision",
    "gradient_precision",
    "kernels",
)
"""Of a plan, what the times and the activations of a layer in one of its microbatches hang on."""


def plan_with(plan: Plan, **changes: object) -> Plan:
    """A plan with other values in some fields, as `dataclasses.replace`, but unchecked.

    Raises TypeError for a field that a plan does not have.
    """
    if not changes.keys() <= _IN_PLAN:
        unknown = ", ".join(sorted(changes.keys() - _IN_PLAN))
        raise TypeError(f"a plan has no {unknown}")
    old = plan.__dict__
    found: Plan = object.__new__(Plan)
    own = found.__dict__
    for name in _PLAN:
        own[name] = old[name]
    own.update(changes)
    return found


def scenario_with(scenario: Scenario, plan: Plan, cluster: Cluster | None = None) -> Scenario:
    """A scenario with another plan, and another cluster where given, unchecked."""
    old = scenario.__dict__
    found: Scenario = object.__new__(Scenario)
    own = found.__dict__
    for name in _SCENARIO:
        own[name] = old[name]
    own["plan"] = plan
    if cluster is not None:
        own["cluster"] = cluster
    return found
