"""What lies between two phases, by hand."""

from dataclasses import replace

from elastic_runs import authors_run, small_run

from scenarios.schema import Scenario
from sim.cost.links import Network
from sim.elastic.moves import Move, forks, moves
from sim.elastic.phases import Layout, Phase, phases
from sim.elastic.transitions import (
    forks_ns,
    moves_ns,
    part_bytes,
    run_devices,
    transition_time,
)
from sim.workload.parameters import embedding_parameters, head_parameters, layer_parameters


def layout(frozen: int, counts: tuple[int, ...], data: int) -> Layout:
    return Layout(
        frozen_layers=frozen, layers_per_stage=counts, data=data, micro_batch=6, microbatches=2
    )


def network(run: Scenario) -> Network:
    assert run.cluster is not None
    return Network(cluster=run.cluster, plan=run.plan)


def between(run: Scenario, old: Layout, new: Layout) -> tuple[Phase, Phase]:
    frozen = (old.frozen_layers, new.frozen_layers)
    layouts = {old.frozen_layers: old, new.frozen_layers: new}
    first, second = phases(run, frozen, [layouts.get(n, old) for n in range(9)], None)
    return first, second


def test_parts_travel_with_their_state_while_they_are_trained() -> None:
    """fp32: 4 bytes a weight, and two moments of 4 each where it is trained."""
    run = small_run()
    assert run.model is not None
    sizes = part_bytes(run, 3)
    assert sizes["layer 2"] == 4 * layer_parameters(run.model)
    assert sizes["layer 3"] == 12 * layer_parameters(run.model)
    assert sizes["embedding"] == 4 * embedding_parameters(run.model)
    assert sizes["head"] == 12 * head_parameters(run.model)
    assert part_bytes(run, 0)["embedding"] == 12 * embedding_parameters(run.model)
    half = replace(run, plan=replace(run.plan, precision="fp16"))
    assert part_bytes(half, 0)["layer 0"] == (2 + 4 + 8) * layer_parameters(run.model)
    plain = replace(run, plan=replace(run.plan, optimizer="sgd"))
    assert part_bytes(plain, 0)["layer 0"] == 4 * layer_parameters(run.model)


def test_messages_through_one_port_wait_for_one_another() -> None:
    """1 byte a nanosecond and 10 us of latency."""
    run = small_run()
    sizes = {"a": 1000, "b": 3000, "c": 500}
    devices = run_devices(run.plan)
    assert devices == (0, 1, 2, 3)

    def time(*sent: Move) -> float:
        return moves_ns(sent, sizes, devices, network(run))

    assert time() == 0
    assert time(Move(part="a", source=1, target=0)) == 11_000
    apart = (Move(part="a", source=1, target=0), Move(part="b", source=3, target=2))
    assert time(*apart) == 13_000
    into_one = (Move(part="a", source=1, target=0), Move(part="b", source=3, target=0))
    assert time(*into_one) == 14_000
    round_about = (Move(part="a", source=1, target=0), Move(part="b", source=0, target=1))
    assert time(*round_about) == 13_000, "both directions at once"


def test_devices_of_a_node_share_its_nic() -> None:
    """Two messages from node 1 to node 0: 5 GB/s at 80 %, one NIC."""
    run = authors_run()
    sizes = {"a": 4_000_000, "b": 4_000_000}
    sent = (Move(part="a", source=8, target=0), Move(part="b", source=9, target=1))
    assert run.cluster is not None
    rate = run.cluster.inter_node.bandwidth * run.cluster.inter_node.efficiency / 1e9
    found = moves_ns(sent, sizes, run_devices(run.plan), network(run))
    assert found == run.cluster.inter_node.latency + 8_000_000 / rate


def test_broadcasts_of_stages_go_on_at_once() -> None:
    """Two stages of two layers on two replicas each: a ring of two passes on all bytes once."""
    run = small_run()
    old, new = layout(4, (2, 2, 2, 2), 1), layout(4, (6, 2), 2)
    sizes = part_bytes(run, 4)
    spread = forks(old, new)
    assert [fork.ranks for fork in spread] == [(0, 2), (1, 3)]
    largest = max(sum(sizes[part] for part in fork.parts) for fork in spread)
    found = forks_ns(spread, sizes, run_devices(run.plan), network(run))
    assert found == 10_000 + largest


def test_a_transition_by_hand() -> None:
    run = small_run(transition={"rebuild": 5_000, "device_start": 700})
    old, new = layout(0, (2, 2, 2, 2), 1), layout(4, (6, 2), 2)
    before, after = between(run, old, new)
    found = transition_time(run, before, after)
    assert found is not None
    assert found.phase == 1
    assert found.parts["rebuild"] == 5_000
    assert found.parts["load"] == 2 * 700
    sizes, devices = part_bytes(run, 4), run_devices(run.plan)
    sent, spread = moves(old, new), forks(old, new)
    assert {(m.part, m.source, m.target) for m in sent} == {
        ("layer 2", 1, 0),
        ("layer 3", 1, 0),
        ("layer 4", 2, 0),
        ("layer 5", 2, 0),
        ("layer 6", 3, 1),
        ("layer 7", 3, 1),
        ("head", 3, 1),
    }
    expected = moves_ns(sent, sizes, devices, network(run))
    expected += forks_ns(spread, sizes, devices, network(run))
    assert found.parts["move"] == round(expected)
    # Rank 0 held layers 0 and 1 and gets four more; rank 1 gets its three parts; both pass all on.
    stages = sizes["embedding"] + sum(sizes[f"layer {n}"] for n in range(8)) + sizes["head"]
    received = stages - sizes["embedding"] - sizes["layer 0"] - sizes["layer 1"]
    assert found.moved_bytes == received + stages
    assert found.total_ns == sum(found.parts.values())


def test_reading_the_cache_instead_of_filling_it_is_no_transition() -> None:
    run = small_run()
    layouts = [layout(n, (6, 2), 2) for n in range(9)]
    filling, reading = phases(run, (4, 4), layouts, 1)
    assert transition_time(run, filling, reading) is None


def test_freezing_more_rebuilds_though_nothing_moves() -> None:
    run = small_run(transition={"rebuild": 5_000})
    before, after = between(run, layout(3, (6, 2), 2), layout(4, (6, 2), 2))
    found = transition_time(run, before, after)
    assert found is not None
    assert found.parts == {"rebuild": 5_000, "load": 0, "move": 0}
    assert found.moved_bytes == 0
