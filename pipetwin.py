"""The front door: the command line, one short function per command.

stdout carries the result, stderr progress and errors. Exit codes: 0 done (also "does not fit"),
1 a requested check failed, 2 bad input, 3 a rank of a run failed, 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from cyclopts import App

from reports.commands import compare_options as c
from reports.commands import options as o
from reports.commands import sweep_options as w
from reports.commands.scenario_app import scenario_app
from reports.commands.schedule_app import schedule_app
from reports.commands.teaching import teach

__version__ = "0.1.0"

app = App(
    name="pipetwin",
    help="Predict how long one training iteration of a pipeline-parallel Transformer takes, what "
    "memory it needs and what it costs, and prove it by running the same schedule for real.",
    version=__version__,
    default_parameter=o.DEFAULTS,
    suppress_keyboard_interrupt=False,
)
app.command(scenario_app)
app.command(schedule_app)


@app.command
def simulate(
    scenario: o.Scenario,
    /,
    *,
    set: o.Overrides | None = None,
    profile: o.ProfileFile = None,
    engine: o.Engine = "auto",
    what_if: o.WhatIf = False,
    report: o.ReportFile = None,
    trace: o.TraceFile = None,
    json: o.Json = False,
    force: o.Force = False,
) -> int:
    """Predict an iteration: its time, memory, money and bubbles.

    Of a scenario with an `elastic` section the whole run of epochs, and what each of its mechanisms
    brings.

    Parameters
    ----------
    scenario
        A catalogue name (`pipetwin scenario list`) or a YAML file.
    """
    from reports.commands import simulating

    return simulating.simulate(
        scenario,
        set or (),
        profile,
        (report, trace),
        engine=engine,
        what_if=what_if,
        as_json=json,
        force=force,
    )


@app.command(name="slice")
def slice_tokens(
    scenario: o.Scenario,
    /,
    *,
    output: o.Output = None,
    set: o.Overrides | None = None,
    profile: o.ProfileFile = None,
    granularity: o.Granularity = 8,
    keep_microbatches: o.KeepMicrobatches = False,
    memory: o.MemoryCap = "",
    simulations: o.Simulations = 40,
    json: o.Json = False,
    force: o.Force = False,
) -> int:
    """Find TeraPipe's best cut of a batch into token slices.

    How to cut the batch into microbatches, and these into slices: a dynamic program minimises
    sum t + (pipeline - 1) x largest t, exactly; its best, even slicings and what lies around the
    best are then simulated, and the fastest that fits wins.

    Parameters
    ----------
    scenario
        A catalogue name or a YAML file, as terapipe/175b-setting10.
    output
        Write the scenario with the slicing found to this file.
    """
    from reports.commands import slicing

    asked = slicing.Asked(granularity, keep_microbatches, memory, simulations)
    return slicing.find(scenario, set or (), profile, asked, output, as_json=json, force=force)


@app.command
def plan(
    scenario: o.Planned,
    /,
    *,
    gpus: o.Gpus = "",
    cluster: o.PlanCluster = "",
    batch: o.Batch = None,
    objective: o.Objective = "time",
    deadline: o.Deadline = None,
    top: o.Top = 10,
    only: o.Only = None,
    set: o.Overrides | None = None,
    profile: o.ProfileFile = None,
    jobs: o.Jobs = None,
    report: o.ReportFile = None,
    output: o.Output = None,
    json: o.Json = False,
    force: o.Force = False,
) -> int:
    """Find the best layouts of a model on a cluster.

    Every layout that the rules allow is checked for memory and simulated, or left out because a
    proved lower bound of its time shows that it cannot be among the best.

    Parameters
    ----------
    scenario
        A model's name (of the catalogue), a scenario's, or a YAML file.
    output
        Write the best layout to this file, as a scenario.
    """
    from reports.commands import planning

    asked = planning.Asked(cluster, batch, gpus, objective, deadline, top, only or (), jobs)
    return planning.plan(
        scenario, set or (), asked, profile, (report, output), as_json=json, force=force
    )


@app.command
def compare(
    a: c.One,
    b: c.Other = None,
    /,
    *,
    set: o.Overrides | None = None,
    set_a: c.SetA = None,
    set_b: c.SetB = None,
    names: c.Names = "",
    profile: o.ProfileFile = None,
    engine: o.Engine = "auto",
    report: o.ReportFile = None,
    json: o.Json = False,
    force: o.Force = False,
) -> int:
    """Put two iterations side by side: what differs, which is faster, and why."""
    from reports.commands import comparing

    asked = comparing.Asked(a, b, set or (), set_a or (), set_b or (), names)
    return comparing.compare(asked, profile, report, engine=engine, as_json=json, force=force)


@app.command
def sweep(
    scenario: o.Scenario,
    /,
    *,
    output: o.RequiredOutput,
    vary: w.Vary = None,
    points: w.Points = None,
    zip: w.Zip = False,
    set: o.Overrides | None = None,
    profile: o.ProfileFile = None,
    engine: w.Engine = "auto",
    figures: w.Figures = "all",
    jobs: w.Jobs = None,
    cluster: w.Cluster = "",
    shard: w.Shard = "",
    retry_failed: w.RetryFailed = False,
    report: o.ReportFile = None,
    json: o.Json = False,
    force: w.Force = False,
) -> int:
    """Simulate a scenario at many points, in parallel.

    The same command goes on where it ended, whatever ended it. Values of `--vary` may have units,
    as `'cluster.inter_node.bandwidth=100 Gbit/s,200 Gbit/s'`.

    Parameters
    ----------
    scenario
        A catalogue name or a YAML file, whose fields are varied.
    output
        The results, a JSON object a line; those in it already are kept.
    """
    from reports.commands import sweeping

    where = sweeping.Where(jobs, cluster, shard)
    asked = sweeping.Asked(vary or (), points, zip, set or (), profile, engine, figures)
    again, to = retry_failed, (output, report)
    return sweeping.sweep(scenario, to, asked, where, retry_failed=again, as_json=json, force=force)


@app.command
def run(
    scenario: o.Scenario,
    /,
    *,
    output: o.Output = None,
    set: o.Overrides | None = None,
    check: o.Flag = False,
    profile: o.ProfileFile = None,
    checkpoints: o.Checkpoints = None,
    resume: o.Resume = False,
    report: o.ReportFile = None,
    trace: o.TraceFile = None,
    json: o.Json = False,
    force: o.Force = False,
) -> int:
    """Execute a scenario for real, a process a rank.

    Starts local ranks itself, or joins torchrun's. Of a scenario with variants all, each predicted
    from runs in other slicings between them. With an `elastic` section the whole training run,
    predicted phase by phase before it begins, and so its variants.

    Parameters
    ----------
    scenario
        A catalogue name or a YAML file; one of its variants as local-terapipe:uniform.
    output
        Keep the measured timelines, for `validate`, `calibrate`, `report`.
    check
        Also hold loss, gradients and weights against a single process; exit 1 where they differ.
    """
    from executor.commands import run_scenario
    from reports.commands import files, measured_files, scenario_files
    from reports.terminal import basics as terminal
    from reports.terminal import console
    from reports.terminal import variants as terminal_variants

    files.check_outputs((output, report, trace), force=force)
    used = files.profile(profile)
    loaded = scenario_files.load_ready(scenario, set or (), used, console.progress())
    elastic = {"--checkpoints": checkpoints, "--resume": resume}
    if loaded.scenario.elastic is not None:
        from executor.elastic.checking import check_plain
        from executor.elastic.commands import run_elastic
        from reports.commands import elastic_files

        elastic_files.refuse_iteration({"--trace": trace})
        told = console.progress()
        runs = run_elastic(
            loaded, profile=used, checkpoints=checkpoints, resume=resume, progress=told
        )
        plain = check_plain(loaded.scenario, progress=told) if check and runs else None
        outputs = (output, report)
        return elastic_files.finish(runs, loaded, outputs, plain, as_json=json, force=force)
    files.refuse_unused({"a scenario without `elastic`": True}, elastic, {}, default=())
    if loaded.variants:
        from executor.variants import run_variants

        files.refuse_unused({"variants": True}, {"--trace": trace}, {}, default=())
        variants = run_variants(loaded, profile=used, check=check, progress=console.progress())
        measured_files.keep_variants(variants, output, report, force=force)
        return terminal_variants.finish(variants, (output, report), as_json=json)
    result = run_scenario(loaded.scenario, check=check, progress=console.progress())
    if result is None:
        return 0
    measurement = result.measurement
    measured_files.keep_run(loaded, measurement, used, (output, trace, report), force=force)
    terminal.show_measurement(measurement, result.check, as_json=json)
    console.wrote((output, report, trace), as_json=json)
    if result.interrupted:
        kept, asked = len(measurement.timelines), loaded.scenario.execution.iterations
        sys.stderr.write(f"interrupted: {kept} of {asked} iterations were finished and kept\n")
        return 130
    return 1 if result.check is not None and not result.check.passed else 0


@app.command
def measure(
    scenario: o.Scenario,
    /,
    *,
    output: o.RequiredOutput,
    set: o.Overrides | None = None,
    quick: o.Flag = False,
    json: o.Json = False,
    force: o.Force = False,
) -> int:
    """Measure this machine with a scenario's shapes.

    Times passes, optimizer steps and messages, and writes them as a profile.

    Parameters
    ----------
    scenario
        A catalogue name or a YAML file, whose shapes are measured.
    output
        The profile to write.
    quick
        A small grid with few repetitions, to see that it works.
    """
    from executor.measure import measure_scenario
    from reports.commands import files
    from reports.terminal import console
    from reports.terminal import scores as terminal_scores
    from scenarios.loader import load
    from sim.cost.profile_file import write_profile

    files.check_outputs((output,), force=force)
    loaded = load(scenario, set or ())
    found = measure_scenario(loaded.scenario, quick=quick, progress=console.progress())
    write_profile(found, output, force=force)
    terminal_scores.show_profile(found, output, as_json=json)
    return 0


@app.command
def calibrate(
    *measured: Path,
    output: o.Output = None,
    runs: o.Runs = None,
    device: o.Device = "",
    folds: o.Folds = 0,
    fold_by: o.FoldBy = "run",
    seed: o.Seed = 0,
    published: o.FitPublished = "",
    collectives: o.Collectives = None,
    set: o.Overrides | None = None,
    report: o.ReportFile = None,
    json: o.Json = False,
    force: o.Force = False,
) -> int:
    """Make a profile from measured runs, or from old logs.

    Runs are files that `pipetwin run -o` wrote; logs are iteration times in a CSV (`--runs`), which
    begins, for one run on 64 GPUs that took 3.57 s an iteration:

        gpus,global_batch,micro_batch,hidden,heads,layers,sequence,tensor,data,pipeline,iteration_ms
        64,512,8,3072,32,30,2048,1,64,1,3566.5

    More columns, where the log has them, replace what is assumed (Megatron-DeepSpeed's habits):
    vocabulary (50257), ffn_hidden (4 x hidden), family (gpt), tied_embeddings (yes), gpus_per_node
    (the cluster's), schedule (1f1b), chunks (1), precision (fp16), gradient_precision (as
    precision), optimizer (adam), recomputation (full), recompute_every (1), sequence_parallel (no),
    sharding (none), gradient_reduction (after), p2p (blocking), scatter_gather (yes where tensor >
    1), clip_gradients (yes), placement (tensor-data-pipeline).

    Parameters
    ----------
    measured
        Files that `pipetwin run -o` wrote.
    output
        The profile to write; none unless given.
    """
    from reports.commands import fitting

    log = fitting.Log(runs, published, collectives, device, (folds, seed, fold_by))
    return fitting.calibrate(measured, log, set, (output, report), as_json=json, force=force)


@app.command
def validate(
    *scenario: o.Scenario,
    measured: o.MeasuredFile = None,
    profile: o.ProfileFile = None,
    runs: o.JudgedRuns = None,
    device: o.Device = "",
    published: o.JudgedPublished = "",
    calibrate_on: o.CalibrateOn = None,
    rounds: int = 5,
    max_error: o.MaxError = None,
    set: o.Overrides | None = None,
    report: o.ReportFile = None,
    json: o.Json = False,
    force: o.Force = False,
) -> int:
    """Hold simulation against measurement, action by action.

    Iteration time, every action, and memory. Two errors, never mixed: structural (the run's own
    durations replayed through the engine) and predictive (durations from a profile calibrated on
    other runs, or from the device model).

    Parameters
    ----------
    scenario
        The scenario measured; with --calibrate-on, those to judge.
    rounds
        With --calibrate-on: how often calibration and judged runs take turns.
    """
    from reports.commands import files, judging, measured_files
    from reports.terminal import console
    from reports.terminal import scores as terminal_scores

    files.check_outputs((report,), force=force, inputs=(measured, runs))
    files.refuse_unused(
        {
            "--runs": runs,
            "--calibrate-on": calibrate_on,
            "--measured": measured,
            "--published": published,
        },
        {"--profile": profile, "--report": report, "--device": device},
        judging.MODES,
        default=("--profile", "--report"),
    )
    overrides, told = set or (), console.progress()
    shown = judging.Shown(report, max_error, json, force)
    if published:
        return judging.published(published, profile, overrides, shown, told)
    if runs is not None:
        return judging.log(runs, device, profile, overrides, shown, told)
    if calibrate_on:
        from executor.loop import closed_loop

        judging.refuse_elastic((*scenario, *calibrate_on), overrides)
        result = closed_loop(scenario, calibrate_on, overrides, rounds=rounds, progress=told)
        if report is not None:
            measured_files.write_loop_report(report, result, scenario, overrides, force=force)
        terminal_scores.show_loop(result, as_json=json)
        console.wrote((report,), as_json=json)
        return files.exit_code(result.errors, max_error)
    return judging.measured(
        scenario, measured, profile, overrides, report, max_error, as_json=json, force=force
    )


@app.command(name="import-trace")
def import_trace(
    scenario: o.Scenario,
    /,
    *traces: Path,
    output: o.RequiredOutput,
    ranks: o.TraceRanks = "",
    set: o.Overrides | None = None,
    json: o.Json = False,
    force: o.Force = False,
) -> int:
    """Read the profiler's traces of your own pipeline run as a measurement.

    Actions are named by annotations, as torch.distributed.pipelining writes them, or as
    `torch.profiler.record_function("pipetwin:2F0")`: see docs/traces.md.

    Parameters
    ----------
    scenario
        The scenario that ran: a catalogue name or a YAML file.
    traces
        Chrome traces of torch.profiler, .json or .json.gz, one a rank of the pipeline.
    output
        The measured file to write, for `validate`, `calibrate`, `compare` and `report`.
    """
    from reports.commands import importing

    return importing.import_trace(
        scenario, set or (), traces, ranks, output, as_json=json, force=force
    )


@app.command
def report(
    measured: Path,
    /,
    *,
    output: o.RequiredOutput,
    profile: o.ProfileFile = None,
    force: o.Force = False,
) -> int:
    """Write the HTML report of a file of results.

    Of a measured file, with its prediction beside it.

    Parameters
    ----------
    measured
        A file that `pipetwin run -o` wrote.
    output
        The HTML file to write.
    """
    from reports.commands import files, measured_files
    from reports.terminal import console

    files.check_outputs((output,), force=force, inputs=(measured,))
    used = files.profile(profile)
    measured_files.write_measured_report(output, measured, used, force=force)
    console.show_text(f"wrote {output}")
    return 0


@app.command
def completion(
    shell: Literal["bash", "zsh", "fish"] | None = None,
    /,
    *,
    install: o.Flag = False,
    force: o.Force = False,
) -> int:
    """Print what completes pipetwin's commands in a shell.

    Names of the catalogue, files, fields of `--set` and their choices are completed, too. Try it
    with `source <(pipetwin completion bash)`.

    Parameters
    ----------
    shell
        Whose script; that of $SHELL unless given.
    install
        Write it where the shell looks for completions, instead.
    """
    from reports.commands import completing

    return completing.complete(app, shell, install=install, force=force)


@app.command
def doctor(*, run: o.Flag = False, json: o.Json = False) -> int:
    """Tell what works on this machine, and what mends the rest.

    Exit code 1 where something needed is broken; what is optional and missing is only told.

    Parameters
    ----------
    run
        Also simulate a known case, and run two ranks for real: some seconds.
    """
    from executor import doctor as executor_doctor
    from reports.terminal import health as terminal
    from sim import health

    findings = [*health.examine(), *executor_doctor.examine()]
    if run:
        findings += [health.closed_form(), executor_doctor.tiny_run()]
    return terminal.show_findings(findings, as_json=json)


teach(app)


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run_command_line(sys.argv[1:]))


def run_command_line(tokens: list[str]) -> int:
    """Run one command line and return its exit code; errors become one message on stderr."""
    from reports.commands.exits import run

    return run(app, tokens)


if __name__ == "__main__":
    main()
