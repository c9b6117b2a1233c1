"""A rank's annotations of one iteration as actions, each once, and what is wrong with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from sim.schedule.actions import COMPUTE, FLUSH, RECEIVES, Action, Kind
from sim.schedule.lowering import Program
from sim.traces.kineto import Annotation, Track

_TOUCHING_NS = 1_000
_MAX_TOLD = 3


class Did(NamedTuple):
    """One action of a rank, on its own clock. bare: the range may hold waiting for its messages."""

    action: Action
    start_ns: int
    end_ns: int
    track: Track
    bare: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RankIteration:
    """What a rank did in one iteration.

    done: by start: passes, sends, the flush; all of the program's. strays: ranges of what takes the
    host's time beside them. missing: passes of the program that are not there. foreign: passes
    that are not this rank's. problems: why the iteration cannot be used.
    """

    done: tuple[Did, ...]
    strays: tuple[tuple[int, int], ...]
    missing: tuple[Action, ...]
    foreign: tuple[Action, ...]
    problems: tuple[str, ...] = ()


def rank_iteration(annotations: Sequence[Annotation], program: Program, rank: int) -> RankIteration:
    """Sort a rank's annotations of one iteration."""
    schedule = program.schedule
    stages = schedule.stages_of(rank)
    wanted = {a for step in program.steps[rank] for a in step}
    groups: dict[Action, list[Annotation]] = defaultdict(list)
    strays, foreign, problems = [], [], []
    for annotation in annotations:
        action = annotation.named.action
        if action is not None and not annotation.named.stage_given:
            if action.kind in COMPUTE and len(stages) > 1:
                told = "Forward" if action.kind is Kind.FORWARD else "Backward"
                problems.append(
                    f"`{told} {action.microbatch}` does not tell which of stages "
                    f"{', '.join(map(str, stages))} it is of"
                )
                continue
            of_rank = action.kind is Kind.OPTIMIZER
            action = action._replace(stage=rank if of_rank else stages[0])
        if action in wanted and action.kind not in RECEIVES:
            groups[action].append(annotation)
        elif action is not None and action.kind in COMPUTE:
            foreign.append(action)
        else:
            strays.append((annotation.start_ns, annotation.end_ns))
    done = []
    for action, found in groups.items():
        one, repeated = _one(action, found)
        problems += repeated
        done.append(one)
    done.sort(key=lambda d: (d.start_ns, d.end_ns))
    return RankIteration(
        done=tuple(done),
        strays=tuple(sorted(strays)),
        missing=tuple(a for a in schedule.orders[rank] if a not in groups),
        foreign=tuple(foreign),
        problems=(*problems, *_overlaps(done)),
    )


def _one(action: Action, found: Sequence[Annotation]) -> tuple[Did, list[str]]:
    """The one range of an action: ours before torch's, the inner before the outer; of the flush,
    which may have several optimizers, from the first to the last."""
    own = [a for a in found if a.named.source == "pipetwin"] or list(found)
    first, last = min(own, key=_starts), max(own, key=_starts)
    problems = []
    bare = own[0].named.source == "torch" and action.kind in COMPUTE
    if action.kind in FLUSH:
        end = max(a.end_ns for a in own)
        return Did(action, first.start_ns, end, first.track, bare), []
    if len(own) > 1 and any(a.end_ns < last.end_ns for a in own):
        apart = (last.start_ns - first.start_ns) / 1e6
        problems.append(f"{action} stands {len(own)} times, {apart:.3f} ms apart")
    return Did(action, last.start_ns, last.end_ns, last.track, bare), problems


def _starts(annotation: Annotation) -> int:
    return annotation.start_ns


def _overlaps(done: Sequence[Did]) -> list[str]:
    passes = [d for d in done if d.action.kind in COMPUTE]
    found = [
        f"{b.action} begins {(a.end_ns - b.start_ns) / 1e6:.3f} ms before {a.action} ends"
        for a, b in pairwise(passes)
        if b.start_ns < a.end_ns - _TOUCHING_NS
    ]
    return found[:_MAX_TOLD]
