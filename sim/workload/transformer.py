"""A Transformer's parts as lists of operations: layer, embedding, head with loss.

The lists are those of Megatron-LM (Shoeybi et al. 2019, arXiv 1909.08053; Narayanan et al. 2021,
arXiv 2104.04473): pre-norm layers, fused bias-gelu, bias-dropout-add and scale-mask-softmax
kernels, attention either unfused (its scores pass through memory, as in 2021) or fused, and a loss
over logits in fp32 whose vocabulary is split over the tensor-parallel group.

With `kernels: plain`, the layer of TeraPipe's authors (arXiv 2102.07988) in PyTorch: biases,
activation and residuals each in a kernel of their own, no dropout, a mask added to the scores, a
softmax in fp32, and keys and values in a cache as long as the sequence, whose gradient every slice
copies whole.

With sequence parallelism (Korthikanti et al. 2022, arXiv 2205.05198, section 4.2.2) norms, dropouts
and residuals work on T/t tokens a device; each all-reduce becomes a reduce-scatter where it was and
an all-gather before the next product. The backward pass gathers the input of each first product
again for its weight gradient, beside the product of its input gradient, and reduce-scatters beside
the weight gradient, as Megatron-LM does.

Symbols: T = micro_batch x tokens, h = hidden, f = width of the MLP, a = heads, t = tensor degree.
"""

from __future__ import annotations

from scenarios.schema import PRECISION_BYTES
from sim.workload.attention import attention_core
from sim.workload.operations import (
    Operation,
    Product,
    TensorCollective,
    TensorGather,
    TensorReduction,
    TensorScatter,
    Traffic,
    Work,
)
from sim.workload.parameters import (
    embedding_parameters,
    head_parameters,
    layer_parameters,
    share,
)
from sim.workload.setting import Setting

LAYER_TENSORS = 12
"""Tensors of weights in a layer: four matrices and their biases, two norms of two each."""


def layer(setting: Setting) -> Work:
    """One Transformer layer.

    Tensor parallelism costs two all-reduces of T h elements forward and two backward; those of the
    forward pass are repeated in full recomputation (arXiv 2104.04473, section 2.3). With sequence
    parallelism: two all-gathers and two reduce-scatters each way, and two all-gathers more in the
    backward pass.
    Not modelled: overlap of all-reduces with weight gradients (Megatron of 2021 has none).
    """
    s, model, e = setting, setting.model, setting.element_bytes
    rows, near, h, wide = s.rows, s.near_rows, model.hidden, share(model.ffn, s.tensor)
    local = share(h, s.tensor)
    core_forward, core_backward = attention_core(s)
    norm = Traffic(name="layernorm", num_bytes=2 * e * near * h)
    plain = s.kernels == "plain"
    residual: tuple[Traffic, ...] = (
        Traffic(name="bias-dropout-add", num_bytes=(3 * e + 1) * near * h),
    )
    activation: tuple[Traffic, ...] = (Traffic(name="bias-gelu", num_bytes=2 * e * rows * wide),)
    if plain:
        bias = Traffic(name="bias", num_bytes=2 * e * near * h)
        residual = (bias, Traffic(name="residual sum", num_bytes=3 * e * near * h))
        bias = Traffic(name="bias", num_bytes=2 * e * rows * wide)
        activation = (bias, Traffic(name="activation", num_bytes=2 * e * rows * wide))
    gather, reduction = _gather(s, "input"), _leave(s, "output")
    linears = {
        "qkv": (h, 3 * local),
        "projection": (local, h),
        "expand": (h, wide),
        "contract": (wide, h),
    }
    forward: dict[str, Operation] = {
        name: Product(name=name, m=rows, k=k, n=n) for name, (k, n) in linears.items()
    }
    dgrad = {
        name: Product(name=f"{name} dgrad", m=rows, k=n, n=k) for name, (k, n) in linears.items()
    }
    wgrad = {
        name: Product(name=f"{name} wgrad", m=k, k=rows, n=n) for name, (k, n) in linears.items()
    }
    bias_rows = {"qkv": rows, "projection": near, "expand": rows, "contract": near}
    weight = tuple(
        operation
        for name, (_, n) in linears.items()
        for operation in (
            wgrad[name],
            Traffic(name=f"{name} bias gradient", num_bytes=e * bias_rows[name] * n),
        )
    )
    forward_all: tuple[Operation, ...] = (
        norm,
        *gather,
        forward["qkv"],
        Traffic(name="qkv bias", num_bytes=2 * e * rows * 3 * local),
        *core_forward,
        Traffic(name="head transpose", num_bytes=2 * e * rows * local),
        forward["projection"],
        *reduction,
        *residual,
        norm,
        *gather,
        forward["expand"],
        *activation,
        forward["contract"],
        *reduction,
        *residual,
    )
    norm_back = Traffic(name="layernorm backward", num_bytes=3 * e * near * h, kernels=3)
    dropout_back = (
        ()
        if plain
        else (Traffic(name="dropout backward", num_bytes=(2 * e + 1) * near * h, kernels=2),)
    )
    join_back = Traffic(name="residual gradient", num_bytes=3 * e * near * h)
    gather_back = _gather(s, "output gradient")
    backward_input: tuple[Operation, ...] = (
        *dropout_back,
        *gather_back,
        dgrad["contract"],
        Traffic(name="activation backward", num_bytes=3 * e * rows * wide),
        *_gather(s, "input again", dgrad["expand"]),
        dgrad["expand"],
        *_leave(s, "input gradient", wgrad["expand"]),
        norm_back,
        join_back,
        *dropout_back,
        *gather_back,
        dgrad["projection"],
        Traffic(name="head transpose backward", num_bytes=2 * e * rows * local),
        *core_backward,
        Traffic(name="qkv gradient join", num_bytes=2 * e * rows * 3 * local),
        *_gather(s, "input again", dgrad["qkv"]),
        dgrad["qkv"],
        *_leave(s, "input gradient", wgrad["qkv"]),
        norm_back,
        join_back,
    )
    recomputed: tuple[Operation, ...] = ()
    if s.recomputation == "full":
        recomputed = forward_all
    elif s.recomputation == "selective":
        recomputed = tuple(o for o in forward_all if o.core)
    return Work(
        forward=forward_all,
        recomputed=recomputed,
        backward_input=backward_input,
        backward_weight=(
            *weight,
            _accumulation(s, layer_parameters(model, s.tensor), kernels=LAYER_TENSORS),
        ),
    )


def embedding(setting: Setting) -> Work:
    """Token and position embedding with dropout; for `vit`, the projection of the patches.

    The table is split over the tensor-parallel group by vocabulary, so that the looked-up rows are
    summed by an all-reduce of T h elements (with sequence parallelism, by a reduce-scatter, and the
    gradient is gathered); the gradient is dense, as in Megatron-LM.
    """
    s, model, e = setting, setting.model, setting.element_bytes
    rows, near, h = s.rows, s.near_rows, model.hidden
    add = Traffic(name="position and dropout", num_bytes=(5 * e + 1) * near * h)
    back = Traffic(name="position and dropout backward", num_bytes=(4 * e + 1) * near * h)
    accumulation = _accumulation(s, embedding_parameters(model, s.tensor))
    if model.family == "vit":
        patch = model.patch_inputs or h
        return Work(
            forward=(Product(name="patches", m=rows, k=patch, n=h), add),
            recomputed=(),
            backward_input=(),
            backward_weight=(
                back,
                Product(name="patches wgrad", m=patch, k=rows, n=h),
                accumulation,
            ),
        )
    table_bytes = e * s.local_vocabulary * h
    return Work(
        forward=(
            Traffic(name="lookup", num_bytes=2 * e * rows * h),
            *_leave(s, "embedding"),
            add,
        ),
        recomputed=(),
        backward_input=(),
        backward_weight=(
            back,
            *_gather(s, "embedding gradient"),
            Traffic(name="lookup backward", num_bytes=table_bytes + 2 * e * rows * h),
            accumulation,
        ),
    )


def head(setting: Setting) -> Work:
    """Final layernorm, logits and cross entropy (with their backward pass; never recomputed).

    The loss reads and writes fp32 logits as Megatron-LM's vocabulary-parallel cross entropy does:
    cast, maximum, subtraction, exponential, sum, division; three all-reduces of one number a token.
    With sequence parallelism the logits' input is gathered, and again for their weight gradient.
    A classifier (`vit`, `bert` with classes) reads one token of each sequence.
    Not modelled: BERT's next-sentence head.
    """
    s, model, e, w = setting, setting.model, setting.element_bytes, setting.logit_bytes
    rows, near, h = s.rows, s.near_rows, model.hidden
    norm = Traffic(name="final layernorm", num_bytes=2 * e * near * h)
    norm_back = Traffic(name="final layernorm backward", num_bytes=3 * e * near * h)
    if model.classifies:
        classes = model.outputs
        return Work(
            forward=(norm, Product(name="classifier", m=s.micro_batch, k=h, n=classes)),
            recomputed=(),
            backward_input=(
                Product(name="classifier dgrad", m=s.micro_batch, k=classes, n=h),
                norm_back,
            ),
            backward_weight=(
                Product(name="classifier wgrad", m=h, k=s.micro_batch, n=classes),
                _accumulation(s, head_parameters(model, s.tensor)),
            ),
        )
    vocabulary = s.local_vocabulary
    logits = rows * vocabulary
    scalars = _reduction(s, "loss", w * rows)
    transform: tuple[Operation, ...] = ()
    transform_input: tuple[Operation, ...] = ()
    transform_weight: tuple[Operation, ...] = ()
    if model.family == "bert":
        transform = (
            Product(name="transform", m=near, k=h, n=h),
            Traffic(name="transform gelu and layernorm", num_bytes=4 * e * near * h),
        )
        transform_input = (
            Traffic(name="transform gelu and layernorm backward", num_bytes=6 * e * near * h),
            Product(name="transform dgrad", m=near, k=h, n=h),
        )
        transform_weight = (Product(name="transform wgrad", m=h, k=near, n=h),)
    dgrad = Product(name="logits dgrad", m=rows, k=vocabulary, n=h)
    wgrad = Product(name="logits wgrad", m=h, k=rows, n=vocabulary)
    return Work(
        forward=(
            norm,
            *transform,
            *_gather(s, "logits input"),
            Product(name="logits", m=rows, k=h, n=vocabulary),
            Traffic(name="logits to fp32", num_bytes=(e + w) * logits),
            Traffic(name="cross entropy: maximum", num_bytes=w * logits),
            *scalars,
            Traffic(name="cross entropy: subtraction", num_bytes=2 * w * logits),
            *scalars,
            Traffic(name="cross entropy: exponential", num_bytes=2 * w * logits),
            Traffic(name="cross entropy: sum", num_bytes=w * logits),
            *scalars,
            Traffic(name="cross entropy: division", num_bytes=2 * w * logits),
        ),
        recomputed=(),
        backward_input=(
            Traffic(name="cross entropy backward", num_bytes=2 * w * logits),
            Traffic(name="logits from fp32", num_bytes=(e + w) * logits),
            *_gather(s, "logits input again", dgrad),
            dgrad,
            *_leave(s, "input gradient", wgrad),
            *transform_input,
            norm_back,
        ),
        backward_weight=(
            wgrad,
            *transform_weight,
            _accumulation(s, head_parameters(model, s.tensor)),
        ),
    )


def _reduction(s: Setting, name: str, payload_bytes: int) -> tuple[TensorCollective, ...]:
    if s.tensor == 1:
        return ()
    return (TensorReduction(name=name, payload_bytes=payload_bytes),)


def _leave(s: Setting, name: str, beside: Product | None = None) -> tuple[TensorCollective, ...]:
    """What sums partial activations over the tensor group: an all-reduce, or with sequence
    parallelism a reduce-scatter, which may run beside a product."""
    payload = s.element_bytes * s.rows * s.model.hidden
    if not s.sequence_parallel or s.tensor == 1:
        return _reduction(s, name, payload)
    return (TensorScatter(name=name, payload_bytes=payload, beside=beside),)


def _gather(s: Setting, name: str, beside: Product | None = None) -> tuple[TensorCollective, ...]:
    """With sequence parallelism, the all-gather of activations before a product."""
    if not s.sequence_parallel or s.tensor == 1:
        return ()
    payload = s.element_bytes * s.rows * s.model.hidden
    return (TensorGather(name=name, payload_bytes=payload, beside=beside),)


def _accumulation(s: Setting, parameters: int, kernels: int = 2) -> Traffic:
    """Adding a microbatch's weight gradients to those accumulated: read both, write one; a kernel
    for each tensor of weights."""
    num_bytes = (s.element_bytes + 2 * PRECISION_BYTES[s.gradient_precision]) * parameters
    return Traffic(name="gradient accumulation", num_bytes=num_bytes, kernels=kernels)
