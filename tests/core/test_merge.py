"""The roles model: the base with the bundled adapter merged into it, and adapters that are refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers import smollm2

from pugc_core import recipe
from pugc_core.errors import ModelNotFound
from pugc_core.models.smollm2 import base, merge
from pugc_core.models.spec import ModelSpec

SPEC = ModelSpec(id="pugc/smollm2-roles")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PUGC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    pytest.importorskip("peft")
    return smollm2.write_base(tmp_path / "base")


# The arithmetic


def test_merged_is_what_peft_makes_of_it(small: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    wide = AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(
        r=4,
        lora_alpha=12,
        target_modules=modules,
        layers_to_transform=[1],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    trained = get_peft_model(wide, config)
    trained.peft_config["default"].base_model_name_or_path = base.ID
    # Not "auto", which asks the hub for the vocabulary of the base.
    trained.to(torch.bfloat16).save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32), tmp_path / "adapter"
    ).merge_and_unload()
    merge.merge(small, tmp_path / "adapter", tmp_path / "out")
    ours, before = load_file(tmp_path / "out" / "model.safetensors"), load_file(small / "model.safetensors")
    assert ours.keys() == before.keys()
    for name, values in theirs.state_dict().items():
        if name in ours:
            assert torch.equal(ours[name], values.to(torch.bfloat16)), name
    changed = {name for name in ours if not torch.equal(ours[name], before[name])}
    assert changed == {n for n in ours if ".layers.1." in n and "_proj" in n}
    assert len(changed) == len(modules)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.dtype == torch.bfloat16


def test_merged_by_hand(tmp_path: Path) -> None:
    """3/1 x [2, -1] as a column times [1, 4] as a row, on [[1, 1], [1, 1]]."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    below, given = tmp_path / "base", tmp_path / "adapter"
    below.mkdir()
    name, other = "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"
    save_file({name: torch.ones(2, 2, dtype=torch.bfloat16), other: torch.ones(2)}, below / "model.safetensors")
    (below / "config.json").write_text("{}")
    smollm2.write_adapter(given, rank=1, lora_alpha=3, target_modules=["q_proj"], layers_to_transform=None)
    key = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {
        f"{key}.lora_A.weight": torch.tensor([[1.0, 4.0]]),
        f"{key}.lora_B.weight": torch.tensor([[2.0], [-1.0]]),
    }
    save_file(factors, given / "adapter_model.safetensors")
    merge.merge(below, given, tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert merged[name].tolist() == [[7.0, 25.0], [-2.0, -11.0]]
    assert (merged[name].dtype, merged[other].tolist()) == (torch.bfloat16, [1.0, 1.0])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]


# Adapters that do not fit


def test_an_adapter_that_does_not_fit_is_refused(small: Path, tmp_path: Path) -> None:
    def refused(**how: Any) -> str:
        given = smollm2.write_adapter(tmp_path / "adapter", **how)
        with pytest.raises(ModelNotFound) as err:
            merge.deltas(small, given)
        assert str(given) in err.value.problem
        assert "git checkout -- pugc_core/models/smollm2/roles" in (err.value.fix or "")
        return err.value.problem

    assert len(merge.deltas(small, smollm2.write_adapter(tmp_path / "adapter"))) == 2
    assert "an adapter of org/other, and the base is pugc/smollm2" in refused(base_model_name_or_path="org/other")
    assert "an adapter of None" in refused(base_model_name_or_path=None)
    assert "the base has no model.layers.7.mlp.down_proj.weight" in refused(layers=(7,))
    assert "is 64 x 96, and its factors of rank 2 are [[4, 96], [64, 4]]" in refused(r=2)
    assert "nothing for 2 of 4 matrices, such as model.layers.0.mlp.down_proj" in refused(layers_to_transform=[0, 1])
    assert "nothing for 1 of 3 matrices" in refused(target_modules=["q_proj", "down_proj", "v_proj"])
    for odd in ({"use_dora": True}, {"use_rslora": True}, {"bias": "all"}, {"rank_pattern": {"q_proj": 8}}):
        assert "only a plain LoRA" in refused(**odd)
    assert "adapter_config.json cannot be read (TypeError" in refused(r=None)
    whole = smollm2.write_adapter(tmp_path / "adapter", hidden=1)
    for name, words in (("adapter_config.json", "cannot be read"), ("adapter_model.safetensors", "cannot read")):
        kept = (whole / name).read_bytes()
        (whole / name).write_bytes(b"version https://git-lfs.github.com/spec/v1")
        with pytest.raises(ModelNotFound, match=words):
            merge.deltas(small, whole)
        (whole / name).write_bytes(kept)


def test_tensors_that_are_no_factors_are_refused(small: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    given = smollm2.write_adapter(tmp_path / "adapter")
    tensors = load_file(given / "adapter_model.safetensors")
    one = next(name for name in tensors if "lora_B" in name)
    cases = [
        ({**tensors, "base_model.model.lm_head.weight": tensors[one]}, "lm_head.weight is no factor of a LoRA"),
        ({name: t for name, t in tensors.items() if name != one}, "has one factor of two"),
    ]
    for found, words in cases:
        save_file(found, given / "adapter_model.safetensors")
        with pytest.raises(ModelNotFound, match=words):
            merge.deltas(small, given)
    save_file({}, given / "adapter_model.safetensors")
    (given / "adapter_config.json").write_text(
        json.dumps(json.loads((given / "adapter_config.json").read_text()) | {"target_modules": "all-linear"})
    )
    with pytest.raises(ModelNotFound, match="changes nothing"):
        merge.deltas(small, given)


# The model


def test_merged_once_into_the_cache(small: Path, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smollm2.bundle(monkeypatch, smollm2.write_adapter(tmp_path / "roles"))
    smollm2.pretend(small)
    said: list[str] = []
    before = SPEC.identity
    folder = merge.folder(said.append)
    assert str(folder) == SPEC.location
    assert folder.name == f"{before.replace('@', '-')}-1"
    assert {p.name for p in folder.iterdir()} >= {"config.json", "model.safetensors", "README.md"}
    assert "Changed by PUGC" in (folder / "README.md").read_text()
    assert len(said) == 1
    monkeypatch.setattr(subprocess, "run", None)
    assert merge.folder(said.append) == folder
    assert len(said) == 1, "once"
    assert SPEC.identity == before, "the same before and after"


def test_its_name_says_which_adapter_and_which_base(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("safetensors")
    monkeypatch.setattr(subprocess, "Popen", None)
    given = smollm2.write_adapter(tmp_path / "roles")
    smollm2.bundle(monkeypatch, given)
    first = SPEC.identity
    assert first.startswith("smollm2-roles@")
    assert (SPEC.context, SPEC.local) == (8192, True)
    (given / "training.json").write_text("{}")
    (given / "README.md").write_text("its card")
    assert SPEC.identity == first
    weights = given / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    os.utime(weights, ns=(1, 1))
    second = SPEC.identity
    monkeypatch.setattr(base, "WHEEL_SHA256", "0" * 64)
    assert len({first, second, SPEC.identity}) == 3
    assert not root.exists()


def test_a_copy_without_the_adapter_says_so(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    smollm2.bundle(monkeypatch, None)
    for spec in (SPEC, ModelSpec(id="org/model", adapter="pugc/roles")):
        with pytest.raises(ModelNotFound, match="the roles adapter is not in this copy of PUGC") as err:
            _ = spec.identity
        assert "recipe tiny" in (err.value.fix or "")
    with pytest.raises(ModelNotFound, match="not in this copy"):
        SPEC.bring(print)
    with pytest.raises(ModelNotFound, match="not in this copy"):
        recipe.load("laptop").stages(str)
    assert not root.exists(), "nothing is fetched for it"


def test_the_bundled_adapter_on_any_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("safetensors")
    given = smollm2.write_adapter(tmp_path / "roles")
    smollm2.bundle(monkeypatch, given)
    spec = ModelSpec(id="org/model", adapter="pugc/roles")
    assert spec.adapter_folder == given
    copy = Path(shutil.copytree(given, tmp_path / "copy"))
    assert spec.identity == ModelSpec(id="org/model", adapter=str(copy)).identity, "by what is in it"
    from pugc_core.engines import vllm

    assert vllm._adapter_arguments(spec)["max_lora_rank"] == 8


def test_an_adapter_of_another_base_is_refused_before_anything_is_fetched(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("safetensors")
    smollm2.bundle(monkeypatch, smollm2.write_adapter(tmp_path / "roles", base_model_name_or_path="org/other"))
    with pytest.raises(ModelNotFound, match="an adapter of org/other"):
        merge.folder(print)
    assert not root.exists()


def test_the_laptop_recipes(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("safetensors")
    smollm2.bundle(monkeypatch, smollm2.write_adapter(tmp_path / "roles"))
    roles = {"quality_judge", "instructor", "relevance_judge", "reward_judge"}
    laptop, hub = recipe.load("laptop"), recipe.load("laptop-hub")
    assert laptop.model("policy").id == "pugc/smollm2"
    assert {laptop.model(role).id for role in roles} == {"pugc/smollm2-roles"}
    for role in recipe.ROLES:
        model = hub.model(role)
        assert (model.id, model.revision) == (base.SOURCE, "12fd25f77366fa6b3b4b768ec3050bf629380bac")
        assert model.adapter == ("pugc/roles" if role in roles else None)
    assert not root.exists()
