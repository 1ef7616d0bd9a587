"""Which model, and how it is reached. A model's identity is what it says; its engine is only how it is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from pugc_core.config import Config, digest
from pugc_core.models import urls
from pugc_core.models.files import files_hash, folder_hash
from pugc_core.models.provided import MODELS, Provided
from pugc_core.models.smollm2 import merge
from pugc_core.models.smollm2.cache import Say

UNBOUNDED = 2**31 - 1
"""As a context in tokens: the model's own, whatever that is."""
HARMLESS = frozenset(
    {
        # vLLM: devices, memory, scheduling, loading, logging
        *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "enable_expert_parallel", "device"),
        *("distributed_executor_backend", "disable_custom_all_reduce", "gpu_memory_utilization", "cpu_offload_gb"),
        *("kv_cache_memory_bytes", "swap_space", "block_size", "num_gpu_blocks_override", "max_num_seqs"),
        *("max_num_batched_tokens", "max_num_partial_prefills", "max_long_partial_prefills", "scheduling_policy"),
        *("async_scheduling", "enable_prefix_caching", "enable_chunked_prefill", "enforce_eager", "seed"),
        *("compilation_config", "max_parallel_loading_workers", "safetensors_load_strategy", "download_dir"),
        *("disable_log_stats", "hf_token", "max_loras", "max_lora_rank", "max_cpu_loras"),
        # transformers
        "batch_size",
        # endpoint
        *("max_in_flight", "max_retries", "timeout_s", "supports_n", "backoff_s"),
    }
)
"""Options that leave the answers as they are, up to rounding. Every other option is taken to shape them."""

EngineName = Literal["auto", "vllm", "transformers", "endpoint", "scripted"]
Kind = Literal["chat", "classifier"]


class Price(Config):
    """Per million tokens, in whatever currency you count."""

    prompt: float = Field(0.0, ge=0)
    completion: float = Field(0.0, ge=0)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


class ModelSpec(Config):
    """A model and how to run it. Frozen, so that two roles with equal specs share one engine."""

    id: str
    """A hub id, a local Hugging Face folder, or a model that PUGC brings itself: `pugc/tiny` (bundled), `pugc/smollm2`
    (SmolLM2-135M-Instruct, fetched once), `pugc/smollm2-roles` (the same with the bundled adapter `pugc/roles`)."""
    revision: str | None = None
    """Hub commit or tag. Without a commit here, the one that is loaded first is written down beside the answers in the
    ledger, and loaded from then on."""
    adapter: str | None = None
    """Folder with a LoRA adapter to put on the model, as peft saves it, or `pugc/roles` for the bundled one. Local
    engines only: a server is asked for an adapter by the adapter's name, as `id`."""
    kind: Kind = "chat"
    """`chat` answers in words. `classifier` is a reward model with a sequence-classification head: it reads a
    conversation and gives one number. It can only be the `reward_judge`, runs on vllm or transformers, and takes no
    adapter."""
    engine: EngineName = "auto"
    """`auto` takes endpoint where `base_urls` is set, else vllm where it is installed, else transformers."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: int | None = Field(None, gt=0)
    """Context in tokens, prompt and answer together; null takes the model's own. Prompts that leave no room for the
    answer are dropped. An answer that a smaller context cut is asked for again."""
    system_role: bool | None = None
    """Whether the model's chat format has a place for system texts; where it has none they go before the first user
    text. null finds out: local engines from the template, `endpoint` from the server's error. Say false where a server
    leaves them out without a word."""
    base_urls: tuple[Annotated[str, AfterValidator(urls.checked)], ...] = Field((), repr=False)
    """For `endpoint`: one or more OpenAI-compatible servers with this model. A user and a password in a URL are sent
    to that server, and shown nowhere; @, #, / and ? in them are percent-encoded."""
    served_as: str | None = None
    """For `endpoint`: the name by which the server's answers call the model, where it is another than `id`."""
    api_key_env: str = "OPENAI_API_KEY"
    """For `endpoint`: the environment variable with the key; may be unset for a local server."""
    price: Price = Price()
    """What its tokens cost, for the sums that the web UI shows. Not part of the identity."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed on to the engine as they are, such as `tensor_parallel_size` for vLLM. Part of the identity, but for those
    known to leave the answers as they are (`HARMLESS`)."""

    @model_validator(mode="after")
    def _classifiers_are_local(self) -> ModelSpec:
        if self.kind == "classifier" and self.remote:
            raise ValueError(
                "a classifier runs on vllm or transformers: servers have no common route for its scores; "
                'remove base_urls and engine = "endpoint"'
            )
        if self.kind == "classifier" and self.adapter:
            raise ValueError("a classifier takes no adapter: merge it into the model and name that folder as id")
        return self

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @property
    def provided(self) -> Provided | None:
        """What PUGC knows of a model that it brings itself; None for others, and for what a server has by that name."""
        return None if self.remote else MODELS.get(self.id)

    @property
    def location(self) -> str:
        """What `from_pretrained` takes: a folder or a hub id. A folder that PUGC brings is there after `bring`."""
        if known := self.provided:
            return str(known.place())
        return str(Path(self.id).expanduser()) if self.local else self.id

    @property
    def local(self) -> bool:
        """Whether the id names a folder of this machine, or one that PUGC puts there."""
        return self.provided is not None or self.id.startswith(("/", "./", "../", "~")) or Path(self.id).is_dir()

    def bring(self, say: Say) -> None:
        """Fetch, convert and merge what PUGC brings itself and is not there yet, and tell `say`; nothing for others.
        For who loads the model: engines and trainings.

        Raises ModelNotFound, StorageError or MissingDependency with the command that helps.
        """
        if known := self.provided:
            known.bring(say)

    @property
    def adapter_folder(self) -> Path | None:
        """Where the adapter is. Raises ModelNotFound for a bundled one that this copy of PUGC lacks."""
        if self.adapter is None:
            return None
        return merge.adapter() if self.adapter == merge.ADAPTER_ID else Path(self.adapter).expanduser()

    @property
    def remote(self) -> bool:
        """Whether a server is asked, whose name for the model the id is, also where it looks like a folder's."""
        return self.engine == "endpoint" or (self.engine == "auto" and bool(self.base_urls))

    @property
    def identity(self) -> str:
        """The name in ledger keys: id@revision, for a local folder a hash of what is in it, and behind a "+" the
        names of the settings that shape answers, where any is not at its default, with a hash of their values.

        Raises ModelNotFound when a local folder holds no model. Of a model that PUGC brings, no folder is needed.
        """
        if self.engine == "scripted":
            return f"{self.id}@scripted"
        name = f"{self.id}@{self.revision or 'main'}"
        if known := self.provided:
            name = f"{Path(self.id).name}@{known.content()}"
        elif not self.remote and self.local:
            name = f"{Path(self.id).name}@{folder_hash(Path(self.location))}"
        shaping = self.shaping
        return f"{name}+{','.join(sorted(shaping))}:{digest(shaping)}" if shaping else name

    @property
    def shaping(self) -> Mapping[str, Any]:
        """The settings beside id and revision that shape answers, but for those at their default; of files the hash."""
        found = {name: _content(value) for name, value in self.options.items() if name not in HARMLESS}
        if self.kind != "chat":
            found["kind"] = self.kind
        if self.dtype != "auto":
            found["dtype"] = self.dtype
        if self.system_role is False:
            found["system_role"] = False
        if not self.remote and (folder := self.adapter_folder):  # `select` refuses it beside a server
            found["adapter"] = folder_hash(folder, "adapter_config.json")
        return found

    @property
    def context(self) -> int:
        """Context in tokens that answers are made under, as far as it can be told without loading the model."""
        if self.max_model_len is not None:
            return self.max_model_len
        if self.remote:
            return UNBOUNDED
        if (known := self.provided) and known.context:
            return known.context
        try:
            config = json.loads((Path(self.location) / "config.json").read_bytes())
            return int(config["max_position_embeddings"])
        except (OSError, ValueError, KeyError, TypeError):
            return UNBOUNDED


def _content(value: Any) -> Any:
    """An option's value; for the path of a file or a folder, what is in it."""
    path = Path(value).expanduser() if isinstance(value, str) and "/" in value else None
    if path is None or not path.exists():
        return value
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return f"{path.name}@{files_hash(files)}"
