"""Hugging Face transformers: any platform, the default where vLLM is not installed.

Batches of prompts of similar length are decoded together. Every draw has a random generator of its own, seeded from
the request, so an answer does not depend on what else was in its batch (up to floating-point rounding).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pugc_core.engines.base import Answer, Generation, Refusal, Request, Sampling, folded, refusal, serve
from pugc_core.errors import EngineError, MissingDependency, ModelNotFound, RecipeError
from pugc_core.models.spec import HARMLESS, ModelSpec
from pugc_core.prompts.base import Message
from pugc_core.prompts.markers import broken, control_tokens

_SEQUENCES = 32
"""Sequences decoded together; `batch_size` in the model's options changes it."""
_LOOK_AHEAD = 256
"""Requests held to pick neighbours of similar length from."""


class TransformersEngine:
    """`spec.options`: `batch_size` (sequences decoded together), `device` ("cuda", "cpu" ...)."""

    def __init__(self, spec: ModelSpec) -> None:
        if unknown := sorted(spec.options.keys() - HARMLESS):
            raise RecipeError(
                f"options of model {spec.id}: the engine transformers does not have {', '.join(unknown)}",
                fix="leave them out of the recipe, or run the model on vllm",
            )
        self._tokenizer = chat_tokenizer(spec)
        self._system_role = spec.system_role
        try:
            import torch
            import transformers
        except ImportError as err:
            raise _missing(err) from err
        self.name = f"transformers {transformers.__version__}"
        self._batch = int(spec.options.get("batch_size", _SEQUENCES))
        self._device = str(spec.options.get("device", "cuda" if torch.cuda.is_available() else "cpu"))
        self._model = self._load(spec, "float32" if self._device == "cpu" and spec.dtype == "auto" else spec.dtype)
        self._model.to(self._device).eval()
        limit = int(getattr(self._model.config, "max_position_embeddings", 0) or 4096)
        self._limit = min(spec.max_model_len or limit, limit)
        self._queue: list[tuple[Request, list[int]]] = []
        self._compiler: Any = None

    def _load(self, spec: ModelSpec, dtype: str) -> Any:
        """The model, ready to be asked, on the CPU."""
        import transformers

        model = pretrained(transformers.AutoModelForCausalLM, spec, dtype)
        if adapter := spec.adapter_folder:
            model = _with_adapter(model, adapter)
        ends = model.generation_config.eos_token_id
        self._end_tokens = {self._tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
        # Nothing else of the model's own settings (no_repeat_ngram_size, suppress_tokens ...): generate() would take
        # whatever it is not told from there, and no key knows of it.
        model.generation_config = transformers.GenerationConfig(eos_token_id=ends)
        return model

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Answer | None]:
        self._queue.clear()
        return serve(requests, capacity=_LOOK_AHEAD, add=self._add, step=self._step)

    def close(self) -> None:
        self._queue.clear()

    def _add(self, request: Request) -> Refusal | None:
        tokens = self._tokens(request)
        if refused := refusal(request, len(tokens), self._limit):
            return refused
        self._queue.append((request, tokens))
        return None

    def _tokens(self, request: Request) -> list[int]:
        return encode(self._tokenizer, request.messages, self._system_role)

    def _step(self) -> Iterator[tuple[int, list[Generation]]]:
        # The oldest request sets the pace; the rest of the batch are those nearest to it in length.
        head, *others = self._queue
        first, tokens = head
        alike = [o for o in others if o[0].sampling == first.sampling]
        alike.sort(key=lambda o: abs(len(o[1]) - len(tokens)))
        batch, draws = [head], len(first.draws)
        for other in alike:
            if draws + len(other[0].draws) > self._batch:
                break
            batch.append(other)
            draws += len(other[0].draws)
        taken = {id(item) for item in batch}
        self._queue = [item for item in self._queue if id(item) not in taken]
        for start in range(0, draws, self._batch):  # one request may want more draws than fit together
            rows = [(r, t, d) for r, t in batch for d in r.draws][start : start + self._batch]
            yield 0, self._decode(rows, first.sampling)
        yield len(batch), []

    def _decode(self, rows: Sequence[tuple[Request, list[int], int]], sampling: Sampling) -> list[Generation]:
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        width = max(len(tokens) for _, tokens, _ in rows)
        pad = self._tokenizer.pad_token_id
        pad = self._tokenizer.eos_token_id if pad is None else pad
        ids = torch.tensor([[pad] * (width - len(t)) + t for _, t, _ in rows], device=self._device)
        mask = torch.tensor([[0] * (width - len(t)) + [1] * len(t) for _, t, _ in rows], device=self._device)
        processors = LogitsProcessorList()
        if sampling.repetition_penalty != 1:
            processors.append(_RepetitionPenalty([width - len(t) for _, t, _ in rows], sampling.repetition_penalty))
        if sampling.frequency_penalty:
            processors.append(_FrequencyPenalty(width, sampling.frequency_penalty))
        processors.extend(self._constraints(sampling, len(rows)))
        if sampling.temperature > 0:
            processors.append(_SeededDraw([r.seed(d) for r, _, d in rows], sampling))
        # Each row has the room that it would have alone, whatever the length of its neighbours.
        rooms = [min(sampling.max_tokens, self._limit - len(tokens)) for _, tokens, _ in rows]
        ends = _Ends(rooms, width, self._end_tokens, sampling.stop, self._tokenizer)
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max(rooms),
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,
                pad_token_id=pad,
                logits_processor=processors,
                stopping_criteria=StoppingCriteriaList([ends]),
            )
        return [
            self._generation(request, draw, len(tokens), new[:used])
            for (request, tokens, draw), new, used in zip(rows, output[:, width:].tolist(), ends.used, strict=True)
        ]

    def _generation(self, request: Request, draw: int, prompt: int, new: list[int]) -> Generation:
        ended = new[-1] in self._end_tokens
        text = self._tokenizer.decode(new[:-1] if ended else new, skip_special_tokens=True)
        found = [text.index(stop) for stop in request.sampling.stop if stop in text]
        finish = "stop" if ended or found else "length"
        if found:
            text = text[: min(found)]
        return Generation(request.key(draw), text, finish, prompt, len(new), request.seed(draw), self.name)

    def _constraints(self, sampling: Sampling, rows: int) -> list[Any]:
        pattern = sampling.regex or "|".join(f"({re.escape(choice)})" for choice in sampling.choices)
        if not pattern:
            return []
        try:
            import xgrammar
        except ImportError as err:
            raise MissingDependency(
                f"answers restricted to choices or a regex need xgrammar: {err}", fix='pip install -e ".[transformers]"'
            ) from err
        if self._compiler is None:
            size = self._model.config.vocab_size
            info = xgrammar.TokenizerInfo.from_huggingface(self._tokenizer, vocab_size=size)
            self._compiler = xgrammar.GrammarCompiler(info)
        compiled = self._compiler.compile_regex(pattern)
        return [_Constrained([xgrammar.GrammarMatcher(compiled) for _ in range(rows)])]


class _Ends:
    """Ends each row by itself: at an end token, at a stop string, or when its own room is used up.

    `used` holds the tokens that each row made, the end token or the stop string among them.
    """

    def __init__(
        self, rooms: Sequence[int], width: int, tokens: Collection[int], stops: Sequence[str], tokenizer: Any
    ) -> None:
        self.used = [0] * len(rooms)
        self._rooms = rooms
        self._width = width
        self._tokens = tokens
        self._stops = stops
        self._tokenizer = tokenizer
        # A token is at least a byte, so a stop string that has just ended is within as many tokens.
        self._tail = max((len(stop.encode()) for stop in stops), default=0) + 4

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        made = input_ids.shape[1] - self._width
        for row, token in enumerate(input_ids[:, -1].tolist()):
            ended = made >= self._rooms[row] or token in self._tokens
            if not self.used[row] and (ended or (self._stops and self._stopped(input_ids[row, self._width :]))):
                self.used[row] = made
        return torch.tensor([used > 0 for used in self.used], device=input_ids.device)

    def _stopped(self, new: Any) -> bool:
        tail = self._tokenizer.decode(new[-self._tail :], skip_special_tokens=True)
        return any(stop in tail for stop in self._stops)


class _RepetitionPenalty:
    """Repetition penalty over prompt and answer; unlike the library's own it does not count a row's padding."""

    def __init__(self, padding: Sequence[int], penalty: float) -> None:
        self._padding = padding
        self._penalty = penalty

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        starts = torch.tensor(self._padding, device=input_ids.device).unsqueeze(1)
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        seen = torch.where(places < starts, input_ids.gather(1, starts), input_ids)
        score = scores.gather(1, seen)
        score = torch.where(score < 0, score * self._penalty, score / self._penalty)
        return scores.scatter(1, seen, score)


class _FrequencyPenalty:
    """Frequency penalty over the answer, which begins at `width`. An ended row's padding counts too, to no effect."""

    def __init__(self, width: int, penalty: float) -> None:
        self._width = width
        self._penalty = penalty

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        answer = input_ids[:, self._width :]
        taken = torch.full(answer.shape, -self._penalty, dtype=scores.dtype, device=scores.device)
        return scores.scatter_add(1, answer, taken)


class _Constrained:
    """Leaves each row only the tokens that its grammar allows next."""

    def __init__(self, matchers: Sequence[Any]) -> None:
        self._matchers = matchers
        self._open = [True] * len(matchers)
        self._begun = False

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import xgrammar

        mask = xgrammar.allocate_token_bitmask(len(self._matchers), scores.shape[-1])
        for row, matcher in enumerate(self._matchers):
            if self._begun and self._open[row]:
                # A row that has ended is padded, and its padding is no part of the answer.
                self._open[row] = matcher.accept_token(int(input_ids[row, -1])) and not matcher.is_terminated()
            if self._open[row]:
                matcher.fill_next_token_bitmask(mask, row)
        self._begun = True
        xgrammar.apply_token_bitmask_inplace(scores, mask.to(scores.device))
        return scores


class _SeededDraw:
    """Draws each row's next token with the row's own generator and leaves only that token possible."""

    def __init__(self, seeds: Sequence[int], sampling: Sampling) -> None:
        import torch

        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._temperature = sampling.temperature
        self._top_p = sampling.top_p
        self._top_k = sampling.top_k

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        points = torch.stack([torch.rand(1, generator=g) for g in self._generators]).to(scores.device)
        probabilities, order = torch.softmax(scores.float() / self._temperature, dim=-1).sort(dim=-1, descending=True)
        if self._top_k:
            probabilities[:, self._top_k :] = 0.0
            probabilities /= probabilities.sum(dim=-1, keepdim=True)
        cumulated = probabilities.cumsum(dim=-1)
        # Nucleus: the tokens before the sum passes top_p, and the one that passes it.
        mass = torch.where(cumulated - probabilities < self._top_p, probabilities, 0.0).cumsum(dim=-1)
        chosen = (mass < points * mass[:, -1:]).sum(dim=-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        forced = torch.full_like(scores, float("-inf"))
        return forced.scatter(1, order.gather(1, chosen), 0.0)


def pretrained(auto: Any, spec: ModelSpec, dtype: str, **more: Any) -> Any:
    """What `auto.from_pretrained` makes of a model. Raises EngineError where it cannot."""
    try:
        return auto.from_pretrained(
            spec.location, revision=spec.revision or "main", dtype=dtype, trust_remote_code=False, **more
        )
    except (OSError, ValueError) as err:
        raise EngineError(f"transformers cannot load {spec.id}: {err}", fix="check the model folder or id") from err


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
            f"no model {spec.id}{f' at {spec.revision}' if spec.revision else ''}: {str(err).splitlines()[0]}",
            fix="check the id in [models.*] of the recipe; offline, give the folder of a downloaded model",
        ) from err
    if tokenizer.chat_template is None:
        raise EngineError(
            f"the tokenizer of {spec.id} has no chat template",
            fix="take an instruction-tuned model, or add chat_template.jinja to its folder",
        )
    return tokenizer


def encode(tokenizer: Any, messages: Sequence[Message], system_role: bool | None = None) -> list[int]:
    """Token ids of the prompt in the model's chat format. A system text goes before the first user text where the
    format has no place of its own for it (Mistral, Gemma), or where `system_role` is False. A conversation that ends in
    the assistant's turn is whole: nothing of a next turn follows."""
    if system_role is False:
        messages = folded(messages)
    chat = [{"role": m.role, "content": _defang(m.content, tokenizer)} for m in messages]
    # Rendered first, then tokenized: templates write their own begin-of-text token.
    text = _render(tokenizer, chat)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _render(tokenizer: Any, chat: Sequence[Mapping[str, str]]) -> str:
    from jinja2 import TemplateError

    system = chat[0]["content"].strip() if len(chat) > 1 and chat[0]["role"] == "system" else ""
    try:
        whole = chat[-1]["role"] == "assistant"
        text = str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=not whole))
    except TemplateError as err:
        if not system:
            raise EngineError(f"the chat template refuses the prompt: {err}", fix="check chat_template.jinja") from err
    else:
        if system in text:
            return text
    # Refused, or left out without a word.
    return _render(tokenizer, [m._asdict() for m in folded([Message(**m) for m in chat])])


def _defang(text: str, tokenizer: Any) -> str:
    # Prompts are neutralised for the usual chat formats when rendered; here for whatever this tokenizer has besides.
    return broken(text, tokens=_control(tokenizer), families=())


@functools.lru_cache(maxsize=4)
def _control(tokenizer: Any) -> frozenset[str]:
    """The tokenizer's control tokens; `all_special_tokens` has only those that are its attributes."""
    added = tokenizer.added_tokens_decoder.values()
    special = {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
    return control_tokens(special, [token.content for token in added])


def _with_adapter(model: Any, adapter: Path) -> Any:
    try:
        from peft import PeftModel
    except ImportError as err:
        raise MissingDependency(f"an adapter needs peft: {err}", fix='pip install -e ".[lora]"') from err
    try:
        return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    except (OSError, ValueError, RuntimeError) as err:
        raise EngineError(
            f"cannot put the adapter {adapter} on the model: {err}", fix="is it an adapter of this very model?"
        ) from err


def _missing(err: ImportError) -> MissingDependency:
    return MissingDependency(f"engine transformers: {err}", fix='pip install -e ".[transformers]"')
