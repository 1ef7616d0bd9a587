"""A recipe is a whole run: which model plays which role, and every knob of every stage.

TOML, with `extends` for "that one, but": tables are merged key by key, so an ablation is a base and one change. An
unknown key is an error that names the known ones. Relative paths of prompt files and model folders are read from the
folder of the recipe that names them.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, model_validator

from pugc_core.checks import ChecksConfig
from pugc_core.config import Config
from pugc_core.engines.base import Sampling
from pugc_core.errors import RecipeError
from pugc_core.models import ModelSpec
from pugc_core.stages.base import Stage
from pugc_core.stages.dataset import Dataset, DatasetConfig
from pugc_core.stages.instructions import Instructions, InstructionsConfig
from pugc_core.stages.pairs import Pairs, PairsConfig
from pugc_core.stages.quality import Quality, QualityConfig
from pugc_core.stages.relevance import Relevance, RelevanceConfig
from pugc_core.stages.responses import Responses, ResponsesConfig
from pugc_core.stages.rewards import Rewards, RewardsConfig
from pugc_core.stages.scores import Scores
from pugc_core.stages.ugc import Ugc, UgcConfig
from pugc_core.training.config import TrainingConfig

BUNDLED = Path(__file__).parent / "recipes"

RoleName = Literal["quality_judge", "instructor", "relevance_judge", "policy", "reward_judge"]
ROLES: tuple[RoleName, ...] = get_args(RoleName)


class AutomationConfig(Config):
    """What runs by itself once it is switched on in the web UI."""

    nightly: str = "0 3 * * *"
    """When `dataset` is built and policies are trained: a cron expression, in `timezone`."""
    timezone: str = "UTC"
    min_new_pairs: int = Field(100, ge=1)
    """New pairs that make a training worth its cost."""


class Roles(Config):
    """Which of the recipe's models plays which role."""

    quality_judge: str
    instructor: str
    """The paper lets the policy itself write the instructions."""
    relevance_judge: str
    policy: str
    """Samples the responses, and is what training starts from."""
    reward_judge: str


class Recipe(Config):
    """A validated recipe. `stages` makes its stages."""

    _base: Recipe | None = PrivateAttr(None)
    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    """Names the group of assets and the folder of its tables: lower-case letters, digits and dashes."""
    about: str = ""
    """One sentence, shown in the web UI."""
    models: Mapping[str, ModelSpec]
    roles: Roles
    ugc: UgcConfig = UgcConfig()
    quality: QualityConfig = QualityConfig()
    instructions: InstructionsConfig = InstructionsConfig()
    relevance: RelevanceConfig = RelevanceConfig()
    responses: ResponsesConfig = ResponsesConfig()
    rewards: RewardsConfig = RewardsConfig()
    pairs: PairsConfig = PairsConfig()
    dataset: DatasetConfig = DatasetConfig()
    training: TrainingConfig = TrainingConfig()
    checks: ChecksConfig = ChecksConfig()
    automation: AutomationConfig = AutomationConfig()

    @model_validator(mode="after")
    def _roles_have_models(self) -> Recipe:
        for role, model in self.roles:
            if model not in self.models:
                raise ValueError(f"roles.{role} = {model!r} is not among the models: {', '.join(sorted(self.models))}")
            if self.models[model].kind == "classifier" and role != "reward_judge":
                raise ValueError(f"roles.{role} = {model!r} is a classifier, which can only be the reward_judge")
        return self

    @property
    def base(self) -> Recipe | None:
        """The recipe that it extends, and shares with what both would make alike. None where it takes that one's name
        and place, or where that one is only a part of a recipe."""
        return self._base

    @property
    def group(self) -> str:
        """The name as Dagster allows it for a group."""
        return self.name.replace("-", "_")

    def model(self, role: str) -> ModelSpec:
        """The model that plays a role."""
        return self.models[getattr(self.roles, role)]

    def stages(self, path_of: Callable[[str], str]) -> Mapping[str, Stage]:
        """The stages by name, in run order; `path_of` gives the source file of a shard.

        Raises RecipeError or ModelNotFound where a prompt or a model is amiss.
        """

        def asked(role: RoleName) -> tuple[str, int | None]:
            model = self.model(role)
            return model.identity, model.max_model_len

        responses = Responses(self.responses, *asked("policy"))
        rewards = Scores if self.model("reward_judge").kind == "classifier" else Rewards
        stages: Sequence[Stage] = (
            Ugc(self.ugc, path_of),
            Quality(self.quality, *asked("quality_judge")),
            Instructions(self.instructions, *asked("instructor")),
            Relevance(self.relevance, *asked("relevance_judge")),
            responses,
            rewards(self.rewards, *asked("reward_judge")),
            Pairs(self.pairs),
            Dataset(self.dataset, responses.prompt, self.ugc.near_duplicates, self.ugc.similarity),
        )
        for stage in stages:
            _ = stage.fingerprint  # loads the prompt now, so that a bad one is told before anything runs
        return {stage.name: stage for stage in stages}


def bundled() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in BUNDLED.glob("*.toml"))


def load(name_or_path: str, folders: Sequence[Path] = ()) -> Recipe:
    """The recipe in a TOML file, or of that name among the files of `folders` and the bundled ones.

    Raises RecipeError that says which key of which file is wrong, what is known, and what to write instead.
    """
    return _load(_find(name_or_path, folders), folders)


def _load(path: Path, folders: Sequence[Path]) -> Recipe:
    data, below = _read(path, folders, ())
    data.setdefault("name", path.stem)
    _onto_defaults(data)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as err:
        raise RecipeError(f"recipe {path}:\n{_explain(err)}", fix="correct the keys above") from err
    if below is not None:
        recipe._base = _extended(below, folders, recipe.name)
    return recipe


def _extended(path: Path, folders: Sequence[Path], name: str) -> Recipe | None:
    try:
        base = _load(path, folders)
    except RecipeError:  # what it lacks, the recipe that extends it has
        return None
    return base.base if base.name == name else base


def _find(name_or_path: str, folders: Sequence[Path], but: Path | None = None) -> Path:
    given = Path(name_or_path)
    if given.suffix == ".toml":
        if given.is_file():
            return given
        raise RecipeError(f"no recipe file {given}", fix="check the path")
    for folder in (*folders, BUNDLED):
        path = folder / f"{name_or_path}.toml"
        if path.is_file() and path.resolve() != but:
            return path
    known = sorted({*bundled(), *(p.stem for f in folders for p in f.glob("*.toml"))})
    close = difflib.get_close_matches(name_or_path, known, 1)
    hint = f"did you mean {close[0]}?" if close else "name one of them, or the path of a .toml file"
    raise RecipeError(f"no recipe {name_or_path!r}; known: {', '.join(known)}", fix=hint)


def _read(path: Path, folders: Sequence[Path], seen: tuple[Path, ...]) -> tuple[dict[str, Any], Path | None]:
    """What a recipe's file says, on top of what it extends, and the file that it extends."""
    path = path.resolve()
    if path in seen:
        chain = " -> ".join(p.name for p in (*seen, path))
        raise RecipeError(f"recipes extend each other in a circle: {chain}", fix="remove one `extends`")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise RecipeError(f"recipe {path} is not TOML: {err}", fix="correct that line") from err
    _resolve_paths(data, path.parent)
    base = data.pop("extends", None)
    if base is None:
        return data, None
    if not isinstance(base, str):
        raise RecipeError(f"recipe {path}: extends = {base!r} is not the name of one recipe", fix='extends = "tiny"')
    beside = path.parent / (base if base.endswith(".toml") else f"{base}.toml")
    base_path = beside if beside.is_file() and beside != path else _find(base, folders, path)
    below, _ = _read(base_path, folders, (*seen, path))
    below.pop("about", None)  # a base's name and sentence are its own
    return _merge(below, {"name": path.stem, **data}), base_path


def _resolve_paths(data: dict[str, Any], folder: Path) -> None:
    for table in data.values():
        if isinstance(table, dict) and isinstance(table.get("prompt"), str) and (folder / table["prompt"]).is_file():
            table["prompt"] = str((folder / table["prompt"]).resolve())
    models = data.get("models")
    for model in models.values() if isinstance(models, dict) else ():
        for key in ("id", "adapter") if isinstance(model, dict) else ():
            if str(model.get(key, "")).startswith(("./", "../")):
                model[key] = str((folder / model[key]).resolve())


def _merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _onto_defaults(data: dict[str, Any]) -> None:
    """A recipe's sampling changes its stage's own: `max_tokens` alone leaves a judge greedy, its choices in force."""
    for name, field in Recipe.model_fields.items():
        default, table = getattr(field.default, "sampling", None), data.get(name)
        if isinstance(default, Sampling) and isinstance(table, dict) and isinstance(table.get("sampling"), dict):
            table["sampling"] = _merge(default.model_dump(exclude_defaults=True), table["sampling"])


def _explain(err: ValidationError) -> str:
    return "\n".join(_explain_one(error["type"], error["loc"], error["msg"]) for error in err.errors())


def _explain_one(kind: str, location: Sequence[int | str], message: str) -> str:
    where = ".".join(str(part) for part in location)
    if kind != "extra_forbidden":
        return f"  {where}: {message}" if where else f"  {message}"
    known = sorted(_fields(location[:-1]))
    close = difflib.get_close_matches(str(location[-1]), known, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"  {where}: unknown key{hint}; known here: {', '.join(known)}"


def _fields(location: Sequence[int | str]) -> list[str]:
    """The known keys of the table at a place in a recipe."""
    model: type[BaseModel] = Recipe
    parts = iter(location)
    for part in parts:
        if model is Recipe and part == "models":
            next(parts, None)
            model = ModelSpec
            continue
        model = _nested(model.model_fields[str(part)].annotation)
    return [field.alias or name for name, field in model.model_fields.items()]


def _nested(annotation: Any) -> type[BaseModel]:
    candidates = (annotation, *get_args(annotation))
    return next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
