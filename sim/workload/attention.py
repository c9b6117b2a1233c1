"""Attention's core as operations: scores, softmax, context, in one kernel or in several.

Unfused with `kernels: plain` it is that of TeraPipe's authors (arXiv 2102.07988): a mask made and
added, a softmax in fp32, and keys and values in a cache as long as the sequence.
"""

from __future__ import annotations

from sim.workload.operations import FusedAttention, Operation, Product, Traffic
from sim.workload.parameters import share
from sim.workload.setting import Setting


def attention_core(s: Setting) -> tuple[tuple[Operation, ...], tuple[Operation, ...]]:
    """Attention's core, forward and backward: all of it makes input gradients."""
    e, size = s.element_bytes, s.model.hidden // s.model.heads
    count = s.micro_batch * share(s.model.heads, s.tensor)
    q, keys = s.tokens, s.context + s.tokens
    if s.attention == "fused":
        forward, backward = (
            FusedAttention(
                name=name,
                count=count,
                queries=q,
                keys=keys,
                head_size=size,
                causal=s.model.causal,
                num_products=num_products,
            )
            for name, num_products in (("attention", 2), ("attention backward", 5))
        )
        return (forward,), (backward,)
    scores = count * q * keys

    def product(name: str, m: int, k: int, n: int) -> Product:
        return Product(name=name, m=m, k=k, n=n, count=count, core=True)

    def traffic(name: str, num_bytes: int, kernels: int = 1) -> Traffic:
        return Traffic(name=name, num_bytes=num_bytes, kernels=kernels, core=True)

    before: tuple[Operation, ...] = ()
    after: tuple[Operation, ...] = ()
    softmax: tuple[Operation, ...] = (
        traffic("scale-mask-softmax", 2 * e * scores),
        traffic("attention dropout", (2 * e + 1) * scores),
    )
    softmax_back: tuple[Operation, ...] = (
        traffic("attention dropout backward", (2 * e + 1) * scores),
        traffic("softmax backward", 3 * e * scores),
    )
    if s.kernels == "plain":
        before, after = _caching(s, count * size)
        w = max(4, e)
        softmax = (
            traffic("mask", e * (3 * q * q + 3 * q * keys), kernels=4),
            traffic("mask added", 2 * e * scores),
            traffic("softmax", (e + w) * scores),
            traffic("probabilities from fp32", (w + e) * scores),
        )
        softmax_back = (
            traffic("probabilities to fp32", (e + w) * scores),
            traffic("softmax backward", (2 * w + e) * scores),
        )
    return (
        *before,
        product("scores", q, size, keys),
        *softmax,
        product("context", q, keys, size),
    ), (
        product("value gradient", keys, q, size),
        product("probability gradient", q, size, keys),
        *softmax_back,
        product("query gradient", q, keys, size),
        product("key gradient", keys, q, size),
        *after,
    )


def _caching(s: Setting, width: int) -> tuple[tuple[Traffic, ...], tuple[Traffic, ...]]:
    """Scaling queries and writing keys and values into the sequence's cache; and backward: the
    gradient of the part read (zeros for all, then a copy), its copy without what was written, and
    its sum with those of later slices. `width`: elements of a token's keys on this device, for all
    sequences."""
    e, q, whole = s.element_bytes, s.tokens, s.model.sequence
    scale = Traffic(name="query scaling", num_bytes=2 * e * q * width, core=True)
    write = Traffic(name="keys and values", num_bytes=4 * e * q * width, kernels=2, core=True)
    tokens = 3 * whole + 3 * (s.context + q) + 3 * s.context
    back = Traffic(
        name="keys and values backward", num_bytes=2 * e * tokens * width, kernels=10, core=True
    )
    return (scale, write), (scale, back)
