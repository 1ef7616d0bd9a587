"""Packed rows say what single prompts say; a training that was broken off goes on as if it had not been."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pugc_bundled.roles import corpus
from pugc_bundled.roles.corpus import Post
from pugc_bundled.roles.tasks import Branch, Reading, Tasks
from pugc_bundled.tiny.text import Salience
from pugc_core.models import tiny

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def built() -> tuple[Any, Any]:
    from pugc_bundled.roles import train

    return train.build(tiny.weights(), "cpu")


def tasks_of(posts: list[Post]) -> Tasks:
    train = corpus.of("train", posts)
    return Tasks(train, Salience(p.text for p in train), random.Random(3))


def reading(posts: list[Post]) -> Reading:
    source = tasks_of(posts).readings()
    return next(r for r in source if len(r.branches) > 4)


def test_a_packed_row_gives_the_states_of_single_prompts(posts: list[Post], built: tuple[Any, Any]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from pugc_bundled.roles import branching

    model, tokenizer = built
    readings = [reading(posts), Reading(reading(posts).post, reading(posts).branches[:1]), reading(posts)]
    row = branching.pack(readings, tokenizer, 2000)
    plain = AutoModelForCausalLM.from_pretrained(tiny.weights(), dtype=torch.float32)
    with torch.no_grad():
        packed = branching.hidden(model.get_base_model().model, row)
    seen = 0
    for each, (start, shared, *ends) in zip(readings, row.layout, strict=True):
        at = shared
        for branch, end in zip(each.branches, ends, strict=True):
            coded = branching.encode(branch, tokenizer)
            with torch.no_grad():
                alone = plain.model(torch.tensor([coded.ids])).last_hidden_state[0]
            torch.testing.assert_close(torch.cat([packed[start:shared], packed[at:end]]), alone, atol=2e-3, rtol=2e-3)
            seen += 1
            at = end
    assert seen == len(row.roles)


def test_the_loss_is_on_answers_alone(posts: list[Post], built: tuple[Any, Any]) -> None:
    from pugc_bundled.roles import branching

    _, tokenizer = built
    for branch in reading(posts).branches:
        coded = branching.encode(branch, tokenizer)
        learnt = [i for i, weight in zip(coded.ids, coded.weights, strict=True) if weight]
        assert tokenizer.decode(learnt, skip_special_tokens=True) == branch.answer
        assert learnt[-1] == tokenizer.eos_token_id
    row = branching.pack([reading(posts)], tokenizer, 2000)
    weighty = [(row.sources[i], i) for i, weight in enumerate(row.weights) if weight]
    assert all(row.owners[i] >= 0 for _, i in weighty)


def test_a_digit_weighs_what_a_digit_weighs(built: tuple[Any, Any]) -> None:
    from pugc_bundled.roles import branching
    from pugc_core.prompts.base import Message

    _, tokenizer = built
    branch = Branch("rewards", (Message("user", "x"),), (("It has nothing.", 0.5), (" [RESULT] ", 0.25), ("4", 6.0)))
    coded = branching.encode(branch, tokenizer)
    digit = tokenizer("4", add_special_tokens=False)["input_ids"][-1]
    assert [w for i, w in zip(coded.ids, coded.weights, strict=True) if i == digit and w] == [6.0]


def run(data: Path, out: Path, *more: str) -> None:
    from pugc_bundled.roles import train

    (out.parent / "sampled").mkdir(exist_ok=True)
    (out.parent / "sampled" / "answers.jsonl").touch()
    folders = ["--data", str(data), "--base", str(tiny.weights()), "--sampled", str(out.parent / "sampled")]
    train.main([*folders, "--out", str(out), "--device", "cpu", "--minutes", "0", *more])


@pytest.mark.slow
def test_a_training_that_was_broken_off_goes_on_as_if_it_had_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    from pugc_bundled.roles import train

    monkeypatch.setattr(train, "STEP_TOKENS", 600)
    run(data, tmp_path / "whole", "--millions", "0.01")
    taken = train.Training.step
    steps = []

    def broken(self: Any) -> None:
        if len(steps) == 4:
            raise KeyboardInterrupt
        steps.append(1)
        taken(self)

    monkeypatch.setattr(train.Training, "step", broken)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "parts", "--millions", "0.01")
    monkeypatch.setattr(train.Training, "step", taken)
    run(data, tmp_path / "parts", "--millions", "0.01", "--resume")
    whole, parts = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(bool((whole[name] == parts[name]).all()) for name in whole)
    assert any(bool(value.abs().sum() > 0) for name, value in whole.items() if "lora_B" in name)
    assert {p.name for p in (tmp_path / "whole").iterdir()} >= {"adapter_config.json", "training.json"}
    begun, _ = train.build(tiny.weights(), "cpu", start=tmp_path / "whole")
    learnt = {name: value for name, value in begun.named_parameters() if value.requires_grad}
    assert len(learnt) == len(whole)
    for name, value in learnt.items():
        assert bool((value == whole[name.replace(".default.", ".")].float()).all()), "a second course begins elsewhere"


def test_the_rate_rises_stays_and_falls() -> None:
    from pugc_bundled.roles.train import FALL, WARMUP, rate

    assert rate(WARMUP / 2) == pytest.approx(0.5)
    assert rate(0.5) == 1.0
    assert rate(1 - FALL / 2) == pytest.approx(0.5)
    assert rate(1.0) == 0.0
    assert rate(0.0) > 0
