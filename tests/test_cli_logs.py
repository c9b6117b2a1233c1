"""The command line on old logs: calibrate with folds, validate, what is refused."""

import json
from pathlib import Path

import pytest

from pipetwin import run_command_line
from sim.cost.profile_file import read_profile
from sim.cost.runs import COLUMNS, OPTIONS

ROWS = [
    "8,32,2,1024,16,4,512,1,8,1,100,good",
    "8,32,1,1024,16,4,512,2,4,1,130,good",
    "8,32,4,1024,16,4,512,2,2,2,170,bad",
    "8,32,2,2048,16,4,512,1,8,1,300,good",
]


def test_calibrate_in_folds_then_validate(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    log, profile = tmp_path / "runs.csv", tmp_path / "p.yaml"
    log.write_text("\n".join([",".join([*COLUMNS, "mood"]), *ROWS]))
    common = ["--runs", str(log), "--device", "a100-80gb", "--json"]
    assert run_command_line(["calibrate", *common, "--folds", "2", "-o", str(profile)]) == 0
    out = json.loads(capsys.readouterr().out)
    crossed, within = out["sets"]
    assert (crossed["id"], crossed["sample"], crossed["n"]) == ("runs.csv", "cross-validated", 4)
    assert within["sample"] == "in-sample" and within["mape"] < crossed["mape"]
    assert out["notes"][0].startswith("columns not read: mood")
    assert [s.name for s in read_profile(profile).sources] == ["runs.csv"]
    assert run_command_line(["validate", *common, "--profile", str(profile)]) == 0
    (again,) = json.loads(capsys.readouterr().out)["sets"]
    assert again["sample"] == "in-sample"
    # The profile holds rounded latencies, so not to the last digit.
    assert again["mape"] == pytest.approx(within["mape"], abs=1e-3)
    assert run_command_line(["validate", *common]) == 0
    assert json.loads(capsys.readouterr().out)["sets"][0]["sample"] == "not calibrated"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("m.json", "--runs", "r.csv"), "measured files and --runs do not go together"),
        (("m.json", "--folds", "5"), "--folds does nothing with measured files"),
        (("--published", "ptdp.fig7", "--folds", "5"), "--folds does nothing with --published"),
        (("--collectives", "n.csv"), "--collectives does nothing with this"),
        (("--published", "ptdp.fig7"), "--device"),
        (("--published", "nowhere", "--device", "a100-80gb"), "no published table is called so"),
        (("--published", "ptdp.fig7", "--device", "h100-80gb"), "rows are on A100-SXM4-80GB"),
        (("--runs", "none.csv", "--device", "a100-80gb"), "none.csv: cannot be read"),
    ],
)
def test_what_calibrate_refuses(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run_command_line(["calibrate", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_help_names_every_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert run_command_line(["calibrate", "--help"]) == 0
    out = capsys.readouterr().out
    assert ",".join(COLUMNS) in "".join(out.split())  # However wide the console was made.
    assert [name for name in OPTIONS if name not in out] == []
