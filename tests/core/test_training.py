"""Losses against hand-worked numbers, what is refused and dropped, and real trainings of a random two-layer model."""

from __future__ import annotations

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
from pugc_core.errors import ModelNotFound, PugcError, RecipeError, TrainingError
from pugc_core.training.config import TrainingConfig
from pugc_core.training.losses import LOSSES, find
from pugc_core.training.losses.simpo import SimpoConfig
from pugc_core.training.output import staging
from pugc_core.training.run import run
from pugc_core.training.summary import Summary

ROOT = Path(__file__).parents[2]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SMALL = TrainingConfig(
    batch_size=4,
    device_batch_size=2,
    max_length=96,
    epochs=3,
    dpo={"learning_rate": 5e-3, "beta": 0.1},
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
    return LOSSES[objective].trainer(
        config.loss(objective),
        arguments=_arguments(config, out, 1, device="cpu", precision="fp32"),
        model=load_model(start).float(),
        tokenizer=load_tokenizer(start),
        train=Dataset.from_list(pairs(1)),
        test=None,
        callbacks=[],
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
    assert SimpoConfig(beta=beta, gamma_beta_ratio=ratio).simpo_gamma == pytest.approx(gamma)


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
    for attempt in (lambda: find("ppo"), lambda: TrainingConfig(objectives=("ppo",))):
        with pytest.raises(RecipeError, match="unknown objective 'ppo'; known: dpo, simpo"):
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


def test_dpo_on_fixed_log_probabilities(start: str, tmp_path: Path) -> None:
    """beta 0.01; log-ratios -10 + 12 = 2 and -14 + 13 = -1: 0.01 * 3 = 0.03, log(1 + e^-0.03) = 0.678260."""
    import torch

    trainer = trl_trainer("dpo", TrainingConfig(), start, tmp_path)

    def model_with(chosen: float, rejected: float) -> Any:
        one = torch.tensor([[chosen], [rejected]])
        rest = {name: torch.zeros(2, 1) for name in ("entropy", "mean_logits")}
        return lambda **_: SimpleNamespace(log_probs=one, is_top1=torch.zeros(2, 1, dtype=torch.bool), **rest)

    trainer.ref_model = model_with(-12.0, -13.0)
    inputs = {
        "input_ids": torch.tensor([[1, 5], [1, 6]]),
        "attention_mask": torch.ones(2, 2, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 1], [0, 1]]),
    }
    loss = trainer.compute_loss(model_with(-10.0, -14.0), inputs)
    assert loss.item() == pytest.approx(0.678260, abs=1e-6)
    assert trainer._metrics["eval"]["rewards/margins"] == [pytest.approx(0.03)]


def test_dpo_measures_against_a_frozen_copy_of_the_start(start: str, tmp_path: Path) -> None:
    import torch

    trainer = trl_trainer("dpo", TrainingConfig(), start, tmp_path)
    assert trainer.ref_model is not trainer.model
    batch = next(iter(trainer.get_train_dataloader()))
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(math.log(2), abs=1e-6)
    with torch.no_grad():
        trainer.model.lm_head.weight.mul_(2)
    assert trainer.compute_loss(trainer.model, batch).item() != pytest.approx(math.log(2), abs=1e-3)


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
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


# --- real trainings ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("objective", LOSSES)
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
    assert summary.final.keys() == {"loss", "margin", "accuracy", "test_loss", "test_margin", "test_accuracy"}
    if summary.device == "cpu":
        assert summary.precision == "fp32"
        assert "fp32 instead of bf16" in summary.notes[0]

    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "policy"]
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
@pytest.mark.parametrize("objective", LOSSES)
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


@pytest.mark.parametrize("objective", LOSSES)
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


# --- a process of its own ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_run_trains_in_a_child_and_relays_its_progress(start: str, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    spec = {"dataset": dataset(tmp_path / "data", pairs(3)), "start": start, "objective": "simpo", "config": SMALL}
    summary = run(**spec, out=str(tmp_path / "child"), report=seen.append)
    assert [p["step"] for p in seen] == [1, 2, 3]
    assert seen[0].keys() == {"step", "total", "loss", "margin", "accuracy"}
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
