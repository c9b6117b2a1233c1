"""What `compare` does: two scenarios or runs beside one another, differences first."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reports.commands import files, scenario_files
from reports.commands.files import InputError
from reports.terminal import console
from reports.terminal.comparison import show_comparison
from scenarios.errors import Origin, Problem, ScenarioError
from scenarios.files import kind_of_path
from scenarios.loader import Loaded
from scenarios.variants import split_name
from scenarios.writing import write_whole
from sim.cost.profile import Profile
from sim.differences import Differences, differences
from sim.elastic_measurement import is_elastic_file
from sim.engine.choice import Engine
from sim.measurement import Measurement, read_measurements
from sim.prediction import predict
from sim.sides import Side, measured_side, simulated_side
from sim.variants import DRAWS

_HEAD = 200
_CALLED = {"measured": "the run", "simulated": "the prediction"}
_MEASURED = b'"pipetwin-'


@dataclass(frozen=True, slots=True)
class Asked:
    """What is compared: a scenario's name or file, or a measured file, for A and for B (None: the
    same as A); overrides of both, of A and of B; and what both are called (empty: by what they
    are)."""

    a: str
    b: str | None
    both: Sequence[str]
    only_a: Sequence[str]
    only_b: Sequence[str]
    names: str


def compare(
    asked: Asked,
    profile: Path | None,
    report: Path | None,
    *,
    engine: Engine,
    as_json: bool,
    force: bool,
) -> int:
    """Compare two iterations, write the report asked for and show what differs; the exit code."""
    files.check_outputs((report,), force=force)
    if asked.b is None and not asked.only_b:
        raise InputError(
            f"compare {asked.a} with what? Name another scenario or measured file, or set a field "
            f"of the second otherwise: `pipetwin compare {asked.a} --set-b plan.micro_batch=2`"
        )
    used = files.profile(profile)
    told = console.progress()
    found = []
    for letter, name, own in (
        ("a", asked.a, asked.only_a),
        ("b", asked.b if asked.b is not None else asked.a, asked.only_b),
    ):
        told(f"{letter.upper()}: {name}")
        found.append(_side(letter, name, asked.both, own, used, engine))
    a, b = _named(found[0], found[1], asked)
    result = differences(a, b)
    if report is not None:
        _write(report, result, force=force)
    show_comparison(result, as_json=as_json)
    console.wrote((report,), as_json=as_json)
    return 0


def _write(report: Path, result: Differences, *, force: bool) -> None:
    from reports.pages.page_compare import render_comparison

    write_whole(report, render_comparison(result, files.command_line()), force=force)


def _side(
    letter: str,
    name: str,
    both: Sequence[str],
    own: Sequence[str],
    used: Profile | None,
    engine: Engine,
) -> Side:
    """One of both, simulated, or read from a file of runs."""
    path, variant = _measured_path(name)
    if path is not None:
        if both or own:
            option = f"--set-{letter}" if own else "--set"
            raise InputError(
                f"{option} {[*own, *both][0]}: {name} was measured, and cannot be set otherwise: "
                "set fields of the scenario beside it, with --set-a or --set-b"
            )
        return measured_side(letter, _measurement(path, variant))
    loaded = _loaded(letter, name, both, own, used)
    if loaded.scenario.elastic is not None:
        raise InputError(
            f"{name}: is a run of epochs whose pipeline changes, and compare is of one iteration: "
            f"`pipetwin simulate {name}` holds it beside itself without each mechanism; or compare "
            "one phase of it, with `--set elastic=null --set-b plan.frozen_layers=2`"
        )
    draws = DRAWS if used else 0
    try:
        prediction = predict(loaded.scenario, used, draws=draws, engine=engine)
    except OverflowError as error:
        raise InputError(f"--engine {engine}: {error}; --engine simpy has no limit") from None
    origins = _origins(letter, loaded.origins, own)
    return simulated_side(letter, prediction, origins, draws=draws)


def _loaded(
    letter: str, name: str, both: Sequence[str], own: Sequence[str], used: Profile | None
) -> Loaded:
    """A scenario; what its own overrides make wrong is told by the option that was given."""
    try:
        return scenario_files.load_ready(name, [*both, *own], used, console.progress())
    except ScenarioError as error:
        raise ScenarioError([_told(problem, letter, own) for problem in error.problems]) from error


def _told(problem: Problem, letter: str, own: Sequence[str]) -> Problem:
    option, space, text = problem.file.partition(" ")
    if problem.line is not None or option != "--set" or text not in own:
        return problem
    field = "" if text.startswith(f"{problem.field}=") else problem.field
    return replace(problem, file=f"--set-{letter}{space}{text}", field=field)


def _origins(letter: str, origins: Mapping[str, Origin], own: Sequence[str]) -> Mapping[str, str]:
    """Where values were written, as text; own overrides by their option."""
    own_texts = {f"--set {text}": f"--set-{letter} {text}" for text in own}
    return {field: own_texts.get(str(at), str(at)) for field, at in origins.items()}


def _measured_path(name: str) -> tuple[Path | None, str | None]:
    """The measured file that a name is of, and the variant in it; None where it is none."""
    head, variant = split_name(name)
    path = Path(head)
    if kind_of_path(path) != "file":
        return None, None
    try:
        with path.open("rb") as opened:
            start = opened.read(2)
        with gzip.open(path) if start == b"\x1f\x8b" else path.open("rb") as content:
            start = content.read(_HEAD)
    except (OSError, EOFError):
        return None, None
    if not start.lstrip().startswith(b"{") or _MEASURED not in start:
        return None, None
    return path, variant


def _measurement(path: Path, variant: str | None) -> Measurement:
    """The run in a measured file; of several the variant named."""
    if is_elastic_file(path):
        raise InputError(
            f"{path}: holds elastic runs, and compare is of one iteration: `pipetwin report {path} "
            "-o r.html` holds them beside one another and beside their predictions"
        )
    found = read_measurements(path)
    names = [m.scenario.name for m in found]
    own = (
        found
        if variant is None
        else [m for m in found if m.scenario.name.rpartition(":")[2] == variant]
    )
    if len(own) != 1:
        which = f"no variant `{variant}`" if variant is not None else f"{len(found)} runs"
        example = f"{path}:{names[0].rpartition(':')[2]}" if len(found) > 1 else str(path)
        raise InputError(
            f"{path}: holds {which}: it is of {', '.join(names)}; name one, as {example}"
        )
    return own[0]


def _named(a: Side, b: Side, asked: Asked) -> tuple[Side, Side]:
    """Both sides with what they are called: as asked for, or by their scenarios where these differ,
    as a run and its prediction where only one is measured, by their files (a plan's best layout
    keeps its scenario's name), else A and B."""
    if names := asked.names:
        given = [text.strip() for text in names.split(",")]
        if len(given) != 2 or not all(given) or given[0] == given[1]:
            raise InputError(f"--names {names}: gives two different names, as --names now,new")
        return replace(a, label=given[0]), replace(b, label=given[1])
    labels = ("A", "B")
    if a.scenario.name != b.scenario.name:
        labels = (a.scenario.name, b.scenario.name)
    elif a.origin != b.origin:
        labels = (_CALLED[a.origin], _CALLED[b.origin])
    else:
        stems = (_stem(asked.a), _stem(asked.b or ""))
        labels = stems if all(stems) and stems[0] != stems[1] else labels
    return replace(a, label=labels[0]), replace(b, label=labels[1])


def _stem(name: str) -> str:
    """The name of a file without its folder and ending; empty where it is no file."""
    path = Path(split_name(name)[0])
    return path.stem if kind_of_path(path) == "file" else ""
