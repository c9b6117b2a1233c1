"""`pipetwin import-trace` as users meet it, and our own traces read back."""

import gzip
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kineto_cases import rank_events, write_traces

from pipetwin import run_command_line
from reports.commands.trace_files import write_measured_trace, write_predicted_trace
from scenarios.loader import load
from sim.measurement import Measurement, read_measurement
from sim.prediction import predict
from sim.traces.own import read_own


def call(capsys: pytest.CaptureFixture[str], *tokens: object) -> tuple[int, str, str]:
    code = run_command_line([str(token) for token in tokens])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def measured(name: str, *overrides: str) -> Measurement:
    """As a run would be: every time off by some nanoseconds, some messages without a time."""
    scenario = load(name, overrides).scenario
    timeline = predict(scenario).timeline
    generator = random.Random(7)
    spans = []
    for span in timeline.spans:
        start = span.start_ns + generator.randrange(3)
        end = max(start, span.end_ns - generator.randrange(3))
        if span.lane in ("forward", "backward") and (span.action.microbatch or 0) % 2:
            end = start
        spans.append(span._replace(start_ns=start, end_ns=end))
    run = replace(
        timeline, origin="measured", spans=tuple(spans), parts={}, variants=(), processors=()
    )
    return Measurement(scenario=scenario, timelines=(run,), disturbed=(False,))


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("local-4rank", ()),
        ("local-interleaved", ("plan.p2p=blocking",)),
        ("local-terapipe:uniform", ()),
        ("local-dp2-pp2", ("plan.gradient_reduction=overlapped",)),
    ],
)
def test_our_own_trace_of_a_run_comes_back_to_the_nanosecond(
    name: str, overrides: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, output = tmp_path / "t.json.gz", tmp_path / "m.json"
    run = measured(name, *overrides)
    write_measured_trace(trace, run, force=False)
    settings = [token for text in overrides for token in ("--set", text)]
    code, out, err = call(capsys, "import-trace", name, *settings, trace, "-o", output, "--json")
    assert code == 0, err
    again = read_measurement(output)
    assert again.scenario.digest == run.scenario.digest
    (timeline,) = again.timelines
    assert sorted(timeline.spans) == sorted(run.timelines[0].spans)
    assert timeline.num_ranks == run.timelines[0].num_ranks
    assert json.loads(out)["iteration_s"] == run.iteration_ns / 1e9
    told = json.loads(gzip.decompress(trace.read_bytes()))["otherData"]
    assert (told["scenario"], told["digest"]) == (run.scenario.name, run.scenario.digest)
    assert told["origin"] == "measured" and told["version"]


def test_what_is_no_measurement_of_the_scenario_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prediction = predict(load("local-2rank").scenario)
    simulated = tmp_path / "simulated.json.gz"
    write_predicted_trace(simulated, prediction, force=False)
    assert read_own(simulated)[1]["engine"] == prediction.engine
    output = tmp_path / "m.json"
    code, _, err = call(capsys, "import-trace", "local-2rank", simulated, "-o", output)
    assert code == 2 and "is of a simulation, which is no measurement" in err
    real = tmp_path / "real.json.gz"
    write_measured_trace(real, measured("local-2rank"), force=False)
    other = ("import-trace", "local-2rank", "--set", "plan.microbatches=4", real, "-o", output)
    code, _, err = call(capsys, *other)
    assert code == 2 and "is of local-2rank with other settings than local-2rank has now" in err
    assert not output.exists()


def test_imported_traces_are_validated_calibrated_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = predict(load("local-2rank").scenario)
    events = [rank_events(found.timeline, rank, shift_ns=10**12) for rank in range(2)]
    traces = write_traces(tmp_path, events)
    output, profile = tmp_path / "m.json", tmp_path / "p.yaml"
    code, out, err = call(capsys, "import-trace", "local-2rank", *traces, "-o", output)
    assert code == 0 and "measured, median of 1" in out and "wrote" in out, err
    code, _, err = call(capsys, "import-trace", "local-2rank", *traces, "-o", output)
    assert code == 2 and "--force" in err
    code, out, _ = call(capsys, "validate", "local-2rank", "--measured", output, "--json")
    errors: dict[str, Any] = json.loads(out)
    assert code == 0 and errors["structural_error"] == pytest.approx(0, abs=1e-6)
    assert errors["predictive_error"] == pytest.approx(0, abs=1e-6)
    assert call(capsys, "calibrate", output, "-o", profile)[0] == 0
    wanted = ("validate", "local-2rank", "--measured", output, "--profile", profile, "--json")
    code, out, _ = call(capsys, *wanted)
    assert code == 0 and abs(json.loads(out)["predictive_error"]) < 0.01
    page = tmp_path / "r.html"
    assert call(capsys, "report", output, "-o", page)[0] == 0
    assert "traces of torch.profiler" in page.read_text()


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        ((), "give a trace a rank, as `pipetwin import-trace mine.yaml rank0.json.gz"),
        (("none.json",), "none.json: cannot be read: No such file"),
        (("none.json", "--ranks", "first"), "--ranks first: give numbers with commas"),
        (("{folder}",), "cannot be read: Is a directory"),
        (("{folder}/text",), "text: is no trace: it has no `traceEvents`"),
    ],
)
def test_bad_input_exits_2_without_a_traceback(
    tokens: tuple[str, ...], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("not a trace")
    given = [token.format(folder=tmp_path) for token in tokens]
    code, out, err = call(
        capsys, "import-trace", "local-2rank", *given, "-o", tmp_path / "never.json"
    )
    assert code == 2 and told in err and "Traceback" not in err and out == ""
    assert not (tmp_path / "never.json").exists()


def test_a_run_of_epochs_is_told_to_be_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("import-trace", "local-elastic-vit", "t.json", "-o", tmp_path / "m.json")
    code, _, err = call(capsys, *given)
    assert code == 2 and "is a run of epochs" in err and "elastic=null" in err


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"name":"0F3"', '"name":"0F2"', "it has not every pass once"),
        ('"pid":1000', '"pid":-5000', "a span of no rank"),
        ('"dur":', '"dur":-', "a span of no rank, or of negative time"),
        ('"ts":', '"ts":1e999,"was":', "is damaged, or was changed"),
    ],
)
def test_our_own_trace_that_was_changed_is_told(
    old: str, new: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "t.json.gz"
    write_measured_trace(trace, measured("local-2rank"), force=False)
    text = gzip.decompress(trace.read_bytes()).decode()
    trace.write_bytes(gzip.compress(text.replace(old, new).encode()))
    code, _, err = call(capsys, "import-trace", "local-2rank", trace, "-o", tmp_path / "m.json")
    assert code == 2 and told in err, err


def test_what_is_read_is_never_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.json"
    file.write_text("{}")
    other = tmp_path / "beside" / ".." / "m.json"
    (tmp_path / "beside").mkdir()
    for tokens in (
        ("report", file, "-o", other, "--force"),
        ("calibrate", file, "-o", other, "--force"),
        ("import-trace", "local-2rank", file, "-o", other, "--force"),
        ("validate", "local-2rank", "--measured", file, "--report", other, "--force"),
        ("calibrate", "--runs", file, "--device", "a100-80gb", "--report", other, "--force"),
    ):
        code, _, err = call(capsys, *tokens)
        assert code == 2 and "is what is read: give the output a name of its own" in err, err
        assert file.read_text() == "{}"
