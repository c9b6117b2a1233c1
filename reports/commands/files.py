"""What commands read and write: profiles, schedules, measured files, traces, reports."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from reports.terminal import console
from scenarios.catalogue import did_you_mean, profiles, run_tables, tables
from scenarios.errors import ScenarioError
from scenarios.loader import Loaded, load, load_cluster
from scenarios.published import PublishedTable, load_table, matching_tables
from scenarios.published_elastic import RunTable, load_runs
from scenarios.schema import Cluster
from scenarios.writing import check_writable, write_whole
from sim.calibration import CalibrationError
from sim.comparison import Comparison, LoopRow, compare
from sim.cost.profile import Profile, ProfileMismatch
from sim.cost.profile_file import ProfileError, read_profile
from sim.cost.runs import RunsError
from sim.engine.simpy_engine import Deadlock
from sim.measurement import Measurement, MeasurementError
from sim.prediction import Prediction
from sim.schedule.build import build_schedule
from sim.schedule.checks import ScheduleError, check
from sim.schedule.generators import GENERATORS, interleaved
from sim.schedule.lowering import lower
from sim.schedule.schedule import Schedule
from sim.schedule.torch_csv import compute_csv, program_csv, read_csv
from sim.traffic.found import Traffic
from sim.what_if.found import WhatIf

_ROOMS = ("reports", "scenarios", "sim")


class InputError(ValueError):
    """A command was asked for something that cannot be; the message says what would work."""


def is_bad_input(error: Exception) -> bool:
    """Whether an error is the user's to mend (exit 2, no traceback)."""
    kinds: tuple[type[Exception], ...] = (
        InputError,
        ScenarioError,
        ScheduleError,
        Deadlock,
        CalibrationError,
        MeasurementError,
        ProfileError,
        ProfileMismatch,
        RunsError,
        OSError,
    )
    if isinstance(error, kinds):
        return True
    # Without importing what the command did not: executor errors name themselves.
    return bool(getattr(error, "is_bad_input", False))


def exit_of_error(error: Exception, tokens: Sequence[str]) -> int:
    """Say what went wrong with a command line, and its exit code; raises what is not the user's to
    mend."""
    if getattr(error, "is_run_failure", False):
        sys.stderr.write(f"{error}\n")
        if any(token.startswith("--checkpoints") for token in tokens):
            sys.stderr.write("the same with --resume goes on from the last checkpoint\n")
        return 3
    if isinstance(error, ModuleNotFoundError) and not _own_module(error.name):
        sys.stderr.write(f"{_missing(str(error.name))}\n")
        return 2
    if not is_bad_input(error):
        raise error
    from reports.commands.explaining import explained

    sys.stderr.write(f"{explained(error, tokens)}\n")
    return 2


def _own_module(name: str | None) -> bool:
    return name is None or name.partition(".")[0] in ("executor", "pipetwin", *_ROOMS)


def _missing(name: str) -> str:
    library = name.partition(".")[0]
    if library == "torch":
        return (
            "this needs torch, which is not installed: `pip install torch`; simulate, plan, "
            "compare and sweep work without it"
        )
    return (
        f"this needs {library}, which is not installed: `pipetwin doctor` tells what works on this "
        "machine, and what mends the rest"
    )


def check_outputs(
    paths: Iterable[Path | None], *, force: bool, inputs: Iterable[Path | None] = ()
) -> None:
    """Refuse, before any work, outputs that exist already (without `force`), coincide, or are what
    is read."""
    wanted = [path for path in paths if path is not None]
    if len({p.resolve() for p in wanted}) < len(wanted):
        raise InputError("two outputs have the same name: give each its own file")
    read = {path.resolve() for path in inputs if path is not None}
    for path in wanted:
        if path.resolve() in read:
            raise InputError(f"{path} is what is read: give the output a name of its own")
        check_writable(path, force=force)


def refuse_unused(
    modes: Mapping[str, object],
    options: Mapping[str, object],
    uses: Mapping[str, Sequence[str]],
    *,
    default: Sequence[str],
) -> None:
    """Refuse options that would be ignored: two modes at once, or an option its mode does not use.

    uses: the options that each mode uses; `default` those of all others.
    """
    chosen = [name for name, value in modes.items() if value]
    if len(chosen) > 1:
        raise InputError(f"{' and '.join(chosen)} do not go together: give one of them")
    mode = chosen[0] if chosen else ""
    for name, value in options.items():
        if value and name not in uses.get(mode, default):
            raise InputError(f"{name} does nothing with {mode or 'this'}: leave it out")


def profile(path: Path | None) -> Profile | None:
    """The profile of a file, or of those that come along by its name; None for none."""
    if path is None:
        return None
    shipped = profiles()
    if not path.exists() and path.as_posix() in shipped:
        return read_profile(shipped[path.as_posix()])
    if not path.exists() and path.suffix == "" and path.parent == Path():
        hint = did_you_mean(path.name, shipped)
        raise InputError(
            f"{path}: is no file, and no profile that comes along: there is "
            f"{', '.join(shipped)}{hint}; `pipetwin measure` and `calibrate` make others"
        )
    return read_profile(path)


def table_profiles(published: Sequence[PublishedTable]) -> dict[str, Profile]:
    """The profiles that come along for published tables, by the names that these have for them."""
    shipped = profiles()
    names = {table.profile for table in published}
    return {name: read_profile(shipped[name]) for name in names if name in shipped}


def _schedule_names() -> str:
    return ", ".join([*GENERATORS, "interleaved", "interleaved:3", "terapipe:4"])


def schedule(
    name: str, stages: int | None, microbatches: int | None, overrides: Sequence[str]
) -> Schedule:
    """A schedule by its name and sizes (4 ranks, 8 microbatches unless given), from a CSV file, or
    from a scenario, which have their own sizes. `interleaved` has 2 chunks a rank, `interleaved:3`
    has 3, its stages are ranks x chunks; `terapipe:4` cuts microbatches into 4 token slices, as
    `1f1b:4` and `gpipe:4` do."""
    kind, _, number = name.partition(":")
    generated = kind in (*GENERATORS, "interleaved")
    named = generated and (not number or number.isdecimal())
    if generated and not named:
        part = "chunks a rank" if kind == "interleaved" else "token slices"
        raise InputError(f"{name}: `{number}` is no number of {part}: {kind}:4 would work")
    if not named and (stages or microbatches):
        raise InputError(
            f"--stages and --microbatches go with a schedule's name ({_schedule_names()}); "
            f"{name} has its own sizes"
        )
    if named:
        return _named_schedule(name, kind, int(number) if number else None, stages, microbatches)
    if name.endswith(".csv"):
        found = read_csv(Path(name))
        check(found)
        return found
    try:
        return build_schedule(load(name, overrides).scenario)
    except ScenarioError as error:
        if len(error.problems) == 1 and not Path(name).exists() and "/" not in name:
            known = _schedule_names()
            hint = did_you_mean(kind, (*GENERATORS, "interleaved"))
            message = f"{name}: is no schedule{hint}; schedules by name: {known}"
            raise InputError(f"{message}; else a .csv file, or a scenario") from error
        raise


def _named_schedule(
    name: str, kind: str, number: int | None, stages: int | None, microbatches: int | None
) -> Schedule:
    """number: chunks for interleaved, token slices for the others."""
    chunks = (2 if number is None else number) if kind == "interleaved" else 1
    slices = 1 if number is None or kind == "interleaved" else number
    stages = 4 * chunks if stages is None else stages
    microbatches = 8 if microbatches is None else microbatches
    if stages < 1 or microbatches < 1 or chunks < 1 or slices < 1:
        raise InputError(
            f"{name} --stages {stages} --microbatches {microbatches}: all numbers are at least 1, "
            "as --stages 4 --microbatches 8"
        )
    if kind != "interleaved":
        return GENERATORS[kind](stages, microbatches, slices=slices)
    if stages % chunks:
        raise InputError(
            f"--stages {stages}: {name} has {chunks} stages a rank, so they are a multiple of "
            f"{chunks}, as --stages {4 * chunks}"
        )
    try:
        return interleaved(stages // chunks, microbatches, chunks)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None


def export_schedule(found: Schedule, output: Path | None, *, messages: bool, force: bool) -> None:
    """Write a schedule as torch's CSV, to standard output unless a file is given.

    messages: with its sends and receives.
    """
    text = program_csv(lower(found)) if messages else compute_csv(found)
    if output is None:
        console.show_text(text, end="")
        return
    write_whole(output, text, force=force)
    console.wrote((output,), as_json=False)


def write_report(
    path: Path,
    prediction: Prediction,
    loaded: Loaded | None,
    *,
    measurement: Measurement | None = None,
    comparison: Comparison | None = None,
    loop: Sequence[LoopRow] | None = None,
    what_if: WhatIf | None = None,
    traffic: Traffic | None = None,
    trace: str = "",
    force: bool,
) -> None:
    """Write the HTML report of a prediction, beside a measurement where there is one, or a loop.

    what_if, traffic: what was asked about it, where it was already; else it is now.
    trace: the file that has the whole timeline.
    """
    from reports.commands import asking
    from reports.pages.page import render

    if measurement is not None and comparison is None:
        comparison = compare(prediction, measurement)
    html = render(
        prediction,
        loaded=loaded,
        measurement=measurement,
        comparison=comparison,
        loop=loop,
        what_if=what_if if what_if is not None else asking.asked(prediction),
        traffic=traffic if traffic is not None else asking.sent(prediction),
        command=command_line(),
        trace=trace,
    )
    write_whole(path, html, force=force)


def command_line() -> str:
    """What the user typed."""
    import shlex
    import sys

    return shlex.join(["pipetwin", *sys.argv[1:]])


def exit_code(errors: Iterable[float], max_error: float | None) -> int:
    """1 where an error is larger than allowed, which is told, else 0."""
    worst = max((abs(e) for e in errors), default=0.0)
    if max_error is None or worst <= max_error:
        return 0
    sys.stderr.write(f"the largest error is {worst:.1%}, more than --max-error {max_error:g}\n")
    return 1


def cluster(device: str, overrides: Sequence[str]) -> Cluster:
    """The cluster that a file of runs is of, by its name or its device's."""
    if not device:
        raise InputError(
            "--runs needs --device: a device or a cluster of the catalogue, as "
            "`--device a100-80gb`, or a file"
        )
    return load_cluster(device, overrides)


def published_tables(names: str, overrides: Sequence[str]) -> tuple[PublishedTable | RunTable, ...]:
    """The published tables of names with commas between them, as `ptdp.fig13,ptdp.table1`: of rows
    and of runs."""
    wanted = [name for part in names.split(",") if (name := part.strip())]
    if not wanted:
        raise InputError("--published names no table: give some, as ptdp.table1,ptdp.fig11")
    for part in wanted:
        if ":" in part:
            raise InputError(
                f"--published {part}: whole tables only, as {part.partition(':')[0]}; the first "
                "rows alone are for `calibrate`"
            )
    of_runs = run_tables()
    return tuple(
        load_runs(table_id, overrides) if table_id in of_runs else load_table(table_id, overrides)
        for table_id in matching_tables(wanted, (*tables(), *of_runs))
    )
