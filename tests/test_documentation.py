"""Every command of the documentation is run, in order, and the output shown is compared with its.

Blocks of a Markdown file: ```sh is run by bash in a directory of the file's own; ```yaml NAME (any
language with a name after it) is a file, written there; each line of a ```text block must be in
what the ```sh block before it printed. `<!-- run: with ARGUMENTS -->` before a block adds
arguments to its commands, so that long runs are short here; `<!-- run: where PROGRAM -->` runs it
only where there is that program.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "reference"),
]
_BLOCK = re.compile(
    r"^(?:<!-- run: (?P<how>with|where) (?P<more>[^\n]*?) -->\n)?"
    r"```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[^)\s]*)?\)")
_SRUN = """#!/bin/sh
# One task, as `srun` starts on one node.
exec "$@"
"""
_SCONTROL = """#!/bin/sh
echo 127.0.0.1
"""


class Block(NamedTuple):
    line: int
    language: str
    name: str
    body: str
    more: str
    needs: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        language, _, name = match["info"].strip().partition(" ")
        line = text.count("\n", 0, match.start()) + 1
        more = {match["how"]: match["more"]}
        yield Block(
            line, language, name.strip(), match["body"], more.get("with", ""), more.get("where", "")
        )


def with_more(body: str, more: str) -> str:
    """The commands with arguments added to each, before its comment."""
    if not more:
        return body
    lines = body.splitlines()
    return "\n".join(re.sub(r"(\s+#.*)?$", rf" {more}\1", line, count=1) for line in lines)


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory to work in, with a `.venv/bin/pipetwin` as the set-up makes it."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, text in (
        ("pipetwin", f"#!{sys.executable}\nimport pipetwin\n\npipetwin.main()\n"),
        ("torchrun", f'#!/bin/sh\nexec "{sys.executable}" -m torch.distributed.run "$@"\n'),
        ("srun", _SRUN),
        ("scontrol", _SCONTROL),
    ):
        program = programs / name
        program.write_text(text)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def environment(place: Path) -> dict[str, str]:
    found = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "COLUMNS"))}
    path = f"{place / '.venv' / 'bin'}{os.pathsep}{found['PATH']}"
    return {**found, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_commands_run_and_print_what_is_shown(page: Path, place: Path) -> None:
    printed = None
    for block in blocks(page):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        if block.name:
            (place / block.name).write_text(block.body, encoding="utf-8")
        elif block.language == "sh" and (not block.needs or shutil.which(block.needs)):
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", with_more(block.body, block.more)],
                cwd=place,
                env=environment(place),
                capture_output=True,
                text=True,
                timeout=600,
            )
            assert done.returncode == 0, f"{where}: {done.stderr[-2000:]}\n{done.stdout[-1000:]}"
            printed = squeezed(done.stdout)
        elif block.language == "text":
            assert printed is not None, f"{where}: nothing was printed before"
            for line in block.body.splitlines():
                assert squeezed(line) in printed, f"{where}: {line}"


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("guide", "made"), [("how-to/calibrate.md", "slurm.yaml"), ("sweeps.md", "results.3.jsonl")]
)
def test_slurm_scripts_run(guide: str, made: str, place: Path) -> None:
    """The guides' batch scripts, on one node."""
    (script,) = (b for b in blocks(ROOT / "docs" / guide) if b.name.endswith(".sbatch"))
    (place / script.name).write_text(script.body)
    subprocess.run(["bash", "-n", script.name], cwd=place, check=True)
    job = {
        "SLURM_JOB_NODELIST": "here",
        "SLURM_NNODES": "1",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_CPUS_PER_TASK": "1",
    }
    done = subprocess.run(
        ["bash", script.name],
        cwd=place,
        env={**environment(place), **job},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (place / made).stat().st_size > 100


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, _ in _LINK.findall(page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), target


def test_arguments_are_added_before_comments() -> None:
    assert with_more("a b   # c\nd", "--e 1") == "a b --e 1   # c\nd --e 1"


def test_every_page_is_reached_from_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        name = str(page.relative_to(ROOT / "docs"))
        assert name == "README.md" or f"({name})" in index, name
