"""The house keeps its floors: a room imports only from its own floor and from those below it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = [
    ["scenarios"],
    ["sim.schedule"],
    ["sim.workload"],
    ["sim.cost"],
    ["sim.timeline"],
    ["sim.engine"],
    ["sim.planner", "sim.elastic"],
    ["sim"],
    ["executor", "reports"],
    ["reports.terminal", "reports.pages"],
    ["reports.commands"],
    ["pipetwin"],
]
FORBIDDEN = {
    "scenarios": {"torch", "plotly", "simpy"},
    "sim": {"torch", "plotly", "executor", "reports"},
    "executor": {"simpy", "reports", "plotly"},
    "reports": {"executor", "simpy"},
}
MODULES = sorted(
    path
    for folder in ("scenarios", "sim", "executor", "reports")
    for path in (ROOT / folder).rglob("*.py")
)


def floor_of(module: str) -> int:
    best, found = -1, -1
    for number, rooms in enumerate(FLOORS):
        for room in rooms:
            if (module == room or module.startswith(room + ".")) and len(room) > best:
                best, found = len(room), number
    return found


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
    return found


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_there_is_a_house() -> None:
    assert len(MODULES) > 50


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path: Path) -> None:
    module = name_of(path)
    here = floor_of(module)
    for imported in imports_of(path):
        there = floor_of(imported)
        assert there <= here, f"{module} (floor {here}) imports {imported} (floor {there})"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_forbidden_libraries(path: Path) -> None:
    module = name_of(path)
    for imported in imports_of(path):
        top = imported.split(".")[0]
        assert top not in FORBIDDEN[module.split(".")[0]], f"{module} imports {imported}"


def test_simulating_imports_no_torch() -> None:
    code = (
        "import sys; from scenarios.loader import load; from sim.prediction import predict; "
        "predict(load('local-2rank').scenario); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'plotly', 'scipy', 'executor')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def limit(path: Path) -> int:
    """The front door holds every command's options and help, a short function each."""
    return 600 if path.name == "pipetwin.py" else 450


def test_modules_stay_one_screen_of_explanation() -> None:
    long = {
        name_of(path): lines
        for path in [*MODULES, ROOT / "pipetwin.py"]
        if (lines := len(path.read_text().splitlines())) > limit(path)
    }
    assert not long, f"split these: {long}"


def test_modules_of_tests_have_names_of_their_own() -> None:
    # Tests are no packages: of two modules with one name, pytest imports the first alone.
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert not {name for name in names if names.count(name) > 1}
