"""Two iterations beside one another: what differs, and that every difference adds up."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.compare_words import comparable, cost_claim
from scenarios.loader import load
from sim.calibration import calibrate_from_runs
from sim.comparison import own_costs
from sim.differences import Differences, apportioned, differences, differences_json, field_values
from sim.engine.simpy_engine import simulate
from sim.measurement import Measurement
from sim.prediction import predict, summary
from sim.sides import Side, measured_side, simulated_side


def side(label: str, name: str, *overrides: str) -> Side:
    return simulated_side(label, predict(load(name, overrides).scenario))


def made(name: str, slower: float) -> Measurement:
    """Three runs of a scenario, all slower than predicted by about a factor."""
    prediction = predict(load(name).scenario)
    costs = own_costs(prediction.timeline)
    timelines = []
    for factor in (0.98 * slower, slower, 1.02 * slower):
        durations = {a: round(factor * d) for a, d in costs.durations.items()}
        timeline = simulate(prediction.program, replace(costs, durations=durations))
        timelines.append(replace(timeline, origin="measured"))
    return Measurement(
        scenario=prediction.scenario,
        timelines=tuple(timelines),
        disturbed=(False,) * 3,
        peak_memory_bytes=(10**8, 9 * 10**7),
    )


def adds_up(found: Differences) -> None:
    """The mean rank-time by category is the iteration time of each, to the nanosecond."""
    assert sum(own.a_ns for own in found.categories) == found.a.iteration_ns
    assert sum(own.b_ns for own in found.categories) == found.b.iteration_ns
    assert sum(own.difference_ns for own in found.categories) == found.difference_ns
    steps = differences_json(found)["time_by_category"]
    assert isinstance(steps, list)
    whole = sum(round(1e9 * step["difference_s"]) for step in steps)
    assert whole == found.b.iteration_ns - found.a.iteration_ns


@pytest.fixture(scope="module")
def paper() -> Differences:
    """GPT-3 175B in 1F1B, and interleaved."""
    both, b = "plan.global_batch=256", ("plan.schedule=interleaved", "plan.chunks=3")
    return differences(side("A", "megatron/175b", both), side("B", "megatron/175b", both, *b))


def test_the_same_twice_differs_in_nothing() -> None:
    one = side("A", "local-2rank")
    found = differences(one, side("B", "local-2rank"))
    assert found.is_none and not found.fields and found.work == "same"
    assert all(not own.difference for own in found.figures)
    assert all(own.ratio == 1 for own in found.figures if own.a)
    assert all(not own.difference_ns for own in found.categories)
    adds_up(found)


def test_a_name_makes_no_difference() -> None:
    one = side("A", "local-2rank")
    scenario = replace(one.scenario, name="other", description="another", variants={})
    found = differences(one, simulated_side("B", predict(scenario)))
    assert found.is_none and differences_json(found)["nothing_differs"] is True


def test_a_field_without_effect_is_a_difference_of_the_scenarios_alone() -> None:
    found = differences(
        side("A", "local-2rank"), side("B", "local-2rank", "execution.iterations=7")
    )
    assert [own.field for own in found.fields] == ["execution.iterations"]
    assert not found.is_none and not any(own.difference for own in found.figures)


def test_the_other_way_round_is_the_negative(paper: Differences) -> None:
    back = differences(paper.b, paper.a)
    assert [(o.path, o.a, o.b) for o in back.fields] == [(o.path, o.b, o.a) for o in paper.fields]
    assert back.same == paper.same and back.difference_ns == -paper.difference_ns
    for own, other in zip(paper.figures, back.figures, strict=True):
        assert own.name == other.name and own.difference == -(other.difference or 0)
        if own.ratio and other.ratio:
            assert own.ratio * other.ratio == pytest.approx(1)
    assert {c.category: c.difference_ns for c in paper.categories} == {
        c.category: -c.difference_ns for c in back.categories
    }


def test_interleaving_trades_bubble_for_messages_and_memory(paper: Differences) -> None:
    assert [own.field for own in paper.fields] == ["plan.schedule", "plan.chunks"]
    assert [(own.a, own.b) for own in paper.fields] == [("1f1b", "interleaved"), (1, 3)]
    steps = {own.category: own.difference_ns for own in paper.categories}
    assert steps["bubble"] < 0 < steps["point_to_point"] and steps["messages"] > 0
    # What passes take is only split otherwise, but for the rounding of each part.
    assert abs(steps["matmul"]) < 10_000
    memory = paper.figure("peak_memory_bytes")
    assert memory is not None and memory.difference is not None and memory.difference > 0
    adds_up(paper)


def test_figures_are_those_of_the_summaries(paper: Differences) -> None:
    found = json.loads(json.dumps(differences_json(paper)))
    for letter, own in (("a", paper.a), ("b", paper.b)):
        assert own.prediction is not None
        plain = json.loads(json.dumps(summary(own.prediction)))
        assert {key: found[letter][key] for key in plain} == plain
        for figure in found["figures"]:
            if figure["name"] in found[letter]:
                assert figure[letter] == found[letter][figure["name"]]
    for figure in found["figures"]:
        assert figure["difference"] == figure["b"] - figure["a"]
        assert figure["ratio"] == figure["b"] / figure["a"]
    devices = next(f for f in found["figures"] if f["name"] == "device_s_per_iteration")
    assert devices["a"] == pytest.approx(1024 * found["a"]["iteration_s"])
    sent = next(f for f in found["figures"] if f["name"] == "sent_bytes_per_device")
    far = next(f for f in found["figures"] if f["name"] == "inter_node_bytes_per_device")
    assert sent["a"] == found["a"]["traffic"]["sent_bytes"] / 1024 and 0 < far["a"] < sent["a"]
    price = next(f for f in found["figures"] if f["name"] == "dollars_per_billion_tokens")
    assert price["a"] == pytest.approx(found["a"]["training_cost_dollars"] / 300)


_PLANS = st.fixed_dictionaries(
    {
        "plan.microbatches": st.integers(1, 9),
        "plan.micro_batch": st.integers(1, 3),
        "plan.schedule": st.sampled_from(["1f1b", "gpipe"]),
        "plan.p2p": st.sampled_from(["blocking", "overlapped"]),
    }
)


@settings(max_examples=25)
@given(_PLANS, _PLANS)
def test_every_difference_adds_up(one: dict[str, object], other: dict[str, object]) -> None:
    a, b = (
        side(label, "local-2rank", *(f"{field}={value}" for field, value in plan.items()))
        for label, plan in (("A", one), ("B", other))
    )
    found = differences(a, b)
    adds_up(found)
    assert {own.field for own in found.fields} == {f for f in one if one[f] != other[f]}
    assert found.is_none == (one == other)
    known = {k: v for k, v in field_values(a.scenario).items() if v is not None and v != ""}
    assert sum(found.same.values()) <= len(known)
    sizes = {plan["plan.microbatches"] * plan["plan.micro_batch"] for plan in (one, other)}  # type: ignore[operator]
    assert found.work == ("same" if len(sizes) == 1 else "resized")


@given(st.integers(0, 10**12), st.dictionaries(st.text("abc", max_size=3), st.integers(0, 10**10)))
def test_parts_sum_to_the_whole_and_are_the_nearest(total: int, weights: dict[str, int]) -> None:
    found = apportioned(total, weights)
    whole = sum(weights.values())
    if not whole:
        assert found == {}
        return
    assert sum(found.values()) == total
    for name, part in found.items():
        assert abs(part * whole - total * weights[name]) < whole
    assert found == apportioned(total, dict(reversed(weights.items())))


def test_a_run_beside_its_prediction_keeps_passes_whole() -> None:
    run = measured_side("run", made("local-2rank", 1.25))
    found = differences(run, side("prediction", "local-2rank"))
    assert found.by_pass and not found.fields and not found.is_none
    names = {own.category for own in found.categories}
    assert {"forward", "backward", "bubble"} <= names and "matmul" not in names
    steps = {own.category: own for own in found.categories}
    assert steps["forward"].a_ns == pytest.approx(1.25 * steps["forward"].b_ns, rel=1e-3)
    assert run.summary["iteration_s"] == run.iteration_ns / 1e9
    assert run.summary["origin"] == "measured" and run.peak_bytes == 10**8
    adds_up(found)


def test_two_runs_compare() -> None:
    a, b = (measured_side(str(slower), made("local-2rank", slower)) for slower in (1.0, 1.5))
    found = differences(a, b)
    own = found.figure("iteration_s")
    assert own is not None and own.ratio == pytest.approx(1.5, rel=0.02)
    adds_up(found)
    assert differences(a, a).is_none


def test_a_median_over_draws_adds_up_too() -> None:
    profile = calibrate_from_runs([made("local-2rank", 1.2), made("local-2rank-few", 1.1)])
    scenario = load("local-2rank").scenario
    drawn = simulated_side("drawn", predict(scenario, profile, draws=5), draws=5)
    found = differences(drawn, side("plain", "local-2rank"))
    assert found.by_pass
    assert drawn.prediction is not None and drawn.prediction.spread_ns is not None
    low, _, high = drawn.prediction.spread_ns
    assert drawn.uncertainty_ns == pytest.approx(0.831 * (high - low), rel=1e-3)
    assert found.uncertainty_ns == drawn.uncertainty_ns and found.b.uncertainty_ns == 0
    adds_up(found)


@pytest.mark.parametrize(
    ("a", "b", "work"),
    [
        (("local-2rank",), ("local-2rank", "plan.schedule=gpipe"), "same"),
        (("local-2rank",), ("local-2rank", "plan.microbatches=4"), "resized"),
        (("local-2rank",), ("local-2rank", "model.hidden=64"), "other model"),
        (("local-2rank",), ("local-2rank", "model.name=other"), "same"),
        (("local-2rank",), ("replay/stage-times",), "unknown"),
    ],
)
def test_says_whether_both_do_the_same_work(
    a: tuple[str, ...], b: tuple[str, ...], work: str
) -> None:
    found = differences(side("A", *a), side("B", *b))
    assert found.work == work
    adds_up(found)
    json.dumps(differences_json(found), allow_nan=False)


def test_a_section_that_only_one_has_is_told_field_by_field() -> None:
    found = differences(side("A", "local-2rank"), side("B", "replay/stage-times"))
    fields = {own.field: own for own in found.fields}
    assert "costs" not in fields and "model" not in fields
    assert fields["costs.forward"].a is None and fields["costs.forward"].b
    assert fields["model.hidden"].b is None and fields["model.hidden"].a


def test_a_run_that_nothing_disturbs_is_expected_to_take_what_its_iterations_do() -> None:
    failing = ("training.device_mtbf=50700 h", "training.checkpoint_bandwidth=273 GB/s")
    plan = ("training.restart_time=900 s", "plan.global_batch=256", "training.tokens=1e9")
    a, b = side("A", "megatron/175b", *plan[1:]), side("B", "megatron/175b", *plan, *failing)
    for found in (differences(a, b), differences(b, a)):
        days, dollars = found.figure("expected_days"), found.figure("expected_dollars")
        plain, cost = found.figure("training_days"), found.figure("training_cost_dollars")
        assert days is not None and plain is not None and days.a is not None
        assert dollars is not None and cost is not None
        ends = ((days.a, dollars.a, plain.a, cost.a), (days.b, dollars.b, plain.b, cost.b))
        undisturbed, disturbed = ends if found.a is a else ends[::-1]
        assert undisturbed[:2] == undisturbed[2:]
        assert disturbed[0] > disturbed[2] and disturbed[1] > disturbed[3]  # type: ignore[operator]
        assert "nobody" not in cost_claim(found)
    # With neither disturbed there is nothing to expect beside.
    assert differences(a, a).figure("expected_days") is None


def test_says_what_may_be_compared() -> None:
    own = side("A", "local-2rank")
    assert "the same work" in comparable(
        differences(own, side("B", "local-2rank", "plan.p2p=blocking"))
    )
    frozen = comparable(differences(own, side("B", "local-2rank", "plan.frozen_layers=4")))
    assert "frozen" in frozen and "do not do the same work" in frozen
    given = side("A", "replay/stage-times"), side("B", "replay/stage-times", "costs.forward=1 ms")
    assert "nothing says" in comparable(differences(*given))
