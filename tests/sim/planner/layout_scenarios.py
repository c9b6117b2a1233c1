"""Small scenarios to lay out, as the tests of the layout search need them."""

from dataclasses import replace

from scenarios.loader import load
from scenarios.schema import Scenario


def small(
    *,
    layers: int = 4,
    heads: int = 4,
    batch: int = 8,
    nodes: int = 2,
    per_node: int = 2,
    nics: int = 1,
    memory_bytes: int = 80 << 30,
    **plan: object,
) -> Scenario:
    """A small GPT on a few devices, its own plan a pipeline over half of them."""
    overrides = [
        f"model.layers={layers}",
        f"model.heads={heads}",
        f"model.hidden={64 * heads}",
        "model.sequence=64",
        "model.vocabulary=512",
        f"cluster.nodes={nodes}",
        f"cluster.devices_per_node={per_node}",
        f"cluster.nics_per_node={nics}",
        f"cluster.device.memory={memory_bytes} B",
        f"plan.global_batch={batch}",
        "plan.tensor=1",
        "plan.pipeline=2",
        f"plan.data={nodes * per_node // 2}",
        "plan.recomputation=none",
        "cluster.device.reserved_memory=0 B",
    ]
    scenario = load("megatron/175b", overrides).scenario
    return replace(scenario, plan=replace(scenario.plan, **plan))  # type: ignore[arg-type]
