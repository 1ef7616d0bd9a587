"""`pugc sample` and `pugc chat`, as people type them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pugc_core.plan import Chain
from pugc_core.recipe import load
from pugc_core.tables.workspace import Workspace
from pugc_core.training import lineage
from pugc_dagster.cli import main
from pugc_dagster.project import recipe_folders
from pugc_dagster.runs import execute

SCRIPT = r"""[models.tiny.options]
script = { "Why?" = "Because \u001b]0;title\u0007\u001b[31mred\u001b[0m.", "And?" = "So." }
"""


def pugc(*words: str, code: int = 0, typed: str | None = None) -> Result:
    result = CliRunner().invoke(main, [*words, "--recipe", "mine"], input=typed)
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def workspace(project: Path) -> Workspace:
    """A project with the scripted recipe `mine`, of which DPO is trained and SimPO is not."""
    (project / "recipes" / "mine.toml").write_text(f'extends = "scripted"\n{SCRIPT}')
    found = execute.workspace()
    lineage.record(Chain(load("mine", recipe_folders()), found).policy("dpo"), {}, {})
    return found


def test_sample_prints_the_answers_of_start_and_trained(workspace: Workspace) -> None:
    assert pugc("sample", "Why?").output == "## start\nBecause red.\n\n## dpo\nBecause red.\n\n"
    assert pugc("sample", "Why?", "--policy", "dpo", "--draws", "2").output.count("## dpo") == 2
    found = json.loads(pugc("sample", "Why?", "--json").output)
    assert list(found["answers"]) == ["start", "dpo"]
    assert found["answers"]["dpo"][0]["finish_reason"] == "stop"
    assert "not trained yet" in pugc("sample", "Why?", "--policy", "simpo", code=1).output
    assert "no policy kto" in pugc("sample", "Why?", "--policy", "kto", code=1).output
    assert not Path(workspace.ledger).exists(), "a look at the answers is no data"


def test_chat_goes_on_until_the_input_ends(workspace: Workspace) -> None:
    output = pugc("chat", typed="Why?\n/new\nAnd?\n").output
    assert output.count("Because red.") == output.count("So.") == 2
