"""The bundled model: its tokenizer, its folder, its training samples, and the script that makes it."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pugc_bundled.tiny import corpus, text, tokenizer
from pugc_bundled.tiny.tasks import COMPARE, SPEAK, Sample, Tasks, judged
from pugc_core.models.tiny import weights
from pugc_core.prompts import instructions, quality, relevance, rewards
from pugc_core.prompts.base import Message

CHAT = [{"role": "user", "content": "Is it 42?"}, {"role": "assistant", "content": "True"}]


@pytest.fixture(scope="module")
def bundled() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(weights())


@pytest.fixture(scope="module")
def tasks() -> Tasks:
    documents = corpus.load(None).train
    return Tasks(documents, text.Salience(d.text for d in documents), random.Random(3))


def test_the_folder_is_complete_and_small() -> None:
    names = {path.name for path in weights().iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert sum(path.stat().st_size for path in weights().iterdir()) <= 10_000_000


def test_importing_the_package_brings_no_torch() -> None:
    code = "import sys, pugc_core.models.tiny; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_special_tokens_are_one_token_each(bundled: Any) -> None:
    for token in tokenizer.SPECIAL:
        assert len(bundled.encode(token, add_special_tokens=False)) == 1
    assert (bundled.eos_token, bundled.pad_token, bundled.bos_token) == (tokenizer.END, tokenizer.PAD, None)


@pytest.mark.parametrize("word", ["True", "False", *"0123456789"])
def test_verdicts_and_digits_are_one_token(bundled: Any, word: str) -> None:
    assert len(bundled.encode(word, add_special_tokens=False)) == 1


def test_the_chat_template_marks_every_turn(bundled: Any) -> None:
    assert bundled.apply_chat_template(CHAT, tokenize=False) == "<|user|>Is it 42?<|end|><|assistant|>True<|end|>"
    asked = bundled.apply_chat_template(CHAT[:1], tokenize=False, add_generation_prompt=True)
    assert asked == "<|user|>Is it 42?<|end|><|assistant|>"


@pytest.mark.parametrize("words", ["plain words", "Größe, naïve café, “quoted” 100 °C", "两个字 and\n\n\ttabs 3.14"])
def test_text_comes_back_as_it_was(bundled: Any, words: str) -> None:
    assert bundled.decode(bundled.encode(words, add_special_tokens=False)) == words


def test_the_bundled_model_generates(bundled: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(weights(), dtype=torch.float32)
    prompt = bundled.apply_chat_template(CHAT[:1], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**prompt, max_new_tokens=8, min_new_tokens=2, do_sample=False)
    assert out.shape[1] > prompt["input_ids"].shape[1]
    assert model.config.max_position_embeddings == 2048


def made(tasks: Tasks, task: str) -> list[Sample]:
    return [tasks.of(task, words) for words in range(30, 170, 4)]


@pytest.mark.parametrize("task", sorted(COMPARE.mixture))
def test_samples_have_questions_and_answers(tasks: Tasks, task: str) -> None:
    for sample in made(tasks, task):
        assert sample.turns
        assert all(isinstance(m, Message) and m.content for turn in sample.turns for m in turn.messages)
        assert all(turn.answer.strip() for turn in sample.turns)


def test_judge_answers_parse_to_their_target(tasks: Tasks) -> None:
    for sample in made(tasks, "quality"):
        assert quality.parse(sample.turns[0].answer) == sample.target
    for sample in made(tasks, "rewards"):
        assert rewards.parse(sample.turns[0].answer) == sample.target
    for sample in made(tasks, "relevance"):
        assert relevance.parse(sample.turns[0].answer) == bool(sample.target)


def test_questions_stand_on_their_own(tasks: Tasks) -> None:
    for sample in made(tasks, "instructions"):
        assert not instructions.refers_to_context(instructions.parse(sample.turns[0].answer))


def test_both_verdicts_and_all_scores_occur(tasks: Tasks) -> None:
    assert {s.target for s in made(tasks, "relevance")} == {0.0, 1.0}
    assert {s.target for _ in range(3) for s in made(tasks, "rewards")} == {1, 2, 3, 4, 5}


def test_the_same_seed_gives_the_same_samples() -> None:
    documents = corpus.load(None).train
    salience = text.Salience(d.text for d in documents)
    first, second = (Tasks(documents, salience, random.Random(5)) for _ in range(2))
    assert [first.sample(0.5) for _ in range(20)] == [second.sample(0.5) for _ in range(20)]


def test_every_course_has_every_task_and_its_shares_are_one() -> None:
    for course in (COMPARE, SPEAK):
        assert course.mixture.keys() == COMPARE.mixture.keys()
        assert sum(course.mixture.values()) == pytest.approx(1.0)


def test_the_score_follows_the_overlap() -> None:
    reference = "Soak dried beans overnight. Rinse them before cooking. Salt the water late."
    assert judged(reference, reference, whole=True) == 5
    assert judged("Soak dried beans overnight.", reference, whole=True) == 4
    assert judged("Paint the fence before winter.", reference, whole=True) == 1


def test_excerpts_end_with_a_sentence() -> None:
    assert text.excerpt("One two three. Four five six. Seven eight.", 6) == "One two three. Four five six."


def test_the_split_never_shares_a_document() -> None:
    document = corpus.Document("same", "post", key="k")
    assert document.is_test == corpus.Document("other text", "post", key="k").is_test


@pytest.mark.slow
def test_the_whole_script_runs(tmp_path: Path) -> None:
    from pugc_bundled.tiny.train import main

    first, second = tmp_path / "first", tmp_path / "second"
    main(["--smoke", "--out", str(first)])
    main(["--smoke", "--start", str(first), "--out", str(second)])
    assert (second / "tokenizer.json").read_bytes() == (first / "tokenizer.json").read_bytes()
    assert (second / "model.safetensors").read_bytes() != (first / "model.safetensors").read_bytes()
    assert not list(tmp_path.glob("*.part"))
