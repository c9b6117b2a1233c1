"""Actions: the words a schedule is written in, in torch.distributed.pipelining's notation.

`2F0` is the forward pass of microbatch 0 on stage 2, `2F0.3` that of its slice 3, `2F0@1` the same
in pipe 1 of a bidirectional schedule. Communication is `2SEND_F0` (stage 2 sends its output),
`2RECV_F0` (stage 2 receives its input), `2SEND_B0` and `2RECV_B0` (gradients, the other way), and
the flush `2REDUCE_GRAD`, `0TIED`, `1NORM`, `1STEP`, `2GATHER`; of these, NORM and STEP number the
rank. `1EXCHANGE4` is what rank 1's host takes over its exchange 4 of blocking messages; it stands
in no program: engines record it.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """What an action does; the value is how it is printed."""

    FORWARD = "F"
    BACKWARD = "B"
    BACKWARD_INPUT = "I"
    BACKWARD_WEIGHT = "W"
    SEND_FORWARD = "SEND_F"
    RECV_FORWARD = "RECV_F"
    SEND_BACKWARD = "SEND_B"
    RECV_BACKWARD = "RECV_B"
    EXCHANGE = "EXCHANGE"
    REDUCE_GRADIENTS = "REDUCE_GRAD"
    REDUCE_TIED = "TIED"
    GRADIENT_NORM = "NORM"
    OPTIMIZER = "STEP"
    GATHER_WEIGHTS = "GATHER"


COMPUTE = frozenset({Kind.FORWARD, Kind.BACKWARD, Kind.BACKWARD_INPUT, Kind.BACKWARD_WEIGHT})
SENDS = frozenset({Kind.SEND_FORWARD, Kind.SEND_BACKWARD})
RECEIVES = frozenset({Kind.RECV_FORWARD, Kind.RECV_BACKWARD})
FLUSH = frozenset(
    {
        Kind.REDUCE_GRADIENTS,
        Kind.REDUCE_TIED,
        Kind.GRADIENT_NORM,
        Kind.OPTIMIZER,
        Kind.GATHER_WEIGHTS,
    }
)

_PATTERN = re.compile(
    r"(?P<stage>[0-9]{1,9})"
    r"(?P<kind>SEND_F|RECV_F|SEND_B|RECV_B|EXCHANGE|REDUCE_GRAD|TIED|NORM|STEP|GATHER|F|B|I|W)"
    r"(?P<microbatch>[0-9]{1,9})?(?:\.(?P<slice>[0-9]{1,9}))?(?:@(?P<pipe>[0-9]{1,9}))?"
)


class Action(NamedTuple):
    """One thing a rank does: a pass of one (microbatch, slice) through one stage, a message of it,
    or a step of the flush (whose `microbatch` is None).

    A named tuple rather than a dataclass: a schedule holds 10^5 of them as dictionary keys, and
    tuples hash and compare in C.
    """

    kind: Kind
    stage: int
    microbatch: int | None = None
    slice_index: int = 0
    pipe: int = 0

    def __str__(self) -> str:
        text = f"{self.stage}{self.kind.value}"
        if self.microbatch is not None:
            text += str(self.microbatch)
        if self.slice_index:
            text += f".{self.slice_index}"
        if self.pipe:
            text += f"@{self.pipe}"
        return text


class NotationError(ValueError):
    """A text is not an action in torch's notation."""


def parse_action(text: str) -> Action:
    """Read `2F0`, `2F0.3`, `1SEND_B4@1` or `0REDUCE_GRAD`.

    Raises NotationError, naming the text and the form expected.
    """
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise NotationError(f"{text!r} is not an action: write stage, kind, microbatch, as `2F0`")
    kind = Kind(match["kind"])
    if (match["microbatch"] is None) != (kind in FLUSH):
        rule = "takes no microbatch" if kind in FLUSH else "needs a microbatch"
        raise NotationError(f"{text!r}: {kind.name} {rule}")
    return Action(
        kind,
        int(match["stage"]),
        None if match["microbatch"] is None else int(match["microbatch"]),
        int(match["slice"] or 0),
        int(match["pipe"] or 0),
    )
