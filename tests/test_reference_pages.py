"""The reference: generated pages are current, every field has words, every command has lines to
try, and what is said of `--json` is in it."""

import json
import shlex
from pathlib import Path

import pytest

from pipetwin import app, run_command_line
from reports.commands.json_keys import KEYS
from reports.commands.reference import pages
from reports.commands.teaching import LESSONS, SYNONYMS
from scenarios import fields
from scenarios.loader import load

ROOT = Path(__file__).resolve().parent.parent
PAGES = pages(app)


def commands() -> list[str]:
    """The commands there are, those of `scenario` and `schedule` behind their names."""
    found = []
    for name in app:
        if name.startswith("-"):
            continue
        inner = [other for other in app[name] if not other.startswith("-")]
        found += [name, *(f"{name} {other}" for other in inner)]
    return found


@pytest.mark.parametrize("name", PAGES)
def test_the_committed_pages_are_current(name: str) -> None:
    """`make docs` writes them."""
    assert (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8") == PAGES[name]


def test_every_field_has_words_and_a_row() -> None:
    wordless = []
    for path in fields.all_paths():
        found = fields.lookup(tuple(path.split(".")))
        assert found is not None
        if len(found.description) < 8:
            wordless.append(path)
        assert f"`{found.name}`" in PAGES["scenario.md"]
    assert not wordless


def test_links_of_the_pages_lead_to_their_headings() -> None:
    for text in PAGES.values():
        titles = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
        headings = {
            "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")
            for title in titles
        }
        links = [part.split(")")[0] for part in text.split("](#")[1:]]
        assert links and set(links) <= headings


def test_the_first_example_of_a_scenario_is_right(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(PAGES["scenario.md"].split("```yaml\n")[1].split("```")[0])
    assert load(path).scenario.plan.pipeline == 4


def test_every_command_has_a_group_and_lines_that_parse() -> None:
    lessons = {lesson.command: lesson for lesson in LESSONS}
    assert len(commands()) > 15
    for command in commands():
        lesson = lessons[command]
        assert (lesson.aim is None) == (" " in command)
        for line in lesson.examples:
            assert len(f" pipetwin {line} ") <= 80
            tokens = shlex.split(line.partition(" > ")[0])
            app.parse_args(tokens, exit_on_error=False, print_error=False)
            assert f"pipetwin {line}" in PAGES["command-line.md"] or command in (
                "scenario",
                "schedule",
            )
    assert set(SYNONYMS) <= set(lessons)
    assert not {word for words in SYNONYMS.values() for word in words} & set(commands())


@pytest.mark.parametrize("command", commands())
@pytest.mark.parametrize("width", [80, 120])
def test_help_fits_and_says_each_option_in_few_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert run_command_line([*command.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    if " " in command or app[command].default_command is not None:
        assert "Examples" in out
    option, lines = "", dict[str, int]()
    for line in out.splitlines():
        if line.startswith("│") and (words := line.strip("│* ").split()):
            option = words[0] if words[0].startswith("--") and words[0] != option else option
            lines[option] = lines.get(option, 0) + 1
        else:
            option = ""
    lines.pop("", None)
    assert all(count <= (3 if width == 120 else 5) for count in lines.values()), lines


def test_what_is_said_of_json_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    for command, line in {
        "simulate": "simulate megatron/175b-run",
        "scenario list": "scenario list",
        "schedule check": "schedule check 1f1b",
        "compare": "compare local-2rank local-2rank-gpipe",
    }.items():
        assert run_command_line([*line.split(), "--json"]) == 0
        found = set(json.loads(capsys.readouterr().out))
        assert set(KEYS[command]) - {"what_if"} <= found, command
