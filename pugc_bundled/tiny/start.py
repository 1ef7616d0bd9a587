"""The model's weights before training: random, but for a head start in looking words up.

A small model that learns from a few million tokens alone never finds out how to copy a word from its prompt, and
without that it can neither ask about a post nor compare two texts. So two layers begin with the known circuit for it
("induction heads"): a head of the first layer looks at the token before; heads of the second find the place where the
token at hand came up earlier and bring forth what followed it there. Training then bends all of it freely.
"""

from __future__ import annotations

from typing import Any

import torch

BEFORE = 0.8  # how sharply the first layer looks one token back
MATCH = 3.0  # how sharply the second layer looks for the same token
WRITE = 0.07  # how strongly the first layer hands on the token before
COPY = 0.3  # how strongly the second layer speaks for the token found
SLOW = 14  # rotary pairs from here on hardly turn over a few hundred tokens, so that they can compare at a distance


@torch.no_grad()
def lay(model: Any) -> None:
    """Writes the circuit into head 0 of layer 0 and the first heads of layer 1. All layers begin with keys equal to
    queries, so that like attends to like."""
    config = model.config
    width, size = config.hidden_size, config.head_dim
    layers = model.model.layers
    for layer in layers:
        layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
        layer.self_attn.o_proj.weight.zero_()  # nothing else is written before it is learnt
        layer.mlp.down_proj.weight.zero_()
    slow = [*range(SLOW, size // 2), *range(size // 2 + SLOW, size)]
    basis = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(1))).Q
    common, read, write, free = basis.split([1, len(slow), len(slow), width - 1 - 2 * len(slow)])

    # Every token has the same share along `common`, by which a head can look at places, and none along `write`.
    embedding = model.model.embed_tokens.weight
    embedding -= embedding @ common.T @ common + embedding @ write.T @ write
    embedding += embedding.norm(dim=1).mean() * common

    first, second = layers[0].self_attn, layers[1].self_attn
    here, back = _one_back(size, config.rope_parameters["rope_theta"])
    first.q_proj.weight[:size] = BEFORE * here[:, None] * common
    first.k_proj.weight[:size] = BEFORE * back[:, None] * common
    first.v_proj.weight[: len(slow)] = read
    first.o_proj.weight[:, : len(slow)] = WRITE * write.T
    for head, told in enumerate(free.split(size)):
        start, rows = head * size, [head * size + i for i in slow]
        second.k_proj.weight[start : start + size] = 0.0
        second.q_proj.weight[rows] = MATCH**0.5 * read
        second.k_proj.weight[rows] = MATCH**0.5 * write
        second.v_proj.weight[start : start + len(told)] = told
        second.o_proj.weight[:, start : start + len(told)] = COPY * told.T


def _one_back(size: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A query and a key, the same for every token, whose rotary product is largest one position apart."""
    pairs = size // 2
    turn = theta ** (-torch.arange(pairs) / pairs)
    fast = (torch.arange(pairs) < SLOW).float()
    return torch.cat([fast, torch.zeros(pairs)]), torch.cat([fast * turn.cos(), fast * turn.sin()])
