"""Predictions, runs made up from them, and pages, shared by the tests of reports."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browsing import Shown, opened
from page_kinds import HOSTILE, KINDS, Use

from scenarios.loader import Loaded, load
from scenarios.schema import Scenario
from sim.calibration import calibrate_from_runs
from sim.comparison import LoopRow, own_costs
from sim.cost.costs import ActionCosts
from sim.elastic_comparison import ElasticComparison, compare_elastic
from sim.elastic_measurement import ElasticMeasurement, MeasuredEpoch, MeasuredTransition
from sim.elastic_run import AblationRow, ElasticPrediction, ablation
from sim.engine.simpy_engine import simulate
from sim.measurement import Measurement
from sim.prediction import Prediction, predict
from sim.variants import VariantsResult, beside, calibration_slicings

ELASTIC = (
    "elastic={epochs: 6, samples: 96, alpha: 0.5, transition: {rebuild: 200 ms}}",
    "plan.placement=pipeline-data-tensor",
    *("model.hidden=64", "model.sequence=32"),
)
SLICED = ("model.layers=4", "model.hidden=64", "model.sequence=256", "model.heads=2")


@pytest.fixture(scope="session")
def loaded() -> Loaded:
    return load("local/local-4rank", ["plan.micro_batch=2"])


@pytest.fixture(scope="session")
def prediction(loaded: Loaded) -> Prediction:
    return predict(loaded.scenario)


@pytest.fixture(scope="session")
def measurement(prediction: Prediction) -> Measurement:
    """Twelve runs whose actions differ at random from the predicted ones; the fourth disturbed."""
    generator = random.Random(1)
    base = own_costs(prediction.timeline)
    timelines = []
    for _ in range(12):
        durations = {a: round(d * generator.gauss(1.03, 0.03)) for a, d in base.durations.items()}
        costs = ActionCosts(durations=durations, transfers=base.transfers)
        timelines.append(replace(simulate(prediction.program, costs), origin="measured"))
    assert prediction.memory is not None
    return Measurement(
        scenario=prediction.scenario,
        timelines=tuple(timelines),
        disturbed=tuple(i == 3 for i in range(12)),
        peak_memory_bytes=tuple(round(1.04 * c.peak_bytes) for c in prediction.memory),
    )


@pytest.fixture(scope="session")
def loop() -> tuple[LoopRow, ...]:
    """Four judged scenarios, and two that were calibrated on."""
    return tuple(
        LoopRow(
            scenario=HOSTILE if i == 0 else f"local-{i}",
            structural_error=0.004 * i - 0.01,
            predictive_error=0.01 * i - 0.03,
            run_to_run_spread=0.011,
            predicted_ns=round(2e8 * 1.7**i * (0.97 + 0.01 * i)),
            measured_ns=round(2e8 * 1.7**i),
            rounds=1 + i % 2,
            judged=i < 4,
        )
        for i in range(6)
    )


@pytest.fixture(scope="session")
def large() -> Prediction:
    """64 ranks and 512 microbatches: 194,560 spans."""
    overrides = ["plan.pipeline=64", "plan.microbatches=512"]
    return predict(load("replay/stage-times", overrides).scenario)


def made(scenario: Scenario, slower: float) -> Measurement:
    """A run as the device model predicts it, all passes slower by a factor."""
    prediction = predict(scenario)
    costs = own_costs(prediction.timeline)
    durations = {a: round(slower * d) for a, d in costs.durations.items()}
    timeline = simulate(prediction.program, replace(costs, durations=durations))
    return Measurement(
        scenario=scenario, timelines=(replace(timeline, origin="measured"),), disturbed=(False,)
    )


@pytest.fixture(scope="session")
def variants() -> VariantsResult:
    """Variants whose runs are 5 % slower than the device model, predicted from other slicings."""
    loaded = load("local-terapipe", SLICED)
    taken = [v.scenario for v in loaded.variants]
    others = calibration_slicings(taken[0], taken)
    runs = [
        made(replace(s, plan=replace(s.plan, slices=(120, 80, 56))), 1.05)
        if s.plan.slices == "optimal"
        else made(s, 1.05)
        for s in taken
    ]
    profile = calibrate_from_runs([made(s, 1.05) for s in others])
    return beside(loaded, loaded.variants, runs, profile)


@pytest.fixture(scope="session")
def elastic_loaded() -> Loaded:
    return load("local-4rank", ELASTIC)


@pytest.fixture(scope="session")
def ablated(elastic_loaded: Loaded) -> tuple[AblationRow, ...]:
    """An elastic run with fewer mechanisms; the last is the run itself."""
    return ablation(elastic_loaded.scenario)


def executed(prediction: ElasticPrediction, slower: float) -> ElasticMeasurement:
    """A run as it was predicted, all slower by a factor."""
    phases = [own.phase for own in prediction.phases]
    iteration_s = [slower * own.iteration_ns / 1e9 for own in prediction.phases]
    return ElasticMeasurement(
        scenario=prediction.scenario,
        frozen_by_epoch=prediction.frozen_by_epoch,
        phases=tuple(phases),
        epochs=tuple(
            MeasuredEpoch(
                epoch=e.epoch,
                phase=e.phase,
                seconds=slower * e.seconds,
                iteration_s=(iteration_s[e.phase],) * phases[e.phase].iterations,
                losses=(2.0 / (1 + e.epoch),) * phases[e.phase].iterations,
                accuracy=0.9 + 0.01 * e.epoch,
                cache_read=96 if e.cached_layers else 0,
                cache_written=96 if phases[e.phase].fills_cache else 0,
                foreign=0.01,
            )
            for e in prediction.epochs
        ),
        transitions=tuple(
            MeasuredTransition(
                epoch=phases[t.phase].first_epoch,
                phase=t.phase,
                seconds={"rebuild": slower * t.total_ns / 1e9, "evaluate": 0.5},
                moved_bytes=t.moved_bytes,
                loss_before=1.25,
                loss_after=1.25,
            )
            for t in prediction.transitions
        ),
        seconds=slower * prediction.total_ns / 1e9 + 0.5 * len(prediction.transitions),
    )


@pytest.fixture(scope="session")
def elastic_runs(ablated: tuple[AblationRow, ...]) -> ElasticComparison:
    """An elastic run 5 % slower than predicted, and a static one 10 % slower."""
    cases = [
        compare_elastic(name, row.prediction, executed(row.prediction, slower))
        for name, row, slower in ((HOSTILE, ablated[-1], 1.05), ("static", ablated[0], 1.10))
    ]
    return ElasticComparison(cases=tuple(cases), note="calibrated on two ranks")


@pytest.fixture(scope="session")
def times() -> Prediction:
    """A scenario of stage times only."""
    return predict(load("replay/stage-times").scenario)


class Pages(Mapping[str, str]):
    """The pages of every kind by name, each made when it is first asked for."""

    def __init__(self, use: Use) -> None:
        self._use = use
        self._made: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        if name not in self._made:
            self._made[name] = KINDS[name].make(self._use)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(KINDS)

    def __len__(self) -> int:
        return len(KINDS)


class Files(Mapping[str, Path]):
    """The pages as files, each written when it is first asked for."""

    def __init__(self, pages: Pages, folder: Path) -> None:
        self._pages, self._folder = pages, folder

    def __getitem__(self, name: str) -> Path:
        path = self._folder / f"{name}.html"
        if not path.exists():
            path.write_text(self._pages[name], encoding="utf-8")
        return path

    def __iter__(self) -> Iterator[str]:
        return iter(self._pages)

    def __len__(self) -> int:
        return len(self._pages)


@pytest.fixture(scope="session")
def pages(request: pytest.FixtureRequest) -> Pages:
    """Pages by name (`page_kinds.KINDS`)."""
    return Pages(request.getfixturevalue)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The system's Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def files(pages: Pages, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The pages as files."""
    return Files(pages, tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def shown(request: pytest.FixtureRequest, browser: Any, files: Files) -> Iterator[Shown]:
    """The page of a kind (the parameter), opened once for all tests of a module."""
    with opened(browser, files[request.param], 1280, "light") as (page, heard):
        yield Shown(page, heard)
