"""Losses against hand-worked numbers, what is refused and dropped, and real trainings of a random two-layer model."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from pugc_core import records
from pugc_core.errors import MissingDependency, ModelNotFound, PugcError, RecipeError, TrainingError
from pugc_core.training.config import Launch, Lora, TrainingConfig
from pugc_core.training.launch import command
from pugc_core.training.losses.base import Setup
from pugc_core.training.losses.simpo import Simpo
from pugc_core.training.output import checkpoints, last_checkpoint, mark_whole, staging, unfinished
from pugc_core.training.run import run
from pugc_core.training.summary import Summary

ROOT = Path(__file__).parents[2]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
OBJECTIVES = TrainingConfig.losses()
SMALL = TrainingConfig(
    batch_size=4,
    device_batch_size=2,
    max_length=96,
    epochs=3,
    **{name: {"learning_rate": 5e-3, "beta": 0.1} for name in OBJECTIVES if name != "simpo"},
    simpo={"learning_rate": 5e-3, "beta": 2.0, "gamma_beta_ratio": 0.5},
)
"""Large steps, so that a few of them show; no paper's numbers."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """For models this small, threads only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random two-layer Llama with a byte tokenizer and a chat template, as a Hugging Face folder in bf16."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
    symbols = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(symbols)}, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=special[3:],
        chat_template=TEMPLATE,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(symbols),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=256,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    folder = tmp_path_factory.mktemp("start")
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def pairs(n: int, *, answer: str = "Warm water, slowly.") -> list[dict[str, Any]]:
    return [
        {
            "prompt": [{"role": "user", "content": f"How do I wash wool {i}?"}],
            "chosen": [{"role": "assistant", "content": answer}],
            "rejected": [{"role": "assistant", "content": "zzz no idea"}],
        }
        for i in range(n)
    ]


def dataset(folder: Path, train: list[dict[str, Any]], test: list[dict[str, Any]] | None = None) -> str:
    """The folder that the dataset stage's asset writes: both splits in the columns of records.DATASET."""
    folder.mkdir(exist_ok=True)
    for split, rows in (("train", train), ("test", test or [])):
        blank = dict.fromkeys(records.DATASET.schema)
        frame = records.DATASET.frame(
            [
                {**blank, **row, "pair_id": f"{split}{i}", "split": split, "keep": True, "drop_reason": None}
                for i, row in enumerate(rows)
            ]
        )
        frame.write_parquet(folder / f"{split}.parquet")
    return str(folder)


def train(data: str, start: str, out: Path, objective: str = "dpo", config: TrainingConfig = SMALL) -> Summary:
    from pugc_core.training.trainer import train

    return train(dataset=data, start=start, objective=objective, config=config, out=str(out), report=lambda _: None)


def trl_trainer(objective: str, config: TrainingConfig, start: str, out: Path) -> Any:
    """The TRL trainer that our loss builds, not yet started."""
    from datasets import Dataset

    from pugc_core.training.start import load_model, load_tokenizer
    from pugc_core.training.trainer import _arguments, _prepare_libraries

    _prepare_libraries()
    return config.loss(objective).trainer(
        Setup(
            arguments=_arguments(config, out, 1, device="cpu", precision="fp32"),
            model=load_model(start).float(),
            tokenizer=load_tokenizer(start),
            train=Dataset.from_list(pairs(1)),
            test=None,
            callbacks=[],
        )
    )


# --- configuration: no torch ------------------------------------------------------------------------------------------


def test_importing_what_the_parent_needs_imports_no_torch() -> None:
    code = (
        "import sys, pugc_core.training.run; print([m for m in ('torch', 'transformers', 'trl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_defaults_are_those_of_the_recipes_that_the_paper_follows() -> None:
    config = TrainingConfig()
    assert (config.batch_size, config.epochs, config.warmup_ratio, config.scheduler) == (128, 1.0, 0.1, "cosine")
    assert (config.dpo.learning_rate, config.dpo.beta) == (5e-7, 0.01)
    assert (config.simpo.learning_rate, config.simpo.beta, config.simpo.gamma_beta_ratio) == (3e-7, 2.0, 0.8)


@pytest.mark.parametrize(("beta", "ratio", "gamma"), [(2.0, 0.8, 1.6), (2.5, 0.1, 0.25)])
def test_simpo_gamma_is_the_ratio_times_beta(beta: float, ratio: float, gamma: float) -> None:
    assert Simpo(beta=beta, gamma_beta_ratio=ratio).simpo_gamma == pytest.approx(gamma)


def test_accumulation_keeps_the_effective_batch() -> None:
    assert TrainingConfig().accumulation() == 16
    assert TrainingConfig().accumulation(devices=8) == 2
    assert TrainingConfig(batch_size=6, device_batch_size=6).accumulation() == 1


def test_a_batch_that_is_no_multiple_is_refused_with_two_that_work() -> None:
    with pytest.raises(RecipeError, match="batch_size 12 is not a multiple of device_batch_size 8") as caught:
        TrainingConfig(batch_size=12)
    assert caught.value.fix == "set training.device_batch_size = 6, or training.batch_size = 16"
    with pytest.raises(RecipeError, match="on 3 devices"):
        TrainingConfig().accumulation(devices=3)


def test_an_unknown_objective_names_the_known_ones() -> None:
    for attempt in (lambda: TrainingConfig().loss("ppo"), lambda: TrainingConfig(objectives=("ppo",))):
        with pytest.raises(RecipeError, match="unknown objective 'ppo'; known: dpo, simpo, orpo"):
            attempt()


def test_knobs_hold_what_shapes_this_objective_only() -> None:
    knobs = TrainingConfig().knobs("simpo")
    assert knobs["simpo"] == {"learning_rate": 3e-7, "beta": 2.0, "gamma_beta_ratio": 0.8}
    assert "dpo" not in knobs
    assert "objectives" not in knobs


# --- where a policy is written ----------------------------------------------------------------------------------------


def test_a_policy_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "policy"
    with pytest.raises(FileNotFoundError), staging(str(out)) as folder:
        (folder / "config.json").rename(folder / "no" / "such" / "place")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".policy.tmp").mkdir()
    (tmp_path / ".policy.tmp" / "left-by-a-killed-training").touch()
    for text in ("first", "second"):
        with staging(str(out)) as folder:
            (folder / "training.json").write_text(text)
        assert [p.name for p in out.iterdir()] == ["training.json"]
        assert (out / "training.json").read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["policy"]


def test_a_folder_that_is_no_policy_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(TrainingError, match="is not a trained policy"), staging(str(tmp_path)):
        pass
    assert (tmp_path / "thesis.txt").exists()


def test_two_trainings_into_one_folder_are_refused(tmp_path: Path) -> None:
    out = str(tmp_path / "policy")
    with staging(out) as folder:
        with pytest.raises(TrainingError, match="another training is writing"), staging(out):
            pass
        (folder / "training.json").touch()
    assert (tmp_path / "policy" / "training.json").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="cannot write"), staging(str(tmp_path / "file" / "policy")):
        pass


# --- losses -----------------------------------------------------------------------------------------------------------


def test_simpo_on_fixed_log_probabilities(start: str, tmp_path: Path) -> None:
    """beta 2, gamma/beta 0.8, mean log-probabilities -1 and -2: 2 * (1 - 0.8) = 0.4, log(1 + e^-0.4) = 0.513015."""
    import torch

    trainer = trl_trainer("simpo", TrainingConfig(), start, tmp_path)
    assert (trainer.loss_type, trainer.cpo_alpha, trainer.label_smoothing) == ("simpo", 0.0, 0.0)
    loss, chosen, rejected = trainer.cpo_loss(torch.tensor([-1.0]), torch.tensor([-2.0]))
    assert loss.item() == pytest.approx(0.513015, abs=1e-6)
    assert (chosen.item(), rejected.item()) == (-2.0, -4.0)


def test_simpo_means_over_the_answer_alone(start: str, tmp_path: Path) -> None:
    """The whole path from text to loss against a reference of ten lines, template and end token included."""
    import torch

    config = TrainingConfig()
    trainer = trl_trainer("simpo", config, start, tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        loss, _ = trainer.get_batch_loss_metrics(trainer.model, batch)
        means = []
        for side in ("chosen", "rejected"):
            pair = pairs(1)[0]
            rendered = [{"add_generation_prompt": True}, {}]
            head, whole = (
                trainer.processing_class.apply_chat_template(m, return_dict=False, **options)
                for m, options in zip((pair["prompt"], pair["prompt"] + pair[side]), rendered, strict=True)
            )
            logits = trainer.model(torch.tensor([whole])).logits[0, :-1].log_softmax(-1)
            means.append(logits.gather(1, torch.tensor(whole[1:])[:, None])[len(head) - 1 :].mean().item())
    expected = math.log1p(math.exp(-config.simpo.beta * (means[0] - means[1] - config.simpo.gamma_beta_ratio)))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def fixed(*rows: list[float]) -> Any:
    """A model that gives these log-probabilities, a row per answer, whatever it is asked."""
    import torch

    one = torch.tensor(rows)
    rest = {name: torch.zeros(one.shape) for name in ("entropy", "mean_logits")}
    return lambda **_: SimpleNamespace(log_probs=one, is_top1=torch.zeros(one.shape, dtype=torch.bool), **rest)


def answers_of(lengths: tuple[int, int], **references: float) -> dict[str, Any]:
    """A batch of one pair with answers of so many tokens, and the start model's log-probabilities of both."""
    import torch

    width = 1 + max(lengths)
    masks = [[0] + [1] * n + [0] * (width - 1 - n) for n in lengths]
    return {
        "input_ids": torch.full((2, width), 5),
        "attention_mask": torch.ones(2, width, dtype=torch.long),
        "completion_mask": torch.tensor(masks),
        **{f"ref_{side}_logps": torch.tensor([value]) for side, value in references.items()},
    }


# Policy: -10 and -14; start: -12 and -13; so log-ratios 2 and -1, and a difference of 3.
HAND_WORKED = {
    "dpo": 0.678260,  # beta 0.01: log(1 + e^-0.03)
    "robust": 0.674510,  # a tenth flipped: (0.9 * 0.678260 - 0.1 * log(1 + e^0.03) = 0.708260) / 0.8
    "ipo": 4.0,  # beta 0.1, one token each: (3 - 1 / 0.2)^2
    "bco": 1.371357,  # log(1 + e^-0.02) + log(1 + e^-0.01) = 0.683197 + 0.688160
}


@pytest.mark.parametrize(("objective", "loss"), HAND_WORKED.items())
def test_losses_against_the_start_on_fixed_log_probabilities(
    objective: str, loss: float, start: str, tmp_path: Path
) -> None:
    trainer = trl_trainer(objective, TrainingConfig(), start, tmp_path)
    batch = answers_of((1, 1), chosen=-12.0, rejected=-13.0)
    assert trainer.compute_loss(fixed([-10.0], [-14.0]), batch).item() == pytest.approx(loss, abs=1e-6)
    margin = 3 * TrainingConfig().loss(objective).beta
    assert trainer._metrics["eval"]["rewards/margins"] == [pytest.approx(margin)]


def test_lddpo_counts_what_is_beyond_the_shorter_answer_half(start: str, tmp_path: Path) -> None:
    """Chosen -1 + (-2 - 3) / 2 = -3.5 against -3; rejected -4 against -3: 0.01 * 0.5, log(1 + e^-0.005) = 0.690650."""
    trainer = trl_trainer("lddpo", TrainingConfig(), start, tmp_path)
    batch = answers_of((3, 1), chosen=-3.0, rejected=-3.0)
    loss = trainer.compute_loss(fixed([-1.0, -2.0, -3.0], [-4.0, 0.0, 0.0]), batch)
    assert loss.item() == pytest.approx(0.690650, abs=1e-6)


def test_rdpo_adds_the_price_of_length_to_the_difference(start: str, tmp_path: Path) -> None:
    """beta 0.01, alpha 0.001: 0.01 * 3 + 0.001 * (20 - 12) = 0.038, log(1 + e^-0.038) = 0.674328. An answer's price is
    taken off the start model's log-probability: 20 tokens (19 bytes and the end) at 0.1 nats, 12 at 0.1."""
    plain, priced = (trl_trainer(name, TrainingConfig(), start, tmp_path).train_dataset[0] for name in ("dpo", "rdpo"))
    assert (len(priced["chosen_ids"]), len(priced["rejected_ids"])) == (20, 12)
    assert priced["ref_chosen_logps"] == pytest.approx(plain["ref_chosen_logps"] - 2.0, abs=1e-4)
    assert priced["ref_rejected_logps"] == pytest.approx(plain["ref_rejected_logps"] - 1.2, abs=1e-4)
    trainer = trl_trainer("rdpo", TrainingConfig(), start, tmp_path)
    batch = answers_of((1, 1), chosen=-12.0 - 2.0, rejected=-13.0 - 1.2)
    assert trainer.compute_loss(fixed([-10.0], [-14.0]), batch).item() == pytest.approx(0.674328, abs=1e-6)


def test_cpo_on_fixed_log_probabilities(start: str, tmp_path: Path) -> None:
    """beta 0.1: 0.1 * (-10 + 14) = 0.4, log(1 + e^-0.4) = 0.513015; and the likelihood term with weight 1."""
    import torch

    trainer = trl_trainer("cpo", TrainingConfig(), start, tmp_path)
    loss, _, _ = trainer.cpo_loss(torch.tensor([-10.0]), torch.tensor([-14.0]))
    assert loss.item() == pytest.approx(0.513015, abs=1e-6)
    whole, metrics = trainer.get_batch_loss_metrics(trainer.model, next(iter(trainer.get_train_dataloader())))
    preference = math.log1p(math.exp(-metrics["rewards/margins"]))
    assert whole.item() == pytest.approx(preference + metrics["nll_loss"], rel=1e-4)


def test_orpo_on_fixed_log_probabilities(start: str, tmp_path: Path) -> None:
    """Means -1 and -2: log odds -1 - log(1 - e^-1) = -0.541325 and -2 - log(1 - e^-2) = -1.854587, difference 1.313262,
    log sigmoid -0.238183, times beta 0.05."""
    import torch

    trainer = trl_trainer("orpo", TrainingConfig(), start, tmp_path)
    ratio, *_ = trainer.odds_ratio_loss(torch.tensor([-1.0]), torch.tensor([-2.0]))
    assert ratio.item() == pytest.approx(0.05 * -0.238183, abs=1e-6)


def test_kto_on_fixed_log_probabilities(start: str, tmp_path: Path) -> None:
    """Log-ratios 2 (good) and -1 (bad), so z = 0.5 where the same figures come for the shifted answers; beta 0.01:
    both losses are 1 - sigmoid(0.015) = 0.496250."""
    import torch

    trainer = trl_trainer("kto", TrainingConfig(), start, tmp_path)
    trainer.ref_model = fixed([-12.0], [-13.0])
    batch = answers_of((1, 1))
    shifted = {f"KL_{name}": value for name, value in batch.items()}
    loss = trainer.compute_loss(fixed([-10.0], [-14.0]), {**batch, **shifted, "label": torch.tensor([True, False])})
    assert loss.item() == pytest.approx(0.496250, abs=1e-6)


def test_kto_takes_answers_one_by_one(start: str, tmp_path: Path) -> None:
    from datasets import Dataset

    from pugc_core.training.losses.kto import unpaired

    rows = list(unpaired(Dataset.from_list(pairs(3)), 42))
    assert sorted(row["label"] for row in rows) == [False] * 3 + [True] * 3
    assert {row["completion"][0]["content"] for row in rows if row["label"]} == {"Warm water, slowly."}
    assert trl_trainer("kto", TrainingConfig(), start, tmp_path).args.per_device_train_batch_size == 16


@pytest.mark.parametrize("objective", ["dpo", "lddpo"])
def test_the_start_models_log_probabilities_are_computed_once(objective: str, start: str, tmp_path: Path) -> None:
    """By loss, data and start model: LD-DPO weighs tokens, so its figures are its own."""
    data = dataset(tmp_path / "data", pairs(4))
    kept = tmp_path / ".references"
    train(data, start, tmp_path / "first", objective)
    files = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert len(files) == 1
    first = (tmp_path / "first" / "model.safetensors").read_bytes()
    train(data, start, tmp_path / "again", objective)
    assert {path.name: path.stat().st_mtime_ns for path in kept.iterdir()} == files
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == first
    train(data, start, tmp_path / "other", "ipo")
    assert len(list(kept.iterdir())) == (1 if objective == "dpo" else 2)
    train(dataset(tmp_path / "more", pairs(5)), start, tmp_path / "more-pairs", objective)
    assert len(list(kept.iterdir())) == (2 if objective == "dpo" else 3)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_an_empty_dataset_is_refused(start: str, tmp_path: Path) -> None:
    for folder in (dataset(tmp_path / "data", []), str(tmp_path / "nowhere")):
        with pytest.raises(TrainingError, match="no pairs to train on") as caught:
            train(folder, start, tmp_path / "out")
        assert caught.value.fix
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_dataset_is_named(start: str, tmp_path: Path) -> None:
    pl.DataFrame({"prompt": ["x"]}).write_parquet(tmp_path / "train.parquet")
    with pytest.raises(TrainingError, match="no column chosen, rejected"):
        train(str(tmp_path), start, tmp_path / "out")
    (tmp_path / "train.parquet").write_text("not parquet")
    with pytest.raises(TrainingError, match="cannot read"):
        train(str(tmp_path), start, tmp_path / "out")


def test_pairs_too_long_are_dropped_and_counted(start: str, tmp_path: Path) -> None:
    from pugc_core.training import data
    from pugc_core.training.start import load_tokenizer

    tokenizer = load_tokenizer(start)
    rows = data.read(dataset(tmp_path / "data", pairs(1) + pairs(2, answer="w" * 90)), "train")
    # <s>; marker, 21 bytes of prompt, </s>; marker, 19 or 11 bytes of answer, </s>.
    whole = 1 + (1 + 21 + 1) + (1 + 19 + 1)
    fits = data.fitting(rows, tokenizer, whole)
    assert (len(fits.kept), fits.tokens, fits.dropped) == (1, whole + whole - 8, {"pair_too_long": 2})
    assert data.fitting(rows, tokenizer, whole - 1).dropped == {"pair_too_long": 3}
    assert data.fitting(rows, tokenizer, 20).dropped == {"prompt_too_long": 3}
    with pytest.raises(TrainingError, match="none of the 3 training pairs fits whole in max_length 20"):
        train(str(tmp_path / "data"), start, tmp_path / "out", config=SMALL.model_copy(update={"max_length": 20}))


def test_control_text_in_an_answer_stays_text(start: str, tmp_path: Path) -> None:
    from pugc_core.training import data
    from pugc_core.training.start import load_tokenizer

    row = data.read(dataset(tmp_path / "data", pairs(1, answer="done</s><|user|>hi")), "train")[0]
    ids = load_tokenizer(start).apply_chat_template(row["prompt"] + row["chosen"], return_dict=True)["input_ids"]
    assert [ids.count(token) for token in (1, 2, 3, 4)] == [1, 2, 1, 1]


def test_a_tokenizer_without_a_chat_template_is_refused(start: str, tmp_path: Path) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(start, bare, ignore=shutil.ignore_patterns("chat_template.jinja"))
    with pytest.raises(TrainingError, match="has no chat template") as caught:
        train(dataset(tmp_path / "data", pairs(1)), str(bare), tmp_path / "out")
    assert "chat_template.jinja" in str(caught.value.fix)


def test_a_model_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no/such/model") as caught:
        train(dataset(tmp_path / "data", pairs(1)), "no/such/model", tmp_path / "out")
    assert caught.value.fix


def test_a_loss_that_is_no_number_stops_the_training(start: str, tmp_path: Path) -> None:
    wild = SMALL.model_copy(update={"dpo": SMALL.dpo.model_copy(update={"beta": 1e39})})
    with pytest.raises(TrainingError, match=r"(loss|grad_norm) became (nan|inf) at step 1") as caught:
        train(dataset(tmp_path / "data", pairs(2)), start, tmp_path / "out", config=wild)
    assert "learning rate" in str(caught.value.fix)
    assert {p.name for p in tmp_path.iterdir()} - {".references"} == {"data"}


# --- real trainings ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_policy_is_trained_saved_and_generates(objective: str, start: str, tmp_path: Path) -> None:
    import torch
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "policy"
    rows = pairs(9) + pairs(2, answer="w" * 90)
    summary = train(dataset(tmp_path / "data", rows, pairs(2)), start, out, objective)

    # 9 pairs in batches of 4 (2 x 2): 3 steps per pass, 3 passes.
    assert (summary.steps, summary.n_train, summary.n_test, summary.pairs_trained) == (9, 9, 2, 27)
    assert (summary.dropped_too_long, summary.dropped) == (2, {"pair_too_long": 2})
    assert [p["step"] for p in summary.curve] == list(range(1, 10))
    assert all(math.isfinite(value) for point in summary.curve for value in point.values())
    assert summary.final["loss"] < summary.curve[0]["loss"]
    assert summary.final["margin"] > summary.curve[0]["margin"]
    names = {"loss", "margin", "accuracy"} - ({"accuracy"} if objective == "kto" else set())
    assert summary.final.keys() == names | {f"test_{name}" for name in names}
    if summary.device == "cpu":
        assert summary.precision == "fp32"
        assert "fp32 instead of bf16" in summary.notes[0]

    assert {p.name for p in tmp_path.iterdir()} - {".references"} == {"data", "policy"}
    assert {p.name for p in out.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    }
    record = json.loads((out / "training.json").read_text())
    assert record["objective"] == objective
    assert record["knobs"] == json.loads(json.dumps(SMALL.knobs(objective)))
    assert record["versions"].keys() >= {"trl", "transformers", "torch"}
    assert record["curve"] == summary.curve

    with safe_open(out / "model.safetensors", "pt") as saved, safe_open(f"{start}/model.safetensors", "pt") as before:
        assert saved.keys() == before.keys()
        assert saved.get_tensor("lm_head.weight").dtype == torch.bfloat16
        assert any((saved.get_tensor(k) != before.get_tensor(k)).any() for k in saved.keys())  # noqa: SIM118
    assert json.loads((out / "config.json").read_text())["use_cache"] is True
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    asked = tokenizer.apply_chat_template(
        pairs(1)[0]["prompt"], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**asked, max_new_tokens=4, do_sample=False)
    assert answer.shape[1] > asked["input_ids"].shape[1]


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_same_training_gives_the_same_weights(objective: str, start: str, tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", pairs(5))
    for name in ("one", "two"):
        train(data, start, tmp_path / name, objective)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_accumulated_batches_train_as_one_large_batch(start: str, tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", pairs(4))
    losses = [
        train(
            data, start, tmp_path / f"by{at_once}", "simpo", SMALL.model_copy(update={"device_batch_size": at_once})
        ).curve[-1]["loss"]
        for at_once in (1, 4)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_pair_trains_for_one_step_that_changes_something(objective: str, start: str, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"epochs": 1.0, "batch_size": 128})
    out = tmp_path / "out"
    summary = train(dataset(tmp_path / "data", pairs(1)), start, out, objective, config)
    assert (summary.steps, summary.n_train, summary.pairs_trained) == (1, 1, 1)
    assert summary.curve[0]["learning_rate"] == 5e-3
    assert (out / "model.safetensors").read_bytes() != Path(start, "model.safetensors").read_bytes()


def test_max_steps_wins_over_epochs(start: str, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"max_steps": 2})
    summary = train(dataset(tmp_path / "data", pairs(9)), start, tmp_path / "out", "simpo", config)
    assert (summary.steps, summary.pairs_trained, len(summary.curve)) == (2, 8, 2)


def test_nothing_calls_home() -> None:
    import huggingface_hub.constants

    from pugc_core.training.trainer import _prepare_libraries

    _prepare_libraries()
    assert huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY is True


# --- killed, and started again ----------------------------------------------------------------------------------------

KILLED = """
import json, os, signal, sys
from pugc_core.training.config import TrainingConfig
from pugc_core.training.trainer import train
spec = json.loads(sys.argv[1])
step = int(sys.argv[2])
def report(progress):
    if progress["step"] == step:
        os.kill(os.getpid(), signal.SIGKILL)
train(**{**spec, "config": TrainingConfig(**spec["config"])}, report=report)
"""


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(objective: str, start: str, tmp_path: Path) -> None:
    """Nine steps, a checkpoint after every second, kill -9 in the fourth step's report and again in the seventh's."""
    config = SMALL.model_copy(update={"launch": Launch(checkpoints=0.2)})
    data = dataset(tmp_path / "data", pairs(9), pairs(2))
    whole = train(data, start, tmp_path / "whole", objective, config)
    spec = {"dataset": data, "start": start, "objective": objective, "out": str(tmp_path / "killed")}
    words = json.dumps({**spec, "config": config.model_dump(mode="json")})
    for step, last in ((4, 2), (7, 6)):
        done = subprocess.run([sys.executable, "-c", KILLED, words, str(step)], cwd=ROOT, capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
        found = last_checkpoint(unfinished(str(tmp_path / "killed")))
        assert found
        assert found.name == f"checkpoint-{last}"
        assert len(list(found.parent.iterdir())) <= 2
    resumed = train(data, start, tmp_path / "killed", objective, config)
    assert (whole.resumed_at, resumed.resumed_at) == (0, 6)
    assert resumed.curve == whole.curve
    assert resumed.final == whole.final
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert one == two
    assert not unfinished(str(tmp_path / "killed")).exists()


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    folder = unfinished(str(tmp_path / "policy"))
    for name, whole in (("checkpoint-2", True), ("checkpoint-10", True), ("checkpoint-12", False)):
        (checkpoints(folder) / name).mkdir(parents=True)
        if whole:
            mark_whole(checkpoints(folder) / name)
    assert last_checkpoint(folder) == checkpoints(folder) / "checkpoint-10"


def test_checkpoints_of_another_training_are_cleared(tmp_path: Path) -> None:
    out = str(tmp_path / "policy")
    for key, kept in (("a", False), ("a", True), ("b", False)):
        with contextlib.suppress(InterruptedError), staging(out, key) as folder:
            assert (last_checkpoint(folder) is not None) is kept
            (checkpoints(folder) / "checkpoint-3").mkdir(parents=True, exist_ok=True)
            mark_whole(checkpoints(folder) / "checkpoint-3")
            raise InterruptedError
        assert last_checkpoint(unfinished(out))


# --- several processes, and fewer weights -----------------------------------------------------------------------------


def test_the_command_follows_the_recipe(tmp_path: Path) -> None:
    def words(gpus: bool, **launch: Any) -> str:
        return " ".join(command(Launch(**launch), ["module", "--flag"], gpus=gpus)[1:])

    assert words(False).startswith("-m accelerate.commands.launch --cpu --quiet --num_processes 1")
    assert words(False, processes=2) == "-m torch.distributed.run --standalone --nproc_per_node 2 -m module --flag"
    for name in ("ddp", "fsdp", "zero3"):
        line = words(True, processes=8, config=name)
        assert f"launch_configs/{name}.yaml --num_processes 8 --num_machines 1 -m module --flag" in line
    own = tmp_path / "mine.yaml"
    own.touch()
    assert f"--config_file {own}" in words(True, config=str(own))


def test_launch_configurations_that_do_not_serve_are_refused() -> None:
    with pytest.raises(RecipeError, match="no launch configuration 'zero9'") as caught:
        command(Launch(config="zero9"), [], gpus=True)
    assert "ddp, fsdp, zero3" in str(caught.value.fix)
    with pytest.raises(RecipeError, match="'fsdp' needs GPUs"):
        command(Launch(config="fsdp"), [], gpus=False)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["dpo", "simpo"])
def test_two_processes_train_as_one(objective: str, start: str, tmp_path: Path) -> None:
    """The same pairs in the same steps, so the same curve up to rounding: gradients are summed in another order."""
    data = dataset(tmp_path / "data", pairs(8), pairs(2))
    made = {}
    for processes in (1, 2):
        config = SMALL.model_copy(update={"launch": Launch(processes=processes)})
        out = str(tmp_path / f"by{processes}")
        made[processes] = run(
            dataset=data, start=start, objective=objective, config=config, out=out, report=lambda _: None
        )
    one, two = made[1], made[2]
    assert (one.devices, two.devices, one.steps, two.steps) == (1, 2, 6, 6)
    assert [p["loss"] for p in two.curve] == pytest.approx([p["loss"] for p in one.curve], rel=1e-3)
    assert [p["margin"] for p in two.curve] == pytest.approx([p["margin"] for p in one.curve], rel=1e-2, abs=1e-3)


def test_a_batch_that_the_processes_do_not_divide_is_refused(start: str, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"launch": Launch(processes=3)})
    with pytest.raises(RecipeError, match="batch_size 4 is not a multiple of device_batch_size 2 on 3 devices"):
        run(
            dataset=dataset(tmp_path / "data", pairs(4)),
            start=start,
            objective="simpo",
            config=config,
            out=str(tmp_path / "out"),
            report=lambda _: None,
        )


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["dpo", "simpo", "kto"])
def test_lora_trains_little_and_is_merged(objective: str, start: str, tmp_path: Path) -> None:
    from safetensors import safe_open

    config = SMALL.model_copy(update={"lora": Lora(rank=4)})
    summary = train(dataset(tmp_path / "data", pairs(9)), start, tmp_path / "policy", objective, config)
    assert summary.final["margin"] > summary.curve[0]["margin"]
    with (
        safe_open(tmp_path / "policy" / "model.safetensors", "pt") as saved,
        safe_open(f"{start}/model.safetensors", "pt") as before,
    ):
        names = list(before.keys())
        assert list(saved.keys()) == names
        changed = [n for n in names if (saved.get_tensor(n) != before.get_tensor(n)).any()]
    assert changed
    assert not any("embed" in n or "norm" in n or "lm_head" in n for n in changed)


def test_four_bits_without_a_gpu_are_refused_with_a_way_out(start: str, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"lora": Lora(quantize=True)})
    with pytest.raises(MissingDependency, match="needs an NVIDIA GPU and bitsandbytes") as caught:
        train(dataset(tmp_path / "data", pairs(2)), start, tmp_path / "out", "dpo", config)
    assert "training.lora.quantize = false" in str(caught.value.fix)


def test_running_out_of_memory_names_the_knobs(start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import Trainer

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr(Trainer, "training_step", full)
    with pytest.raises(TrainingError, match="out of memory: CUDA out of memory") as caught:
        train(dataset(tmp_path / "data", pairs(2)), start, tmp_path / "out", "simpo")
    for knob in ("device_batch_size", "max_length", "gradient_checkpointing", "lora", "fsdp"):
        assert knob in str(caught.value.fix)


def test_numbers_that_go_wrong_leave_the_last_good_checkpoint(start: str, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"launch": Launch(checkpoints=0.2)})
    data = dataset(tmp_path / "data", pairs(9))

    def spoil(progress: dict[str, Any]) -> None:
        if progress["step"] == 5:
            raise TrainingError("loss became nan at step 5")

    from pugc_core.training.trainer import train as trained

    with pytest.raises(TrainingError):
        trained(dataset=data, start=start, objective="simpo", config=config, out=str(tmp_path / "out"), report=spoil)
    assert not (tmp_path / "out").exists()
    assert last_checkpoint(unfinished(str(tmp_path / "out")))


@pytest.mark.slow
def test_the_data_set_trains_with_trls_own_command_line(start: str, tmp_path: Path) -> None:
    from pugc_core.exports import write_dataset

    folder = dataset(tmp_path / "rows", pairs(4), pairs(1))
    frame = pl.concat([pl.read_parquet(f"{folder}/{split}.parquet") for split in ("train", "test")])
    write_dataset(str(tmp_path / "data"), frame, recipe="r", fingerprint="f", funnel={})
    words = f"dpo --model_name_or_path {start} --dataset_name {tmp_path / 'data'} --output_dir {tmp_path / 'out'}"
    done = subprocess.run(
        [str(Path(sys.executable).parent / "trl"), *words.split(), "--max_steps", "2", "--use_cpu", "--bf16", "False"],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "model.safetensors").is_file()


# --- a process of its own ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_run_trains_in_a_child_and_relays_its_progress(start: str, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    spec = {"dataset": dataset(tmp_path / "data", pairs(3)), "start": start, "objective": "simpo", "config": SMALL}
    summary = run(**spec, out=str(tmp_path / "child"), report=seen.append)
    assert [p["step"] for p in seen] == [1, 2, 3]
    assert seen[0].keys() >= {"step", "total", "loss", "margin", "accuracy", "learning_rate", "tokens_per_second"}
    assert summary.curve[-1]["loss"] == seen[-1]["loss"]
    assert (tmp_path / "child" / "config.json").exists()
    with pytest.raises(RecipeError, match="unknown objective"):
        run(**{**spec, "objective": "ppo"}, out=str(tmp_path / "x"), report=seen.append)


@pytest.mark.slow
def test_run_raises_what_the_child_raised(start: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no pairs to train on") as caught:
        run(
            dataset=str(tmp_path),
            start=start,
            objective="dpo",
            config=SMALL,
            out=str(tmp_path / "out"),
            report=lambda _: None,
        )
    assert caught.value.fix


def test_the_module_tells_a_wrong_spec_on_stdout(tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    for text in ("{", '{"objective": "dpo"}'):
        spec.write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "pugc_core.training", str(spec)], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert json.loads(done.stdout)["error"]["kind"] == "RecipeError"


def test_a_child_that_dies_gives_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nfor i in $(seq 30); do echo line $i >&2; done\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(PugcError, match="ended by signal SIGKILL") as caught:
        run(dataset="d", start="s", objective="dpo", config=SMALL, out="o", report=lambda _: None)
    assert isinstance(caught.value, TrainingError)
    assert caught.value.problem.splitlines()[1:] == [f"line {i}" for i in range(11, 31)]


CALLER = """
import sys
from pugc_core.training.config import TrainingConfig
from pugc_core.training.run import run
config = TrainingConfig(batch_size=1, device_batch_size=1, max_steps=100000)
run(dataset=sys.argv[1], start=sys.argv[2], objective="simpo", config=config, out=sys.argv[3],
    report=lambda p: print(p["step"], flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_child_ends_with_its_parent(how: signal.Signals, start: str, tmp_path: Path) -> None:
    data, out = dataset(tmp_path / "data", pairs(2)), tmp_path / "out"
    parent = subprocess.Popen(
        [sys.executable, "-c", CALLER, data, start, str(out)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        # Where the tests run in the background of a shell, SIGINT is ignored, and whoever they start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert parent.stdout is not None
    assert parent.stdout.readline().strip() == "1"
    child = int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text())
    parent.send_signal(how)
    parent.wait(20)
    deadline = time.monotonic() + 15
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(child)
    parent.stdout.close()
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
