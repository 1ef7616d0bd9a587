"""Speed of a training step: tokens/s, peak memory, and the share of the device's own matrix multiplication rate.

    .venv/bin/python benchmarks/training.py --shape mistral-7b --objectives dpo simpo --length 2048
    .venv/bin/python benchmarks/training.py --shape tiny --objectives dpo simpo --length 256    # on a CPU

The model has the shape of the one named and random weights; the pairs are random words, so many that prompt and
answer have `--length` tokens. The trainer is made as the policy asset makes it: gradient checkpointing, start
log-probabilities computed beforehand (and timed apart), bf16 arithmetic on a GPU that has it. The rate is measured on
the same device just before: a square bf16 (on a CPU fp32) product. Operations per token are counted as 6 x parameters,
the second forward pass of checkpointing not counted, so the share is what is known as model flops utilisation.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from pugc_core.models.tiny import weights
from pugc_core.training.config import TrainingConfig
from pugc_core.training.losses.base import Setup
from pugc_core.training.start import load_tokenizer
from pugc_core.training.trainer import _arguments, _prepare_libraries

SHAPES: dict[str, dict[str, int]] = {
    "mistral-7b": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "tiny": {
        "vocab_size": 4096,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
}


def matmul_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """Floating point operations per second of a square product, the best of five."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(6):
        began = time.perf_counter()
        for _ in range(8):
            a @ b
        _wait(device)
        best = max(best, 8 * 2 * size**3 / (time.perf_counter() - began))
    return best


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def pairs(tokenizer: Any, count: int, length: int) -> list[dict[str, Any]]:
    """Pairs of random words; prompt and answer have half of the tokens each."""
    rng = random.Random(0)
    words = [w for w in tokenizer.get_vocab() if w.startswith("Ġ") and w[1:].isalpha()]

    def text(tokens: int) -> str:
        return "".join(w.replace("Ġ", " ") for w in rng.choices(words, k=tokens))

    half = length // 2 - 4
    return [
        {
            "prompt": [{"role": "user", "content": text(half)}],
            "chosen": [{"role": "assistant", "content": text(half)}],
            "rejected": [{"role": "assistant", "content": text(half)}],
        }
        for _ in range(count)
    ]


def measure(objective: str, options: argparse.Namespace, device: str, rate: float) -> None:
    from datasets import Dataset
    from transformers import MistralConfig, MistralForCausalLM, PrinterCallback, TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Seconds of each step but the first two, which also warm up."""

        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            _wait(device)
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            _wait(device)
            if state.global_step > 2:
                self.seconds.append(time.perf_counter() - self.began)

    steps = options.steps + 2
    config = TrainingConfig(
        batch_size=options.batch, device_batch_size=options.device_batch, max_length=options.length, max_steps=steps
    )
    tokenizer = load_tokenizer(str(weights()))
    rows = pairs(tokenizer, options.batch * 2, options.length)
    torch.manual_seed(0)
    with torch.device(device):
        model = MistralForCausalLM(
            MistralConfig(max_position_embeddings=max(4096, options.length), **SHAPES[options.shape])
        )
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = _arguments(
            config, Path(folder), steps, device=device, precision="bf16" if device == "cuda" else "fp32"
        )
        arguments |= {"save_strategy": "no"}
        began = time.perf_counter()
        trainer = config.loss(objective).trainer(
            Setup(
                arguments=arguments,
                model=model,
                tokenizer=tokenizer,
                train=Dataset.from_list(rows),
                test=None,
                callbacks=[clock],
            )
        )
        prepared = time.perf_counter() - began
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    tokens = options.batch * 2 * options.length
    second = sum(clock.seconds) / len(clock.seconds)
    parameters = model.num_parameters()
    used = 6 * parameters * tokens / second / rate
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    print(
        f"| {objective} | {parameters / 1e9:.3g} B | {tokens / second:,.0f} | {second:.2f} | {peak:.1f} | {used:.1%} |"
        f" {prepared:.1f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--objectives", nargs="+", default=["dpo", "simpo"])
    parser.add_argument("--length", type=int, default=256, help="tokens of prompt and answer")
    parser.add_argument("--batch", type=int, default=8, help="pairs per optimizer step")
    parser.add_argument("--device-batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    _prepare_libraries()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rate = matmul_rate(
        device, torch.bfloat16 if device == "cuda" else torch.float32, 8192 if device == "cuda" else 2048
    )
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}: {rate / 1e12:.2f} Tflop/s in a square product; {options.shape}, {options.length} tokens\n")
    print("| objective | parameters | tokens/s | s/step | peak GiB | of the rate | s to prepare |")
    print("|---|---|---|---|---|---|---|")
    for objective in options.objectives:
        measure(objective, options, device, rate)


if __name__ == "__main__":
    main()
