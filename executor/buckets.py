"""A stage's flat gradients in slices, each told of as soon as it is final.

As torch's DistributedDataParallel does (Li et al. 2020, arXiv 2006.15704): slices are filled from
the buffer's end, for the backward pass makes gradients roughly in reverse, and told of in their
order, so that replicas start their reductions in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from torch import Tensor

OnReady = Callable[[int, Tensor], None]


class GradientBuckets:
    """Slices of a flat buffer, and which of its parameters are still to come in the last pass.

    views: the slices, the buffer's end first; together they are the whole buffer.
    """

    def __init__(
        self,
        buffer: Tensor,
        starts: Sequence[tuple[Tensor, int]],
        on_ready: OnReady,
        bucket_bytes: int,
    ) -> None:
        """starts: the parameters, each with its first element in the buffer, ascending.

        on_ready: called with a slice's index and view.
        bucket_bytes: a slice ends with the parameter that reaches it.
        """
        views: list[Tensor] = []
        members: list[int] = []
        self._bucket: dict[Tensor, int] = {}
        end, count = len(buffer), 0
        for parameter, start in reversed(starts):
            self._bucket[parameter] = len(views)
            count += 1
            if start == 0 or (end - start) * buffer.element_size() >= bucket_bytes:
                views.append(buffer[start:end])
                members.append(count)
                end, count = start, 0
        self.views = tuple(views)
        self._members, self._on_ready = tuple(members), on_ready
        self._missing: list[int] = []
        self._next = len(views)

    def start(self, pending: Collection[Tensor] | None = None) -> None:
        """The stage's last pass begins; pending: the parameters whose gradients it is to change
        (all unless given), the others' being final."""
        self._missing, self._next = list(self._members), 0
        if pending is not None:
            waited = set(pending)
            for parameter in self._bucket:
                if parameter not in waited:
                    self.ready(parameter)

    def ready(self, parameter: Tensor) -> None:
        """A parameter's gradient is final, if the last pass is under way."""
        if self._next == len(self.views):
            return
        self._missing[self._bucket[parameter]] -= 1
        while self._next < len(self.views) and self._missing[self._next] == 0:
            index = self._next
            self._next += 1
            self._on_ready(index, self.views[index])
