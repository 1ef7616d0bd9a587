"""The model that a training starts from: a local Hugging Face folder or a hub id, "@revision" after it where meant."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from pugc_core.errors import MissingDependency, ModelNotFound, TrainingError
from pugc_core.models.files import folder_hash
from pugc_core.training.config import Lora


def _source(start: str) -> dict[str, Any]:
    name, _, revision = start.rpartition("@")
    if not name or Path(start).is_dir():
        return {"pretrained_model_name_or_path": start, "trust_remote_code": False}
    return {"pretrained_model_name_or_path": name, "revision": revision, "trust_remote_code": False}


def _load(loader: Any, start: str, **options: Any) -> Any:
    try:
        return loader.from_pretrained(**_source(start), **options)
    except OSError as err:
        raise ModelNotFound(
            f"no model {start!r}, locally or on the hub: {str(err).splitlines()[0]}",
            fix="give a local Hugging Face folder or a hub id; for a private one, log in with `hf auth login`",
        ) from err
    except (ValueError, KeyError) as err:
        raise TrainingError(
            f"cannot load {start!r}: {str(err).splitlines()[0]}",
            fix="start from a causal language model that transformers knows without code of its own",
        ) from err


def load_tokenizer(start: str) -> Any:
    """Its tokenizer, which must have a chat template and an end-of-text token; that pads where no token is for it."""
    from transformers import AutoTokenizer

    tokenizer = _load(AutoTokenizer, start)
    if not tokenizer.chat_template:
        raise TrainingError(
            f"the tokenizer of {start!r} has no chat template",
            fix="start from an instruction-tuned model, or add chat_template.jinja to its folder",
        )
    if tokenizer.eos_token is None:
        raise TrainingError(
            f"the tokenizer of {start!r} has no end-of-text token", fix="set eos_token in its tokenizer_config.json"
        )
    if tokenizer.pad_token is None:  # as with Mistral's; of TRL's trainers only some see to it
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def stops(start: str, tokenizer: Any) -> set[int]:
    """The tokens at which sampling from this model stops: the engines take the tokenizer's and the model's own."""
    from transformers import AutoConfig, GenerationConfig

    source = _source(start)
    try:
        own = GenerationConfig.from_pretrained(
            source["pretrained_model_name_or_path"], revision=source.get("revision", "main")
        )
    except OSError:  # it has no generation_config.json
        own = GenerationConfig.from_model_config(_load(AutoConfig, start))
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    return {tokenizer.eos_token_id, *ends} - {None}


def load_model(start: str, lora: Lora | None = None, *, precision: str = "fp32") -> Any:
    """The causal language model, in the dtype that it has on disk, or in 4 bits where LoRA is to be trained beside it
    so. Flash attention, which knows no fp32, is taken for bf16 where it is installed and there is a GPU."""
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": "auto"}
    if lora and lora.quantize:
        options["quantization_config"] = _four_bits()
    if precision == "bf16" and _fast_attention():
        options["attn_implementation"] = "flash_attention_2"
    model = _load(AutoModelForCausalLM, start, **options)
    try:
        model.generation_config.validate(strict=True)
    except ValueError:
        # Sampling settings without do_sample, as some hub models have: refused only when saved, hours later.
        model.generation_config.do_sample = True
    return model


def fingerprint(start: str) -> str:
    """What tells this start model from another: the files of a folder, or the name with its revision."""
    folder = Path(start)
    return folder_hash(folder) if folder.is_dir() else start


def adapter(lora: Lora | None) -> Any | None:
    """The matrices to train beside the weights, as peft describes them; None to train the weights."""
    if lora is None:
        return None
    try:
        from peft import LoraConfig
    except ImportError as err:
        raise MissingDependency(f"LoRA needs peft: {err}", fix='pip install -e ".[lora]"') from err
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    return LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, task_type="CAUSAL_LM")


def merged(model: Any, weights: dict[str, Any], start: str) -> Any:
    """The start model, loaded anew in fp32, with the matrices of `weights` (the state of `model`, gathered) added: in
    training its own weights may have been held in 4 bits, or in shares on several GPUs."""
    from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

    whole = PeftModel(load_model(start).float(), model.peft_config["default"])
    set_peft_model_state_dict(whole, get_peft_model_state_dict(model, state_dict=weights))
    return whole.merge_and_unload()


def _four_bits() -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    if not torch.cuda.is_available() or importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependency(
            "training.lora.quantize needs an NVIDIA GPU and bitsandbytes",
            fix="pip install bitsandbytes on a machine with a GPU, or set training.lora.quantize = false",
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _fast_attention() -> bool:
    import torch

    return torch.cuda.is_available() and importlib.util.find_spec("flash_attn") is not None
