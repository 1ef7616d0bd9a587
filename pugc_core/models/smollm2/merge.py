"""The roles model: the base with the bundled LoRA adapter added to its weights, in the user's cache.

Merged, it runs as any model, at full speed and under every engine, and peft need not be installed.
`python -m pugc_core.models.smollm2.merge BASE ADAPTER OUT` does the arithmetic.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pugc_core.errors import ModelNotFound
from pugc_core.models.files import folder_hash
from pugc_core.models.smollm2 import base, cache, child
from pugc_core.models.smollm2.cache import Say

ID = "pugc/smollm2-roles"
ADAPTER_ID = "pugc/roles"
"""As `adapter` of a model, the bundled adapter."""
ADAPTER = Path(__file__).resolve().parent / "roles"
MERGER = 1
"""Raise it when `merge` writes other files for the same adapter, and put it into `content` when weights differ."""

_WEIGHTS = "model.safetensors"
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_LAYER = re.compile(r"\.layers\.(\d+)\.")
# Variants of LoRA, by their key in adapter_config.json, for which the product of the two matrices is not the change.
_OTHERS = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out", "lora_bias")

Shapes = Mapping[str, Sequence[int]]


class Delta(NamedTuple):
    """What an adapter does to one matrix of its base: weight += scale * up @ down."""

    weight: str
    """The matrix's name in the base's file."""
    down: str
    """The names of the factors in the adapter's file; (rank, columns)."""
    up: str
    """(rows, rank)"""
    scale: float


def adapter() -> Path:
    """The bundled adapter's folder. Raises ModelNotFound where this copy of PUGC has none."""
    if not (ADAPTER / "adapter_config.json").is_file():
        raise ModelNotFound(
            f"the roles adapter is not in this copy of PUGC: {ADAPTER} has no adapter_config.json",
            fix="install PUGC whole (git checkout, then make install), or run recipe tiny",
        )
    return ADAPTER


def content() -> str:
    """Sixteen hex digits over the adapter's files and the base. Raises ModelNotFound without an adapter."""
    parts = f"{folder_hash(adapter(), 'adapter_config.json')}\x1f{base.content()}"
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def name() -> str:
    """The folder's name in the cache."""
    return f"smollm2-roles-{content()}-{MERGER}"


def place() -> Path:
    """Where the folder is, or will be."""
    return cache.root() / name()


def missing() -> str | None:
    """Why the model cannot be loaded at once; None where it can. Asks no network."""
    return cache.damage(place())


def folder(say: Say) -> Path:
    """The merged model's folder; where the cache has none it is made, the base too, and `say` is told.

    Raises ModelNotFound when the adapter is not there or of another base, and what `base.folder` raises.
    """
    if missing() is None:
        return place()
    given = adapter()
    _config(given)
    below = base.folder(say)
    child.need("merging the roles adapter", "torch", "safetensors")
    deltas(below, given)

    def build(work: Path) -> Path:
        say("roles model: merging the adapter into the base (about 10 s on two cores), once")
        out = work / "model"
        child.run("merging the roles adapter", base.FOLDER_BYTES, "pugc_core.models.smollm2.merge", [below, given, out])
        return out

    return cache.made(name(), base.FOLDER_BYTES, build, say)


def deltas(below: Path, given: Path) -> list[Delta]:
    """What the adapter in the folder `given` does to the base in the folder `below`, from names and shapes alone.

    Raises ModelNotFound where it does not fit: another base, tensors too many or too few, other shapes.
    """
    config = _config(given)
    weights, factors = _shapes(below / _WEIGHTS), _shapes(given / "adapter_model.safetensors")
    rank, modules = int(config["r"]), config["target_modules"]
    found: dict[str, dict[str, str]] = {}
    for key in factors:
        match = _KEY.fullmatch(key)
        if match is None:
            raise _unfit(given, f"{key} is no factor of a LoRA")
        found.setdefault(f"{match['module']}.weight", {})[match["side"]] = key
    layers = config.get("layers_to_transform")
    if isinstance(modules, list):
        chosen = None if layers is None else set(layers if isinstance(layers, list) else [layers])
        wanted = {
            weight
            for weight in weights
            if any(weight.endswith(f".{module}.weight") for module in modules)
            and (chosen is None or ((at := _LAYER.search(weight)) and int(at[1]) in chosen))
        }
        if lacking := sorted(wanted - found.keys()):
            raise _unfit(given, f"it has nothing for {len(lacking)} of {len(wanted)} matrices, such as {lacking[0]}")
    made = []
    for weight, sides in sorted(found.items()):
        if weight not in weights:
            raise _unfit(given, f"the base has no {weight}")
        if sides.keys() != {"A", "B"}:
            raise _unfit(given, f"{weight} has one factor of two")
        rows, columns = weights[weight]
        shapes = [list(factors[sides[side]]) for side in "AB"]
        if shapes != [[rank, columns], [rows, rank]]:
            raise _unfit(given, f"{weight} is {rows} x {columns}, and its factors of rank {rank} are {shapes}")
        made.append(Delta(weight, sides["A"], sides["B"], float(config["lora_alpha"]) / rank))
    if not made:
        raise _unfit(given, "it changes nothing")
    return made


def merge(below: Path, given: Path, out: Path) -> None:
    """Writes the base with the adapter added: in float32, then rounded to the dtype of the base."""
    from safetensors.torch import load_file, save_file

    planned = deltas(below, given)
    weights, factors = load_file(below / _WEIGHTS), load_file(given / "adapter_model.safetensors")
    for change in planned:
        old = weights[change.weight]
        delta = change.scale * (factors[change.up].float() @ factors[change.down].float())
        weights[change.weight] = (old.float() + delta).to(old.dtype)
    out.mkdir()
    for file in below.iterdir():
        if file.is_file() and file.suffix in (".json", ".jinja", ".txt", ".md", "") and not file.name.startswith("."):
            shutil.copyfile(file, out / file.name)
    if (card := out / "README.md").exists():
        with card.open("a", encoding="utf-8") as page:
            page.write(f"\nChanged by PUGC: its adapter `{ADAPTER_ID}` is merged into these weights.\n")
    save_file(weights, out / _WEIGHTS, metadata={"format": "pt"})


def _config(given: Path) -> dict[str, Any]:
    """The adapter's configuration. Raises ModelNotFound unless it is a plain LoRA of our base."""
    try:
        config: dict[str, Any] = json.loads((given / "adapter_config.json").read_bytes())
        of, kind, bias = config["base_model_name_or_path"], config["peft_type"], config.get("bias", "none")
        _ = int(config["r"]), float(config["lora_alpha"]), config["target_modules"]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise _unfit(given, f"its adapter_config.json cannot be read ({type(err).__name__}: {err})") from err
    if of != base.ID:
        raise _unfit(given, f"it is an adapter of {of}, and the base is {base.ID}")
    odd = [key for key in _OTHERS if config.get(key)]
    if kind != "LORA" or bias != "none" or odd:
        shown = ", ".join([f"peft_type {kind}", f"bias {bias}", *odd])
        raise _unfit(given, f"only a plain LoRA can be merged, and this is one with {shown}")
    return config


def _shapes(file: Path) -> Shapes:
    """Shapes by name of the tensors in a file, from its header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as found:
            return {name: found.get_slice(name).get_shape() for name in found.keys()}  # noqa: SIM118  not a dict
    except (OSError, SafetensorError) as err:
        raise ModelNotFound(f"cannot read {file}: {err}", fix="install PUGC whole, then pugc fetch") from err


def _unfit(given: Path, why: str) -> ModelNotFound:
    return ModelNotFound(
        f"the adapter in {given} does not fit the base model: {why}",
        fix="git checkout -- pugc_core/models/smollm2/roles, or run your own on the base it is for: "
        f'adapter = "{given}"',
    )


if __name__ == "__main__":
    merge(*map(Path, sys.argv[1:4]))
