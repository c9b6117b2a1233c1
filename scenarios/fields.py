"""What the schema says about one field: its rule in words, its choices, a value that would work."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass
from typing import Any, Literal, Union

from pydantic import WithJsonSchema
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from scenarios.files import Key
from scenarios.schema import Scenario
from scenarios.units import Reader

Path = tuple[Key, ...]

# Values that would work, for the fields whose type does not give one.
_EXAMPLES = {
    "name": "my-name",
    "layers": "24",
    "hidden": "1024",
    "heads": "16",
    "ffn_hidden": "4096",
    "sequence": "2048",
    "vocabulary": "51200",
    "patch_inputs": "768",
    "devices_per_node": "8",
    "nics_per_node": "8",
    "microbatches": "8",
    "global_batch": "64",
    "layers_per_stage": "[12, 12]",
    "schedule_file": "schedule.csv",
    "memory_bandwidth": "2039 GB/s",
    "latency": "5 us",
    "matmul_peak": "{fp16: 312 TFLOP/s}",
    "device": "{name: my-gpu, memory: 80 GiB, ...} (or extend one, as devices/a100-80gb)",
    "intra_node": "{bandwidth: 300 GB/s, latency: 5 us}",
    "inter_node": "{bandwidth: 200 Gbit/s, latency: 5 us}",
    "model": "{layers: 24, ...} (or extend one, as models/gpt3-1.3b)",
    "cluster": "{nodes: 2, ...} (or extend one, as clusters/dgx-a100)",
    "plan": "{pipeline: 2, microbatches: 8}",
    "training": "{tokens: 300e9}",
    "stragglers": "{share: 0.01, slowdown: 1.1}",
    "share": "0.01",
    "slowdown": "1.1",
    "costs": "{forward: 18.5 ms, backward: 37 ms}",
    "stages": "{0: {forward: 18.5 ms}}",
    "execution": "{iterations: 20}",
    "variants": "{uniform: {plan.slices: 8}}",
    "efficiency": "{matmul_max: 0.75}",
}

# What other tools call fields.
_CALLED = {
    **dict.fromkeys(("tp", "tensor_parallel", "tensor_parallel_size", "mp"), "plan.tensor"),
    **dict.fromkeys(("pp", "pipeline_parallel", "pipeline_parallel_size"), "plan.pipeline"),
    **dict.fromkeys(("dp", "data_parallel", "data_parallel_size", "replicas"), "plan.data"),
    **dict.fromkeys(("mbs", "micro_batch_size", "microbatch_size"), "plan.micro_batch"),
    **dict.fromkeys(("gbs", "batch", "batch_size", "global_batch_size"), "plan.global_batch"),
    **dict.fromkeys(("num_microbatches", "gradient_accumulation_steps"), "plan.microbatches"),
    **dict.fromkeys(("virtual_stages", "vpp", "interleaving"), "plan.chunks"),
    **dict.fromkeys(
        ("recompute", "checkpointing", "activation_checkpointing"), "plan.recomputation"
    ),
    **dict.fromkeys(("zero", "zero_stage", "fsdp"), "plan.sharding"),
    **dict.fromkeys(("dtype", "mixed_precision"), "plan.precision"),
    **dict.fromkeys(("num_layers", "n_layers", "n_layer"), "model.layers"),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd"), "model.hidden"),
    **dict.fromkeys(("num_heads", "n_heads", "n_head", "num_attention_heads"), "model.heads"),
    **dict.fromkeys(("seq_len", "seq_length", "sequence_length", "context"), "model.sequence"),
    **dict.fromkeys(("vocab", "vocab_size", "vocabulary_size"), "model.vocabulary"),
    **dict.fromkeys(("num_nodes", "nnodes"), "cluster.nodes"),
    **dict.fromkeys(("gpus_per_node", "nproc_per_node"), "cluster.devices_per_node"),
    **dict.fromkeys(("gpu", "accelerator"), "cluster.device"),
    **dict.fromkeys(("price", "cost_per_hour"), "cluster.price_per_device_hour"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of the schema, found by its path."""

    name: str
    """Its last name, or that of the nearest named field for an item of a list or mapping."""
    type: Any
    """Its type without None and without annotations."""
    description: str
    """Its docstring, on one line."""
    required: bool
    """Whether its parent needs it."""
    example: str
    """A value that would work, as written in YAML."""
    parser: Callable[[Any], Any] | None
    """What reads it, for a quantity with a unit."""

    @property
    def choices(self) -> tuple[str, ...]:
        """Return the values it may have, where they are listed."""
        return typing.get_args(self.type) if typing.get_origin(self.type) is Literal else ()


def names_at(path: Path) -> tuple[str, ...] | None:
    """Return the fields that the mapping at `path` may have; None where any key may be."""
    found = Scenario if not path else getattr(lookup(path), "type", None)
    return tuple(_fields(found)) if dataclasses.is_dataclass(found) else None


def lookup(path: Path) -> Field | None:
    """Find the field at `path`; None where the schema has none."""
    current: Any = Scenario
    field: Field | None = None
    for part in path:
        if dataclasses.is_dataclass(current):
            info = _fields(current).get(str(part))
            if info is None:
                return None
            field = _describe(str(part), info)
        elif field is not None and typing.get_origin(current) in (dict, tuple):
            item = typing.get_args(current)[typing.get_origin(current) is dict]
            field = _describe_item(field, item)
        else:
            return None
        current = field.type
    return field


def all_paths() -> Iterator[str]:
    """Yield the dotted path of every named field."""
    stack: list[tuple[str, Any]] = [("", Scenario)]
    while stack:
        prefix, owner = stack.pop(0)
        for name, info in _fields(owner).items():
            yield prefix + name
            inner = _strip(info.annotation)[0]
            if dataclasses.is_dataclass(inner):
                stack.append((f"{prefix}{name}.", inner))


def did_you_mean(path: Path) -> str | None:
    """Return the dotted path of the field that an unknown `path` most likely means."""
    prefix = "".join(f"{part}." for part in path[:-1])
    last = str(path[-1])
    meant = _CALLED.get(last.lower().replace("-", "_"))
    if meant is not None:
        return meant
    dotted = tuple(re.split(r"[:/.]", last))
    if len(path) == 1 and len(dotted) > 1 and lookup(dotted) is not None:
        return ".".join(dotted)
    close = difflib.get_close_matches(last.lower(), names_at(path[:-1]) or (), n=1, cutoff=0.6)
    if close:
        return prefix + close[0]
    elsewhere = [known for known in all_paths() if known.rsplit(".", 1)[-1] == last]
    return elsewhere[0] if len(elsewhere) == 1 else None


def _fields(owner: Any) -> dict[str, FieldInfo]:
    fields: dict[str, FieldInfo] = owner.__pydantic_fields__
    return fields


def _strip(annotation: Any) -> tuple[Any, list[Any]]:
    """Take None and annotations off a type; return the type and the annotations."""
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *metadata = typing.get_args(annotation)
        found, more = _strip(inner)
        return found, [*metadata, *more]
    if typing.get_origin(annotation) in (Union, types.UnionType):
        rest = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
        return _strip(rest[0]) if len(rest) == 1 else (annotation, [])
    return annotation, []


def _describe(name: str, info: FieldInfo) -> Field:
    found, metadata = _strip(info.annotation)
    metadata = [*info.metadata, *metadata]
    return Field(
        name=name,
        type=found,
        description=" ".join((info.description or "").split()),
        required=info.is_required(),
        example=_example(name, found, metadata, info.default),
        parser=_parser(metadata),
    )


def _describe_item(field: Field, annotation: Any) -> Field:
    found, metadata = _strip(annotation)
    return dataclasses.replace(
        field,
        type=found,
        example=_example("", found, metadata, MISSING),
        required=False,
        parser=_parser(metadata),
    )


def _parser(metadata: list[Any]) -> Callable[[Any], Any] | None:
    for item in metadata:
        if isinstance(item, Reader):
            return item.parse
    return None


def _example(name: str, found: Any, metadata: list[Any], default: Any) -> str:
    if name in _EXAMPLES:
        return _EXAMPLES[name]
    for item in metadata:
        if isinstance(item, WithJsonSchema) and item.json_schema:
            return str(item.json_schema["examples"][0])
    if typing.get_origin(found) is Literal:
        return str(default if isinstance(default, str) else typing.get_args(found)[0])
    if isinstance(default, bool):
        return str(default).lower()
    if default not in (None, MISSING, PydanticUndefined) and isinstance(default, (int, float)):
        return str(default)
    if dataclasses.is_dataclass(found):
        first = next(iter(_fields(found)))
        return f"{{{first}: {_describe(first, _fields(found)[first]).example}}}"
    if typing.get_origin(found) is dict:  # Of mappings of mappings there is one: the variants.
        return "{plan.slices: 8}"
    return {int: "1", float: "0.8", bool: "true"}.get(found, "text")
