"""What the terminal shows of calibration from logs."""

import json
from pathlib import Path

import pytest

from reports.terminal import scores as terminal_scores
from reports.terminal.scores import amount_of, meaning_of
from scenarios.loader import load_cluster
from sim.cost.fit import PARAMETERS
from sim.cost.profile import Fitted, Profile
from sim.cost.runs import COLUMNS, parse_runs
from sim.log_calibration import score_runs

ROWS = [
    "8,32,2,1024,16,4,512,1,8,1,100",
    "8,32,1,1024,16,4,512,2,4,1,130",
    "8,32,4,1024,16,4,512,2,2,2,170",
]
RUNS = parse_runs("\n".join([",".join(COLUMNS), *ROWS]), load_cluster("a100-80gb"))
SCORES = score_runs("r.csv", RUNS, [90e6, 130e6, 120e6], "cross-validated", folds=(0, 1, 1)) | {
    "folds": {"count": 2, "seed": 7, "by": "run"}
}
PROFILE = Profile(
    device="A100-SXM4-80GB",
    provenance="test",
    efficiency={
        "launch": Fitted(value=9_100, interval=(8_000, 10_400)),
        "matmul_max": Fitted(value=0.98, interval=(0.9, 0.98), at_bound="high"),
        "iteration_overhead": Fitted(value=3e7, interval=(9e5, 4e7)),
        "memory": Fitted(value=0.88, interval=None),
    },
)


@pytest.mark.parametrize(
    ("name", "amount", "text"),
    [
        ("launch", 9_100, "9.1 us"),
        ("matmul_max", 0.8815, "88.1%"),
        ("matmul_half_dimension", 245.04, "245 elements"),
        ("inter_node.latency", 12_000, "12 us"),
        ("inter_node.efficiency", 0.5, "50.0%"),
        ("intra_node.bandwidth", 300e9, "300 GB/s"),
    ],
)
def test_amounts_have_their_units(name: str, amount: float, text: str) -> None:
    assert amount_of(name, amount) == text


def test_every_parameter_that_is_fitted_has_a_unit_and_a_meaning() -> None:
    for parameter in PARAMETERS:
        assert amount_of(parameter.name, parameter.high)
        assert len(meaning_of(parameter.name)) > 10


def test_the_profile_reads_well(capsys: pytest.CaptureFixture[str]) -> None:
    terminal_scores.show_profile(PROFILE, None, as_json=False, sets=[SCORES], notes=["n"])
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("not written (-o FILE keeps it): A100-SXM4-80GB")
    assert "launch 9.1 us [8, 10.4 us] Fixed time of every kernel" in out
    assert "iteration_overhead 30 ms [900 us, 40 ms]" in out
    assert "not determined by this data: default kept, or nearly so: memory 88.0%" in out
    assert "AT ITS BOUND: matmul_max is the highest that the fit allows" in out
    assert "r.csv: cross-validated in 2 folds by run (seed 7)" in out
    assert "constant TFLOP/s (of the other folds)" in out
    assert "4x1024 t2 p2 d2 b4 4 -29.4% " in out and "note: n" in out


def test_json_keeps_every_point(capsys: pytest.CaptureFixture[str]) -> None:
    terminal_scores.show_profile(PROFILE, Path("p.yaml"), as_json=True, sets=[SCORES])
    found = json.loads(capsys.readouterr().out)
    assert found["file"] == "p.yaml" and found["notes"] == []
    (scores,) = found["sets"]
    wanted = {"id", "n", "mape", "bias", "worst", "kendall_tau", "regret", "baselines", "points"}
    assert wanted <= set(scores) and len(scores["points"]) == 3
    assert set(scores["points"][0]) == {"what", "predicted_s", "measured_s", "error"}
    # Orders: 90 < 130 and 90 < 120 are right, 130 < 120 is wrong; the pick is the best.
    assert scores["kendall_tau"] == pytest.approx(1 / 3) and scores["regret"] == 0
