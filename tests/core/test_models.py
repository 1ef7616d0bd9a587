"""A model's identity is what it says: its bytes for a folder, id and revision for the hub."""

import itertools
import os
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from pugc_core.errors import ModelNotFound
from pugc_core.models import ModelSpec

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


def test_how_it_is_run_is_not_part_of_it(folder: Path) -> None:
    first = identity(folder)
    for how in ({"engine": "vllm"}, {"dtype": "float32"}, {"max_model_len": 64}, {"options": {"batch_size": 2}}):
        assert identity(folder, **how) == first


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
    assert identity(folder, engine="endpoint", base_urls=["http://x"]) == f"{folder}@main"


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
