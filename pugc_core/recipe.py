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

from pugc_core.config import Config
from pugc_core.engines.base import Sampling
from pugc_core.errors import RecipeError
from pugc_core.models.spec import ModelSpec
from pugc_core.stages.base import Stage, gated
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


class RoundsConfig(Config):
    """Training in rounds (paper table 4): every round samples from the policy of the round before it, on a part of the
    posts that is its own. The start model goes on writing the instructions."""

    count: int = Field(1, ge=1, le=100)
    """Rounds; the paper has 3. The posts are divided into as many parts, by their ids."""
    objective: str | None = None
    """Whose policy the next round samples from and goes on with: one of `training.objectives`, null the first."""

    def of(self, objectives: Sequence[str]) -> str:
        """The objective that goes on."""
        return self.objective or objectives[0]


class MergedConfig(Config):
    """One of the recipes whose pairs a data set is made of."""

    weight: float | None = Field(None, gt=0)
    """Its share of the data set, against the weights of the others: of each so many pairs are taken that the shares
    hold, and the rest is dropped as `over_weight`. null takes all of them, and asks nothing of the others."""
    limit: int | None = Field(None, ge=1)
    """Pairs that are taken at most; the rest is dropped as `over_limit`."""


class CompareConfig(Config):
    """What the asset `<recipe>/comparison` and the report compare the recipe with. A fork has its own."""

    with_: tuple[str, ...] = Field((), alias="with")
    """Names of other recipes; this one is the reference."""


class Roles(Config):
    """Which of the recipe's models plays which role."""

    quality_judge: str
    instructor: str
    """The paper lets the policy itself write the instructions."""
    relevance_judge: str
    policy: str
    """Samples the responses, and is what training starts from."""
    reward_judge: str


class ChecksConfig(Config):
    """Thresholds. They stop a run, or warn; they shape no table."""

    min_parse_rate: float = Field(0.8, ge=0, le=1)
    """Below this share of parsed answers the stages after it do not run."""
    min_votes_complete: float = Field(0.9, ge=0, le=1)
    """Below this share of responses with all N votes the pairs are not made."""
    drift: float = Field(4.0, gt=0)
    """Standard errors by which a shard may differ from the one before it without a warning."""
    mixed_shards: bool = False
    """Whether a data set may hold shards that were made with different prompts, models or parameters."""


class Recipe(Config):
    """A validated recipe. `stages` makes its stages."""

    _base: Recipe | None = PrivateAttr(None)
    _merged: Mapping[str, Recipe] = PrivateAttr(default_factory=dict)
    _compared: tuple[Path, ...] = PrivateAttr(())
    _folders: tuple[Path, ...] = PrivateAttr(())
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
    rounds: RoundsConfig = RoundsConfig()
    merge: Mapping[str, MergedConfig] = {}
    """Recipes whose pairs make the data set, in the place of this one's own, by name. Of a question that several have
    the first one's pair is taken."""
    checks: ChecksConfig = ChecksConfig()
    automation: AutomationConfig = AutomationConfig()
    compare: CompareConfig = CompareConfig()

    @model_validator(mode="after")
    def _roles_have_models(self) -> Recipe:
        for role, model in self.roles:
            if model not in self.models:
                raise ValueError(f"roles.{role} = {model!r} is not among the models: {', '.join(sorted(self.models))}")
            if self.models[model].kind == "classifier" and role != "reward_judge":
                raise ValueError(f"roles.{role} = {model!r} is a classifier, which can only be the reward_judge")
        return self

    @model_validator(mode="after")
    def _rounds_go_on(self) -> Recipe:
        objectives = self.training.objectives
        if self.rounds.count > 1 and not objectives:
            raise ValueError("rounds.count is above 1, and training.objectives names no policy that could go on")
        if self.rounds.objective is not None and self.rounds.objective not in objectives:
            known = ", ".join(objectives)
            raise ValueError(f"rounds.objective = {self.rounds.objective!r} is not among training.objectives: {known}")
        return self

    @property
    def base(self) -> Recipe | None:
        """The recipe that it extends, and shares with what both would make alike. None where it takes that one's name
        and place, or where that one is only a part of a recipe."""
        return self._base

    def compared(self) -> list[Recipe]:
        """The recipes that it is compared with, as their files say now. Raises RecipeError."""
        return [load(str(path), self._folders) for path in self._compared]

    @property
    def merged(self) -> Mapping[str, Recipe]:
        """The recipes whose pairs it merges, by name."""
        return self._merged

    @property
    def group(self) -> str:
        """The name as Dagster allows it for a group."""
        return self.name.replace("-", "_")

    def model(self, role: str) -> ModelSpec:
        """The model that plays a role."""
        return self.models[getattr(self.roles, role)]

    def stages(self, path_of: Callable[[str], str]) -> Mapping[str, Stage]:
        """The stages by name, in run order, without those that it leaves out; `path_of` gives the source file of a
        shard.

        Raises RecipeError or ModelNotFound where a prompt or a model is amiss.
        """

        def asked(role: RoleName) -> tuple[str, int | None]:
            model = self.model(role)
            return model.identity, model.max_model_len

        responses = Responses(self.responses, *asked("policy"))
        rewards = Scores if self.model("reward_judge").kind == "classifier" else Rewards
        every: Sequence[Stage] = (
            Ugc(self.ugc, path_of),
            Quality(self.quality, *asked("quality_judge")),
            Instructions(self.instructions, *asked("instructor")),
            Relevance(self.relevance, *asked("relevance_judge")),
            responses,
            rewards(self.rewards, *asked("reward_judge")),
            Pairs(self.pairs),
            Dataset(self.dataset, responses.prompt, self.ugc.near_duplicates, self.ugc.similarity),
        )
        stages = gated(every)
        for stage in stages.values():
            _ = stage.fingerprint  # loads the prompt now, so that a bad one is told before anything runs
        return stages


def bundled() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in BUNDLED.glob("*.toml"))


def load(name_or_path: str, folders: Sequence[Path] = ()) -> Recipe:
    """The recipe in a TOML file, or of that name among the files of `folders` and the bundled ones.

    Raises RecipeError that says which key of which file is wrong, what is known, and what to write instead.
    """
    path = _find(name_or_path, folders)
    recipe = _load(path, folders, ())
    if recipe.compare.with_:
        recipe._folders, recipe._compared = tuple(folders), _compared(recipe, path, folders)
    return recipe


def _load(path: Path, folders: Sequence[Path], merging: tuple[Path, ...]) -> Recipe:
    data, below = _read(path, folders, ())
    data.setdefault("name", path.stem)
    _onto_defaults(data)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as err:
        raise RecipeError(f"recipe {path}:\n{_explain(err)}", fix="correct the keys above") from err
    if below is not None:
        recipe._base = _extended(below, folders, recipe.name, merging)
    recipe._merged = {name: _part(path, name, folders, merging) for name in recipe.merge}
    return recipe


def _part(path: Path, name: str, folders: Sequence[Path], merging: tuple[Path, ...]) -> Recipe:
    """One of the recipes that the recipe in `path` merges."""
    if name == path.stem:
        raise RecipeError(f"recipe {name} merges pairs with itself", fix=f"take out [merge.{name}]")
    other = _named(name, path.resolve(), folders).resolve()
    if other in (path.resolve(), *merging):
        chain = " -> ".join(p.stem for p in (*merging, path, other))
        raise RecipeError(f"recipe {path.stem} merges pairs with itself: {chain}", fix=f"take out [merge.{name}]")
    found = _load(other, folders, (*merging, path.resolve()))
    if found.merge:
        raise RecipeError(
            f"recipe {path.stem} merges {name}, which has no pairs of its own but merges others",
            fix=f"merge {', '.join(found.merge)} themselves",
        )
    return found


def _compared(recipe: Recipe, path: Path, folders: Sequence[Path]) -> tuple[Path, ...]:
    """The files of the recipes that a recipe is compared with. They are not read here: two recipes may name each
    other, and what is wrong with one is not wrong with the other."""
    names, where = recipe.compare.with_, f"recipe {path}: compare.with"
    for name in names:
        if name == recipe.name:
            known = ", ".join(n for n in _known(folders) if n != name)
            raise RecipeError(f"{where} names the recipe itself, {name!r}", fix=f"name others: {known}")
        if names.count(name) > 1:
            raise RecipeError(f"{where} names {name!r} twice", fix="name it once")
    try:
        return tuple(_named(name, path.resolve(), folders) for name in names)
    except RecipeError as err:
        raise RecipeError(f"{where}: {err.problem}", fix=err.fix) from err


def _extended(path: Path, folders: Sequence[Path], name: str, merging: tuple[Path, ...]) -> Recipe | None:
    try:
        base = _load(path, folders, merging)
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
    known = _known(folders)
    close = difflib.get_close_matches(name_or_path, known, 1)
    hint = f"did you mean {close[0]}?" if close else "name one of them, or the path of a .toml file"
    raise RecipeError(f"no recipe {name_or_path!r}; known: {', '.join(known)}", fix=hint)


def _known(folders: Sequence[Path]) -> list[str]:
    return sorted({*bundled(), *(path.stem for folder in folders for path in folder.glob("*.toml"))})


def _named(name: str, path: Path, folders: Sequence[Path]) -> Path:
    """The file of a recipe that the recipe at `path` names: beside it, or found by its name."""
    beside = path.parent / (name if name.endswith(".toml") else f"{name}.toml")
    return beside if beside.is_file() and beside != path else _find(name, folders, path)


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
    base_path = _named(base, path, folders)
    below, _ = _read(base_path, folders, (*seen, path))
    for own in ("about", "compare"):  # a base's sentence is its own, and the fork may be what it is compared with
        below.pop(own, None)
    return _merge(below, {"name": path.stem, **data}), base_path


def _resolve_paths(data: dict[str, Any], folder: Path) -> None:
    for table in data.values():
        for key in ("prompt", "vary") if isinstance(table, dict) else ():
            if isinstance(table.get(key), str) and (folder / table[key]).is_file():
                table[key] = str((folder / table[key]).resolve())
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
