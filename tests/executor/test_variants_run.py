"""Variants of one scenario run in turn for real, on a tiny model over two processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from executor.commands import CheckResult, UnsupportedPlan
from executor.launching import SessionResult
from executor.loop import closed_loop
from executor.session import Assignment
from executor.variants import run_variants
from reports.commands.measured_files import compare_file, compare_variants, keep_variants
from reports.terminal.variants import finish
from scenarios.loader import load
from scenarios.schema import Scenario
from sim.measurement import Measurement, read_measurements
from sim.prediction import predict
from sim.variants import VariantError, slicing_text
from sim.workload.partition import pieces

TINY = (
    "model.layers=2",
    "model.heads=2",
    "model.hidden=128",
    "model.sequence=512",
    "execution.iterations=2",
    "execution.warmup=1",
    "execution.deadline=30 s",
)


@pytest.mark.timeout(180)
def test_variants_are_run_predicted_kept_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Scenario] = []

    def check(scenario: Scenario) -> CheckResult:
        checked.append(scenario)
        return CheckResult(loss=0.0, gradients=0.0, weights=0.0, num_tensors=1)

    monkeypatch.setattr("executor.variants.check_against_reference", check)
    found = run_variants(load("local-terapipe", TINY), rounds=2, check=True)
    assert [case.variant for case in found.cases] == ["unsliced", "uniform", "optimal"]
    assert len(found.errors) == 6
    optimal = found.cases[2].loaded.scenario
    assert optimal.plan.slices != "optimal" and sum(p.tokens for p in pieces(optimal)[0]) == 512
    for case in found.cases:
        assert abs(case.row.structural_error) < 0.05
        assert len(case.whole.timelines) == 4 and 1 <= case.row.rounds == len(case.rounds_ns)
        assert case.comparison.calibrated and not case.comparison.in_sample
        assert found.checks[case.loaded.scenario.name].passed
    assert checked == [case.loaded.scenario for case in found.cases]
    assert found.speedups(found.cases[0]) == (1.0, 1.0)
    assert found.profile is not None and not found.interrupted

    kept, page = tmp_path / "m.json", tmp_path / "r.html"
    keep_variants(found, kept, page, force=False)
    assert finish(found, (kept, page), as_json=False) == 0
    assert "structural" in capsys.readouterr().out
    assert 'id="figure-timelines"' in page.read_text()
    measured = read_measurements(kept)
    assert [m.scenario.name.rpartition(":")[2] for m in measured] == [
        "unsliced",
        "uniform",
        "optimal",
    ]
    again = compare_variants(["local-terapipe"], kept, found.profile, TINY)
    assert again is not None
    assert [c.loaded.scenario.digest for c in again.cases] == [
        c.loaded.scenario.digest for c in found.cases
    ]
    loaded, _, one, comparison = compare_file(["local-terapipe:optimal"], kept, found.profile, TINY)
    assert loaded.scenario.plan.slices == one.scenario.plan.slices == optimal.plan.slices
    assert comparison.measured_ns == found.cases[2].whole.iteration_ns
    with pytest.raises(VariantError, match="of another scenario"):
        compare_variants(["local-terapipe"], kept, None, (*TINY, "model.layers=4"))


@pytest.mark.timeout(120)
def test_a_closed_loop_takes_the_variants_of_a_scenario() -> None:
    slim = (*TINY, "model.sequence=2048", "model.hidden=32", "variants.optimal=null")
    result = closed_loop(["local-terapipe"], ["local-terapipe-others"], slim, rounds=1)
    assert [case.row.scenario for case in result.cases] == [
        "local-terapipe:unsliced",
        "local-terapipe:uniform",
    ]
    assert "local-terapipe-others:growing" in result.note
    texts = [slicing_text(case.loaded.scenario) for case in result.cases]
    assert texts == ["whole", "8 x 256"]


def test_an_interrupted_loop_keeps_its_whole_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_after = 0

    def session(assignment: Assignment, progress: object) -> SessionResult:
        found = []
        for visit in assignment.visits[:stopped_after]:
            scenario = assignment.scenarios[visit.job]
            timeline = replace(predict(scenario).timeline, origin="measured", parts={})
            found.append(
                Measurement(
                    scenario=scenario,
                    timelines=(timeline,) * visit.iterations,
                    disturbed=(False,) * visit.iterations,
                )
            )
        found[-1] = replace(found[-1], timelines=found[-1].timelines[:1], disturbed=(False,))
        return SessionResult(
            measurements=tuple(found), interrupted=True, gradients={}, weights={}, environment={}
        )

    monkeypatch.setattr("executor.loop.run_session", session)
    names = (["local-terapipe"], ["local-terapipe-others"], ["variants.optimal=null"])
    stopped_after = 3 * 7 - 2
    result = closed_loop(*names, rounds=5)
    assert result.interrupted and [case.row.rounds for case in result.cases] == [2, 2]
    assert [len(case.whole.timelines) for case in result.cases] == [4, 4]
    assert "interrupted after 2 of 5 rounds" in result.note
    stopped_after = 6
    with pytest.raises(KeyboardInterrupt):
        closed_loop(*names, rounds=5)


def test_disturbed_rounds_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def session(assignment: Assignment, progress: object) -> SessionResult:
        found = []
        for number, visit in enumerate(assignment.visits):
            scenario = assignment.scenarios[visit.job]
            timeline = replace(predict(scenario).timeline, origin="measured", parts={})
            found.append(
                Measurement(
                    scenario=scenario,
                    timelines=(timeline,) * visit.iterations,
                    disturbed=(number == 9,) * visit.iterations,
                )
            )
        return SessionResult(
            measurements=tuple(found), interrupted=False, gradients={}, weights={}, environment={}
        )

    monkeypatch.setattr("executor.loop.run_session", session)
    overrides = ["variants.optimal=null"]
    result = closed_loop(["local-terapipe"], ["local-terapipe-others"], overrides, rounds=3)
    assert [case.row.rounds for case in result.cases] == [2, 2]
    assert [len(case.whole.timelines) for case in result.cases] == [12, 12]
    assert "in each of 2 rounds" in result.note and "1 of 3 rounds were disturbed" in result.note


def test_what_cannot_be_put_side_by_side_is_said() -> None:
    with pytest.raises(UnsupportedPlan, match="no variants"):
        run_variants(load("local-2rank"))
    loaded = load("local-terapipe")
    bert = tuple(
        replace(
            v,
            scenario=replace(
                v.scenario,
                model=replace(v.scenario.model, family="bert"),  # type: ignore[type-var]
                plan=replace(v.scenario.plan, slices=None),
            ),
        )
        for v in loaded.variants
    )
    with pytest.raises(UnsupportedPlan, match="cannot be cut into other slices"):
        run_variants(replace(loaded, right_variants=bert))
    with pytest.raises(UnsupportedPlan, match="`slices: optimal`"):
        closed_loop(["local-terapipe-others"], ["local-terapipe"])
