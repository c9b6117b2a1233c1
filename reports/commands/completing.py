"""What a shell offers while a command is typed: names of the catalogue, fields and their values.

Each function takes what cyclopts knows of the word being typed and returns (candidate, what it is)
pairs; nothing heavier than what the candidates need is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.completion import CompletionContext

Shell = Literal["bash", "zsh", "fish"]
Candidates = list[tuple[str, str]]


def scenarios(context: CompletionContext) -> Candidates:
    """Scenarios of the catalogue, and YAML files; a published table's rows once it is typed, and a
    scenario's variants once its colon is."""
    if ":" in context.incomplete:
        return _variants(context.incomplete.partition(":")[0])
    return [
        *_entries(("scenario",), context.incomplete),
        *_rows(context.incomplete),
        *_files(context, ".yaml", ".yml"),
    ]


def models(context: CompletionContext) -> Candidates:
    """What `plan` plans: models and scenarios of the catalogue, and YAML files."""
    return [
        *_entries(("model", "scenario"), context.incomplete),
        *_files(context, ".yaml", ".yml"),
    ]


def any_entry(context: CompletionContext) -> Candidates:
    """All of the catalogue, and YAML files."""
    kinds = ("scenario", "table", "model", "cluster", "device")
    return [
        *_entries(kinds, context.incomplete),
        *_rows(context.incomplete),
        *_files(context, ".yaml", ".yml"),
    ]


def hardware(context: CompletionContext) -> Candidates:
    """Clusters and devices of the catalogue, and YAML files."""
    return [
        *_entries(("cluster", "device"), context.incomplete, short=True),
        *_files(context, ".yaml", ".yml"),
    ]


def schedules(context: CompletionContext) -> Candidates:
    """Schedules by name, CSV files, and scenarios."""
    named = [(name, "schedule") for name in ("1f1b", "gpipe", "interleaved", "terapipe")]
    return [*named, *scenarios(context), *_files(context, ".csv")]


def published(context: CompletionContext) -> Candidates:
    """Published tables, the last of names with commas between them."""
    from scenarios.catalogue import run_tables, tables

    before, comma, _ = context.incomplete.rpartition(",")
    names = ("megatron", "terapipe", "pipetransformer", "all", *tables(), *run_tables())
    return [(f"{before}{comma}{name}", "published table") for name in names]


def profiles(context: CompletionContext) -> Candidates:
    """Profiles that come along, and YAML files."""
    from scenarios.catalogue import profiles as shipped

    found = [(name, "profile that comes along") for name in shipped()]
    return [*found, *_files(context, ".yaml", ".yml")]


def overrides(context: CompletionContext) -> Candidates:
    """Fields of a scenario, as `plan.micro_batch=`, section by section; after `=` their values."""
    from scenarios import fields
    from scenarios.validate import split

    name, equals, _ = context.incomplete.partition("=")
    if equals:
        field = fields.lookup(split(name))
        values = () if field is None else _values(field)
        return [(f"{name}={value}", "") for value in values]
    section, dot, _ = name.rpartition(".")
    path = split(section) if dot else ()
    found: Candidates = []
    for inner in fields.names_at(path) or ():
        field = fields.lookup((*path, inner))
        if field is not None:
            ending = "." if fields.names_at((*path, inner)) else "="
            found.append((f"{section}{dot}{inner}{ending}", field.description))
    return found


def varied(context: CompletionContext) -> Candidates:
    """Fields whose values a sweep goes through."""
    return overrides(context)


def plan_fields(context: CompletionContext) -> Candidates:
    """Fields of the plan that a search may be kept to, as `tensor=`, and their choices."""
    from scenarios import fields
    from scenarios.unplanned import NOT_SEARCHED

    name, equals, _ = context.incomplete.partition("=")
    found: Candidates = []
    for inner in fields.names_at(("plan",)) or ():
        field = fields.lookup(("plan", inner))
        if field is None or inner in NOT_SEARCHED:
            continue
        if not equals:
            found.append((f"{inner}=", field.description))
        elif inner == name:
            found += [(f"{name}={value}", "") for value in _values(field)]
    return found


def _values(field: object) -> Iterable[str]:
    choices: tuple[str, ...] = getattr(field, "choices", ())
    return ("true", "false") if getattr(field, "type", None) is bool else choices


def _entries(kinds: tuple[str, ...], incomplete: str, *, short: bool = False) -> Candidates:
    """Entries by their whole names, and by the last parts where one is typed; by these if short."""
    from scenarios.catalogue import full_name, kind_of, names

    found = [(name, str(kind_of(name))) for name in names() if kind_of(name) in kinds]
    last = [(name.rpartition("/")[2], kind) for name, kind in found]
    typed = bool(incomplete) and "/" not in incomplete
    brief = [pair for pair in last if full_name(pair[0]) in names()] if typed or short else []
    return brief if short else [*found, *brief]


def _variants(name: str) -> Candidates:
    from scenarios.compose import compose
    from scenarios.errors import ScenarioError

    try:
        return [(f"{name}:{variant}", "variant") for variant in compose(name).variants]
    except ScenarioError:
        return []


def _rows(incomplete: str) -> Candidates:
    from scenarios.catalogue import table, tables

    table_id, slash, _ = incomplete.removeprefix("published/").partition("/")
    if not incomplete.startswith("published/"):
        return [("published/", "rows of published tables")]
    if not slash:
        return [(f"published/{name}/", "published table") for name in tables()]
    if table_id not in tables():
        return []
    return [(f"published/{table_id}/{row.name}", "row") for row in table(table_id)[1]]


def _files(context: CompletionContext, *endings: str) -> Candidates:
    """Folders and files of these endings below what is typed."""
    folder, slash, start = context.incomplete.rpartition("/")
    found: Candidates = []
    try:
        for path in sorted(Path(folder or slash or ".").iterdir()):
            if not path.name.startswith(start) or path.name.startswith("."):
                continue
            if path.is_dir() and start:
                found.append((f"{folder}{slash}{path.name}/", "folder"))
            elif path.suffix in endings:
                found.append((f"{folder}{slash}{path.name}", "file"))
    except OSError:
        return []
    return found


_ZSH = "compadd -d _cyc_disp -a _cyc_vals"
_ZSH_OPEN = r"""{
      # No space after what is to be continued.
      if (( ${#${(M)_cyc_vals:#*[=.\/]}} )); then
        compadd -S '' -d _cyc_disp -a _cyc_vals
      else
        compadd -d _cyc_disp -a _cyc_vals
      fi
    }"""
_ZSH_END = """
# Both as a file `_pipetwin` of $fpath, whose first use calls it, and where it is sourced.
(( $+functions[compdef] )) && compdef _pipetwin pipetwin
[[ $funcstack[1] == _pipetwin ]] && _pipetwin "$@"
return 0
"""
_BASH = """
# `=` and `:` break words for readline: put field=value together again before completing it, and
# hand back only what follows the last of them; no space after what is to be continued.
_pipetwin_whole() {
  local -a _words=() ; local _i _at=0 _glued=0 _word
  for ((_i=0; _i<=COMP_CWORD; _i++)); do
    _word="${COMP_WORDS[_i]}"
    [[ $_word == [=:]* ]] && ((_i > 1)) && [[ "${_words[_at-1]}" != -* ]] && _glued=1
    if ((_glued)); then
      _words[_at-1]+="$_word"
    else
      _words[_at++]="$_word"
    fi
    _glued=0; [[ $_word == *[=:] && "${_words[_at-1]}" != -* ]] && _glued=1
  done
  local _cur="${_words[_at-1]}"
  local -a COMP_WORDS=("${_words[@]}"); local COMP_CWORD=$((_at-1))
  _FUNCTION
  local _head="" _all_open=1
  [[ $_cur == *[=:]* ]] && _head="${_cur%"${_cur##*[=:]}"}"
  for _i in "${!COMPREPLY[@]}"; do
    _word="${COMPREPLY[_i]//\\\\,/,}"
    [[ $_word == *[=./] ]] || _all_open=0
    COMPREPLY[_i]="${_word#"$_head"}"
  done
  ((_all_open)) && compopt -o nospace 2>/dev/null
  return 0
}
complete -F _pipetwin_whole pipetwin
"""


def script(app: App, shell: Shell) -> str:
    """The text that teaches a shell to complete `pipetwin`, to be sourced by it."""
    text = app.generate_completion(prog_name="pipetwin", shell=shell)
    if shell == "zsh":
        text = text.replace("_cyclopts_pipetwin", "_pipetwin").replace(_ZSH, _ZSH_OPEN)
        return f"{text.rstrip()}\n{_ZSH_END}"
    if shell == "fish":
        return text
    line = next(line for line in text.splitlines() if line.startswith("complete -F "))
    function = line.split()[2]
    return text.replace(line, _BASH.replace("_FUNCTION", function).strip())


_PLACES: dict[Shell, str] = {
    "bash": "~/.local/share/bash-completion/completions/pipetwin",
    "zsh": "~/.zsh/completions/_pipetwin",
    "fish": "~/.config/fish/completions/pipetwin.fish",
}
"""Where each shell looks for completions of a user's own (zsh: where many have it look)."""
_THEN: dict[Shell, str] = {
    "bash": "new shells complete pipetwin where bash-completion is installed; else add to "
    "~/.bashrc: source {path}",
    "zsh": "add to ~/.zshrc, before compinit: fpath=({folder} $fpath)",
    "fish": "new shells complete pipetwin",
}


def complete(app: App, shell: Shell | None, *, install: bool, force: bool) -> int:
    """Print a shell's script, or write it where the shell looks for it; the exit code.

    shell: the one of $SHELL unless given.
    Raises InputError where that is none of the three, or the file exists already.
    """
    named = shell or Path(os.environ.get("SHELL", "")).name
    found: Shell | None = next((known for known in get_args(Shell) if known == named), None)
    if found is None:
        from reports.commands.files import InputError

        raise InputError(
            f"$SHELL is `{named}`: say for which shell, as `pipetwin completion bash`, zsh or fish"
        )
    if not install:
        sys.stdout.write(script(app, found))
        return 0
    from reports.terminal import console
    from scenarios.writing import write_whole

    path = Path(_PLACES[found]).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, script(app, found), force=force)
    console.wrote((path,), as_json=False)
    console.show_text(_THEN[found].format(path=path, folder=path.parent))
    return 0
