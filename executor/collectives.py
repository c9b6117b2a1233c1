"""torch.distributed's two collectives on flat tensors, under the name that its version has."""

from __future__ import annotations

import torch.distributed as dist

# Newer versions of torch warn that they have renamed these two.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""All ranks' equal parts, one after the other: (output, part, group=...)."""
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
"""This rank's part of the sum over ranks: (part, input, group=..., async_op=...)."""
