"""Samples as token ids with a weight per token, packed into batches of like length so that little is padding.

The loss is on the answers. The one word or digit that decides (True or False, the score) weighs more than the rest, and
for a part of the samples the prompt's own text is read along as plain language modelling, with a small weight: a
response beside its reference is full of repetitions, which is how a small model learns to look words up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pugc_core.tiny.tasks import Sample, Tasks
from pugc_core.tiny.tokenizer import END

STEP = 32  # lengths are rounded up to a multiple of this
LONGEST = 640  # tokens; longer samples are left out of training
WEIGHT = {"relevance": 6.0, "digit": 4.0}


@dataclass(frozen=True)
class Encoded:
    """Token ids of one sample, the weight of the loss on each, and the task."""

    task: str
    ids: list[int]
    weights: list[float]


@dataclass(frozen=True)
class Batch:
    """Right-padded ids and weights, as lists of rows."""

    ids: list[list[int]]
    weights: list[list[float]]
    tokens: int


def encode(samples: Sequence[Sample], tokenizer: Any, prompt_weight: Sequence[float]) -> list[Encoded]:
    """The samples as ids and weights; `prompt_weight` is one number per sample, 0 for a loss on answers alone."""
    pieces: list[str] = []
    owner: list[tuple[int, bool]] = []
    for number, sample in enumerate(samples):
        for text, is_answer in _pieces(sample, tokenizer):
            pieces.append(text)
            owner.append((number, is_answer))
    digits = {tokenizer.convert_tokens_to_ids(d) for d in "12345"}
    made = [Encoded(s.task, [], []) for s in samples]
    for (number, is_answer), ids in zip(owner, tokenizer(pieces, add_special_tokens=False)["input_ids"], strict=True):
        one = made[number]
        one.ids.extend(ids)
        if not is_answer:
            one.weights.extend([prompt_weight[number]] * len(ids))
            continue
        weights = [WEIGHT["relevance"] if one.task == "relevance" else 1.0] * len(ids)
        if one.task in ("quality", "rewards") and len(ids) > 1 and ids[-2] in digits:
            weights[-2] = WEIGHT["digit"]
        weights[-1] = 1.0
        one.weights.extend(weights)
    return made


def _pieces(sample: Sample, tokenizer: Any) -> Iterator[tuple[str, bool]]:
    if not sample.turns:
        yield sample.text + END, True
    for turn in sample.turns:
        messages = [m._asdict() for m in turn.messages]
        yield tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False), False
        yield turn.answer + END, True


class Packer:
    """Collects encoded samples by length and gives batches of about `tokens` tokens, always of the same few shapes,
    because every new shape costs a CPU's matrix library time to prepare for."""

    def __init__(self, tokens: int, pad: int) -> None:
        self.tokens = tokens
        self.pad = pad
        self.waiting: dict[int, list[Encoded]] = {}

    def add(self, encoded: Sequence[Encoded]) -> list[Batch]:
        """The batches that are full now; the other samples wait for more of their length."""
        full: list[Batch] = []
        for one in encoded:
            length = -(-len(one.ids) // STEP) * STEP
            if length > LONGEST:
                continue
            rows = self.waiting.setdefault(length, [])
            rows.append(one)
            if len(rows) >= max(1, self.tokens // length):
                full.append(_pad(rows, length, self.pad))
                rows.clear()
        return full

    def rest(self) -> list[Batch]:
        """Everything that still waits."""
        made = [_pad(rows, length, self.pad) for length, rows in self.waiting.items() if rows]
        self.waiting.clear()
        return made


def _pad(rows: Sequence[Encoded], length: int, pad: int) -> Batch:
    # One more than a round length: the last token is only ever predicted.
    ids = [row.ids + [pad] * (length + 1 - len(row.ids)) for row in rows]
    weights = [row.weights + [0.0] * (length + 1 - len(row.weights)) for row in rows]
    return Batch(ids, weights, sum(len(row.ids) for row in rows))


def whole(samples: Sequence[Sample], tokenizer: Any) -> list[Batch]:
    """All the samples as batches, loss on the answers alone, order not kept."""
    packer = Packer(4096, tokenizer.pad_token_id)
    return packer.add(encode(samples, tokenizer, [0.0] * len(samples))) + packer.rest()


def chunk(tasks: Tasks, tokenizer: Any, packer: Packer, progress: float, samples: int) -> list[Batch]:
    """The next `samples` samples for this point of the training, as batches in random order."""
    rng = tasks.rng
    made = [tasks.sample(progress) for _ in range(samples)]
    share = {"rewards": 0.9 - 0.7 * progress, "quality": 0.0}
    reads_along = [rng.random() < share.get(s.task, 0.4 - 0.25 * progress) for s in made]
    weights = [0.3 if yes else 0.0 for yes in reads_along]
    batches = packer.add(encode(made, tokenizer, weights))
    rng.shuffle(batches)
    return batches
