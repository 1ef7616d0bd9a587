"""Reward models with a sequence-classification head, on transformers and on vLLM: a conversation in, one number out.

Both read the score where transformers' own classifiers do, at the last token of the conversation that is not padding.
Both apply the head in float32, as vLLM does anyway: in bfloat16, scores near 16 come in steps of 1/8, and many tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pugc_core.engines.base import Engine, Generation, Request, Sampling
from pugc_core.engines.transformers import TransformersEngine, pretrained
from pugc_core.engines.vllm import VllmEngine
from pugc_core.errors import EngineError, ModelNotFound
from pugc_core.models.spec import ModelSpec

_HEADED = "ForSequenceClassification"
_FIX = 'name a reward model with one label, or leave out kind = "classifier" for a judge that answers in words'


def open_classifier(spec: ModelSpec, kind: str) -> Engine:
    """The classifier on the engine `kind`. Raises EngineError where the model has no usable head."""
    return VllmClassifier(spec) if kind == "vllm" else TransformersClassifier(spec)


class TransformersClassifier(TransformersEngine):
    """`spec.options` are those of `TransformersEngine`."""

    def __init__(self, spec: ModelSpec) -> None:
        self._padding = _padding(spec)
        super().__init__(spec)

    def _load(self, spec: ModelSpec, dtype: str) -> Any:
        model = _headed(spec, dtype)
        model.score.float()
        return model

    def _tokens(self, request: Request) -> list[int]:
        return _without(self._padding, super()._tokens(request))

    def _decode(self, rows: Sequence[tuple[Request, list[int], int]], sampling: Sampling) -> list[Generation]:
        import torch

        lengths = [len(tokens) for _, tokens, _ in rows]
        width = max(lengths)
        # On the right, where no token sees it: which id it has does not matter.
        ids = torch.tensor([t + [0] * (width - len(t)) for _, t, _ in rows], device=self._device)
        mask = torch.tensor([[1] * n + [0] * (width - n) for n in lengths], device=self._device)
        last = torch.tensor([n - 1 for n in lengths], device=self._device)
        with torch.inference_mode():
            output = self._model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
            hidden = output.last_hidden_state[torch.arange(len(rows), device=self._device), last]
            scores = self._model.score(hidden.float())[:, 0].tolist()
        return [
            _generation(request, draw, score, n, self.name)
            for (request, _, draw), n, score in zip(rows, lengths, scores, strict=True)
        ]


class VllmClassifier(VllmEngine):
    """`spec.options` are those of `VllmEngine`."""

    runner = "pooling"

    def __init__(self, spec: ModelSpec) -> None:
        self._padding = _padding(spec)
        # Where the weights have no head, vLLM (0.32.0) makes one up and says nothing.
        _headed(spec, "auto", device_map="meta")
        super().__init__(spec)

    def _tokens(self, request: Request) -> list[int]:
        return _without(self._padding, super()._tokens(request))

    def _parameters(self, request: Request) -> Any:
        from vllm import PoolingParams

        return PoolingParams(task="classify", use_activation=False)

    def _generations(self, output: Any, request: Request, prompt_tokens: int) -> list[Generation]:
        (score,) = output.outputs.data.tolist()
        return [_generation(request, draw, score, prompt_tokens, self.name) for draw in request.draws]


def _generation(request: Request, draw: int, score: float, prompt_tokens: int, engine: str) -> Generation:
    return Generation(request.key(draw), repr(score), "stop", prompt_tokens, 0, request.seed(draw), engine)


def _without(padding: int | None, tokens: list[int]) -> list[int]:
    """The tokens but for padding at their end: where a model pads with its end token, transformers passes over the end
    token of the last turn too."""
    end = len(tokens)
    while end > 1 and tokens[end - 1] == padding:
        end -= 1
    return tokens[:end]


def _padding(spec: ModelSpec) -> int | None:
    """The model's padding token. Raises EngineError where its config promises no head with one label."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(spec.location, revision=spec.revision or "main", trust_remote_code=False)
    except (OSError, ValueError) as err:
        raise ModelNotFound(
            f"no model {spec.id}: {str(err).splitlines()[0]}", fix="check the id in [models.*] of the recipe"
        ) from err
    kinds = config.architectures or []
    if not any(kind.endswith(_HEADED) for kind in kinds):
        found = ", ".join(kinds) or "of no known architecture"
        raise EngineError(f"{spec.id} has no classification head: it is {found}, not a ...{_HEADED}", fix=_FIX)
    if config.num_labels != 1:
        raise EngineError(
            f"{spec.id} has a head with {config.num_labels} labels, and no rule says which is the reward", fix=_FIX
        )
    padding = config.get_text_config().pad_token_id
    return None if padding is None else int(padding)


def _headed(spec: ModelSpec, dtype: str, **more: Any) -> Any:
    """transformers' classifier of the model. Raises EngineError where its weights lack the head, or anything else."""
    from transformers import AutoModelForSequenceClassification as Auto

    model, about = pretrained(Auto, spec, dtype, output_loading_info=True, **more)
    missing = sorted(about["missing_keys"])
    if missing or not hasattr(model, "score"):
        raise EngineError(f"the weights of {spec.id} lack {', '.join(missing[:3]) or 'a head named score'}", fix=_FIX)
    return model
