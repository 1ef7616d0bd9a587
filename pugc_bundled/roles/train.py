"""Trains the roles adapter: `python -m pugc_bundled.roles.train --data DIR --base DIR --sampled DIR --out DIR`.

LoRA on the top layers of the base, loss on answers alone. The base computes in float32, or with `--bf16` in bfloat16,
which is several times as fast on a GPU or a CPU with AMX; the adapter is kept in float32. The rate rises, stays, and
falls to nothing over the last part. Every few minutes the state goes to `OUT.state`, from where `--resume` goes on;
the rest is lost. The same data, seed and number of tokens give the same steps.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from pugc_bundled.roles import branching, corpus, phrases
from pugc_bundled.roles.branching import Row
from pugc_bundled.roles.material import Sampled
from pugc_bundled.roles.tasks import Tasks
from pugc_bundled.tiny.text import Salience

SEED = 41
BASE = "pugc/smollm2"
"""What the adapter says it is for; `merge` refuses it on any other base."""
LAYERS, RANK, ALPHA = 16, 32, 64
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RATE, WARMUP, FALL = 5e-4, 0.02, 0.25
"""Peak of the learning rate, and the shares of the training in which it rises and falls."""
STEP_TOKENS = 2048
"""Tokens of a step, or some more: readings are not cut."""
LONGEST = 1200
"""Tokens of the longest prompt with its answer."""


def rate(progress: float) -> float:
    """Share of the full learning rate at a `progress` of 0 to 1."""
    rising = min(1.0, max(progress, 1e-3) / WARMUP)
    return min(rising, max(0.0, (1 - progress) / FALL))


def build(base: Path, device: str, dtype: torch.dtype = torch.float32, start: Path | None = None) -> tuple[Any, Any]:
    """The base in `dtype` with an adapter in float32 on its top layers, fresh or that of `start`, and its tokenizer."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    branching.register()
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, attn_implementation=branching.NAME)
    layers = model.config.num_hidden_layers
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=MODULES,
        layers_to_transform=list(range(max(0, layers - LAYERS), layers)),
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    if start:
        set_peft_model_state_dict(adapted, load_file(start / "adapter_model.safetensors"))
    return adapted.to(device), AutoTokenizer.from_pretrained(base)


class Training:
    """The state of a training between steps."""

    def __init__(
        self, model: Any, tokenizer: Any, tasks: Tasks, tokens: float, device: str, peak: float = RATE
    ) -> None:
        self.model, self.tokenizer, self.tasks, self.total, self.device = model, tokenizer, tasks, tokens, device
        self.peak = peak
        self.learnt = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learnt, lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
        self.steps = self.tokens = self.branches = 0
        self.seconds = 0.0
        self.losses: dict[str, float] = {}

    @property
    def progress(self) -> float:
        return self.tokens / self.total

    def next_row(self) -> Row:
        """As many readings as fill a step."""
        return branching.pack(self.tasks.readings(), self.tokenizer, LONGEST, STEP_TOKENS)

    def step(self) -> None:
        began = time.monotonic()
        row = self.next_row()
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * rate(self.progress)
        loss, by_role = losses(self.model, row, self.device)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.learnt, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps, self.tokens = self.steps + 1, self.tokens + len(row.ids)
        self.branches += len(row.roles)
        for role, value in by_role.items():
            self.losses[role] = 0.97 * self.losses.get(role, value) + 0.03 * value
        self.seconds += time.monotonic() - began

    def keep(self, path: Path) -> None:
        """Writes the state, whole or not at all."""
        state = {
            "adapter": {n: p.detach().cpu() for n, p in self.model.named_parameters() if p.requires_grad},
            "optimizer": self.optimizer.state_dict(),
            "counts": [self.steps, self.tokens, self.branches, self.seconds],
            "losses": self.losses,
            "random": self.tasks.rng.getstate(),
        }
        part = path.with_name(path.name + ".part")
        torch.save(state, part)
        os.replace(part, path)

    def resume(self, path: Path) -> None:
        """Goes on from a state that `keep` wrote."""
        state = torch.load(path, weights_only=True, map_location=self.device)
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in state["adapter"].items():
                own[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps, self.tokens, self.branches, self.seconds = state["counts"]
        self.losses = state["losses"]
        version, numbers, gauss = state["random"]
        self.tasks.rng.setstate((version, tuple(numbers), gauss))


def losses(model: Any, row: Row, device: str = "cpu") -> tuple[torch.Tensor, dict[str, float]]:
    """The weighted loss of a row, and the mean loss of each role's weighted tokens."""
    base = model.get_base_model()
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=base.dtype == torch.bfloat16):
        states = branching.hidden(base.model, row, device)
    at = [i for i, weight in enumerate(row.weights) if weight > 0]
    weights = torch.tensor([row.weights[i] for i in at], device=device)
    sources = torch.tensor([row.sources[i] for i in at], device=device)
    logits = base.lm_head(states[sources].to(base.dtype)).float()
    each = cross_entropy(logits, torch.tensor([row.ids[i] for i in at], device=device), reduction="none") * weights
    by_role: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for i, value, weight in zip(at, each.tolist(), weights.tolist(), strict=True):
        sums = by_role[row.roles[row.owners[i]]]
        sums[0] += value
        sums[1] += weight
    return each.sum() / weights.sum(), {role: value / weight for role, (value, weight) in by_role.items()}


@torch.no_grad()
def look(model: Any, rows: Sequence[Row], device: str) -> dict[str, float]:
    """Mean loss per role over rows of the test side."""
    sums: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for role, value in losses(model, row, device)[1].items():
            sums[role].append(value)
    return {role: sum(values) / len(values) for role, values in sums.items()}


def save(model: Any, out: Path, about: dict[str, Any]) -> None:
    """Writes the adapter in bfloat16 as peft reads it, whole or not at all; its card stays."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    config = model.peft_config["default"]
    config.base_model_name_or_path = BASE
    config.save_pretrained(part)
    factors = {name: value.to("cpu", torch.bfloat16) for name, value in get_peft_model_state_dict(model).items()}
    save_file(factors, part / "adapter_model.safetensors", metadata={"format": "pt"})
    (part / "training.json").write_text(json.dumps(about, indent=1) + "\n")
    if (out / "README.md").exists():
        shutil.copy2(out / "README.md", part)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(part, out)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the roles adapter on top of the base model.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the open data")
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--sampled", type=Path, nargs="+", required=True, help="folders that `sample` wrote")
    parser.add_argument("--start", type=Path, help="folder of an adapter to go on from, in a second course")
    parser.add_argument(
        "--own", type=float, default=0.0, help="share of readings with votes on the base's answers alone"
    )
    parser.add_argument("--rate", type=float, default=RATE, help=f"peak of the learning rate (default {RATE})")
    parser.add_argument("--out", type=Path, required=True, help="folder of the adapter to write")
    parser.add_argument("--millions", type=float, default=3.4, help="tokens to train on, in millions (default 3.4)")
    parser.add_argument("--resume", action="store_true", help="go on from OUT.state")
    parser.add_argument("--minutes", type=float, default=5.0, help="minutes between states and progress lines")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    every = corpus.posts(options.data)
    train, test = corpus.of("train", every), corpus.of("test", every)
    salience = Salience(p.text for p in train)
    rows = [json.loads(line) for folder in options.sampled for line in (folder / "answers.jsonl").open()]
    judged = [j for j in corpus.judgments(options.data) if j.side == "train"]
    tasks = Tasks(train, salience, random.Random(SEED), Sampled(rows), judged, own=options.own)
    dtype = torch.bfloat16 if options.bf16 else torch.float32
    model, tokenizer = build(options.base, options.device, dtype, options.start)
    training = Training(model, tokenizer, tasks, 1e6 * options.millions, options.device, options.rate)
    check = Tasks(test, salience, random.Random(SEED + 1), bank=phrases.TEST)
    seen = check.readings()
    looked = [branching.pack([next(seen) for _ in range(4)], tokenizer, LONGEST) for _ in range(4)]
    state = options.out.with_name(options.out.name + ".state")
    if options.resume:
        training.resume(state)
    parameters = sum(p.numel() for p in training.learnt)
    print(f"{len(train)} posts to learn from, {len(test)} to look at, {parameters:,} parameters", flush=True)
    last, began, before = time.monotonic(), time.monotonic(), training.tokens
    while training.progress < 1.0:
        training.step()
        if time.monotonic() - last > 60 * options.minutes or training.progress >= 1.0 or training.steps in (5, 20):
            last = time.monotonic()
            training.keep(state)
            speed = (training.tokens - before) / (time.monotonic() - began)
            ours = "  ".join(f"{role} {value:.3f}" for role, value in sorted(training.losses.items()))
            theirs = "  ".join(
                f"{role} {value:.3f}" for role, value in sorted(look(model, looked, options.device).items())
            )
            print(
                f"{training.progress:4.0%}  step {training.steps}  {training.branches:,} answers  {speed:,.0f} tokens/s"
                f"\n      train  {ours}\n      test   {theirs}",
                flush=True,
            )
    about = {
        "steps": training.steps,
        "tokens": training.tokens,
        "answers": training.branches,
        "minutes": round(training.seconds / 60, 1),
        "seed": SEED,
        "rate": options.rate,
        "own": options.own,
        "dtype": "bfloat16" if options.bf16 else "float32",
    }
    save(model, options.out, about)


if __name__ == "__main__":
    main()
