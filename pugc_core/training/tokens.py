"""The token sequence that is trained: the one that was sampled, and one end token.

This is the one place that makes it, for every loss, for the start model's log-probabilities and for what is too long.
TRL's trainers would each make their own from the chat template: two of them begin with a token that sampling did not
have, and end with a line break and a second end token where the template writes one after its turns (Zephyr, ChatML).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pugc_core.engines.transformers import encode
from pugc_core.prompts.base import Message

Turns = list[dict[str, str]]
Ids = npt.NDArray[np.int32]
"""Token ids, in order; shape (n,)."""
_ANSWER = "answer"
_BREAK = "\n"


class Pair(NamedTuple):
    """One pair in words. An answer that was cut off ended because it had no room left, not because it was finished."""

    prompt: Turns
    chosen: Turns
    rejected: Turns
    chosen_cut_off: bool = False
    rejected_cut_off: bool = False


def end_of_turn(tokenizer: Any, stops: Collection[int]) -> int:
    """The token that an answer ends on: of those that sampling stops at (`stops`), the one that the chat template
    writes after an answer (ChatML's <|im_end|>, Llama 3's <|eot_id|>, Mistral's </s>).

    It is the tokenizer's own end token where the template writes none of them.
    """
    from jinja2 import TemplateError

    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _ANSWER}]
    try:
        rendered = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except TemplateError:
        rendered = ""
    tail = tokenizer(rendered.rpartition(_ANSWER)[2], add_special_tokens=False)["input_ids"]
    end: int = next((token for token in tail if token in stops), tokenizer.eos_token_id)
    return end


def pair_ids(pair: Pair, tokenizer: Any, end: int, system_role: bool | None = None) -> dict[str, Ids]:
    """prompt_ids, chosen_ids and rejected_ids of a pair, in that order: the prompt exactly as the engines send it, and
    an answer's tokens with `end` behind them, unless it was cut off and so never ended. `system_role` is the model's.

    Raises EngineError where the chat template refuses the prompt.
    """
    prompt = encode(tokenizer, [Message(turn["role"], turn["content"]) for turn in pair.prompt], system_role)
    # Tokenizers of the SentencePiece kind put a blank before a text's first word, which a model writes too, but not
    # where its answer starts a line.
    before = _BREAK if tokenizer.decode(prompt[-1:]).endswith(_BREAK) else ""

    def answer(turns: Turns, cut_off: bool) -> Ids:
        ids = _after(before, "".join(turn["content"] for turn in turns), tokenizer)
        return np.array(ids if cut_off else [*ids, end], np.int32)

    return {
        "prompt_ids": np.array(prompt, np.int32),
        "chosen_ids": answer(pair.chosen, pair.chosen_cut_off),
        "rejected_ids": answer(pair.rejected, pair.rejected_cut_off),
    }


def _after(before: str, text: str, tokenizer: Any) -> list[int]:
    """The tokens of a text that follows another one."""
    opening, whole = _plain(before, tokenizer), _plain(before + text, tokenizer)
    return whole[len(opening) :] if whole[: len(opening)] == opening else _plain(text, tokenizer)


def _plain(text: str, tokenizer: Any) -> list[int]:
    # What looks like a control token was spelt out: sampled ones are not in an answer's text.
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
