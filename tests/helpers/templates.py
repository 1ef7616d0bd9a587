"""Chat templates in the wire form of model families, and start models with tokenizers of our own that have them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
_TURNS = "{% for m in messages %}"
_END = "{% endfor %}"
_INST = "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}"


@dataclass(frozen=True)
class Family:
    """`asked` and `end` are what surrounds an answer to "Why?" on the wire."""

    template: str
    asked: str
    end: str
    control: tuple[str, ...] = ()
    bos: str | None = "<s>"
    eos: str = "</s>"
    also_stops: tuple[str, ...] = ()
    """End tokens that only the generation config names."""


_CHATML = (
    _TURNS + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n" + _END + "{% if add_generation_prompt %}"
    "<|im_start|>assistant\n{% endif %}"
)
_ASKED = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
_IM = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_HEADERS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>")
FAMILIES = {
    "mistral": Family(
        "{{ bos_token }}" + _NO_SYSTEM + _TURNS + _INST + " {{ m.content }}{{ eos_token }}{% endif %}" + _END,
        asked="<s>[INST] Why? [/INST]",
        end="</s>",
    ),
    "prometheus": Family(
        "{{ bos_token }}" + _NO_SYSTEM + _TURNS + _INST + "{{ m.content }}{{ eos_token }}{% endif %}" + _END,
        asked="<s>[INST] Why? [/INST]",
        end="</s>",
    ),
    "zephyr": Family(
        _TURNS + "<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n" + _END + "{% if add_generation_prompt %}"
        "<|assistant|>\n{% endif %}",
        asked="<|user|>\nWhy?</s>\n<|assistant|>\n",
        end="</s>",
    ),
    "qwen": Family(
        "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + _CHATML,
        asked="<|im_start|>system\nBe kind.<|im_end|>\n" + _ASKED,
        end="<|im_end|>",
        control=_IM,
        bos=None,
        eos="<|im_end|>",
        also_stops=("<|endoftext|>",),
    ),
    "smollm2": Family(_CHATML, _ASKED, "<|im_end|>", _IM, bos="<|im_start|>", eos="<|im_end|>"),
    "chatml on another end token": Family(
        _CHATML, _ASKED, "<|im_end|>", _IM, bos=None, eos="<|endoftext|>", also_stops=("<|im_end|>",)
    ),
    "chatml that nothing stops at": Family(_CHATML, _ASKED, "<|endoftext|>", _IM, bos=None, eos="<|endoftext|>"),
    "llama3": Family(
        "{{ bos_token }}" + _TURNS + "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
        "<|eot_id|>" + _END + "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n"
        "{% endif %}",
        asked="<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        end="<|eot_id|>",
        control=_HEADERS,
        bos="<|begin_of_text|>",
        eos="<|end_of_text|>",
        also_stops=("<|eot_id|>",),
    ),
}


def start_model(family: Family, folder: Path) -> str:
    """A random model with a byte tokenizer of this family, as a Hugging Face folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = list(dict.fromkeys(["<pad>", "<s>", "</s>", *family.control]))
    symbols = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(symbols)}, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only,
        pad_token="<pad>",
        bos_token=family.bos,
        eos_token=family.eos,
        additional_special_tokens=special[3:],
        chat_template=family.template,
    )
    ends = [symbols.index(token) for token in (family.eos, *family.also_stops)]
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(symbols),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=256,
            pad_token_id=0,
            bos_token_id=symbols.index(family.bos) if family.bos else None,
            eos_token_id=ends[0],
        )
    )
    model.generation_config.eos_token_id = ends
    torch.manual_seed(0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
