"""`pugc demo` for real: the bundled posts and model, a local engine, both trainings; then once more for nothing."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from pugc_core.engines import EngineHost
from pugc_core.engines.base import Request, Sampling
from pugc_core.models.spec import ModelSpec
from pugc_core.prompts.base import Message
from pugc_core.training.config import TrainingConfig
from pugc_dagster import reports
from pugc_dagster.terminal import console

STAGES = ["ugc", "quality", "instructions", "relevance", "responses", "rewards", "pairs", "dataset"]


def pugc(project: Path, *words: str) -> str:
    env = {k: v for k, v in os.environ.items() if k not in ("DAGSTER_HOME", "PUGC_DATA", "PUGC_RECIPES")}
    env["PUGC_RECIPE"] = "tiny"  # whatever the default is: this model is in the package
    command = [sys.executable, "-m", "pugc_dagster", *words]
    result = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Any]]:
    """A project in which the demo has run once: its folder, what was printed, its status."""
    root = tmp_path_factory.mktemp("demo")
    repository = Path(__file__).parent.parent.parent
    for name in ("dagster.yaml", "workspace.yaml"):
        (root / name).write_bytes((repository / name).read_bytes())
    printed = pugc(root, "demo")
    return root, printed, json.loads(pugc(root, "status", "--json"))


@pytest.mark.slow
def test_every_stage_keeps_something_and_loses_nothing(demo: tuple[Path, str, dict[str, Any]]) -> None:
    _, printed, status = demo
    assert list(status["stages"]) == STAGES
    for stage, counts in status["stages"].items():
        assert counts["rows_in"] == counts["kept"] + sum(counts["dropped"].values())
        assert counts["kept"] > 0, stage
    posts = sum(len(path.read_text().splitlines()) for path in console.samples())
    assert status["stages"]["ugc"]["rows_in"] == posts
    assert status["stages"]["ugc"]["dropped"].keys() == {"too_short", "duplicate", "near_duplicate", "question"}
    assert status["rewards"]["parse_rate"] > 0.9
    assert status["rewards"]["std"] > 0
    words = ("reasons", "model calls", "votes", "fullest bin", "the best 3 of", "chosen", "rejected", "reward gain")
    for word in (*words, "trained by DPO", "unpicked", "make ui", "report"):
        assert word in printed


@pytest.mark.slow
def test_the_second_demo_asks_and_trains_nothing(demo: tuple[Path, str, dict[str, Any]]) -> None:
    root, _, before = demo
    policies = {o: root / "data" / "policies" / "tiny" / o for o in ("dpo", "simpo")}
    written = {o: (p / "model.safetensors").stat().st_mtime_ns for o, p in policies.items()}
    begun = time.monotonic()
    pugc(root, "demo")
    assert time.monotonic() - begun < 60
    after = json.loads(pugc(root, "status", "--json"))
    assert after["stages"] == before["stages"]
    assert {role: (c["made"], c["seconds"] < 10) for role, c in after["roles"].items()} == dict.fromkeys(
        before["roles"], (0, True)
    )
    assert {o: (p / "model.safetensors").stat().st_mtime_ns for o, p in policies.items()} == written


@pytest.mark.slow
def test_the_policies_learnt_and_any_engine_loads_them(
    demo: tuple[Path, str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _, _ = demo
    monkeypatch.chdir(root)
    monkeypatch.setenv("DAGSTER_HOME", str(root))
    with dg.DagsterInstance.get() as instance:
        for objective in ("dpo", "simpo"):
            wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(["tiny", "policy", objective]))
            events = instance.fetch_materializations(wanted, limit=5).records
            assert events
            assert events[-1].asset_materialization is not None
            shown = events[-1].asset_materialization.metadata
            assert "data:image/png" in str(shown["curves"].value)
            told = [entry.user_message for entry in instance.all_logs(events[-1].run_id) if entry.step_key]
            figures = [line for line in told if line.startswith(f"step {shown['steps'].value} of ")]
            assert figures, f"the training of {objective} told the run's log nothing"
            for name in ("loss", "margin", "accuracy", "learning_rate", "tokens_per_second"):
                assert name in figures[-1]
            training = json.loads((root / "data" / "policies" / "tiny" / objective / "training.json").read_text())
            losses = [row["loss"] for row in training["curve"]]
            third = len(losses) // 3  # single steps are batches of a few pairs and jump about
            assert third > 1
            assert statistics.fmean(losses[-third:]) < statistics.fmean(losses[:third])
    with EngineHost() as host:
        engine = host.engine(ModelSpec(id=str(root / "data" / "policies" / "tiny" / "dpo"), engine="transformers"))
        request = Request("policy", (Message("user", "How do I keep herbs fresh?"),), Sampling(max_tokens=16), (0, 1))
        assert len(list(engine.generate([request]))) == 2


@pytest.mark.slow
def test_every_objective_trains_on_the_demos_dataset(demo: tuple[Path, str, dict[str, Any]]) -> None:
    """A recipe with all of them: no model is asked anything anew, and each has its policy, card and record."""
    root, _, _ = demo
    names = TrainingConfig.losses()
    (root / "recipes").mkdir(exist_ok=True)
    (root / "recipes" / "all.toml").write_text(f'extends = "tiny"\n[training]\nobjectives = {names}\nmax_steps = 2\n')
    status = json.loads(pugc(root, "run", "--recipe", "all", "--json"))
    assert {role: calls["made"] for role, calls in status["roles"].items()} == dict.fromkeys(status["roles"], 0)
    for name in names:
        folder = root / "data" / "policies" / "all" / name
        assert json.loads((folder / "training.json").read_text())["steps"] == 2
        card = (folder / "README.md").read_text()
        assert TrainingConfig().loss(name).title in card
        assert json.loads((folder / "lineage.json").read_text())["dataset"] in card
    # DPO, R-DPO, robust DPO, IPO and BCO read the same figures of the start model; LD-DPO weighs them.
    kept = root / "data" / "policies" / "all" / ".references"
    assert len(list(kept.iterdir())) == 2 * 2  # train and test


@pytest.mark.slow
def test_the_dataset_and_the_report_are_for_others_to_read(demo: tuple[Path, str, dict[str, Any]]) -> None:
    root, _, status = demo
    from datasets import load_dataset

    folder = root / "data" / "datasets" / "tiny"
    loaded = load_dataset(str(folder), cache_dir=str(root / "cache"))
    kept = status["stages"]["dataset"]["kept"]
    assert loaded["train"].num_rows + loaded["test"].num_rows == kept
    unpaired, whole = (
        load_dataset(str(folder), view, cache_dir=str(root / "cache")) for view in ("unpaired", "reward")
    )
    assert unpaired["train"].num_rows == 2 * loaded["train"].num_rows
    assert whole["train"].column_names == [
        *("pair_id", "ugc_id", "margin"),
        *("source", "author", "url", "license"),
        *("chosen", "rejected"),
    ]
    row = pl.read_parquet(folder / "train.parquet").row(0, named=True)
    assert row["chosen"][0]["role"] == "assistant"
    assert row["chosen"] != row["rejected"]
    report = (root / "data" / "reports" / "tiny.html").read_text()
    assert "From posts to pairs" in report
    assert reports.outside(report) == []
    assert "Policy dpo" in report
