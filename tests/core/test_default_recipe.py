"""Which recipe is taken where none is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import smollm2

from pugc_core import default_recipe
from pugc_core.errors import ModelNotFound
from pugc_core.models.smollm2 import base, merge


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; `laptop` is preferred, and the package has an adapter."""
    monkeypatch.setenv("PUGC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(default_recipe.VARIABLE, raising=False)
    monkeypatch.setattr(default_recipe, "PREFERRED", "laptop")
    smollm2.bundle(monkeypatch, smollm2.write_config(tmp_path / "roles"))
    return tmp_path / "cache"


def test_looking_takes_what_is_there_and_fetches_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "folder", None)
    choice = default_recipe.look()
    assert choice == (
        "tiny",
        f"the base model is not here (not in {root}): recipe tiny with the bundled 4.3M-parameter model steps in; "
        "pugc fetch brings it",
    )
    assert not root.exists()
    made = smollm2.pretend()
    assert default_recipe.look() == ("laptop", "")
    (made / "config.json").unlink()
    assert "config.json is missing" in default_recipe.look().why
    monkeypatch.setenv("PUGC_CACHE", "relative")
    assert "not an absolute path" in default_recipe.look().why, "and no error, where the web UI only wants to load"


def test_a_command_that_runs_tries_to_bring_it_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def bring(say: object) -> Path:
        said.append("asked")
        if len(said) == 1:
            raise ModelNotFound("cannot fetch the base model:\nno network", fix="pugc fetch once the network is there")
        return root

    monkeypatch.setattr(merge, "folder", bring)
    name, why = default_recipe.bring(print)
    assert (name, "\n" in why) == ("tiny", False)
    assert "(cannot fetch the base model: no network)" in why
    assert why.endswith("steps in; pugc fetch once the network is there")
    assert default_recipe.bring(print) == ("laptop", "")


def test_without_the_adapter_a_base_is_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    smollm2.pretend()
    smollm2.bundle(monkeypatch, None)
    for choice in (default_recipe.look(), default_recipe.bring(print)):
        assert choice.recipe == "tiny"
        assert "the roles adapter is not in this copy" in choice.why


def test_the_variable_decides_before_anything_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "folder", None)
    monkeypatch.setenv(default_recipe.VARIABLE, "mine")
    assert default_recipe.look() == default_recipe.bring(print) == ("mine", "")


def test_where_the_fallback_is_preferred_nothing_is_brought(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_recipe, "PREFERRED", default_recipe.FALLBACK)
    assert default_recipe.look() == default_recipe.bring(print) == ("tiny", "")
    assert not root.exists()
