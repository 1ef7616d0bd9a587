"""A recipe with rounds in Dagster: its assets, and a run that goes through the rounds."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG as END
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_START_TAG as START

from pugc_core import run
from pugc_core.errors import TrainingError
from pugc_core.plan import Chain
from pugc_core.recipe import load
from pugc_core.tables.staleness import survey
from pugc_dagster import definitions
from pugc_dagster.project import recipe_folders
from pugc_dagster.runs import execute
from pugc_dagster.runs.execute import ingest
from pugc_dagster.web import automation

ROUNDS = """extends = "scripted"
[ugc]
max_chars = 2600
[rounds]
count = 2
[training]
objectives = ["dpo"]
"""


def chain() -> Chain:
    return Chain(load("rounds", recipe_folders()), execute.workspace())


@pytest.fixture
def rounds(project: Path) -> Path:
    (project / "recipes" / "rounds.toml").write_text(ROUNDS)
    return project


def test_every_round_is_a_stretch_of_assets(rounds: Path) -> None:
    graph = definitions.of([chain()]).resolve_asset_graph()
    keys = {key.to_user_string() for key in graph.get_all_asset_keys()}
    assert {"rounds/round_1/responses", "rounds/round_1/policy/dpo", "rounds/responses", "rounds/policy/dpo"} <= keys
    sampled = graph.get(dg.AssetKey(["rounds", "responses"])).parent_keys
    assert dg.AssetKey(["rounds", "round_1", "policy", "dpo"]) in sampled
    trained = graph.get(dg.AssetKey(["rounds", "policy", "dpo"])).parent_keys
    assert trained == {dg.AssetKey(["rounds", "dataset"]), dg.AssetKey(["rounds", "round_1", "policy", "dpo"])}
    job, _ = automation.nightly(chain())
    assert job.name == "rounds_train"


def test_a_run_stops_where_a_round_cannot_be_trained_and_goes_on(rounds: Path, posts: Callable[..., Path]) -> None:
    """A script has no weights to train; that its policy were there is noted by hand."""
    with execute.instance() as instance:
        ingest(instance, execute.workspace(), [str(posts("a", 30)), str(posts("b", 30))])
        with pytest.raises(TrainingError, match="played by a script"):
            execute.run(instance, chain())
        found = survey(chain())
        assert not found.stages["round-1/dataset"]
        assert found.made["responses"] == 0
        run.record(chain(), "round-1/policy/dpo")
        execute._execute(instance, chain(), ["responses", "rewards", "pairs"], {START: "a", END: "b"})
    found = survey(chain(), to="pairs")
    assert not any(found.stages.values())
    assert found.made["pairs"] == 2
    footer = chain().tables.footer("responses", "a")
    assert footer is not None
    assert "policies/rounds/round-1/dpo" in footer.inputs["policy"]
