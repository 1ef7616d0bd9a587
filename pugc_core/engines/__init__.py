"""Ways to ask a model. One file per engine; `open_engine` is the only place that knows them all."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from pugc_core import machine, progress
from pugc_core.engines.base import Engine
from pugc_core.errors import MissingDependency, RecipeError
from pugc_core.models.smollm2.cache import Say
from pugc_core.models.spec import ModelSpec

__all__ = ["EngineHost", "Selection", "open_engine", "select"]


_SMALL = 1 << 30
"""Bytes of weights that are read in no time; then it is the libraries that take some."""


class Selection(NamedTuple):
    """An engine's name and why it was taken."""

    name: str
    reason: str


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def select(spec: ModelSpec) -> Selection:
    """The engine that a model will be run with. Raises MissingDependency with the command that installs one."""
    if spec.engine == "endpoint" and not spec.base_urls:
        raise RecipeError(
            f"model {spec.id} runs on an endpoint, but has no base_urls", fix="set base_urls in [models.*]"
        )
    if spec.adapter is not None and (spec.remote or spec.engine == "scripted"):
        raise RecipeError(
            f"model {spec.id} has an adapter, which only local engines put on",
            fix="let the server load the adapter, and ask for it by its name there, as id",
        )
    if spec.engine in ("vllm", "transformers") and not _installed(spec.engine):
        fix = "pip install -e '.[gpu]' or '.[cpu]'" if spec.engine == "vllm" else "pip install -e '.[transformers]'"
        raise MissingDependency(f"model {spec.id} runs on {spec.engine}, which is not installed", fix=fix)
    if spec.engine != "auto":
        return Selection(spec.engine, "named in the recipe")
    if spec.base_urls:
        return Selection("endpoint", "the recipe gives base_urls")
    if _installed("vllm"):
        return Selection("vllm", "auto: vllm is installed")
    if _installed("transformers") and _installed("torch"):
        return Selection("transformers", "auto: vllm is not installed, transformers is")
    raise MissingDependency(
        f"no engine for model {spec.id}: neither vllm nor transformers is installed",
        fix='pip install -e ".[cpu]" on a machine without a GPU, -e ".[gpu]" on one with, or set base_urls',
    )


def open_engine(spec: ModelSpec, say: Say = progress.say) -> Engine:
    """A ready engine for the model. Local models run in a process of their own, whose end frees their memory; what they
    lack on this machine is brought before, and `say` is told."""
    name = select(spec).name
    try:
        if name == "scripted":
            from pugc_core.engines.scripted import ScriptedEngine

            return ScriptedEngine(**spec.options)
        if name == "endpoint":
            from pugc_core.engines.endpoint import EndpointEngine

            return EndpointEngine(
                model=spec.id,
                base_urls=spec.base_urls,
                api_key=os.environ.get(spec.api_key_env),
                served_as=spec.served_as,
                system_role=spec.system_role,
                **spec.options,
            )
    except TypeError as err:
        raise RecipeError(f"options of model {spec.id}: {err}", fix=f"see engines/{name}.py for its options") from err
    from pugc_core.engines.worker import WorkerEngine

    spec.bring(say)  # here, not in the worker, which nobody hears
    with progress.doing(_loading(spec, name)):
        return WorkerEngine(spec, name)


def _loading(spec: ModelSpec, engine: str) -> str:
    """What opening a local model's engine is, in words, and about how long it takes."""
    name = "/".join(Path(spec.id).parts[-2:]) if spec.local else spec.id
    return f"loading {name} with {engine}: {'about 10 s' if _small(spec) else 'minutes, where it is large'}"


def _small(spec: ModelSpec) -> bool:
    """Whether the model is known to be small; of a model on the hub that is not known before it is here."""
    if not spec.local:
        return spec.provided is not None
    return sum(file.stat().st_size for file in Path(spec.location).glob("*.safetensors")) < _SMALL


class EngineHost:
    """Open engines. Roles that share a model share its engine.

    A model takes the place of the one before it, since a GPU holds one. Without a GPU, up to `TOGETHER` small models
    stay open beside each other: loading one again takes longer than many a stage. `say` is told when a model has to be
    fetched first.
    """

    TOGETHER = 2

    def __init__(self, say: Say = progress.say) -> None:
        self._say = say
        self._open: list[tuple[ModelSpec, Engine]] = []

    def __enter__(self) -> EngineHost:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def engine(self, spec: ModelSpec) -> Engine:
        for known, engine in self._open:
            if known == spec:
                return engine
        together = self.TOGETHER if not machine.gpus() and all(map(_small, [spec, *(s for s, _ in self._open)])) else 1
        while len(self._open) >= together:
            self._open.pop(0)[1].close()
        self._open.append((spec, open_engine(spec, self._say)))
        return self._open[-1][1]

    def close(self) -> None:
        """Let the engines go, and their memory with them."""
        while self._open:
            self._open.pop()[1].close()
