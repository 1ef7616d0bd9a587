"""Trains the bundled model from scratch: `python -m pugc_core.tiny.train --data DIR --out DIR`.

A Llama of 3.7 million parameters and its tokenizer, from open text, on a CPU in under half an hour. The tasks are the
pipeline's own prompts (see `tasks.py`), easy and short ones first. The clock, not a number of steps, ends the training
(`--minutes`), so that the same command fits any machine; on one machine the seed fixes the data, not the exact end.
The result is written beside `--out` first and moved into place whole.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from pugc_core.prompts import instructions, quality, relevance, rewards
from pugc_core.tiny import corpus, phrases, start, tokenizer
from pugc_core.tiny.batches import Batch, Packer, chunk
from pugc_core.tiny.measure import quick
from pugc_core.tiny.tasks import Tasks
from pugc_core.tiny.text import Salience

SEED = 17
ROUND = 256


@dataclass(frozen=True)
class Settings:
    """What shapes the run."""

    minutes: float = 25.0
    tokens: int = 3072  # per step, padding included
    samples: int = 768  # made at a time
    rate: float = 1.2e-3
    warmup: float = 0.02
    threads: int = 2
    report: float = 240.0  # seconds between progress lines


def build(vocabulary: int, end: int, pad: int) -> LlamaForCausalLM:
    """The model, freshly initialised."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.03,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
    )
    # Eager attention: on a CPU the backward pass of the fused kernel is several times slower at these lengths.
    model = LlamaForCausalLM._from_config(config, attn_implementation="eager")
    start.lay(model)
    return model


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """The weighted loss; logits are made only where there is a weight. Rows are padded on the right, so that plain
    causal attention needs no mask."""
    ids = torch.tensor(batch.ids)
    weights = torch.tensor(batch.weights)[:, 1:]
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    at = weights.flatten().nonzero().squeeze(1)
    at = torch.cat([at, at.new_zeros(-len(at) % ROUND)])  # to few shapes, see Packer
    there = weights.flatten()[at]
    there[len(there) - (-int((weights > 0).sum()) % ROUND) :] = 0.0
    logits = model.lm_head(hidden.flatten(0, 1)[at]).float()
    losses = cross_entropy(logits, ids[:, 1:].flatten()[at], reduction="none")
    return (losses * there).sum() / there.sum().clamp(min=1.0)


def rate(progress: float, warmup: float) -> float:
    """The share of the full learning rate: a short rise, then half a cosine down to nearly nothing."""
    if progress < warmup:
        return max(progress, 0.002) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))


def fit(
    model: LlamaForCausalLM, tok: Any, tasks: Tasks, settings: Settings, look: Callable[[], dict[str, float]]
) -> dict[str, float]:
    """Trains until the time is up; returns steps, tokens and minutes."""
    optim = torch.optim.AdamW(model.parameters(), lr=settings.rate, betas=(0.9, 0.98), weight_decay=0.05)
    autocast = torch.cpu._is_amx_tile_supported()  # without these units bfloat16 is slower than float32
    began = last = time.monotonic()
    packer = Packer(settings.tokens, tok.pad_token_id)
    steps = tokens = 0
    mean = 0.0
    progress = 0.0
    while progress < 1.0:
        for batch in chunk(tasks, tok, packer, progress, settings.samples):
            progress = (time.monotonic() - began) / (60 * settings.minutes)
            if progress >= 1.0:
                break
            for group in optim.param_groups:
                group["lr"] = settings.rate * rate(progress, settings.warmup)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = loss_of(model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optim.step()
            optim.zero_grad(set_to_none=True)
            steps, tokens = steps + 1, tokens + batch.tokens
            mean = loss.item() if steps == 1 else 0.98 * mean + 0.02 * loss.item()
            if time.monotonic() - last > settings.report:
                last = time.monotonic()
                _line(progress, steps, tokens, tokens / (last - began), mean, look())
    return {"steps": steps, "tokens": tokens, "minutes": round((time.monotonic() - began) / 60, 2)}


def _line(progress: float, steps: int, tokens: int, speed: float, loss: float, seen: dict[str, float]) -> None:
    figures = "  ".join(f"{name} {value:.2f}" for name, value in seen.items())
    print(
        f"{progress:4.0%}  step {steps}  {tokens / 1e6:.1f}M tokens  {speed:,.0f}/s  loss {loss:.3f}  {figures}",
        flush=True,
    )


def save(model: LlamaForCausalLM, tok: Any, out: Path) -> None:
    """Writes the folder in float16, whole or not at all; a model card that is there stays."""
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    half = LlamaForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half = half.to(torch.float16)
    half.generation_config = GenerationConfig(
        do_sample=True, max_new_tokens=256, eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id
    )
    half.save_pretrained(part)
    tok.save_pretrained(part)
    if (out / "README.md").exists():
        shutil.copy2(out / "README.md", part)
    for path in part.iterdir():
        path.chmod(0o644)
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)


def learn_tokenizer(documents: list[corpus.Document], vocabulary: int) -> Any:
    """The tokenizer, from the training texts and the wordings that every prompt shares."""
    shared = [module.WORDINGS["short"].user for module in (quality, instructions, relevance, rewards)]
    fixed = [p for options in (*phrases.VERDICT.values(), *phrases.GOOD.values()) for p in options]
    fixed += ["is covered, is missing and Of the reference,", *phrases.ASK_ONE, *phrases.ASK_TWO]
    texts = [t for d in documents for t in (d.text, d.question)]
    return tokenizer.build([*texts, *(shared + fixed) * 50], vocabulary)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the bundled model from scratch.")
    parser.add_argument("--data", type=Path, help="folder of the open data; without it, the bundled sample")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--minutes", type=float, default=25.0, help="time to train (default 25)")
    parser.add_argument("--report", type=float, default=240.0, help="seconds between progress lines (default 240)")
    parser.add_argument("--smoke", action="store_true", help="the whole script in seconds, for a test")
    options = parser.parse_args(arguments)
    settings = Settings(minutes=options.minutes, report=options.report)
    if options.smoke:
        settings = Settings(minutes=0.1, tokens=1024, samples=16, report=3.0)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(SEED)
    split = corpus.load(options.data)
    salience = Salience(d.text for d in split.train)
    tok = learn_tokenizer(split.train, tokenizer.VOCABULARY)
    model = build(len(tok), tok.eos_token_id, tok.pad_token_id)
    print(
        f"{len(split.train)} documents to learn from, {len(split.test)} to test, {model.num_parameters():,} parameters"
    )
    check = Tasks(split.test, salience, random.Random(SEED + 1))
    count = 4 if options.smoke else 64
    looked = {task: [check.of(task, check.words(0.6)) for _ in range(count)] for task in check.makers}

    def look() -> dict[str, float]:
        save(model, tok, options.out)  # so that a run that is broken off leaves its last state
        return quick(model, tok, looked)

    cost = fit(model, tok, Tasks(split.train, salience, random.Random(SEED)), settings, look)
    save(model, tok, options.out)
    print(json.dumps({**cost, "parameters": model.num_parameters(), **quick(model, tok, looked)}))


if __name__ == "__main__":
    main()
