"""A transition's messages: every part travels from a rank that held it to its new holder in replica
0, and from there to the other replicas (PipeTransformer's AutoDP forks pipelines so).

Parts that go on being trained take the optimizer's state with them. Weights are moved to the bit.
The old stages and the new ones are in memory together meanwhile.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from executor.elastic.parts import Parts, pack, unpack
from sim.elastic.moves import forks, moves
from sim.elastic.phases import Layout


def is_trained(part: str, frozen_layers: int) -> bool:
    """Whether a part is trained while so many layers are frozen."""
    if part == "head":
        return True
    return int(part.split(" ")[1]) >= frozen_layers if part != "embedding" else frozen_layers == 0


def transfer(
    old: Parts,
    new: Parts,
    old_layout: Layout,
    new_layout: Layout,
    *,
    rank: int,
    device: torch.device,
    data_group: dist.ProcessGroup | None,
) -> int:
    """Fill the new stages from the old ones; all ranks of the world call it together.

    data_group: of this rank's new replicas; None where it has none.
    Returns the bytes that this rank received.
    """

    def tensors(parts: Parts, part: str) -> dict[str, Tensor]:
        return parts.tensors(part, state=is_trained(part, new_layout.frozen_layers))

    for part in new.names:
        if part in old:
            new.load(part, tensors(old, part))
    received = 0
    operations: list[dist.P2POp] = []
    arriving: list[tuple[str, Tensor]] = []
    for tag, move in enumerate(moves(old_layout, new_layout)):
        if rank == move.target:
            size = sum(t.numel() * t.element_size() for t in tensors(new, move.part).values())
            buffer = torch.empty(size, dtype=torch.uint8, device=device)
            operations.append(dist.P2POp(dist.irecv, buffer, move.source, tag=tag))
            arriving.append((move.part, buffer))
        elif rank == move.source:
            data = pack(tensors(old, move.part))
            operations.append(dist.P2POp(dist.isend, data, move.target, tag=tag))
    for work in dist.batch_isend_irecv(operations) if operations else ():
        work.wait()
    for part, buffer in arriving:
        new.load(part, unpack(buffer, tensors(new, part)))
        received += len(buffer)
    for fork in forks(old_layout, new_layout):
        if rank not in fork.ranks or data_group is None:
            continue
        for part in fork.parts:
            like = tensors(new, part)
            buffer = pack(like)
            dist.broadcast(buffer, src=fork.source, group=data_group)
            if rank != fork.source:
                new.load(part, unpack(buffer, like))
                received += len(buffer)
    return received
