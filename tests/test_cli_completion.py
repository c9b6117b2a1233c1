"""Completion as shells do it: bash's own function and readline; zsh and fish where installed."""

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipetwin import app, run_command_line
from reports.commands.completing import Shell, script

BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{BIN}:{os.environ['PATH']}",
    "TERM": "dumb",
    "INPUTRC": "/dev/null",
    "HISTFILE": "",
}
pytestmark = pytest.mark.skipif(
    not (BIN / "pipetwin").exists(), reason="the command is not installed beside this Python"
)


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    shells: tuple[Shell, ...] = ("bash", "zsh", "fish")
    for shell in shells:
        (folder / f"pipetwin.{shell}").write_text(script(app, shell))
    return folder


WORDS = (
    (("pipetwin", "simu"), {"simulate"}),
    (("pipetwin", "simulate", "megatron/175b-"), {"megatron/175b-run"}),
    (("pipetwin", "simulate", "local-tp2-pp2-"), {"local-tp2-pp2-dp2"}),
    (("pipetwin", "simulate", "published/ptdp.table1/1t"), {"published/ptdp.table1/1t"}),
    (("pipetwin", "simulate", "x", "--engine", "comp"), {"compiled"}),
    (("pipetwin", "simulate", "x", "--forc"), {"--force"}),
    (("pipetwin", "simulate", "x", "--profile", "v1"), {"v100-16gb"}),
    (("pipetwin", "simulate", "x", "--set", "plan.micro_b"), {"plan.micro_batch="}),
    (("pipetwin", "simulate", "x", "--set", "cluster.device.ef"), {"cluster.device.efficiency."}),
    (("pipetwin", "simulate", "x", "--set", "plan.schedule", "=", "1"), {"1f1b"}),
    (("pipetwin", "run", "local-terapipe", ":", "unif"), {"uniform"}),
    (("pipetwin", "plan", "gpt3-1.3"), {"gpt3-1.3b"}),
    (("pipetwin", "plan", "x", "--cluster", "a100-8"), {"a100-80gb"}),
    (("pipetwin", "plan", "x", "--only", "p2p", "=", "bl"), {"blocking"}),
    (("pipetwin", "schedule", "show", "interl"), {"interleaved"}),
    (("pipetwin", "validate", "--published", "ptdp.fig7,ptdp.table1"), {"ptdp.fig7,ptdp.table1"}),
    (("pipetwin", "simulate", "mine/my"), {"mine/my-model.yaml"}),
)


def test_bash_completes_commands_names_fields_and_values(scripts: Path) -> None:
    """One bash; for each line its words as readline breaks them, `=` and `:` apart."""
    (scripts / "mine").mkdir()
    (scripts / "mine" / "my-model.yaml").touch()
    asked = "".join(
        f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; "
        'COMPREPLY=(); _pipetwin_whole; echo "${COMPREPLY[*]}"\n'
        for words, _ in WORDS
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", f"source {scripts}/pipetwin.bash\n{asked}"],
        env=ENVIRONMENT,
        cwd=scripts,
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = [set(line.split()) for line in done.stdout.splitlines()]
    assert found == [wanted for _, wanted in WORDS], done.stderr


class Typist:
    """A shell on a terminal, typed to."""

    def __init__(self, command: list[str]) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, ENVIRONMENT)

    def type(self, text: str, until: str, seconds: float = 30) -> bool:
        """Whether the terminal shows what is waited for, after the text is typed."""
        os.write(self.terminal, text.encode())
        seen, end = "", time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([self.terminal], [], [], 0.1)[0]:
                seen += os.read(self.terminal, 65536).decode(errors="replace")
                if until in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen):
                    return True
        return False

    def end(self) -> None:
        os.close(self.terminal)
        os.waitpid(self.pid, 0)


@pytest.mark.parametrize(
    ("shell", "command", "begin"),
    [
        ("bash", ["bash", "--norc", "--noprofile", "-i"], "source {0}/pipetwin.bash"),
        (
            "zsh",
            ["zsh", "-f", "-i"],
            "autoload -Uz compinit; compinit -u -D; source {0}/pipetwin.zsh",
        ),
        ("fish", ["fish", "--no-config", "-i"], "source {0}/pipetwin.fish"),
    ],
)
def test_a_field_and_its_value_are_typed_with_two_tabs(
    scripts: Path, shell: str, command: list[str], begin: str
) -> None:
    """No space comes after the field's `=`, so that the value can follow at once."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    typist = Typist(command)
    try:
        typist.type(begin.format(scripts) + "; echo re'a'dy2\n", "ready2")
        assert typist.type(
            "pipetwin simulate x --set plan.gradient_red\t", "plan.gradient_reduction="
        )
        assert typist.type("over\t", "overlapped")
    finally:
        typist.end()


def test_a_script_is_installed_where_the_shell_looks(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert run_command_line(["completion", "--install"]) == 0
    written = tmp_path / ".config/fish/completions/pipetwin.fish"
    assert written.read_text() == script(app, "fish")
    assert run_command_line(["completion", "--install"]) == 2
    assert "--force" in capsys.readouterr().err
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert run_command_line(["completion"]) == 2
    assert "tcsh" in capsys.readouterr().err
