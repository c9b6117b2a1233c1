"""Where layers lie, how long pipelines are and how many replicas there are."""

from dataclasses import replace

import pytest
from elastic_runs import authors_run, changed, small_run
from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios.schema import Model, Scenario
from sim.cost.profile import Profile, ProfileMismatch
from sim.cost.shapes import Part, PartTime, Pass, shape_of
from sim.elastic.freezing import frozen_by_epoch
from sim.elastic.iterations import Iterations, of_layout
from sim.elastic.layouts import NoLayout, layouts, microbatch_choices, most_trained
from sim.elastic.phases import Layout, phase_scenario
from sim.elastic_run import predict_run
from sim.prediction import fits, predict


def lengths(scenario: Scenario) -> list[int]:
    found = layouts(scenario)
    return [found[frozen].pipeline for frozen in frozen_by_epoch(scenario)]


def replicas(scenario: Scenario) -> list[int]:
    found = layouts(scenario)
    return [found[frozen].data for frozen in frozen_by_epoch(scenario)]


def test_the_authors_pipelines_come_out() -> None:
    """ViT-B/16 on 2 x 8 GPUs, alpha 1/3: the lengths and replicas of their ten epochs, which their
    throughputs with and without AutoDP show (arXiv 2102.03161, figure 9)."""
    for run in (authors_run(), authors_run(autocache=False)):
        assert lengths(run) == [8, 8, 4, 2, 2, 1, 1, 1, 1, 1]
        assert replicas(run) == [2, 2, 4, 8, 8, 16, 16, 16, 16, 16]
    idle = authors_run(autodp=False)
    assert lengths(idle) == [8, 8, 4, 2, 2, 1, 1, 1, 1, 1]
    assert replicas(idle) == [2] * 10


def test_a_replica_keeps_its_batch_or_all_of_them_do() -> None:
    by_replica = layouts(authors_run())
    assert {one.micro_batch * one.microbatches for one in by_replica} == {400}
    by_all = layouts(authors_run(batch="global", microbatches={8: 10, 4: 10, 2: 10, 1: 10}))
    assert {one.global_batch for one in by_all} == {800}
    assert by_all[12].data == 16


def test_the_authors_start_fills_their_memory() -> None:
    """Two active layers a GPU need about 12 of 16 GB, nearly all of it activations; three would not
    fit, nor would half the GPUs at first."""
    run = authors_run()
    first = layouts(run)[0]
    peak = Iterations(run).peak_bytes(of_layout(first))
    assert 11 * 2**30 < peak < 13 * 2**30
    assert _fits(run, first)
    assert not _fits(run, _on(first, (3, 3, 3, 3)))


def _on(layout: Layout, counts: tuple[int, ...]) -> Layout:
    return Layout(
        frozen_layers=0,
        layers_per_stage=counts,
        data=4,
        micro_batch=layout.micro_batch,
        microbatches=layout.microbatches,
    )


def _fits(run: Scenario, layout: Layout) -> bool | None:
    return fits(predict(phase_scenario(run, of_layout(layout))))


def test_without_autopipe_active_layers_share_the_first_pipeline() -> None:
    """The authors' frozen layers lie before the first stage, so the others are balanced anew, over
    as many of the eight stages as get one."""
    found = layouts(authors_run(autopipe=False, autodp=False, autocache=False))
    assert found[4].layers_per_stage == (5, 1, 1, 1, 1, 1, 1, 1)
    assert found[7].layers_per_stage == (8, 1, 1, 1, 1)
    assert found[12].layers_per_stage == (12,)
    assert {one.data for one in found} == {2}
    assert found[7].rank_of(0, 1) == 8, "replica 1 keeps the first ranks of those it had"


def test_without_autopipe_layers_stay_where_they_are() -> None:
    found = layouts(small_run(autopipe=False, autodp=True))
    assert {one.layers_per_stage for one in found} == {(2, 2, 2, 2)}
    assert {one.data for one in found} == {1}
    assert [one.frozen_layers for one in found] == list(range(9))


def test_freezing_off_leaves_the_plan() -> None:
    for one in layouts(small_run(freeze="off")):
        assert (one.layers_per_stage, one.data) == ((2, 2, 2, 2), 1)
        assert (one.micro_batch, one.microbatches) == (6, 8)


def test_beyond_what_the_run_freezes_nothing_changes() -> None:
    short = layouts(small_run(epochs=2))
    assert [one.pipeline for one in short] == [4, 4, 4, 4, 2, 2, 2, 2, 2]
    assert short[8].layers_per_stage == short[4].layers_per_stage


def test_a_plan_whose_layers_do_not_divide_is_balanced() -> None:
    run = small_run(plan={"pipeline": 3, "microbatches": 6}, autopipe=False)
    assert sum(layouts(run)[0].layers_per_stage) == 8
    assert sorted(layouts(run)[0].layers_per_stage) == [2, 3, 3]


def test_frozen_layers_lie_on_the_first_stage_where_they_are_cached() -> None:
    for one in layouts(small_run(cache={"pays_from": 2})):
        if one.frozen_layers >= 2:
            assert one.layers_per_stage[0] >= one.frozen_layers
    spread = layouts(small_run(autocache=False))
    assert spread[4].layers_per_stage[0] > 4, "four frozen layers and an active one take as much"


def test_a_frozen_layer_takes_a_third_of_an_active_one() -> None:
    """Forward is a third of forward and backward, so that a stage of frozen layers may hold three
    times as many; as heavy as active ones, they are shared out evenly."""
    alike = layouts(small_run(autocache=False, frozen_weight=1.0))
    assert alike[3].layers_per_stage == (2, 2, 2, 2)
    light = layouts(small_run(autocache=False, frozen_weight=0.0))
    assert light[3].layers_per_stage in {(5, 1, 1, 1), (4, 2, 1, 1), (4, 1, 2, 1), (4, 1, 1, 2)}


def test_the_pipeline_is_halved_only_while_it_trains_no_more() -> None:
    """At first 2 layers a stage: 4 layers on two stages are 2 again, 5 would be 2.5."""
    assert [one.pipeline for one in layouts(small_run())] == [4, 4, 4, 4, 2, 2, 1, 1, 1]


def test_what_does_not_fit_the_device_is_not_packed() -> None:
    run = small_run(autocache=False)
    assert run.cluster is not None
    most = max(Iterations(run).peak_bytes(of_layout(one)) for one in layouts(run)[:4])
    tight = replace(run.cluster.device, memory=most)
    small = replace(run, cluster=replace(run.cluster, device=tight))
    for one in layouts(small):
        assert Iterations(small).peak_bytes(of_layout(one)) <= most


def test_replicas_must_be_able_to_share_the_batch() -> None:
    """48 sequences on four ranks go on to four replicas of 12, but 6 only to two of 3; which the
    cache does not allow where all layers are frozen and so lie on one stage."""
    few = small_run(plan={"micro_batch": 1, "microbatches": 6}, autocache=False)
    assert [one.data for one in layouts(few)][-1] == 2
    assert [one.data for one in layouts(changed(few, batch="replica"))][-1] == 4
    with pytest.raises(NoLayout, match=r"can share 6 sequences: `elastic\.batch: replica` would"):
        layouts(changed(few, autocache=True))


def test_given_microbatches_are_taken_and_must_divide() -> None:
    given = layouts(small_run(microbatches={2: 4, 1: 6}))
    assert {one.microbatches for one in given if one.pipeline == 2} == {4}
    assert {one.microbatches for one in given if one.pipeline == 1} == {6}
    with pytest.raises(NoLayout, match=r"5 microbatches do not divide the 12 .* `\{1: 1\}` would"):
        layouts(small_run(microbatches={1: 5}))


def test_microbatches_are_searched_among_those_that_divide() -> None:
    assert microbatch_choices(48, 2) == (2, 3, 4, 6, 8, 12)
    assert microbatch_choices(7, 2) == (7,)
    assert microbatch_choices(13, 2) == (1,)


def test_searched_microbatches_are_the_fastest() -> None:
    run = small_run(autocache=False)
    simulated = Iterations(run)
    for one in layouts(run)[4:]:
        batch = one.micro_batch * one.microbatches
        for count in microbatch_choices(batch, one.pipeline):
            other = Layout(
                frozen_layers=one.frozen_layers,
                layers_per_stage=one.layers_per_stage,
                data=one.data,
                micro_batch=batch // count,
                microbatches=count,
            )
            assert simulated.time_ns(of_layout(one)) <= simulated.time_ns(of_layout(other))


def test_weights_trained_by_hand() -> None:
    """Units of h^2: an attention of 4 and an MLP of 8 a layer; 12 layers on 8 stages are at best
    halves in threes, the largest MLP, attention, MLP."""
    model = Model(layers=12, hidden=1 << 14, heads=1, sequence=1, vocabulary=1, ends=False)
    unit = model.hidden**2
    assert round(most_trained(model, 0, 8) / unit) == 20
    assert round(most_trained(model, 4, 4) / unit) == 24
    assert round(most_trained(model, 9, 2) / unit) == 20
    assert round(most_trained(model, 10, 1) / unit) == 24
    assert most_trained(model, 12, 1) == 0


@settings(max_examples=15)
@given(
    alpha=st.sampled_from([0.2, 1 / 3, 0.5]),
    autodp=st.booleans(),
    autocache=st.booleans(),
    batch=st.sampled_from(["global", "replica"]),
    frozen_first=st.booleans(),
)
def test_layouts_are_whole_and_never_longer(
    alpha: float, autodp: bool, autocache: bool, batch: str, frozen_first: bool
) -> None:
    run = small_run(
        plan={"frozen_first": frozen_first},
        alpha=alpha,
        autodp=autodp,
        autocache=autocache,
        batch=batch,
        microbatches={4: 4, 2: 4, 1: 2},
    )
    found = layouts(run)
    assert len(found) == 9
    for frozen, one in enumerate(found):
        assert one.frozen_layers == frozen
        assert sum(one.layers_per_stage) == 8
        assert min(one.layers_per_stage) >= 1
        assert one.num_ranks == 4 if autodp else one.data == 1
        if frozen_first and frozen:
            assert one.layers_per_stage[0] >= min(frozen + 1, 8)
    pipelines = [one.pipeline for one in found]
    assert pipelines == sorted(pipelines, reverse=True)


def measured(run: Scenario, forward_ns: float, backward_ns: float) -> Profile:
    """Layers measured in every micro-batch size that divides the batch; ends that take nothing."""

    def time(median_ns: float) -> PartTime:
        return PartTime(median_ns=median_ns, quartiles_ns=(median_ns, median_ns), samples=9)

    passes: dict[tuple[Part, Pass], PartTime] = {}
    parts: tuple[Part, ...] = ("layer", "embedding", "head")
    for part in parts:
        passes[part, "forward"] = time(forward_ns if part == "layer" else 0.0)
        passes[part, "backward"] = time(backward_ns if part == "layer" else 0.0)
    shape = shape_of(run)
    sizes = [n for n in range(1, 49) if 48 % n == 0]
    return Profile(
        device="slow",
        provenance="test",
        times={shape._replace(micro_batch=n): passes for n in sizes},
    )


def test_measured_times_decide_the_balance() -> None:
    run = small_run(autocache=False, microbatches={4: 8, 2: 4, 1: 2})
    forward_alone = layouts(run, measured(run, 1e6, 0.0))
    assert forward_alone[3].layers_per_stage == (2, 2, 2, 2), "frozen ones take as much as others"
    backward_alone = layouts(run, measured(run, 1e3, 1e6))
    assert backward_alone[3].layers_per_stage[0] > 3, "frozen ones take nearly nothing"
    assert run.cluster is not None
    other = replace(run.cluster, device=replace(run.cluster.device, name="other"))
    with pytest.raises(ProfileMismatch):
        layouts(replace(run, cluster=other), measured(run, 1.0, 1.0))


def test_a_run_is_predicted_with_its_profile() -> None:
    run = small_run(microbatches={4: 8, 2: 4, 1: 2})
    profile = measured(run, 1e6, 2e6)
    found = predict_run(run, profile)
    for own in found.phases:
        assert own.iteration_ns == predict(own.prediction.scenario, profile).iteration_ns
    assert found.total_ns != predict_run(run).total_ns
