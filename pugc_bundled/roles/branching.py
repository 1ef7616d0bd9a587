"""A post read once for all that is asked about it: several prompts with one beginning, as one row of tokens.

A packed row holds, post after post, the beginning that the prompts share and then what is their own, prompt by prompt.
Attention keeps the prompts apart: what is a prompt's own sees the beginning and itself. The numbers are those that each
prompt would give on its own; a dozen answers cost the reading of one post instead of twelve.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from pugc_bundled.roles.tasks import Branch, Reading

NAME = "pugc_branches"


@dataclass(frozen=True)
class Coded:
    """A prompt with its answer as tokens, and the weight of the loss on each token, 0 throughout the prompt."""

    ids: list[int]
    weights: list[float]


@dataclass
class Row:
    """Posts and their branches in one row. `layout` has, per post, the end points of its beginning and its branches."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    """for every token the place in the row of the token before it"""
    owners: list[int] = field(default_factory=list)
    """for every token the number of its branch, -1 in a beginning"""
    layout: list[list[int]] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)

    def add(self, coded: Sequence[Coded], roles: Sequence[str]) -> None:
        """A post's branches, which begin with the same tokens."""
        start = len(self.ids)
        shared = _shared(coded)
        ends = [start + shared]
        self._extend(coded[0].ids[:shared], [0.0] * shared, 0, start - 1, -1)
        for branch in coded:
            self.roles.append(roles[len(ends) - 1])
            own, weights = branch.ids[shared:], branch.weights[shared:]
            self._extend(own, weights, shared, start + shared - 1, len(self.roles) - 1)
            ends.append(len(self.ids))
        self.layout.append([start, *ends])

    def _extend(self, ids: list[int], weights: list[float], position: int, before: int, owner: int) -> None:
        at = len(self.ids)
        self.ids += ids
        self.weights += weights
        self.positions += range(position, position + len(ids))
        self.sources += [before, *range(at, at + len(ids) - 1)]
        self.owners += [owner] * len(ids)


def _shared(coded: Sequence[Coded]) -> int:
    """How many tokens all prompts begin with; of a prompt the last token is always its own."""
    shortest = min(next(i for i, weight in enumerate(c.weights) if weight) for c in coded) - 1
    first = coded[0].ids
    return next((i for i in range(shortest) if any(c.ids[i] != first[i] for c in coded)), shortest)


def encode(branch: Branch, tokenizer: Any) -> Coded:
    """The prompt as the engines render it, and the answer with its end token."""
    messages = [{"role": m.role, "content": m.content} for m in branch.messages]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    coded = tokenizer(branch.answer, add_special_tokens=False, return_offsets_mapping=True)
    ends, weights, at = [], [], 0
    for text, weight in branch.parts:
        at += len(text)
        ends.append((at, weight))
    for _, stop in coded["offset_mapping"]:
        weights.append(next(weight for end, weight in ends if stop <= end))
    return Coded(
        [*ids, *coded["input_ids"], tokenizer.eos_token_id], [0.0] * len(ids) + weights + [branch.parts[-1][1]]
    )


def pack(readings: Iterable[Reading], tokenizer: Any, longest: int, tokens: int = 0) -> Row:
    """The readings in one row, without branches of more than `longest` tokens; no more once it has `tokens` of them."""
    row = Row()
    for reading in readings:
        coded = [(encode(branch, tokenizer), branch.role) for branch in reading.branches]
        if fitting := [(c, role) for c, role in coded if len(c.ids) <= longest]:
            row.add([c for c, _ in fitting], [role for _, role in fitting])
        if tokens and len(row.ids) >= tokens:
            break
    return row


def attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, *, layout: Any, **rest: Any
) -> tuple[torch.Tensor, None]:
    """Attention over a packed row: query (1, heads, tokens, size), keys and values with fewer heads; the output is
    (1, tokens, heads, size)."""
    groups = query.shape[1] // key.shape[1]
    sizes = [end - start for points in layout for start, end in pairwise(points)]
    # Split, not sliced: the gradient of every slice would be as large as the row.
    parts = zip(
        torch.split(query, sizes, 2),
        torch.split(key.repeat_interleave(groups, 1), sizes, 2),
        torch.split(value.repeat_interleave(groups, 1), sizes, 2),
        strict=True,
    )
    made = []
    for points in layout:
        asked, first_keys, first_values = next(parts)
        made.append(scaled_dot_product_attention(asked, first_keys, first_values, is_causal=True))
        for _ in points[2:]:
            asked, own_keys, own_values = next(parts)
            keys, values = torch.cat([first_keys, own_keys], 2), torch.cat([first_values, own_values], 2)
            seen = torch.ones(asked.shape[2], keys.shape[2], dtype=torch.bool, device=query.device)
            made.append(scaled_dot_product_attention(asked, keys, values, attn_mask=seen.tril(first_keys.shape[2])))
    return torch.cat(made, 2).transpose(1, 2), None


def register() -> None:
    """Makes `attend` known to transformers under NAME."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)


def hidden(body: Any, row: Row, device: str = "cpu") -> torch.Tensor:
    """Last hidden states of the row's tokens, (tokens, width)."""
    ids = torch.tensor([row.ids], device=device)
    positions = torch.tensor([row.positions], device=device)
    out = body(input_ids=ids, position_ids=positions, use_cache=False, layout=row.layout)
    return out.last_hidden_state[0]  # type: ignore[no-any-return]
