"""What a reader sees first is how the policy does on pairs that it was not trained on, and on how many."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import dagster as dg
import pytest

from pugc_core import intervals
from pugc_core.training import card
from pugc_core.training.summary import Summary
from pugc_dagster.stages.policy import _learned

SUMMARY = Summary(
    objective="dpo",
    steps=8,
    n_train=21,
    n_test=10,
    dropped_too_long=0,
    dropped={},
    pairs_trained=63,
    tokens_per_epoch=1000,
    seconds=1.0,
    resumed_at=0,
    devices=1,
    tokens_per_second=10.0,
    final={"loss": 0.2, "margin": 1.5, "accuracy": 1.0},
    curve=[{"step": 1, "loss": 0.69, "margin": 0.0, "accuracy": 0.5, "rows": 8}],
    device="cpu",
    precision="fp32",
    notes=[],
    held_out={
        "accuracy": intervals.share([True] * 4 + [False] * 6),
        "margin": intervals.Estimate(-0.1, -0.3, 0.1, 10),
        "loss": intervals.Estimate(0.75, 0.7, 0.8, 10),
    },
)


def test_the_headline_is_held_out_with_its_count() -> None:
    assert SUMMARY.headline == "held-out accuracy 0.400 (0.168 to 0.687) on 10 pairs"
    gained = {**SUMMARY.held_out, "gain": intervals.Estimate(0.2, 0.1, 0.3, 10)}
    assert dataclasses.replace(SUMMARY, held_out=gained).headline == (
        "held-out accuracy 0.400 (0.168 to 0.687), reward gain 0.200 (0.100 to 0.300) on 10 pairs"
    )
    assert "no held-out pairs" in dataclasses.replace(SUMMARY, held_out={}).headline
    told = _learned(dg.AssetKey("policy"), SUMMARY)
    assert told.passed
    assert told.description == (
        f"{SUMMARY.headline}; on the 21 pairs that it was trained on, in 8 steps: loss 0.2, margin 1.5"
    )


def test_the_card_tells_held_out_pairs_from_training_pairs() -> None:
    assert card.figures(SUMMARY).splitlines() == [
        "| | held out, 10 pairs | training pairs, last pass | training pairs, first steps |",
        "|---|---|---|---|",
        "| accuracy | 0.400 (0.168 to 0.687) | 1 | 0.5 |",
        "| margin | -0.100 (-0.300 to 0.100) | 1.5 | 0 |",
        "| gain | - | - | - |",
        "| loss | 0.750 (0.700 to 0.800) | 0.2 | 0.69 |",
    ]
    kto = dataclasses.replace(SUMMARY, final={"loss": 0.2, "margin": 1.5}, curve=[{"loss": 0.5}], held_out={})
    assert "| accuracy | - | - | - |" in card.figures(kto)


def test_a_summary_survives_json_and_older_records(tmp_path: Path) -> None:
    record = json.loads(json.dumps(dataclasses.asdict(SUMMARY)))
    assert Summary.of({**record, "versions": {"trl": "1"}}) == SUMMARY
    del record["held_out"]
    assert Summary.of(record) == dataclasses.replace(SUMMARY, held_out={})
    assert Summary.recorded(str(tmp_path)) is None
    for text, found in ((json.dumps(record), Summary.of(record)), ("{", None), ('{"steps": 1}', None)):
        (tmp_path / "training.json").write_text(text)
        assert Summary.recorded(str(tmp_path)) == found


def test_progress_names_training_pairs_and_ends_with_the_held_out_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from pugc_core import progress, recipe
    from pugc_core import run as training
    from pugc_core.plan import Chain
    from pugc_core.tables.workspace import Workspace
    from pugc_dagster.stages import policy

    def run(**options: object) -> Summary:
        options["say"]("reading")  # type: ignore[operator]
        for step in (7, 8):
            options["report"]({"step": step, "total": 8, "loss": 0.2, "accuracy": 1.0})  # type: ignore[operator]
        return SUMMARY

    class Session:
        def __enter__(self) -> SimpleNamespace:
            return SimpleNamespace(get_bootstrap_env_vars=dict)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(training, "run_training", run)
    monkeypatch.setattr(policy.dg, "open_pipes_session", lambda **_: Session())
    monkeypatch.setattr(policy, "Reporter", lambda work, _: progress.Reporter(work, print, log_seconds=0))
    said: list[progress.Progress] = []
    silent = SimpleNamespace(log=SimpleNamespace(info=lambda _: None, warning=lambda _: None))
    doing: list[str] = []
    with progress.listen(said.append, doing.append):
        policy._train(silent, Chain(recipe.load("tiny"), Workspace(str(tmp_path))), "policy/dpo", "out")  # type: ignore[arg-type]
    assert [(told.done, told.note) for told in said if told.done == told.total] == [(8, SUMMARY.headline)]
    assert all(told.note.startswith("training pairs: ") for told in said if told.done < told.total)
    assert doing == [f"tiny policy/dpo: {what}" for what in ("starting the training: about 20 s", "reading")] + [""]


def test_a_policy_of_the_code_before_is_out_of_date() -> None:
    from pugc_core import recipe
    from pugc_core.training import lineage

    now = lineage.wanted(recipe.load("tiny"), "dpo", "content")
    assert lineage.same(now, now)
    assert not lineage.same({name: value for name, value in now.items() if name != "version"}, now)
    assert "system_role" not in now  # policies of before stay what they are
