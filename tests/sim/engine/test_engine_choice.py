"""Which engine runs, what is said where numba is missing, and where compiled code is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scenarios.loader import load
from sim.cost.costs import ActionCosts
from sim.draws import drawn_iterations
from sim.engine.choice import MANY_ACTIONS, choose, iterations, num_actions, run
from sim.prediction import predict, summary
from sim.schedule.generators import gpipe
from sim.schedule.lowering import lower

ROOT = Path(__file__).resolve().parents[3]
SMALL = lower(gpipe(2, 4))
LARGE = lower(gpipe(8, 1 + MANY_ACTIONS // 8 // 4))


def test_large_programs_are_compiled() -> None:
    assert num_actions(LARGE) > MANY_ACTIONS > 100 > num_actions(SMALL)
    assert choose(SMALL).engine == "simpy"
    assert choose(LARGE).engine == "compiled"
    assert choose(SMALL, times=1000).engine == "compiled"
    assert choose(LARGE, "simpy").engine == "simpy"
    assert choose(SMALL, "compiled").engine == "compiled"
    costs = ActionCosts(durations={})
    assert [run(p, costs)[1].engine for p in (SMALL, LARGE)] == ["simpy", "compiled"]
    assert all(run(p, costs)[1].note is None for p in (SMALL, LARGE))


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_numba_simpy_simulates_and_says_so() -> None:
    """With a numba that fails as an old one does beside a newer numpy."""
    code = """
import sys
class Old:
    def find_spec(self, name, *rest):
        if name == "numba":
            raise ImportError("Numba needs NumPy 1.26 or less")
sys.meta_path.insert(0, Old())
from scenarios.loader import load
from sim.prediction import predict, summary
found = predict(load("local-2rank").scenario, engine="compiled")
print(found.engine, found.note)
print(summary(found)["engine"], found.iteration_ns)
"""
    engine, iteration = python(code).splitlines()
    assert engine.startswith("simpy numba cannot be imported (ImportError: Numba needs NumPy 1.26")
    expected = predict(load("local-2rank").scenario, engine="simpy")
    assert expected.note is None
    assert iteration == f"simpy {expected.iteration_ns}"


def test_small_programs_do_not_load_numba() -> None:
    code = """
import sys
from scenarios.loader import load
from sim.prediction import predict
predict(load("local-2rank").scenario)
print("numba" in sys.modules)
"""
    assert python(code).strip() == "False"


@pytest.mark.parametrize("name", ["local-2rank", "local-2rank-gpipe"])
def test_a_prediction_is_the_same_in_either_engine(name: str) -> None:
    scenario = load(name).scenario
    ours, theirs = predict(scenario, engine="compiled"), predict(scenario, engine="simpy")
    assert ours.figures == theirs.figures
    assert ours.memory == theirs.memory
    mine, other = summary(ours), summary(theirs)
    assert (mine.pop("engine"), other.pop("engine")) == ("compiled", "simpy")
    assert mine == other


@pytest.mark.parametrize("name", ["local-2rank", "local-2rank-gpipe"])
def test_draws_are_the_same_in_either_engine(name: str) -> None:
    found = predict(load(name).scenario)
    ratios = (0.9, 1.0, 1.0, 1.3)
    times = {
        engine: drawn_iterations(found.program, found.costs, ratios, draws=5, seed=3, engine=engine)
        for engine in ("simpy", "compiled")
    }
    assert times["simpy"] == times["compiled"]
    assert len(set(times["simpy"])) == 5


def test_iterations_of_one_program_under_many_costs() -> None:
    base = ActionCosts(durations={})
    for engine in ("auto", "simpy", "compiled"):
        iteration_ns = iterations(SMALL, base, engine)  # type: ignore[arg-type]
        for duration in (1, 7, 2**62):
            costs = ActionCosts(durations=dict.fromkeys(SMALL.schedule.actions, duration))
            if engine == "compiled" and duration == 2**62:
                with pytest.raises(OverflowError):
                    iteration_ns(costs)
            else:
                assert iteration_ns(costs) == 10 * duration


def test_compiled_code_is_kept_where_the_installed_folder_cannot_be_written_to(
    tmp_path: Path,
) -> None:
    """A plain file stands where numba would make its folder; then it keeps code in the user's."""
    installed, home = tmp_path / "installed", tmp_path / "home"
    installed.mkdir()
    home.mkdir()
    (installed / "__pycache__").write_text("not a folder")
    (installed / "kernel_for_cache.py").write_text(
        "from sim.schedule.compiling import compiled\n"
        "@compiled\n"
        "def double(x: int) -> int:\n"
        "    return 2 * x\n"
    )
    code = """
from kernel_for_cache import double
assert double(21) == 42
print(sum(double.stats.cache_hits.values()))
"""
    found = [
        python(
            code,
            PYTHONPATH=f"{installed}{os.pathsep}{ROOT}",
            HOME=str(home),
            XDG_CACHE_HOME=str(home / ".cache"),
            PYTHONDONTWRITEBYTECODE="1",
        ).strip()
        for _ in range(2)
    ]
    assert found == ["0", "1"]
    assert list(home.rglob("*.nbc"))
