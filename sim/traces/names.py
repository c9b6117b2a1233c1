"""What annotations in a trace are called, and the actions that they stand for.

Read are `pipetwin:2F0`, in this house's notation of actions; what torch.distributed.pipelining
(of torch 2.13) itself writes, `PP:2F0` for each action of its schedules of several stages a rank,
and `Forward 0` and `Backward 0` of ScheduleGPipe; and `Optimizer.step#...`, which torch's
optimizers write.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from sim.schedule.actions import Action, Kind, NotationError, parse_action

Source = Literal["pipetwin", "torch"]
OWN = "pipetwin:"
TORCH = "PP:"
STEP = "ProfilerStep#"
_OPTIMIZER = "Optimizer.step#"
_OF_ONE_STAGE = re.compile(r"(Forward|Backward) ([0-9]{1,9})")
_SHARDING = ("UNSHARD", "RESHARD")
_RECEIVE = re.compile(r"gloo:recv\b")
_CARRIERS = ("c10d::", "gloo:", "nccl:", "record_param_comms", "ProfilerStep#")


class Named(NamedTuple):
    """What a name says. action: None for what no program holds (unsharding of weights).

    stage_given: whether the name tells the stage or rank; else the action's is 0, and it is the
    trace's own rank's.
    """

    action: Action | None
    source: Source
    stage_given: bool = True


def read_name(name: str) -> Named | None:
    """What an annotation's name says; None for one that is about something else.

    Raises NotationError for a name that begins as ours and goes on as no action.
    """
    if name.startswith(OWN):
        return Named(parse_action(name[len(OWN) :]), "pipetwin")
    if name.startswith(TORCH):
        return _read_torch(name[len(TORCH) :])
    if name.startswith(_OPTIMIZER):
        return Named(Action(Kind.OPTIMIZER, 0), "torch", stage_given=False)
    match = _OF_ONE_STAGE.fullmatch(name)
    if match is not None:
        kind = Kind.FORWARD if match[1] == "Forward" else Kind.BACKWARD
        return Named(Action(kind, 0, int(match[2])), "torch", stage_given=False)
    return None


def _read_torch(text: str) -> Named:
    if text.endswith(_SHARDING):
        return Named(None, "torch")
    try:
        return Named(parse_action(text), "torch")
    except NotationError:
        # Two passes that torch overlaps, `(0F1;0B0)OVERLAP_F_B`, and whatever later ones bring:
        # passes that are missing then are told.
        return Named(None, "torch")


def is_receive(name: str) -> bool:
    """Whether a carrier's annotation is of a message received that ends when that had come, as
    gloo's; NCCL's ends once the host has asked for it."""
    return _RECEIVE.match(name) is not None


def is_carrier(name: str) -> bool:
    """Whether an operator only posts messages, so that it is no sign of computing."""
    return name.startswith(_CARRIERS)
