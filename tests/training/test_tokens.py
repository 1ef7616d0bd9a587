"""What is trained is what was sampled, and one end token: every loss on every family's chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from helpers.templates import FAMILIES, start_model
from helpers.training import OBJECTIVES, dataset, pairs, trl_trainer

from pugc_core.engines.transformers import encode
from pugc_core.errors import TrainingError
from pugc_core.prompts.base import Message
from pugc_core.training import data
from pugc_core.training.config import TrainingConfig
from pugc_core.training.tokens import Pair, pair_ids

PAIR = {
    "prompt": [{"role": "user", "content": "Why?"}],
    "chosen": [{"role": "assistant", "content": "Because."}],
    "rejected": [{"role": "assistant", "content": "I was about to"}],
    "rejected_cut_off": True,
}


def trained(trainer: Any) -> dict[bool, tuple[str, str]]:
    """What the collator gives the model: the whole sequence, and the part of it that the loss looks at; by whether the
    answer is the chosen one."""
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(trainer.train_dataset))])
    if "chosen_input_ids" in batch:
        rows = [
            (
                side == "chosen",
                batch[f"{side}_input_ids"],
                batch[f"{side}_attention_mask"],
                batch[f"{side}_labels"] >= 0,
            )
            for side in ("chosen", "rejected")
        ]
        rows = [(good, ids[0], mask[0], answer[0]) for good, ids, mask, answer in rows]
    else:
        sides = batch.get("label", [True, False])
        masks = batch["attention_mask"], batch["completion_mask"]
        rows = list(zip(sides, batch["input_ids"], *masks, strict=True))
    decode = trainer.processing_class.decode
    return {bool(good): (decode(ids[mask == 1]), decode(ids[(mask * answer) == 1])) for good, ids, mask, answer in rows}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_sampled_sequence_is_trained_with_one_end_token(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    start = start_model(family, tmp_path / "start")
    for objective in OBJECTIVES:
        trainer = trl_trainer(objective, TrainingConfig(), start, tmp_path, [PAIR])
        expected = {
            True: (f"{family.asked}Because.{family.end}", f"Because.{family.end}"),
            False: (f"{family.asked}I was about to", "I was about to"),  # cut off: it never ended
        }
        assert trained(trainer) == expected, objective
    tokenizer = trainer.processing_class
    sampled = (
        encode(tokenizer, [Message("user", "Why?")]) + tokenizer("Because.", add_special_tokens=False)["input_ids"]
    )
    ids = pair_ids(Pair(**PAIR), tokenizer, 1)
    assert [*ids["prompt_ids"], *ids["chosen_ids"]] == [*sampled, 1]


def test_a_word_that_begins_a_line_has_no_blank_before_it() -> None:
    """Tokenizers of the SentencePiece kind write a first word with a blank, as a model does behind "[/INST]". Behind
    "<|assistant|>" and a line break it samples the word without."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "</s>", "▁", "\n", "▁Yes", "Yes", *"▁<|>[]/?abcdefghijklmnopqrstuvwxyzINSTW"]
    made = Tokenizer(models.Unigram([(w, -1.0) for w in dict.fromkeys(words)], unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    made.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    pair = Pair(**{**PAIR, "chosen": [{"role": "assistant", "content": "Yes"}]})
    for name, first in (("zephyr", "Yes"), ("mistral", "▁Yes")):
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=made, eos_token="</s>", bos_token="</s>", chat_template=FAMILIES[name].template
        )
        answer = pair_ids(pair, tokenizer, 1)["chosen_ids"]
        assert tokenizer.convert_ids_to_tokens(answer) == [first, "</s>"]


def test_a_system_text_goes_where_sampling_put_it(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(start_model(FAMILIES["mistral"], tmp_path))
    turns = [{"role": "system", "content": "Be brief."}, *PAIR["prompt"]]
    ids = pair_ids(Pair(**{**PAIR, "prompt": turns}), tokenizer, 2)["prompt_ids"]
    assert tokenizer.decode(ids) == "<s>[INST] Be brief.\nWhy? [/INST]"
    # Where the format has a place for it, and the recipe says to leave that empty.
    tokenizer = AutoTokenizer.from_pretrained(start_model(FAMILIES["zephyr"], tmp_path / "zephyr"))
    for said in (None, False):
        kept = data.fitting([Pair(**{**PAIR, "prompt": turns})], tokenizer, 500, 2, said).kept[0]["prompt_ids"]
        assert list(kept) == encode(tokenizer, [Message(**turn) for turn in turns], said)
        assert ("<|system|>" in tokenizer.decode(kept)) is (said is None)


def test_a_training_is_told_of_the_system_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the caller through the process of its own to the tokens."""
    from pugc_core.training import __main__, run, trainer

    specs: list[dict[str, Any]] = []
    monkeypatch.setattr(run, "_follow", lambda child, *told: None)
    monkeypatch.setattr(run, "_end", lambda child: None)
    monkeypatch.setattr(run.subprocess, "Popen", lambda *a, env, **k: specs.append(json.loads(env[run.SPEC])))
    told: list[object] = []

    def fitting(pairs: Any, tokenizer: Any, max_length: int, end: int, system_role: object = "lost") -> Any:
        told.append(system_role)
        raise TrainingError("enough")

    keys: list[str] = []
    staging = trainer.staging

    def keyed(out: str, key: str) -> Any:
        keys.append(key)
        return staging(out, key)

    monkeypatch.setattr(trainer, "staging", keyed)
    monkeypatch.setattr(data, "fitting", fitting)
    start, folder = start_model(FAMILIES["zephyr"], tmp_path), dataset(tmp_path / "data", pairs(2))
    for said in (None, True, False):
        run.run(
            dataset=folder,
            start=start,
            objective="dpo",
            config=TrainingConfig(),
            out=str(tmp_path / "out"),
            report=lambda _: None,
            system_role=said,
        )
        monkeypatch.setenv(run.SPEC, json.dumps(specs[-1]))
        spec = __main__._spec([])
        with pytest.raises(TrainingError, match="enough"):
            trainer.train(**{**spec, "config": TrainingConfig.model_validate(spec["config"])}, report=lambda _: None)
    assert told == [None, True, False]
    assert keys[0] == keys[1] != keys[2]  # a training that was begun is gone on with


def test_cut_off_answers_are_read_from_the_data_set(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "data", [{k: PAIR[k] for k in ("prompt", "chosen", "rejected")}])
    assert data.read(folder).train[0].rejected_cut_off is False  # made before there was the column
    path = Path(folder) / "train.parquet"
    frame = pl.read_parquet(path).with_columns(rejected_cut_off=pl.lit(True), chosen_cut_off=pl.lit(None, pl.Boolean))
    frame.write_parquet(path)
    pair = data.read(folder).train[0]
    assert (pair.chosen_cut_off, pair.rejected_cut_off) == (False, True)
    frame.drop("chosen").write_parquet(path)
    with pytest.raises(TrainingError, match="no column chosen"):
        data.read(folder)
