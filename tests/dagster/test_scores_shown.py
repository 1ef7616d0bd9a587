"""A classifier's scores where people look: checks, events, status, `pugc show pair` and the report say nothing of votes
from 1 to 5, and nothing false."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner

from pugc_core.plan import Chain
from pugc_core.recipe import load
from pugc_core.results import summary
from pugc_dagster import cli, reports
from pugc_dagster.project import recipe_folders
from pugc_dagster.runs import execute

RECIPE = """
extends = "scripted"
[models.rm]
id = "rm"
engine = "scripted"
kind = "classifier"
[roles]
reward_judge = "rm"
[rewards]
prompt = "default"
"""


def pugc(*arguments: str) -> str:
    result = CliRunner().invoke(cli.main, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_scores_are_shown_for_what_they_are(project: Path, posts: Callable[..., Path]) -> None:
    (project / "recipes" / "scored.toml").write_text(RECIPE)
    chain = Chain(load("scored", recipe_folders()), execute.workspace())
    with execute.instance() as instance:
        execute.ingest(instance, chain.workspace, [str(posts("a", 20)), str(posts("b", 20))])
        execute.run(instance, chain, to="dataset")

        def metadata(name: str) -> dict[str, Any]:
            event = instance.get_latest_materialization_event(dg.AssetKey(["scored", name]))
            assert event is not None
            assert event.asset_materialization is not None
            return {name: value.value for name, value in event.asset_materialization.metadata.items()}

        shown = metadata("rewards")
        for name in ("parse_rate", "votes_complete"):
            check = dg.AssetCheckKey(dg.AssetKey(["scored", "rewards"]), name)
            (record,) = instance.event_log_storage.get_asset_check_execution_history(check, limit=1)
            assert record.event is not None
            assert record.event.asset_check_evaluation is not None
            assert record.event.asset_check_evaluation.passed, record.event.asset_check_evaluation.description
        assert "data:image/png;base64," in metadata("dataset")["plots"]
    rewards = summary.rows(chain.tables, "rewards")["reward"]
    assert min(rewards) < 0
    assert shown["distribution"].startswith(f"{len(rewards)} responses, mean {rewards.mean():.2f}, ")
    assert "band" not in shown["distribution"]
    assert shown["run/reward_mean"] == pytest.approx(rewards.mean(), abs=1e-4)
    status = pugc("status", "--recipe", "scored")
    assert f"rewards of {len(rewards)} answers: mean {rewards.mean():.2f}" in status
    assert "fullest bin" not in status
    row = summary.rows(chain.tables, "pairs").filter("keep").row(0, named=True)
    pair = pugc("show", "pair", row["pair_id"], "--recipe", "scored")
    assert f"reward {row['chosen_reward']:.2f}" in pair
    assert "vote" not in pair
    behind = json.loads(pugc("show", "pair", row["pair_id"], "--recipe", "scored", "--json"))
    assert {len(response["votes"]) for response in behind["responses"]} == {1}
    page = Path(reports.write(chain)).read_text(encoding="utf-8")
    assert "disagreement of the votes" not in page
    assert "fullest half point" not in page
    assert "score of the reward model" in page
