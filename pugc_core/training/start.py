"""The model that a training starts from: a local Hugging Face folder or a hub id, "@revision" after it where meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pugc_core.errors import ModelNotFound, TrainingError


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
    """Its tokenizer, which must have a chat template and an end-of-text token."""
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
    return tokenizer


def load_model(start: str) -> Any:
    """The causal language model, in the dtype that it has on disk."""
    from transformers import AutoModelForCausalLM

    model = _load(AutoModelForCausalLM, start, dtype="auto")
    try:
        model.generation_config.validate(strict=True)
    except ValueError:
        # Sampling settings without do_sample, as some hub models have: refused only when saved, hours later.
        model.generation_config.do_sample = True
    return model
