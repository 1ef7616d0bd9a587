"""Which model, and how it is reached. A model's identity is what it says; its engine is only how it is run."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pugc_core import tiny
from pugc_core.config import Config
from pugc_core.errors import ModelNotFound

BUNDLED = "pugc/tiny"
"""The id of the model that ships in the package."""

EngineName = Literal["auto", "vllm", "transformers", "endpoint", "scripted"]


class Price(Config):
    """Per million tokens, in whatever currency you count."""

    prompt: float = Field(0.0, ge=0)
    completion: float = Field(0.0, ge=0)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


class ModelSpec(Config):
    """A model and how to run it. Frozen, so that two roles with equal specs share one engine."""

    id: str
    """A hub id, a local Hugging Face folder, or `pugc/tiny` for the bundled model."""
    revision: str | None = None
    """Hub commit or tag. Pin it: answers in the ledger are filed under id and revision."""
    engine: EngineName = "auto"
    """`auto` takes endpoint where `base_urls` is set, else vllm where it is installed, else transformers."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: int | None = Field(None, gt=0)
    """Context in tokens, prompt and answer together; null takes the model's own. Longer prompts are dropped."""
    base_urls: tuple[str, ...] = ()
    """For `endpoint`: one or more OpenAI-compatible servers with this model."""
    api_key_env: str = "OPENAI_API_KEY"
    """For `endpoint`: the environment variable with the key; may be unset for a local server."""
    price: Price = Price()
    """What its tokens cost, for the sums that the web UI shows. Not part of the identity."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed on to the engine as they are, such as `tensor_parallel_size` for vLLM. Not part of the identity."""

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @property
    def location(self) -> str:
        """What `from_pretrained` takes: a folder or a hub id."""
        if self.id == BUNDLED:
            return str(tiny.weights())
        return str(Path(self.id).expanduser()) if self.local else self.id

    @property
    def local(self) -> bool:
        """Whether the id names a folder of this machine."""
        return self.id.startswith(("/", "./", "../", "~")) or Path(self.id).is_dir()

    @property
    def identity(self) -> str:
        """The name in ledger keys: id@revision, and for a local folder a hash of what is in it.

        Raises ModelNotFound when a local folder holds no model.
        """
        if self.engine == "scripted":
            return f"{self.id}@scripted"
        if self.engine != "endpoint" and (self.id == BUNDLED or self.local):
            return f"{Path(self.id).name}@{folder_hash(Path(self.location))}"
        return f"{self.id}@{self.revision or 'main'}"


def folder_hash(folder: Path) -> str:
    kinds = {".json", ".safetensors", ".model", ".jinja", ".txt", ".bin"}
    # Records of how it was made say nothing of what it says.
    files = sorted(p for p in folder.glob("*") if p.suffix in kinds and p.name not in ("training.json", "lineage.json"))
    if not any(p.name == "config.json" for p in files):
        raise ModelNotFound(
            f"no model in {folder}: it has no config.json", fix="name a Hugging Face model folder or a hub id"
        )
    state = tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files)
    return _hash_files(state)


@lru_cache(maxsize=64)
def _hash_files(files: tuple[tuple[str, int, int], ...]) -> str:
    # Whole contents: a policy trained again differs from its predecessor in nothing but the numbers.
    digest = hashlib.sha256()
    for path, size, _ in files:
        digest.update(f"{Path(path).name}\x1f{size}\x1f".encode())
        with open(path, "rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
