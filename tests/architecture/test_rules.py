"""Rules that hold the project in shape."""

from __future__ import annotations

import ast
import importlib
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from pugc_core.stages import CHAIN, STAGES
from pugc_core.stages.base import Asking

ROOT = Path(__file__).parent.parent.parent
CORE = sorted((ROOT / "pugc_core").rglob("*.py"))
MODULES = [*CORE, *sorted((ROOT / "pugc_dagster").rglob("*.py"))]
HEAVY = {"torch", "vllm", "transformers", "trl"}


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Packages a module imports; with `top_level`, only those it imports whenever it is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_core_does_not_know_dagster() -> None:
    forbidden = {"dagster", "dagster_pipes", "pugc_dagster"}
    assert {str(path): found for path in CORE if (found := imports(path) & forbidden)} == {}


def test_nothing_that_runs_needs_the_scripts_that_made_the_models() -> None:
    assert [str(path) for path in MODULES if "pugc_bundled" in imports(path)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(path: Path) -> None:
    """No test runs them, so nothing else notices a module that has moved."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pugc_"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


def test_modules_are_small() -> None:
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {path: lines for path, lines in lengths.items() if lines > 400} == {}


def test_most_modules_are_very_small() -> None:
    assert statistics.median(len(p.read_text(encoding="utf-8").splitlines()) for p in MODULES) < 120


@pytest.mark.parametrize(
    "code",
    [
        "import pugc_core",
        "import pugc_core.recipe, pugc_core.tables.stage_run",
        "import pugc_dagster.definitions as d; d.of(d.chains())",
    ],
)
def test_nothing_heavy_is_imported_before_a_model_is_needed(code: str, tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text("")
    check = f"{code}\nimport sys\nprint(sorted({HEAVY!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_readme_lists_the_stages_in_run_order() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", readme, flags=re.MULTILINE) == list(CHAIN)


def test_a_stage_is_one_noun_everywhere() -> None:
    asking = [name for name, stage in STAGES.items() if issubclass(stage, Asking)]
    places = ("pugc_core/stages/{}.py", "pugc_core/prompts/{}.py", "tests/core/test_{}.py")
    wanted = [place.format(stage) for stage in asking for place in places]
    assert [path for path in wanted if not (ROOT / path).is_file()] == []
