"""`python -m pugc_core.models.smollm2.convert FILE.gguf OUT`: a GGUF as an ordinary Hugging Face folder in bfloat16.

Every quantized weight is multiplied out, so that any engine loads the folder and a training may start from it.
"""

from __future__ import annotations

import sys
from pathlib import Path


def convert(gguf: Path, out: Path) -> None:
    """Writes weights, configuration, tokenizer and chat template to the folder `out`."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, name = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    # The file calls its way of splitting "smollm": every digit apart, then as GPT-2. transformers takes GPT-2's alone,
    # which cuts line breaks and blanks before a digit in other places than those that the model was trained on.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    for here in ("is_local", "local_files_only"):  # said of this load, and of no later one
        tokenizer.init_kwargs.pop(here, None)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    # Some versions of transformers keep it, and the folder would claim to be quantized.
    model.config.__dict__.pop("quantization_config", None)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
