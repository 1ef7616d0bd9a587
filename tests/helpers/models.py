"""A random two-layer Llama with a byte-level tokenizer, made in a second: enough to hold an engine to its contract."""

import json
from pathlib import Path
from typing import Any

LIMIT = 512
"""Context of the model. A token is a byte, so a prompt is as long as its text and a few turn markers."""

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# As Gemma's: there is the word "system" in it, and no place for a system text.
NO_SYSTEM_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + CHAT_TEMPLATE
)


def tokenizer(chat_template: str | None = CHAT_TEMPLATE, pad_token: str | None = None) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    # As Llama 3: control tokens that no attribute of the tokenizer names.
    names = ["<|end|>", "<|user|>", "<|system|>", "<|assistant|>", "<turn>", "[CTRL]", "<|pad|>"]
    core.add_special_tokens([AddedToken(name, special=True) for name in names])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|end|>",
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
        **({"pad_token": pad_token} if pad_token else {}),
    )


def make(
    folder: Path,
    *,
    seed: int = 0,
    chat_template: str | None = CHAT_TEMPLATE,
    pad: str | None = None,
    labels: int = 0,
) -> Path:
    """Write the model to `folder`. Without `pad` it has no padding token, as many chat models. With `labels` it is a
    classifier."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    words = tokenizer(chat_template, pad)
    torch.manual_seed(seed)
    # Weights larger than usual: a choice between tokens that rounding cannot turn round.
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=LIMIT,
        initializer_range=0.12,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
        pad_token_id=words.pad_token_id,
        tie_word_embeddings=False,
        **({"num_labels": labels} if labels else {}),
    )
    model = (LlamaForSequenceClassification if labels else LlamaForCausalLM)(config).float()
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["max_position_embeddings"] == LIMIT
    return folder
