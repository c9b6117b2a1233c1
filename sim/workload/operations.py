"""Operations: the words in which the workload of an action is written. Shapes, never times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from scenarios.schema import PRECISION_BYTES, Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """`count` independent matrix products of (m x k) by (k x n), run as one kernel.

    core: whether it belongs to attention's core (scores, softmax, context), which selective
    recomputation repeats.
    """

    name: str
    m: int
    k: int
    n: int
    count: int = 1
    core: bool = False

    @property
    def flops(self) -> int:
        """Floating-point operations, a multiply-add counted as two."""
        return 2 * self.count * self.m * self.k * self.n

    def traffic_bytes(self, precision: Precision) -> int:
        """Bytes through memory where each matrix is read or written once."""
        elements = self.m * self.k + self.k * self.n + self.m * self.n
        return self.count * elements * PRECISION_BYTES[precision]


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedAttention:
    """Attention of `count` heads in one kernel that never writes scores to memory.

    num_products: matrix products of queries x head_size x keys: 2 forward, 5 backward (the scores
    are computed again; Dao et al. 2022, arXiv 2205.14135, algorithm 4). The last `queries` of the
    `keys` positions ask; where causal, only pairs with key <= query are computed.
    """

    name: str
    count: int
    queries: int
    keys: int
    head_size: int
    causal: bool
    num_products: int
    core: bool = True

    @property
    def num_pairs(self) -> int:
        """(query, key) pairs that one head computes."""
        if not self.causal:
            return self.queries * self.keys
        earlier = self.keys - self.queries
        return self.queries * earlier + self.queries * (self.queries + 1) // 2

    @property
    def flops(self) -> int:
        """Floating-point operations, a multiply-add counted as two."""
        return 2 * self.count * self.num_products * self.num_pairs * self.head_size

    def traffic_bytes(self, precision: Precision) -> int:
        """Bytes through memory: queries, keys, values and output once (twice going backward)."""
        elements = 2 * (self.queries + self.keys) * self.head_size
        passes = 1 if self.num_products <= 2 else 2
        return self.count * elements * passes * PRECISION_BYTES[precision]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Kernels bound by memory: the bytes they read and write, and how many they are."""

    name: str
    num_bytes: int
    kernels: int = 1
    core: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorReduction:
    """An all-reduce of `payload_bytes` over the tensor-parallel group."""

    name: str
    payload_bytes: int
    core: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorGather:
    """An all-gather over the tensor-parallel group, after which each device holds `payload_bytes`.

    beside: the product that runs at the same time in an unsplit pass, and hides as much of it as it
    takes itself.
    """

    name: str
    payload_bytes: int
    beside: Product | None = None
    core: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorScatter:
    """A reduce-scatter over the tensor-parallel group of `payload_bytes` on each device.

    beside: as for TensorGather.
    """

    name: str
    payload_bytes: int
    beside: Product | None = None
    core: bool = False


TensorCollective: TypeAlias = TensorReduction | TensorGather | TensorScatter
Operation: TypeAlias = Product | FusedAttention | Traffic | TensorCollective


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The operations of one part (a layer, the embedding, the head) in each pass.

    recomputed: what of the forward pass the backward pass repeats first; in a split backward pass
    it belongs to the input-gradient half.
    backward_input, backward_weight: the halves that make the gradient of the part's input and those
    of its weights.
    """

    forward: tuple[Operation, ...]
    recomputed: tuple[Operation, ...]
    backward_input: tuple[Operation, ...]
    backward_weight: tuple[Operation, ...]

    @property
    def backward(self) -> tuple[Operation, ...]:
        """The whole backward pass, recomputation included."""
        return self.recomputed + self.backward_input + self.backward_weight


def flops_of(operations: tuple[Operation, ...]) -> int:
    """Floating-point operations of the matrix products and attention in a list."""
    return sum(o.flops for o in operations if isinstance(o, (Product, FusedAttention)))
