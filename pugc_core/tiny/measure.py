"""What the model can do on documents that it never saw: `python -m pugc_core.tiny.measure --data DIR --model DIR`.

Prints one JSON object: loss per task, accuracy of the relevance filter, correlation of the mean reward vote with the
overlap of response and reference, how well the quality score parts real posts from damaged ones (AUC), the share of
free answers that parse at temperature 1.0, and of the instructor's answers (at 0.7) the shares that are one question
and that share a content word with the post.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from pugc_core.prompts import instructions, quality, rewards
from pugc_core.tiny import corpus, weights
from pugc_core.tiny.batches import whole
from pugc_core.tiny.tasks import Sample, Tasks
from pugc_core.tiny.text import Salience, content

VOTES = 8


def quick(model: Any, tok: Any, samples: Mapping[str, Sequence[Sample]]) -> dict[str, float]:
    """Per task, the share of the answer's tokens that the model puts first; for relevance the verdict of the first
    turn, for the judges (named `…_score`) the score digit, both given what goes before."""
    made: dict[str, float] = {}
    model.eval()
    for task, chosen in samples.items():
        kept = [s if task != "relevance" else Sample(task, s.turns[:1]) for s in chosen]
        right, scores = _right(model, tok, kept)
        made[task] = sum(right) / len(right)
        if task in ("quality", "rewards"):
            made[f"{task}_score"] = sum(scores) / len(scores)
    model.train()
    return made


@torch.no_grad()
def _right(model: Any, tok: Any, samples: Sequence[Sample]) -> tuple[list[bool], list[bool]]:
    """For every answer token whether it comes first, and for the last token before the end of each answer."""
    tokens: list[bool] = []
    last: list[bool] = []
    for batch in whole(samples, tok):
        ids, at = torch.tensor(batch.ids), torch.tensor(batch.weights)[:, 1:] > 0
        hit = model(input_ids=ids[:, :-1]).logits.argmax(-1) == ids[:, 1:]
        for row, where in zip(hit, at, strict=True):
            found = row[where].tolist()
            last.extend(found[-2:-1])
            tokens.extend(found[:1] if samples[0].task == "relevance" else found)
    return tokens, last


@torch.no_grad()
def loss(model: Any, tok: Any, samples: Sequence[Sample]) -> float:
    """The mean loss per answer token."""
    total, count = 0.0, 0
    for batch in whole(samples, tok):
        ids, at = torch.tensor(batch.ids), torch.tensor(batch.weights)[:, 1:] > 0
        logits = model(input_ids=ids[:, :-1]).logits[at].float()
        total += cross_entropy(logits, ids[:, 1:][at], reduction="sum").item()
        count += int(at.sum())
    return total / count


@torch.no_grad()
def answers(
    model: Any, tok: Any, samples: Sequence[Sample], draws: int, temperature: float = 1.0, top_p: float = 1.0
) -> list[list[str]]:
    """`draws` free answers to the first turn of each sample."""
    order = sorted(range(len(samples)), key=lambda i: len(str(samples[i].turns[0].messages)))
    made: list[list[str]] = [[] for _ in samples]
    for start in range(0, len(order), 4):
        part = order[start : start + 4]
        texts = [
            tok.apply_chat_template(
                [m._asdict() for m in samples[i].turns[0].messages], add_generation_prompt=True, tokenize=False
            )
            for i in part
        ]
        inputs = tok(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        out = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=top_p,
            max_new_tokens=64,
            num_return_sequences=draws,
        )
        decoded = tok.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for place, i in enumerate(part):
            made[i] = decoded[place * draws : (place + 1) * draws]
    return made


def correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Pearson's r; 0 when either side does not vary."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return 0.0
    return statistics.correlation(a, b)


def auc(good: Sequence[float], bad: Sequence[float]) -> float:
    """The chance that a good one scores above a bad one, ties counted half."""
    wins = sum((g > b) + 0.5 * (g == b) for g in good for b in bad)
    return wins / (len(good) * len(bad))


def _post(prompt: str) -> str:
    """The post within a rendered instruction prompt."""
    return prompt.partition("<context start>")[2].partition("<context end>")[0]


def full(model: Any, tok: Any, tasks: Tasks, count: int) -> dict[str, float]:
    """All figures, over `count` fresh samples per task."""
    model.eval()
    samples = {task: [tasks.of(task, tasks.words(0.8)) for _ in range(count)] for task in tasks.makers}
    made = {f"loss_{task}": loss(model, tok, chosen) for task, chosen in samples.items()}
    made["relevance_accuracy"] = quick(model, tok, {"relevance": samples["relevance"]})["relevance"]
    model.eval()
    votes = [[rewards.parse(a) for a in draws] for draws in answers(model, tok, samples["rewards"], VOTES)]
    pairs = [
        (statistics.fmean(valid), s.target)
        for v, s in zip(votes, samples["rewards"], strict=True)
        if s.target is not None and (valid := [x for x in v if x is not None])
    ]
    made["reward_correlation"] = correlation([p[0] for p in pairs], [p[1] for p in pairs])
    made["reward_parses"] = statistics.fmean(x is not None for v in votes for x in v)
    scores = [[quality.parse(a) for a in draws] for draws in answers(model, tok, samples["quality"], 2)]
    made["quality_parses"] = statistics.fmean(x is not None for v in scores for x in v)
    good: list[float] = []
    bad: list[float] = []
    for v, s in zip(scores, samples["quality"], strict=True):
        if valid := [x for x in v if x is not None]:
            (good if (s.target or 0) >= 4 else bad).append(statistics.fmean(valid))
    made["quality_auc"] = auc(good, bad) if good and bad else 0.5
    asked = samples["instructions"]
    questions = [instructions.parse(a[0]) for a in answers(model, tok, asked, 1, temperature=0.7, top_p=0.9)]
    made["instructor_one_question"] = statistics.fmean(q.count("?") == 1 and q.endswith("?") for q in questions)
    texts = [s.turns[0].messages[-1].content for s in asked]
    named = [bool(set(content(q)) & set(content(_post(t)))) for q, t in zip(questions, texts, strict=True)]
    made["instructor_names_the_post"] = statistics.fmean(named)
    return {name: round(value, 3) for name, value in made.items()}


def main(arguments: list[str] | None = None) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(description="Measure the bundled model on the test side of its data.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the open data")
    parser.add_argument("--model", type=Path, default=weights(), help="folder of the model (default: the bundled one)")
    parser.add_argument("--count", type=int, default=100, help="samples per task (default 100)")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    split = corpus.load(options.data)
    tasks = Tasks(split.test, Salience(d.text for d in split.train), random.Random(1))
    tok = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    print(json.dumps(full(model, tok, tasks, options.count), indent=1))


if __name__ == "__main__":
    main()
