"""Which carrier: the one named, or the best that the ranks' places allow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch

from executor.clocks import gather, host_id
from executor.transport.base import Transport, TransportError
from executor.transport.mailbox import MailboxTransport
from executor.transport.null import NullTransport
from executor.transport.process_group import ProcessGroupTransport

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

TransportName = Literal["auto", "mailbox", "gloo", "nccl", "none"]


def make_transport(
    name: TransportName,
    *,
    rank: int,
    num_ranks: int,
    store: Store,
    device: torch.device,
    deadline_s: float,
    pairs: Sequence[tuple[int, int]] = (),
    debug: bool = False,
) -> Transport:
    """The transport of a run; all ranks call it together, with the same name.

    name: `auto` is nccl where each rank has a GPU of its own, else the mailbox where all ranks
    share a host, else gloo. gloo and nccl need torch.distributed's default process group.
    deadline_s: the process groups' timeout, seconds.
    pairs: the pairs of ranks that will exchange messages; nccl connects them beforehand.
    debug: the mailbox checks that each message is the one expected (gloo's tags always do; for
    nccl see CheckingTransport).

    Raises TransportError where the carrier named cannot serve these ranks, and ValueError for an
    unknown name.
    """
    chosen = _choose(rank, num_ranks, store, device) if name == "auto" else name
    if chosen == "mailbox":
        return MailboxTransport(store, rank, num_ranks, device=device, debug=debug)
    if chosen == "none":
        return NullTransport(device)
    if chosen == "gloo" or chosen == "nccl":
        if not torch.distributed.is_initialized():
            raise TransportError(f"{chosen} needs torch.distributed's default process group")
        return ProcessGroupTransport(chosen, device=device, deadline_s=deadline_s, pairs=pairs)
    raise ValueError(f"transport {name!r}: it is auto, mailbox, gloo, nccl or none")


def _choose(
    rank: int, num_ranks: int, store: Store, device: torch.device
) -> Literal["mailbox", "gloo", "nccl"]:
    """Decide from all ranks' hosts and GPUs, so that every rank decides alike."""
    gpu: str | None = None
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        gpu = str(getattr(properties, "uuid", device.index))
    # Counted in the store, so that every transport of a run has keys of its own.
    count = store.add(f"transport/chosen/{rank}", 1)
    card = json.dumps([host_id(), gpu])
    texts = gather(store, f"transport/{count}", rank, num_ranks, card)
    places = [json.loads(text) for text in texts]
    hosts = {host for host, _ in places}
    on_gpus = all(gpu is not None for _, gpu in places)
    distinct = len({(host, gpu) for host, gpu in places}) == num_ranks
    if on_gpus and distinct and torch.distributed.is_nccl_available():
        return "nccl"
    return "mailbox" if len(hosts) == 1 else "gloo"
