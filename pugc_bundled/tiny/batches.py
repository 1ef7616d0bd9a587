"""Samples as token ids with a weight per token, packed into batches of like length so that little is padding.

The loss is on the answers, most of all on the words that decide (see `tasks.py`). For a part of the samples the
prompt's own text is read along as plain language modelling, with a small weight: a response beside its reference is
full of repetitions, which is how a small model learns to look words up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pugc_bundled.tiny.tasks import Part, Sample, Tasks
from pugc_bundled.tiny.tokenizer import END

# Rows are padded to one of these lengths; longer samples are left out of training.
LENGTHS = (64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 896)
PLAIN = 0.3  # weight of general text
STOPS = 0.5  # weight of the end of an answer
READ_ALONG = 0.12  # weight of a prompt that is read along


@dataclass(frozen=True)
class Encoded:
    """Token ids of one sample, and the weight of the loss on each."""

    ids: list[int]
    weights: list[float]


@dataclass(frozen=True)
class Batch:
    """Right-padded ids and weights, as lists of rows."""

    ids: list[list[int]]
    weights: list[list[float]]
    tokens: int


def encode(
    samples: Sequence[Sample], tokenizer: Any, prompt_weight: Sequence[float], floor: float = 0.0
) -> list[Encoded]:
    """The samples as ids and weights; `prompt_weight` is one number per sample, 0 for a loss on answers alone, and
    `floor` the least weight of everything else."""
    pieces: list[tuple[Part, ...]] = []
    owner: list[int] = []
    for number, sample in enumerate(samples):
        for piece in _pieces(sample, tokenizer, prompt_weight[number], floor):
            pieces.append(piece)
            owner.append(number)
    made = [Encoded([], []) for _ in samples]
    texts = ["".join(text for text, _ in piece) for piece in pieces]
    coded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    for number, piece, ids, offsets in zip(owner, pieces, coded["input_ids"], coded["offset_mapping"], strict=True):
        made[number].ids.extend(ids)
        made[number].weights.extend(_weights(piece, offsets))
    return made


def _pieces(sample: Sample, tokenizer: Any, prompt_weight: float, floor: float) -> Iterator[tuple[Part, ...]]:
    if not sample.turns:
        yield ((sample.text, max(PLAIN, floor)), (END, max(PLAIN, floor)))
    for turn in sample.turns:
        messages = [m._asdict() for m in turn.messages]
        yield ((tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False), prompt_weight),)
        yield (*((text, max(weight, floor)) for text, weight in turn.parts), (END, STOPS))


def _weights(parts: Sequence[Part], offsets: Sequence[tuple[int, int]]) -> list[float]:
    """The weight of each token: that of the part its last character lies in."""
    made: list[float] = []
    rest = iter(parts)
    text, weight = next(rest)
    end = len(text)
    for _, stop in offsets:
        while stop > end:
            text, weight = next(rest)
            end += len(text)
        made.append(weight)
    return made


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
            length = next((n for n in LENGTHS if n >= len(one.ids)), None)
            if length is None:
                continue
            rows = self.waiting.setdefault(length, [])
            rows.append(one)
            if len(rows) >= self.rows(length):
                full.append(_pad(rows, length, self.pad))
                rows.clear()
        return full

    def rows(self, length: int) -> int:
        """How many rows of this length make a batch."""
        return max(1, self.tokens // length)

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
    reads_along = 0.9 - 0.5 * tasks.hardness(progress)
    weights = [READ_ALONG if s.task != "quality" and rng.random() < reads_along else 0.0 for s in made]
    batches = packer.add(encode(made, tokenizer, weights, tasks.course.floor))
    rng.shuffle(batches)
    return batches
