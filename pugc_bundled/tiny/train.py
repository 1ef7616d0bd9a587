"""Trains the bundled model from scratch, in two courses:

    python -m pugc_bundled.tiny.train --data DIR --out FIRST
    python -m pugc_bundled.tiny.train --data DIR --start FIRST --out SECOND

A Llama of 4.3 million parameters and its tokenizer, from open text, on two CPU cores in about an hour and a half each.
The tasks are the pipeline's own prompts (see `tasks.py`). The first course is mostly about comparing texts, short and
easy ones first; the second, from the weights of the first, mostly about language. Seeds are fixed and progress is
counted in tokens, so the same command sees the same data in the same order on any machine. The result is written beside
`--out` first and moved into place whole.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from pugc_bundled.tiny import corpus, phrases, start, tokenizer
from pugc_bundled.tiny.batches import LENGTHS, Batch, Packer, chunk
from pugc_bundled.tiny.tasks import COMPARE, SPEAK, Course, Tasks
from pugc_bundled.tiny.text import Salience
from pugc_bundled.tiny.watch import quick
from pugc_core.prompts import instructions, quality, relevance, rewards

SEED = 17
ROUND = 256
ATTENTION = "eager"  # on a CPU the backward pass of the fused kernel is several times slower at these lengths


@dataclass(frozen=True)
class Settings:
    """What shapes the run."""

    millions: float = 32.0  # of tokens in this course, padding not counted
    tokens: int = 4096  # per step, padding included
    samples: int = 768  # made at a time
    rate: float = 1.5e-3
    warmup: float = 0.02
    course: Course = COMPARE
    compiled: bool = True
    threads: int = 2
    report: float = 240.0  # seconds between progress lines


FIRST = Settings()
SECOND = Settings(course=SPEAK, millions=38.0, rate=1.0e-3)


def build(vocabulary: int, end: int, pad: int) -> LlamaForCausalLM:
    """The model, freshly initialised."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=5,
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
    model = LlamaForCausalLM._from_config(config, attn_implementation=ATTENTION)
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


class Training:
    """The state of a training between steps: written to `<out>.state`, from where `--resume` goes on."""

    def __init__(self, model: LlamaForCausalLM, tasks: Tasks, tok: Any, settings: Settings) -> None:
        self.model, self.tasks, self.tok, self.settings = model, tasks, tok, settings
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True
        )
        self.packer = Packer(settings.tokens, tok.pad_token_id)
        self.steps = self.tokens = 0
        self.seconds = self.mean = 0.0

    @property
    def progress(self) -> float:
        return self.tokens / (1e6 * self.settings.millions)

    def step(self, batch: Batch) -> None:
        """One update; the rate follows the progress of the whole training."""
        began = time.monotonic()
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate * rate(self.progress, self.settings.warmup)
        loss = self.gradient(batch)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps, self.tokens = self.steps + 1, self.tokens + batch.tokens
        self.mean = loss if self.steps == 1 else 0.98 * self.mean + 0.02 * loss
        self.seconds += time.monotonic() - began

    def gradient(self, batch: Batch) -> float:
        # Where a CPU cannot multiply in bfloat16 itself, it is slower than float32.
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
            loss = loss_of(self.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def compile(self) -> None:
        """Compiles the layers for every shape of a batch, so that it is done before the clock runs."""
        torch._dynamo.config.recompile_limit = 4 * len(LENGTHS)
        self.model.model.compile(dynamic=False)
        for length in LENGTHS:
            rows = self.packer.rows(length)
            self.gradient(Batch([[1] * (length + 1)] * rows, [[1.0] * (length + 1)] * rows, 0))
        self.model.zero_grad(set_to_none=True)

    def fit(self, look: Callable[[], dict[str, float]]) -> None:
        """Trains until the tokens are used up."""
        last = self.seconds
        while self.progress < 1.0:
            for batch in chunk(self.tasks, self.tok, self.packer, self.progress, self.settings.samples):
                if self.progress >= 1.0:
                    break
                self.step(batch)
                if self.seconds - last > self.settings.report:
                    last = self.seconds
                    _line(self.progress, self.steps, self.tokens, self.tokens / self.seconds, self.mean, look())

    def keep(self, path: Path) -> None:
        """Writes the state; what waits in the packer is made anew."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "counts": (self.steps, self.tokens, self.seconds, self.mean),
            "random": self.tasks.rng.getstate(),
        }
        part = path.with_name(path.name + ".part")
        torch.save(state, part)
        part.replace(path)

    def resume(self, path: Path) -> None:
        """Goes on from a state that `keep` wrote."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps, self.tokens, self.seconds, self.mean = state["counts"]
        version, numbers, gauss = state["random"]
        self.tasks.rng.setstate((version, tuple(numbers), gauss))


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
    fixed = [*phrases.WORTH.values(), "is covered, is missing and Of the reference,", "Score: [RESULT]"]
    fixed += [text for _, texts in (*phrases.VERDICT.values(), *phrases.BROKEN.values()) for text in texts]
    # Without their slots, which are no words.
    forms = [*phrases.ASK_ONE, *phrases.ASK_TWO, *(text for texts in phrases.SOUND.values() for text in texts)]
    fixed += [fixed_text for form in forms for fixed_text, *_ in Formatter().parse(form)]
    texts = [t for d in documents for t in (d.text, d.question)]
    return tokenizer.build([*texts, *(shared + fixed) * 50], vocabulary)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the bundled model, from scratch or on from a first course.")
    parser.add_argument("--data", type=Path, help="folder of the open data; without it, the bundled sample")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--start", type=Path, help="folder of a first course, to go on from with the second")
    parser.add_argument(
        "--millions",
        type=float,
        help=f"tokens to train on, in millions (default {FIRST.millions:.0f}, second course {SECOND.millions:.0f})",
    )
    parser.add_argument("--resume", action="store_true", help="go on from OUT.state, which every report writes")
    parser.add_argument("--report", type=float, default=FIRST.report, help="seconds between progress lines")
    parser.add_argument("--smoke", action="store_true", help="the whole script in seconds, for a test")
    options = parser.parse_args(arguments)
    settings = SECOND if options.start else FIRST
    settings = replace(settings, millions=options.millions or settings.millions, report=options.report)
    if options.smoke:
        settings = replace(settings, millions=0.02, tokens=1024, samples=16, report=3.0, compiled=False)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(SEED)
    split = corpus.load(options.data)
    salience = Salience(d.text for d in split.train)
    if options.start:
        tok = AutoTokenizer.from_pretrained(options.start)
        model = LlamaForCausalLM.from_pretrained(
            options.start, dtype=torch.float32, attn_implementation=ATTENTION, use_safetensors=True
        )
    else:
        tok = learn_tokenizer(split.train, tokenizer.VOCABULARY)
        model = build(len(tok), tok.eos_token_id, tok.pad_token_id)
    print(
        f"{len(split.train)} documents to learn from, {len(split.test)} to test, {model.num_parameters():,} parameters"
    )
    check = Tasks(split.test, salience, random.Random(SEED + 1))
    count = 4 if options.smoke else 64
    looked = {task: [check.of(task, check.words(0.6)) for _ in range(count)] for task in check.makers}

    tasks = Tasks(split.train, salience, random.Random(SEED), settings.course)
    training = Training(model, tasks, tok, settings)
    state = options.out.with_name(options.out.name + ".state")
    if options.resume:
        training.resume(state)
    if settings.compiled:
        began = time.monotonic()
        training.compile()
        print(f"compiled in {time.monotonic() - began:.0f} s", flush=True)

    def look() -> dict[str, float]:
        save(model, tok, options.out)  # so that a run that is broken off leaves its last state
        training.keep(state)
        return quick(model, tok, looked)

    training.fit(look)
    save(model, tok, options.out)
    cost = {"steps": training.steps, "tokens": training.tokens, "minutes": round(training.seconds / 60, 2)}
    print(json.dumps({**cost, "parameters": model.num_parameters(), **quick(model, tok, looked)}))


if __name__ == "__main__":
    main()
