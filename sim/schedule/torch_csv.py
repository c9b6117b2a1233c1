"""Schedules as CSV files in torch.distributed.pipelining's notation: a row a rank, a cell an
action. torch's readers load what is written here, and `read_csv` what torch's `_dump_csv` writes.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from sim.schedule.actions import COMPUTE, FLUSH, Action, Kind, NotationError, parse_action
from sim.schedule.checks import ScheduleError
from sim.schedule.lowering import Program
from sim.schedule.schedule import Schedule


def compute_csv(schedule: Schedule) -> str:
    """The passes alone (torch's format `compute_only`); torch places the messages itself."""
    return _csv(schedule.orders)


def program_csv(program: Program) -> str:
    """Passes and messages (torch's format `compute_comms`), and a REDUCE_GRAD for every stage that
    is trained, at which torch 2.13's runtime scales the gradients; the rest of the flush, which
    torch does not schedule, is left out."""
    rows = []
    for rank, steps in enumerate(program.steps):
        row = [a for step in steps for a in step if a.kind not in FLUSH]
        frozen = program.schedule.frozen_stages
        stages = [stage for stage in program.schedule.stages_of(rank) if stage >= frozen]
        rows.append((*row, *(Action(Kind.REDUCE_GRADIENTS, stage) for stage in stages)))
    return _csv(tuple(rows))


def _csv(rows: tuple[tuple[Action, ...], ...]) -> str:
    for row in rows:
        for action in row:
            if action.slice_index or action.pipe:
                raise ScheduleError(
                    f"torch's notation cannot say {action}: it has neither slices nor pipes"
                )
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([str(action) for action in row] for row in rows)
    return out.getvalue()


def read_csv(
    path: Path, *, num_ranks: int | None = None, num_microbatches: int | None = None
) -> Schedule:
    """Read a file of a schedule; see `parse_csv`.

    Raises ScheduleError also where the file cannot be read.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ScheduleError(f"{path}: cannot be read: {error}") from error
    return parse_csv(text, shown=str(path), num_ranks=num_ranks, num_microbatches=num_microbatches)


def parse_csv(
    text: str, *, shown: str, num_ranks: int | None = None, num_microbatches: int | None = None
) -> Schedule:
    """Read a schedule of passes; messages in the text are dropped (lowering places them again).

    Stages from the first on that have no backward pass at all, before others that have, are frozen.
    shown: the text's name, for messages.
    Raises ScheduleError, naming line and cell, where a cell is no action, a stage is on two ranks,
    or the sizes are not the ones asked for.
    """
    orders = []
    for line, row in enumerate(csv.reader(io.StringIO(text)), start=1):
        order = []
        for cell, text_of_cell in enumerate(row, start=1):
            try:
                actions = [parse_action(word) for word in _words(text_of_cell)]
            except NotationError as error:
                raise ScheduleError(f"{shown}:{line}: cell {cell}: {error}") from error
            order += [action for action in actions if action.kind in COMPUTE]
        orders.append(tuple(order))
    while orders and not orders[-1]:
        orders.pop()
    if not orders:
        raise ScheduleError(f"{shown}: holds no action; a row a rank, as `0F0,0F1,0B0,0B1`")
    schedule = Schedule(
        name=Path(shown).stem,
        orders=tuple(orders),
        placement=_placement(shown, tuple(orders)),
        frozen_stages=_frozen_stages(orders),
    )
    for what, found, asked in (
        ("ranks", schedule.num_ranks, num_ranks),
        ("microbatches", schedule.num_microbatches, num_microbatches),
    ):
        if asked is not None and found != asked:
            raise ScheduleError(f"{shown}: is for {found} {what}, but the plan has {asked}")
    return schedule


def _words(cell: str) -> list[str]:
    """The actions of a cell: none where it is blank or about sharded weights, two where torch
    overlaps a forward with a backward pass, as `(0F1;0B0)OVERLAP_F_B`."""
    cell = cell.strip()
    if not cell or cell.endswith(("UNSHARD", "RESHARD")):
        return []
    if cell.startswith("(") and cell.endswith(")OVERLAP_F_B"):
        return cell[1 : -len(")OVERLAP_F_B")].split(";")
    return [cell]


def _frozen_stages(orders: list[tuple[Action, ...]]) -> int:
    backward = [a.stage for order in orders for a in order if a.kind is not Kind.FORWARD]
    return min(backward, default=0)


def _placement(shown: str, orders: tuple[tuple[Action, ...], ...]) -> tuple[tuple[int, ...], ...]:
    holders: dict[tuple[int, int], int] = {}
    for rank, order in enumerate(orders):
        for action in order:
            holder = holders.setdefault((action.pipe, action.stage), rank)
            if holder != rank:
                raise ScheduleError(
                    f"{shown}:{rank + 1}: {action}: stage {action.stage} is on rank {holder} "
                    f"(line {holder + 1}) already"
                )
    num_pipes = 1 + max(pipe for pipe, _ in holders)
    num_stages = 1 + max(stage for _, stage in holders)
    missing = [
        (pipe, stage)
        for pipe in range(num_pipes)
        for stage in range(num_stages)
        if (pipe, stage) not in holders
    ]
    if missing:
        pipe, stage = missing[0]
        raise ScheduleError(f"{shown}: no rank runs stage {stage} of pipe {pipe}")
    return tuple(
        tuple(holders[pipe, stage] for stage in range(num_stages)) for pipe in range(num_pipes)
    )
