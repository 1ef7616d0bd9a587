"""A model's identity is what it says: its bytes for a folder, id and revision for the hub."""

import hashlib
import itertools
import os
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from pugc_core.engines import select
from pugc_core.engines.pins import FILE, pinned
from pugc_core.errors import ModelNotFound, RecipeError, StorageError
from pugc_core.ledger.store import folder_of
from pugc_core.models.spec import UNBOUNDED, ModelSpec
from pugc_core.recipe import load

_clock = itertools.count(1_000_000_000_000_000_000, 1_000_000_000)


def put(path: Path, data: bytes) -> None:
    """Write, with a time stamp of its own: the clock of a file system may be coarse."""
    path.write_bytes(data)
    now = next(_clock)
    os.utime(path, ns=(now, now))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "here" / "model"
    made.mkdir(parents=True)
    put(made / "config.json", b'{"model_type": "llama"}')
    put(made / "model.safetensors", bytes(range(256)) * 8192)
    put(made / "tokenizer.json", b"{}")
    put(made / "chat_template.jinja", b"{{ messages }}")
    return made


def identity(folder: Path, **more: object) -> str:
    return ModelSpec(id=str(folder), **more).identity  # type: ignore[arg-type]


def test_the_identity_of_a_folder_is_stable_and_readable(folder: Path) -> None:
    first = identity(folder)
    assert first.startswith("model@")
    assert identity(folder) == first
    assert identity(Path(f"{folder}/")) == first


@pytest.mark.parametrize("place", [0, 1, -1, 1 << 20])
def test_one_byte_of_the_weights_changes_it(folder: Path, place: int) -> None:
    first = identity(folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[place] ^= 1
    put(folder / "model.safetensors", bytes(weights))
    second = identity(folder)
    assert second != first
    weights[place] ^= 1
    put(folder / "model.safetensors", bytes(weights))
    assert identity(folder) == first


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja"])
def test_what_shapes_its_answers_changes_it(folder: Path, name: str) -> None:
    first = identity(folder)
    put(folder / name, (folder / name).read_bytes() + b" ")
    assert identity(folder) != first


def test_a_file_more_less_or_renamed_changes_it(folder: Path) -> None:
    first = identity(folder)
    put(folder / "generation_config.json", b"{}")
    second = identity(folder)
    (folder / "generation_config.json").rename(folder / "special_tokens_map.json")
    third = identity(folder)
    assert len({first, second, third}) == 3
    (folder / "special_tokens_map.json").unlink()
    assert identity(folder) == first


def test_not_its_place_nor_its_time_nor_what_is_beside(folder: Path, tmp_path: Path) -> None:
    first = identity(folder)
    other = tmp_path / "elsewhere" / "model"
    shutil.copytree(folder, other)
    put(other / "config.json", (folder / "config.json").read_bytes())
    (other / "README.md").write_text("a card")
    (other / "checkpoint-1").mkdir()
    assert identity(other) == first


def test_the_identity_with_default_settings_is_that_of_earlier_versions(folder: Path) -> None:
    """Old ledgers file their answers under it."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name}\x1f{path.stat().st_size}\x1f".encode() + path.read_bytes())
    assert identity(folder) == f"model@{digest.hexdigest()[:16]}"


def test_how_it_is_run_is_not_part_of_it(folder: Path) -> None:
    first = identity(folder)
    for how in (
        {"engine": "vllm"},
        {"max_model_len": 64},
        {"served_as": "other"},
        {"system_role": True},
        {"options": {"batch_size": 2, "device": "cpu", "tensor_parallel_size": 8, "gpu_memory_utilization": 0.5}},
    ):
        assert identity(folder, **how) == first, how


def test_every_setting_that_shapes_answers_is_part_of_it(folder: Path, tmp_path: Path) -> None:
    """Each gives another model, and so other keys."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    put(adapter / "adapter_config.json", b"{}")
    template = tmp_path / "chat.jinja"
    put(template, b"{{ messages }}")
    settings: list[dict[str, object]] = [
        {},
        {"dtype": "float32"},
        {"dtype": "bfloat16"},
        {"adapter": str(adapter)},
        {"system_role": False},
        {"options": {"quantization": "awq"}},
        {"options": {"quantization": "gptq"}},
        {"options": {"hf_overrides": {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}}},
        {"options": {"hf_overrides": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}}},
        {"options": {"chat_template": str(template)}},
        {"options": {"enable_lora": True}},
        {"options": {"an_option_that_nobody_knows": 1}},
        {"dtype": "bfloat16", "options": {"quantization": "awq"}},
    ]
    for model in (str(folder), "org/model"):
        names = [ModelSpec(id=model, **s).identity for s in settings]
        assert len(set(names)) == len(settings)
        assert all(name.startswith(names[0]) for name in names)
    assert names[-1].startswith("org/model@main+dtype,quantization:")
    before = [identity(folder, **s) for s in settings]
    put(adapter / "adapter_model.safetensors", b"trained")
    put(template, b"{{ messages[0] }}")
    after = [identity(folder, **s) for s in settings]
    assert [i for i, (x, y) in enumerate(zip(before, after, strict=True)) if x != y] == [3, 9], "what is in the files"


def test_a_folder_without_an_adapter(folder: Path) -> None:
    with pytest.raises(ModelNotFound, match="no adapter in"):
        identity(folder, adapter=str(folder))


def test_an_adapter_lies_beside_its_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "tiny"\n[models.tiny]\nadapter = "./judge"\n')
    assert load(str(path)).model("policy").adapter == str(tmp_path / "judge")


def test_an_adapter_is_for_local_engines() -> None:
    for remote in ({"engine": "endpoint"}, {}):
        spec = ModelSpec(id="m", adapter="/a", base_urls=("http://x",), **remote)  # type: ignore[arg-type]
        assert spec.identity == "m@main", "no folder is looked for before this is said"
        with pytest.raises(RecipeError, match="adapter"):
            select(spec)


def test_the_context_is_what_the_recipe_or_the_folder_says(folder: Path) -> None:
    assert ModelSpec(id=str(folder), max_model_len=64).context == 64
    assert ModelSpec(id=str(folder)).context == ModelSpec(id="org/model").context == UNBOUNDED
    put(folder / "config.json", b'{"max_position_embeddings": 512}')
    assert ModelSpec(id=str(folder)).context == 512
    assert ModelSpec(id=str(folder), base_urls=("http://x",)).context == UNBOUNDED


# The commit of a hub model


COMMIT, LATER = "a" * 40, "b" * 40


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hub's cache as it is on a machine that cannot reach the hub: org/model, whose branch main is at COMMIT."""
    pytest.importorskip("huggingface_hub")
    pytest.importorskip("transformers")
    cache = tmp_path / "hub"
    at = cache / "models--org--model" / "snapshots" / COMMIT
    at.mkdir(parents=True)
    (at / "config.json").write_text("{}")
    refs = cache / "models--org--model" / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return cache


def test_a_branch_stays_at_the_commit_that_was_loaded_first(hub: Path, tmp_path: Path) -> None:
    spec, ledger = ModelSpec(id="org/model", engine="transformers"), str(tmp_path / "ledger")
    assert pinned(spec, ledger).revision == COMMIT
    (file,) = Path(ledger).rglob(FILE)
    assert file.read_text() == f"{COMMIT}\n"
    assert file.parent.name == folder_of(spec.identity)
    (hub / "models--org--model" / "refs" / "main").write_text(LATER)
    assert pinned(spec, ledger) == pinned(spec, ledger) == spec.model_copy(update={"revision": COMMIT})
    assert spec.identity == "org/model@main", "known before anything is loaded"
    file.write_text("what is this")
    with pytest.raises(StorageError, match="what is this") as err:
        pinned(spec, ledger)
    assert str(file) in err.value.problem


def test_what_needs_no_pin_has_none(hub: Path, folder: Path, tmp_path: Path) -> None:
    ledger = str(tmp_path / "ledger")
    for spec in (
        ModelSpec(id="pugc/tiny"),
        ModelSpec(id=str(folder)),
        ModelSpec(id="org/model", revision=LATER, engine="transformers"),
        ModelSpec(id="org/model", base_urls=("http://x",)),
        ModelSpec(id="org/model", engine="scripted"),
        ModelSpec(id="org/not-in-the-cache", engine="transformers"),  # loading it says so
    ):
        assert pinned(spec, ledger) is spec
    assert not Path(ledger).exists()


def test_a_relative_path_names_the_same_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = identity(folder)
    monkeypatch.chdir(folder.parent)
    assert ModelSpec(id="./model").identity == first
    assert ModelSpec(id="model").identity == first, "a folder of that name is no hub id"


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_without_a_model(tmp_path: Path, made: bool) -> None:
    if made:
        (tmp_path / "none").mkdir()
        (tmp_path / "none" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelNotFound) as err:
        _ = identity(tmp_path / "none")
    assert str(tmp_path / "none") in err.value.problem
    assert err.value.fix


def test_hub_models_are_filed_under_id_and_revision() -> None:
    assert ModelSpec(id="org/model").identity == "org/model@main"
    assert ModelSpec(id="org/model", revision="abc").identity == "org/model@abc"
    assert ModelSpec(id="org/model").location == "org/model"


def test_an_endpoints_model_is_what_the_server_calls_it(folder: Path) -> None:
    """The server may run elsewhere, where the name of a folder means something else."""
    for engine in ("endpoint", "auto"):
        assert identity(folder, engine=engine, base_urls=["http://x"]) == f"{folder}@main"
        elsewhere = ModelSpec(id="/models/zephyr", engine=engine, base_urls=("http://x",))  # type: ignore[arg-type]
        assert elsewhere.identity == "/models/zephyr@main"
        assert select(elsewhere).name == "endpoint"
        put(folder / "config.json", b'{"max_position_embeddings": 512}')
        assert ModelSpec(id=str(folder), base_urls=("http://x",)).context == UNBOUNDED
        assert ModelSpec(id=str(folder), engine="vllm", base_urls=("http://x",)).context == 512, "it is run here"


def test_scripted_answers_never_pass_for_a_models() -> None:
    assert ModelSpec(id="org/model", engine="scripted").identity != ModelSpec(id="org/model").identity


def test_the_bundled_model_is_in_the_package() -> None:
    spec = ModelSpec(id="pugc/tiny")
    assert (Path(spec.location) / "config.json").is_file()
    assert spec.identity.startswith("tiny@")
    assert spec.identity == identity(Path(spec.location)).replace(Path(spec.location).name, "tiny")


def test_equal_specs_are_equal_and_hash_alike() -> None:
    first, second = (ModelSpec(id="a", options={"x": [1]}) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != ModelSpec(id="a", options={"x": [2]})


def test_wrong_specs_are_refused() -> None:
    for wrong in ({"id": "a", "max_model_len": 0}, {"id": "a", "engine": "gguf"}, {"id": "a", "revison": "x"}, {}):
        with pytest.raises(ValidationError):
            ModelSpec(**wrong)
