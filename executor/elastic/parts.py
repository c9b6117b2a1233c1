"""What a rank holds of the model, part by part: weights and the optimizer's state, to be moved to
another rank, stored, and taken over.

A part is the `embedding`, a `layer N`, or the `head`, as `sim.elastic.moves` names them. Its
tensors are in an order of their own, the same on every rank and in every layout.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from executor.session import Job

Tensors = Mapping[str, Tensor]


def part_of(parameter: str) -> str:
    """The part that a parameter is of: `blocks.7.mlp_in.weight` is of `layer 7`."""
    first, _, rest = parameter.partition(".")
    return f"layer {rest.partition('.')[0]}" if first == "blocks" else first


class Parts:
    """The parts that one rank holds in a phase: none where it has no place in it (`job` None)."""

    def __init__(self, job: Job | None) -> None:
        self._stage: dict[str, int] = {}
        self._names: dict[str, list[str]] = {}
        self._job = job
        for stage, runner in (job.runners if job is not None else {}).items():
            for name, _ in runner.module.named_parameters():
                part = part_of(name)
                self._stage[part] = stage
                self._names.setdefault(part, []).append(name)

    def __contains__(self, part: str) -> bool:
        return part in self._names

    @property
    def names(self) -> tuple[str, ...]:
        """The parts held, from the first layer to the last."""
        return tuple(self._names)

    @torch.no_grad()
    def tensors(self, part: str, *, state: bool) -> dict[str, Tensor]:
        """A part's weights by parameter name and, where `state`, what the optimizer keeps for them,
        as `blocks.0.mlp_in.weight exp_avg`; they are views of what is in use."""
        assert self._job is not None
        stage = self._stage[part]
        runner, optimizer = self._job.runners[stage], self._job.optimizers[stage]
        parameters = {**runner.parameters, **runner.frozen_parameters}
        found: dict[str, Tensor] = {}
        for name in self._names[part]:
            found[name] = parameters[name].detach()
            if state and name in runner.parameters:
                found |= {f"{name} {key}": t for key, t in optimizer.state_of(name).items()}
        return found

    @torch.no_grad()
    def load(self, part: str, tensors: Tensors) -> None:
        """Take over a part: its weights and, of parameters that are trained here, their state.

        Raises ValueError where something is missing or of another shape.
        """
        assert self._job is not None
        stage = self._stage[part]
        runner, optimizer = self._job.runners[stage], self._job.optimizers[stage]
        parameters = {**runner.parameters, **runner.frozen_parameters}
        for name in self._names[part]:
            own = parameters[name]
            if name not in tensors or tensors[name].shape != own.shape:
                shape = tuple(tensors[name].shape) if name in tensors else "nothing"
                raise ValueError(f"{name} is {tuple(own.shape)} here, and {shape} was given")
            own.detach().copy_(tensors[name])
            if name in runner.parameters:
                keys = [key for key in tensors if key.startswith(f"{name} ")]
                optimizer.load_state(name, {key.split(" ")[1]: tensors[key] for key in keys})


def pack(tensors: Tensors) -> Tensor:
    """Tensors as bytes, one after another, for one message."""
    flat = [tensor.detach().contiguous().view(-1).view(torch.uint8) for tensor in tensors.values()]
    return torch.cat(flat)


def unpack(data: Tensor, like: Tensors) -> dict[str, Tensor]:
    """What `pack` made bytes of, in the names, shapes and types of other tensors.

    Raises ValueError where it is not as long as they are.
    """
    sizes = [tensor.numel() * tensor.element_size() for tensor in like.values()]
    if sum(sizes) != len(data):
        raise ValueError(f"{len(data)} bytes are not the {sum(sizes)} that the part has here")
    # Cloned, as a slice need not begin where its type may.
    return {
        name: piece.clone().view(tensor.dtype).view(tensor.shape)
        for (name, tensor), piece in zip(like.items(), torch.split(data, sizes), strict=True)
    }
