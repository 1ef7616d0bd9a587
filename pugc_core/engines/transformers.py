"""Hugging Face transformers: any platform, the default where vLLM is not installed.

Batches of prompts of similar length are decoded together. Every draw has a random generator of its own, seeded from
the request, so an answer does not depend on what else was in its batch (up to floating-point rounding).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pugc_core.engines.base import Answer, Generation, Refusal, Request, Sampling, serve
from pugc_core.errors import EngineError, MissingDependency, ModelNotFound
from pugc_core.models import ModelSpec
from pugc_core.prompts.base import Message

_SEQUENCES = 32
"""Sequences decoded together; `batch_size` in the model's options changes it."""
_LOOK_AHEAD = 256
"""Requests held to pick neighbours of similar length from."""
_ROOM = 32
"""Tokens an answer must have room for, unless it is limited to fewer."""


class TransformersEngine:
    """`spec.options`: `batch_size` (sequences decoded together), `device` ("cuda", "cpu" ...)."""

    def __init__(self, spec: ModelSpec) -> None:
        self._tokenizer = chat_tokenizer(spec)
        try:
            import torch
            import transformers
        except ImportError as err:
            raise _missing(err) from err
        self.name = f"transformers {transformers.__version__}"
        self._batch = int(spec.options.get("batch_size", _SEQUENCES))
        self._device = str(spec.options.get("device", "cuda" if torch.cuda.is_available() else "cpu"))
        dtype = "float32" if self._device == "cpu" and spec.dtype == "auto" else spec.dtype
        try:
            self._model = transformers.AutoModelForCausalLM.from_pretrained(
                spec.location, revision=spec.revision or "main", dtype=dtype, trust_remote_code=False
            )
        except (OSError, ValueError) as err:
            raise EngineError(f"transformers cannot load {spec.id}: {err}", fix="check the model folder or id") from err
        self._model.to(self._device).eval()
        limit = int(getattr(self._model.config, "max_position_embeddings", 0) or 4096)
        self._limit = min(spec.max_model_len or limit, limit)
        self._queue: list[tuple[Request, list[int]]] = []
        self._compiler: Any = None

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Answer | None]:
        self._queue.clear()
        return serve(requests, capacity=_LOOK_AHEAD, add=self._add, step=self._step)

    def close(self) -> None:
        self._queue.clear()

    def _add(self, request: Request) -> Refusal | None:
        tokens = encode(self._tokenizer, request.messages)
        if not fits(len(tokens), request.sampling, self._limit):
            return Refusal(request, "prompt_too_long")
        self._queue.append((request, tokens))
        return None

    def _step(self) -> Iterator[tuple[int, list[Generation]]]:
        # The oldest request sets the pace; the rest of the batch are those nearest to it in length.
        (first, tokens), *others = self._queue
        alike = [o for o in others if o[0].sampling == first.sampling]
        alike.sort(key=lambda o: abs(len(o[1]) - len(tokens)))
        batch, draws = [(first, tokens)], len(first.draws)
        for other in alike:
            if draws + len(other[0].draws) > self._batch:
                break
            batch.append(other)
            draws += len(other[0].draws)
        taken = {id(request) for request, _ in batch}
        self._queue = [item for item in self._queue if id(item[0]) not in taken]
        for start in range(0, draws, self._batch):  # one request may want more draws than fit together
            rows = [(r, t, d) for r, t in batch for d in r.draws][start : start + self._batch]
            yield 0, self._decode(rows, first.sampling)
        yield len(batch), []

    def _decode(self, rows: Sequence[tuple[Request, list[int], int]], sampling: Sampling) -> list[Generation]:
        import torch
        from transformers import LogitsProcessorList

        width = max(len(tokens) for _, tokens, _ in rows)
        pad = self._tokenizer.pad_token_id
        pad = self._tokenizer.eos_token_id if pad is None else pad
        ids = torch.tensor([[pad] * (width - len(t)) + t for _, t, _ in rows], device=self._device)
        mask = torch.tensor([[0] * (width - len(t)) + [1] * len(t) for _, t, _ in rows], device=self._device)
        room = min(sampling.max_tokens, self._limit - width)
        processors = LogitsProcessorList(self._constraints(sampling))
        if sampling.temperature > 0:
            processors.append(_SeededDraw([r.seed(d) for r, _, d in rows], sampling))
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=room,
                do_sample=False,
                num_beams=1,
                repetition_penalty=sampling.repetition_penalty,
                pad_token_id=pad,
                logits_processor=processors,
                **({"stop_strings": list(sampling.stop), "tokenizer": self._tokenizer} if sampling.stop else {}),
            )
        ends = self._model.generation_config.eos_token_id
        stops = set(ends if isinstance(ends, list) else [ends]) | {self._tokenizer.eos_token_id}
        return [
            self._generation(request, draw, len(tokens), new, stops)
            for (request, tokens, draw), new in zip(rows, output[:, width:].tolist(), strict=True)
        ]

    def _generation(self, request: Request, draw: int, prompt: int, new: list[int], stops: set[int]) -> Generation:
        end = next((i for i, token in enumerate(new) if token in stops), None)
        text = self._tokenizer.decode(new if end is None else new[:end], skip_special_tokens=True)
        found = [text.index(stop) for stop in request.sampling.stop if stop in text]
        finish = "length" if end is None and not found else "stop"
        if found:
            text = text[: min(found)]
        used = len(new) if end is None else end + 1
        return Generation(request.key(draw), text, finish, prompt, used, request.seed(draw), self.name)

    def _constraints(self, sampling: Sampling) -> list[Any]:
        pattern = sampling.regex or "|".join(f"({re.escape(choice)})" for choice in sampling.choices)
        if not pattern:
            return []
        try:
            import xgrammar
            from xgrammar.contrib.hf import LogitsProcessor
        except ImportError as err:
            raise MissingDependency(
                f"answers restricted to choices or a regex need xgrammar: {err}", fix='pip install "pugc[transformers]"'
            ) from err
        if self._compiler is None:
            size = self._model.config.vocab_size
            info = xgrammar.TokenizerInfo.from_huggingface(self._tokenizer, vocab_size=size)
            self._compiler = xgrammar.GrammarCompiler(info)
        return [LogitsProcessor(self._compiler.compile_regex(pattern))]


class _SeededDraw:
    """Draws each row's next token with the row's own generator and leaves only that token possible."""

    def __init__(self, seeds: Sequence[int], sampling: Sampling) -> None:
        import torch

        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._temperature = sampling.temperature
        self._top_p = sampling.top_p

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        points = torch.stack([torch.rand(1, generator=g) for g in self._generators]).to(scores.device)
        probabilities, order = torch.softmax(scores.float() / self._temperature, dim=-1).sort(dim=-1, descending=True)
        cumulated = probabilities.cumsum(dim=-1)
        # Nucleus: the tokens before the sum passes top_p, and the one that passes it.
        mass = torch.where(cumulated - probabilities < self._top_p, probabilities, 0.0).cumsum(dim=-1)
        chosen = (mass < points * mass[:, -1:]).sum(dim=-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        forced = torch.full_like(scores, float("-inf"))
        return forced.scatter(1, order.gather(1, chosen), 0.0)


def chat_tokenizer(spec: ModelSpec) -> Any:
    """The model's tokenizer. Raises ModelNotFound where there is no such model, EngineError without a chat template."""
    try:
        from transformers import AutoTokenizer
    except ImportError as err:
        raise _missing(err) from err
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            spec.location, revision=spec.revision or "main", trust_remote_code=False
        )
    except (OSError, ValueError) as err:
        raise ModelNotFound(
            f"no model {spec.id}: {str(err).splitlines()[0]}",
            fix="check the id in [models.*] of the recipe; offline, give the folder of a downloaded model",
        ) from err
    if tokenizer.chat_template is None:
        raise EngineError(
            f"the tokenizer of {spec.id} has no chat template",
            fix="take an instruction-tuned model, or add chat_template.jinja to its folder",
        )
    return tokenizer


def encode(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of the prompt in the model's chat format. A system text goes before the first user turn where the
    format has no place of its own for it (Mistral, Gemma)."""
    chat = [{"role": m.role, "content": _defang(m.content, tokenizer.all_special_tokens)} for m in messages]
    if len(chat) > 1 and chat[0]["role"] == "system" and "system" not in tokenizer.chat_template:
        head, first, *rest = chat
        chat = [{**first, "content": f"{head['content']}\n{first['content']}"}, *rest]
    # Rendered first, then tokenized: templates write their own begin-of-text token.
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _defang(text: str, special_tokens: Sequence[str]) -> str:
    # Prompts are neutralised for the usual chat formats when rendered; here for whatever this tokenizer has besides.
    for token in special_tokens:
        if len(token) > 1 and token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def fits(prompt_tokens: int, sampling: Sampling, limit: int) -> bool:
    """Whether a prompt leaves room for an answer within the model's context."""
    return prompt_tokens + min(sampling.max_tokens, _ROOM) <= limit


def _missing(err: ImportError) -> MissingDependency:
    return MissingDependency(f"engine transformers: {err}", fix='pip install "pugc[transformers]"')
