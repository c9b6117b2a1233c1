"""Fully sharded data parallelism (ZeRO-3): each replica keeps a share of weights and gradients.

Every block is a unit, and so are the two ends of the model (one unit where they share the token
table). A unit's weights are gathered before its forward pass and let go after it, gathered again
for its backward pass, and its gradients are averaged over the replicas in every backward pass, each
replica adding up its share (Rajbhandari et al. 2020, arXiv 1910.02054). The next unit's weights
are gathered while one is at work, and one unit's gradients are reduced behind the next one's.

torch's `fully_shard` gives the same gradients (also on gloo in float64), but adds them up as
DTensors, each parameter's by itself and in the precision of the weights shared out; here they are
in one flat buffer of the plan's own precision, as the optimizer reads them elsewhere.

Not covered: tensor parallelism, pipelines, split backward passes, initialisation in shares (the
whole stage exists once, before it is shared out).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from executor.collectives import all_gather, reduce_scatter
from executor.model import StageModule


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaGroup:
    """A rank's place among the replicas that share a stage out; group: None where nothing is sent
    (a null transport)."""

    rank: int
    size: int
    group: dist.ProcessGroup | None


class ShardedWeights:
    """A stage's weights, of which this replica keeps a share; its modules gather them themselves.

    Call `start_backward` and `finish_backward` around every backward pass.

    parameters: by unit (`embedding`, `blocks.3`, `head`, or `ends`), this replica's share of the
        unit's flat weights, padded to equal shares: what the optimizer updates.
    """

    def __init__(self, module: StageModule, replicas: ReplicaGroup, reduced: torch.dtype) -> None:
        """reduced: the type in which gradients are reduced and added up.

        Raises ValueError for a stage of a pipeline or of a tensor group.
        """
        if not (module.part.embedding and module.part.head) or module.tensor.size > 1:
            raise ValueError("full sharding runs without pipeline and tensor parallelism")
        assert module.embedding is not None and module.head is not None
        self._replicas = replicas
        ends = {"embedding": module.embedding, "head": module.head}
        held: dict[str, list[nn.Module]] = {n: [m] for n, m in ends.items()}
        if module.tied:
            held = {"ends": list(ends.values())}
        layers = {f"blocks.{layer}": block for layer, block in module.blocks.items()}
        names = {parameter: name for name, parameter in module.named_parameters()}
        units = {
            name: _Unit(
                {names[p]: p for m in modules for p in m.parameters()},
                replicas,
                reduced,
                self._reduce,
            )
            for name, modules in (held | {n: [m] for n, m in layers.items()}).items()
        }
        self._units = units
        self.parameters = {name: unit.share for name, unit in units.items()}
        self._order = [units["ends" if module.tied else "embedding"]]
        self._order += [units[name] for name in layers]
        self._order += [units["ends" if module.tied else "head"]]
        for position, part in enumerate((module.embedding, *layers.values(), module.head)):
            part.register_forward_pre_hook(self._before(position))
            part.register_forward_hook(self._after(position))
        self._in_backward = False
        self._reducing: tuple[_Unit, Tensor, Tensor, Any] | None = None

    def accumulate_into(self, gradients: Mapping[str, Tensor]) -> None:
        """Where each unit's share of the gradients is added up, by unit."""
        for name, unit in self._units.items():
            unit.gradient = gradients[name]

    def start_backward(self) -> None:
        """A backward pass begins; what it recomputes is not let go before its gradients."""
        self._in_backward = True

    def finish_backward(self) -> None:
        """Wait for the last reduction, and let go of what is still gathered."""
        self._finish_reduction()
        self._in_backward = False
        for unit in self._units.values():
            unit.release()

    def whole(self, shares: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by parameter name from every replica's shares by unit (its `parameters`, or its
        gradients); all replicas call it together."""
        found: dict[str, Tensor] = {}
        for name, unit in self._units.items():
            flat = shares[name].new_empty(unit.length)
            work = _gather(flat, shares[name].detach(), self._replicas)
            if work is not None:
                work.wait()
            found |= unit.views(flat)
        return found

    def _before(self, position: int) -> Callable[..., None]:
        def gather(module: nn.Module, inputs: Any) -> None:
            self._order[position].gather()
            if not self._in_backward and position + 1 < len(self._order):
                self._order[position + 1].start_gather()

        return gather

    def _after(self, position: int) -> Callable[..., None]:
        def gather_again(gradient: Tensor) -> None:
            self._order[position].gather()
            if position > 1:  # The embedding's backward pass needs no weights.
                self._order[position - 1].start_gather()

        def let_go(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if self._in_backward:
                return
            self._order[position].release()
            if position > 0 and output.requires_grad:
                output.register_hook(gather_again)  # type: ignore[no-untyped-call]

        return let_go

    def _reduce(self, unit: _Unit, made: Tensor) -> None:
        """Average a unit's gradients, all of which this pass has made, behind the next unit's."""
        self._finish_reduction()
        made.mul_(1 / self._replicas.size)
        share = made.new_empty(unit.share.numel())
        work = None
        if self._replicas.group is None:
            share.copy_(made[: len(share)])
        else:
            work = reduce_scatter(share, made, group=self._replicas.group, async_op=True)
        self._reducing = (unit, share, made, work)
        unit.release()

    def _finish_reduction(self) -> None:
        if self._reducing is None:
            return
        unit, share, _, work = self._reducing
        self._reducing = None
        if work is not None:
            work.wait()
        assert unit.gradient is not None, "nobody has said where gradients are added up"
        unit.gradient.add_(share)


class _Unit:
    """Some parameters as one flat tensor, whole only while it is gathered.

    share: this replica's part of it. length: all parts together, in elements.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        replicas: ReplicaGroup,
        reduced: torch.dtype,
        on_gradients: Callable[[_Unit, Tensor], None],
    ) -> None:
        self._parameters, self._replicas = parameters, replicas
        self._reduced, self._on_gradients = reduced, on_gradients
        self.gradient: Tensor | None = None
        total = sum(p.numel() for p in parameters.values())
        each = -(-total // replicas.size)
        self.length = each * replicas.size
        first = next(iter(parameters.values()))
        self._whole = torch.zeros(self.length, dtype=first.dtype, device=first.device)
        self._starts: dict[Tensor, int] = {}
        start = 0
        for name, view in self.views(self._whole).items():
            parameter = parameters[name]
            view.copy_(parameter.detach())
            parameter.data = view
            self._starts[parameter] = start
            start += parameter.numel()
            parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                self._take
            )
        own = self._whole[replicas.rank * each : (replicas.rank + 1) * each]
        self.share = nn.Parameter(own.clone())
        self._made: Tensor | None = None
        self._num_made = 0
        self._is_whole, self._arriving = True, None
        self.release()

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The parts of a tensor laid out as this unit's, by parameter name."""
        found, start = {}, 0
        for name, parameter in self._parameters.items():
            found[name] = flat[start : start + parameter.numel()].view(parameter.shape)
            start += parameter.numel()
        return found

    def start_gather(self) -> None:
        """Begin to gather the weights, unless they are here or on their way."""
        if self._is_whole:
            return
        self._is_whole = True
        storage = self._whole.untyped_storage()
        storage.resize_(self.length * self._whole.element_size())
        self._arriving = _gather(self._whole, self.share.detach(), self._replicas)

    def gather(self) -> None:
        """Have the weights here."""
        self.start_gather()
        if self._arriving is not None:
            self._arriving.wait()
            self._arriving = None

    def release(self) -> None:
        """Let the weights go: what autograd keeps of them is only their place."""
        if not self._is_whole:
            return
        if self._arriving is not None:
            self._arriving.wait()
            self._arriving = None
        self._whole.untyped_storage().resize_(0)
        self._is_whole = False

    def _take(self, parameter: Tensor) -> None:
        """Move a parameter's gradient, which one backward pass has made, to those of its unit."""
        assert parameter.grad is not None
        if self._made is None:
            self._made = torch.zeros(self.length, dtype=self._reduced, device=parameter.device)
        start = self._starts[parameter]
        self._made[start : start + parameter.numel()].copy_(parameter.grad.view(-1))
        parameter.grad = None
        self._num_made += 1
        if self._num_made == len(self._parameters):
            made, self._made, self._num_made = self._made, None, 0
            self._on_gradients(self, made)


def _gather(whole: Tensor, share: Tensor, replicas: ReplicaGroup) -> Any:
    """Begin to fill `whole` with every replica's share; None where nothing is to be waited for."""
    if replicas.group is None:
        whole.view(replicas.size, -1).copy_(share)
        return None
    return all_gather(whole, share, group=replicas.group, async_op=True)
