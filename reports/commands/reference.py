"""The reference pages: the fields of a scenario from its schema, the commands from the app.

`make docs` writes them to docs/reference.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from reports.commands.json_keys import KEYS
from reports.commands.teaching import AIMS, LESSONS
from scenarios import fields
from scenarios.schema import Scenario
from scenarios.units import (
    Reader,
    exact_bytes,
    exact_bytes_per_s,
    exact_count,
    exact_dollars_per_hour,
    exact_duration_ns,
    exact_flops_per_s,
    parse_bytes,
    parse_bytes_per_s,
    parse_count,
    parse_dollars_per_hour,
    parse_duration_ns,
    parse_flops_per_s,
)

_QUANTITIES: dict[Callable[[Any], Any], tuple[str, Callable[[Any], str]]] = {
    parse_bytes: ("memory", exact_bytes),
    parse_bytes_per_s: ("bandwidth", exact_bytes_per_s),
    parse_flops_per_s: ("compute rate", exact_flops_per_s),
    parse_duration_ns: ("duration", exact_duration_ns),
    parse_dollars_per_hour: ("price", exact_dollars_per_hour),
    parse_count: ("count", exact_count),
}
_PLAIN = {int: "whole number", float: "number", str: "text", bool: "true or false"}
_BOUNDS: tuple[tuple[type, str, str], ...] = (
    (Ge, "ge", "≥"),
    (Gt, "gt", ">"),
    (Le, "le", "≤"),
    (Lt, "lt", "<"),
)
_UNITS = """
| quantity | units | example |
|---|---|---|
| memory | `B`, with `k` `M` `G` `T` (powers of 1,000), `Ki` `Mi` `Gi` `Ti` (of 1,024) | `80 GiB` |
| bandwidth | `B/s` or `bit/s`, with the same prefixes | `200 Gbit/s` |
| compute rate | `FLOP/s`, with the same prefixes | `312 TFLOP/s` |
| duration | `ns`, `us`, `ms`, `s`, `min`, `h`, `d` | `18.5 ms` |
| price | dollars an hour | `$2.10/h` |
| count | a plain number, or with a prefix | `300e9`, `300 G` |
"""
_INTRODUCTION = f"""# The fields of a scenario

*Generated from the schema by `make docs`; do not edit.*

A scenario is a YAML file: a model, a cluster, a plan that lays one over the other, and, where
wanted, a training run. Everything else has a default. `extends:` builds on files or entries of the
catalogue (`pipetwin scenario list`); mappings merge, later over earlier, and `null` takes a value
back to its default. Any field is set on the command line as `--set plan.micro_batch=2`.

```yaml
extends: [models/gpt3-1.3b, clusters/dgx-a100]
plan: {{pipeline: 4, tensor: 2, global_batch: 64}}
cluster: {{nodes: 1}}
```

`pipetwin scenario check FILE` tells every mistake of a file with its place, `pipetwin scenario show
FILE` every value with where it comes from, and `pipetwin scenario schema` prints a JSON Schema, by
which an editor completes and checks while you type.

## Quantities

A quantity is written with its unit; a bare number is refused, but for counts.
{_UNITS}
## Sections

A field in **bold** is needed wherever its section is written.
"""
_RULES = """
## Rules across fields

- The plan's devices are the cluster's: `tensor x pipeline x data = nodes x devices_per_node`.
- The batch comes out even: `global_batch` is a multiple of `data x micro_batch`.
- `heads` divides `hidden`; `tensor` divides `heads` and what else it shares out.
- `pipeline x chunks` stages divide `layers` evenly, unless `layers_per_stage` lists each stage's,
  which add up to `layers`.
- Interleaved schedules: `microbatches` is a multiple of `pipeline`.
- The tokens of a microbatch's slices add up to `sequence`; with `sequence_parallel` each is a
  multiple of `tensor`.
- `nics_per_node` divides `devices_per_node`.
- `cluster.device.matmul_peak` has the plan's precision.
- Given `costs`, model and cluster may be left out.

A plan that does not fit in memory is no mistake but a result, and is told as one.
"""
_EXITS = """
## Exit codes

| code | meaning |
|---|---|
| 0 | done; also where the answer is that a plan does not fit |
| 1 | a check that was asked for failed: `run --check`, `--max-error`, a broken `doctor` |
| 2 | bad input, told in a line with a value that would work |
| 3 | a rank of a run failed |
| 130 | interrupted; what was finished is kept |

The result is on standard output, progress and errors on standard error.
"""


def scenario_reference() -> str:
    """The page of a scenario's fields: a section for each mapping, a row for each field."""
    lines = [_INTRODUCTION.rstrip(), ""]
    sections = list(_sections(Scenario, "", "The scenario itself"))
    for _, owner, title in sections:
        short = " ".join(_prose(owner)).split(":")[0].split(";")[0].rstrip(".")
        lines.append(f"- [{title}](#{_anchor(title)}): {short}")
    lines.append("")
    for path, owner, title in sections:
        lines += [f"### {title}", "", *_prose(owner), ""]
        lines += ["| field | type | default | what it is |", "|---|---|---|---|"]
        lines += [_row(name, info) for name, info in _own(owner).items()]
        example = _example(path, owner)
        lines += ["", *(["```yaml", *example, "```", ""] if example else [])]
    return "\n".join(lines).rstrip() + "\n" + _RULES


def _own(owner: Any) -> dict[str, FieldInfo]:
    found: dict[str, FieldInfo] = owner.__pydantic_fields__
    return found


def _sections(owner: Any, path: str, title: str) -> Iterator[tuple[str, Any, str]]:
    yield path, owner, title
    for name, info in _own(owner).items():
        inner, item = _owner_of(info.annotation)
        if inner is not None:
            below = f"{path}.{name}" if path else name
            yield from _sections(inner, below + item, f"{below}{item}")


def _owner_of(annotation: Any) -> tuple[Any, str]:
    """The class of a field that is a mapping, or of its items: with what stands for an item."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return annotation, ""
    origin = typing.get_origin(annotation)
    for argument in typing.get_args(annotation):
        found, item = _owner_of(argument)
        if found is not None:
            return found, {dict: ".N", tuple: "[]"}.get(origin, "") + item
    return None, ""


def _anchor(title: str) -> str:
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def _prose(owner: Any) -> list[str]:
    text = inspect.getdoc(owner) or ""
    return text.splitlines()


def _row(name: str, info: FieldInfo) -> str:
    shown = f"**`{name}`**" if info.is_required() else f"`{name}`"
    what = " ".join((info.description or "").split())
    cells = (shown, _type(info.annotation, list(info.metadata)), _default(info), what)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(annotation: Any, metadata: list[Any]) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0], [*metadata, *arguments[1:]])
    if origin in (typing.Union, types.UnionType):
        kinds = [_type(each, metadata) for each in arguments if each is not type(None)]
        return " or ".join(dict.fromkeys(kinds))
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    parser = next((item.parse for item in metadata if isinstance(item, Reader)), None)
    if parser in _QUANTITIES:
        return f"{_QUANTITIES[parser][0]}{_bounds(metadata)}"
    if dataclasses.is_dataclass(annotation):
        return "mapping"
    if origin is dict:
        return f"mapping of {_type(arguments[0], [])} to {_type(arguments[1], [])}"
    if origin is tuple:
        return f"list of {_type(arguments[0], [])}"
    return f"{_PLAIN.get(annotation, 'any value')}{_bounds(metadata)}"


def _bounds(metadata: list[Any]) -> str:
    found: list[str] = []
    for item in metadata:
        for part in getattr(item, "metadata", [item]):
            for kind, name, sign in _BOUNDS:
                if isinstance(part, kind):
                    found.append(f"{sign} {getattr(part, name):g}")
    return f" {', '.join(found)}" if found else ""


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "needed"
    value = info.default
    if value is PydanticUndefined:
        return "its own defaults"
    if value is None:
        return "derived" if "unless given" in (info.description or "") else ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    for item in info.metadata:
        if isinstance(item, Reader) and item.parse in _QUANTITIES:
            return f"`{_QUANTITIES[item.parse][1](value)}`"
    if isinstance(value, float):
        return f"`{value:.4g}`"
    return f"`{value}`" if value != "" else ""


def _example(path: str, owner: Any) -> list[str]:
    """The fields that a section needs, or else its first two, with values that work."""
    if "." in path and (path.endswith(".N") or "[]" in path):
        return []
    needed = [name for name, info in _own(owner).items() if info.is_required()]
    names = needed or list(_own(owner))[:2]
    if not path:
        return []
    lines, indent = [], ""
    for part in path.split("."):
        lines.append(f"{indent}{part}:")
        indent += "  "
    for name in names:
        found = fields.lookup((*path.split("."), name))
        if found is not None and "..." not in found.example:
            lines.append(f"{indent}{name}: {found.example}")
    return lines


def command_reference(app: Any) -> str:
    """The page of the commands: of each its help, arguments, options, examples and JSON."""
    from cyclopts import App

    assert isinstance(app, App)
    lines = [
        "# The command line",
        "",
        "*Generated from the commands by `make docs`; do not edit.*",
        "",
        "`pipetwin CMD --help` says the same in a terminal; `pipetwin completion --install` has "
        "the shell complete it.",
        "",
    ]
    for aim, words in AIMS.items():
        lines += [f"**{aim}.** {words}", "", "| command | what it does |", "|---|---|"]
        for lesson in LESSONS:
            command = _find(app, lesson.command)
            if lesson.aim == aim and command is not None:
                link = f"[`{lesson.command}`](#pipetwin-{lesson.command.replace(' ', '-')})"
                lines.append(f"| {link} | {_first(command)} |")
        lines.append("")
    lines += [_EXITS.strip(), ""]
    for lesson in LESSONS:
        command = _find(app, lesson.command)
        if command is None:
            continue
        level = "###" if lesson.aim is None else "##"
        lines += [f"{level} pipetwin {lesson.command}", "", *_help(command), ""]
        rows = list(_options(command))
        if rows:
            lines += [
                "| argument or option | value | default | what it does |",
                "|---|---|---|---|",
            ]
            lines += [*rows, ""]
        if lesson.aim is None or command.default_command is not None:
            lines += ["```sh", *(f"pipetwin {line}" for line in lesson.examples), "```", ""]
        if lesson.command in KEYS:
            lines += ["With `--json`, among others:", "", "| key | what it is |", "|---|---|"]
            keys = KEYS[lesson.command].items()
            lines += [*(f"| `{key}` | {words} |" for key, words in keys), ""]
    return "\n".join(lines).rstrip() + "\n"


def _find(app: Any, name: str) -> Any:
    for part in name.split():
        if part not in tuple(app):
            return None
        app = app[part]
    return app


def _help(command: Any) -> list[str]:
    """The docstring without its parameters."""
    function = command.default_command
    text = inspect.getdoc(function) if function is not None else command.help
    head = (text or "").split("\nParameters\n---")[0].rstrip()
    return head.splitlines()


def _first(command: Any) -> str:
    return " ".join(_help(command)).split(". ")[0].rstrip(".") + "."


def _options(command: Any) -> Iterator[str]:
    if command.default_command is None:
        return
    for argument in command.assemble_argument_collection(parse_docstring=True):
        parameter = argument.parameter
        names = [n for n in argument.names if n.startswith("-")] or [
            str(argument.names[0]).upper() if argument.names else argument.field_info.name.upper()
        ]
        choices = argument.get_choices() or ()
        flag = argument.hint is bool
        value = ", ".join(f"`{choice}`" for choice in choices) or (
            "" if flag else _value(argument.hint)
        )
        default = argument.field_info.default
        shown = "" if default in (None, False, "", inspect.Parameter.empty) else f"`{default}`"
        if argument.required:
            shown = "needed"
        what = " ".join((parameter.help or "").split())
        cells = (", ".join(f"`{name}`" for name in names), value, shown, what)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _value(hint: Any) -> str:
    arguments = [each for each in typing.get_args(hint) if each is not type(None)]
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return _value(arguments[0])
    if origin in (list, tuple):
        return f"{_value(arguments[0])}, repeated"
    return {Path: "file", int: "whole number", float: "number", str: "text"}.get(hint, "text")


def pages(app: Any) -> dict[str, str]:
    """The text of each page by its file's name."""
    return {"scenario.md": scenario_reference(), "command-line.md": command_reference(app)}
