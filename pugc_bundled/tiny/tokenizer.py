"""The tiny model's tokenizer: byte-level BPE learnt from the training side, and its chat template.

A small vocabulary keeps the embedding small, which is most of a model of this size. Every digit is its own token, so
that a score is one token; `True` and `False` are one token each, because the relevance filter asks for just those, and
so are the words with which the judges decide.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

VOCABULARY = 4096
PAD, SYSTEM, USER, ASSISTANT, END = "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL = (PAD, SYSTEM, USER, ASSISTANT, END)
WHOLE_WORDS = (
    *("True", "False", "Score", "RESULT", " covered", " missing"),
    *("Useless", "Weak", "Fair", "Good", "Excellent", " Off", " Weak", " Fair", " Good", " Excellent"),
)
LONGEST = 2048

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build(texts: Iterable[str], vocabulary: int = VOCABULARY) -> Any:
    """A transformers tokenizer with the special tokens and chat template, learnt from `texts`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_with_whole_words(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=LONGEST,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def _with_whole_words(texts: Iterable[str]) -> Iterable[str]:
    """`texts`, then the words that must not be split, often enough to be merged."""
    yield from texts
    for word in WHOLE_WORDS:
        yield (word if word.startswith(" ") else "\n" + word) * 20_000
