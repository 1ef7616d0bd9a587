"""Recipes: the bundled ones hold the paper's values, users' ones are a base and a change, mistakes are named."""

import textwrap
import traceback
from pathlib import Path

import pytest

from pugc_core import recipe
from pugc_core.errors import ModelNotFound, RecipeError
from pugc_core.models.smollm2 import merge
from pugc_core.recipe import ROLES, Recipe, bundled, load

WHOLE = """
[models.m]
id = "org/model"
[roles]
quality_judge = "m"
instructor = "m"
relevance_judge = "m"
policy = "m"
reward_judge = "m"
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "mine.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


def refused(path: object, *folders: Path) -> str:
    with pytest.raises(RecipeError) as err:
        load(str(path), folders)
    assert err.value.fix
    return str(err.value)


# Bundled recipes


def test_the_bundled_recipes() -> None:
    assert set(bundled()) >= {"tiny", "laptop", "laptop-hub", "small", "paper", "paper-base", *ABLATIONS}


@pytest.mark.parametrize("name", bundled())
def test_a_bundled_recipe_loads_and_makes_all_stages(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    monkeypatch.setattr(merge, "ADAPTER", tmp_path)
    monkeypatch.setenv("PUGC_CACHE", str(tmp_path / "cache"))
    loaded = load(name)
    assert loaded.name == name
    assert loaded.about.endswith(".")
    assert loaded.group.isidentifier()
    stages = loaded.stages(lambda shard: f"{shard}.jsonl")
    skipped = {"no-relevance-filter": "relevance", "tiny-no-relevance-filter": "relevance", "quality-any": "quality"}
    every = ["ugc", "quality", "instructions", "relevance", "responses", "rewards", "pairs", "dataset"]
    assert list(stages) == [stage for stage in every if stage != skipped.get(name)]
    for stage in stages.values():
        assert stage.role is None or stage.role in ROLES
        assert set(stage.inputs) <= set(stages)
    assert loaded.relevance.sampling.choices == ("True", "False")
    assert not (tmp_path / "cache").exists(), "to load a recipe fetches nothing"


def test_the_paper_recipe_holds_the_papers_values() -> None:
    paper = load("paper")
    ids = {role: paper.model(role).id for role in ROLES}
    policy = "mistralai/Mistral-7B-Instruct-v0.2"
    assert ids == {
        "quality_judge": "meta-llama/Meta-Llama-3-70B-Instruct",
        "instructor": policy,
        "relevance_judge": policy,
        "policy": policy,
        "reward_judge": "prometheus-eval/prometheus-7b-v2.0",
    }
    assert paper.quality.min_score == 4
    assert (paper.instructions.sampling.temperature, paper.instructions.sampling.top_p) == (0.7, 0.9)
    relevance = paper.relevance.sampling
    assert (relevance.choices, relevance.temperature) == (("True", "False"), 0)
    assert paper.responses.k == 5
    assert (paper.responses.sampling.temperature, paper.responses.sampling.top_p) == (0.8, 0.95)
    rewards = paper.rewards
    assert (rewards.n, rewards.aggregate, rewards.prompt) == (8, "mean", "default")
    vote = rewards.sampling
    assert (vote.temperature, vote.top_p, vote.repetition_penalty, vote.max_tokens) == (1.0, 0.9, 1.03, 1024)
    assert (paper.pairs.all_tied, paper.pairs.min_margin) == ("drop", 0)
    training = paper.training
    assert (training.batch_size, training.epochs, training.warmup_ratio, training.scheduler) == (128, 1, 0.1, "cosine")
    assert (training.precision, training.gradient_checkpointing) == ("bf16", True)
    assert (training.dpo.beta, training.dpo.learning_rate) == (0.01, 5e-7)
    assert (training.simpo.beta, training.simpo.learning_rate) == (2.5, 5e-7)
    assert training.simpo.gamma_beta_ratio == 0.1
    assert training.simpo.simpo_gamma == pytest.approx(0.25)
    assert training.max_length == 2048


def test_the_paper_base_recipe_is_the_paper_with_another_policy() -> None:
    paper, base = load("paper"), load("paper-base")
    assert base.model("policy").id == "alignment-handbook/zephyr-7b-sft-full"
    assert base.model("reward_judge") == paper.model("reward_judge")
    assert base.training.simpo.simpo_gamma == pytest.approx(1.6)
    assert (base.training.simpo.beta, base.training.simpo.learning_rate) == (2.0, 3e-7)
    assert base.training.max_length == 1024
    for stage in ("quality", "instructions", "relevance", "responses", "rewards", "pairs"):
        assert getattr(base, stage) == getattr(paper, stage)


ABLATIONS = {
    "no-reference": ("rewards", {"reference": "none", "prompt": "no-reference"}),
    "random-reference": ("rewards", {"reference": "random"}),
    "no-relevance-filter": ("relevance", {"skip": True}),
    "mistral-nemo": ("models", {}),
    "other-instructor": ("roles", {"instructor": "rater"}),
    "quality-2-3": ("quality", {"min_score": 2, "max_score": 3}),
    "quality-4-5": ("quality", {}),
    "quality-any": ("quality", {"skip": True}),
    "tiny-no-reference": ("rewards", {"reference": "none", "prompt": "no-reference-short"}),
    "tiny-random-reference": ("rewards", {"reference": "random"}),
    "tiny-no-relevance-filter": ("relevance", {"skip": True}),
    "tiny-other-instructor": ("roles", {"instructor": "other"}),
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_a_bundled_ablation_is_its_base_and_one_change(name: str) -> None:
    made, (part, change) = load(name), ABLATIONS[name]
    base = load("tiny" if name.startswith("tiny-") else "paper")
    assert made.base == base
    differing = {f for f in Recipe.model_fields if getattr(made, f) != getattr(base, f)} - {"name", "about"}
    assert differing <= {part, "models"}
    if part != "models":
        assert getattr(made, part) == getattr(base, part).model_copy(update=change)
        assert {**made.models, **base.models} == made.models
    if name == "mistral-nemo":
        changed = made.models["policy"].model_copy(update={"id": base.models["policy"].id})
        assert {**made.models, "policy": changed} == base.models


def test_the_tiny_recipe_needs_nothing_but_the_package() -> None:
    assert {load("tiny").model(role).id for role in ROLES} == {"pugc/tiny"}


# Extends


def test_an_ablation_is_a_base_and_one_change(write) -> None:
    ablation, paper = load(str(write('extends = "paper"\n[rewards]\nprompt = "prometheus"\n'))), load("paper")
    assert ablation.name == "mine"
    differing = {f for f in Recipe.model_fields if getattr(ablation, f) != getattr(paper, f)}
    assert differing == {"name", "about", "rewards"}
    assert ablation.rewards == paper.rewards.model_copy(update={"prompt": "prometheus"})


def test_tables_are_merged_key_by_key_at_every_depth(write) -> None:
    paper = load("paper")
    made = load(
        str(write('extends = "paper"\n[rewards.sampling]\ntemperature = 0.5\n[models.judge]\nmax_model_len = 4096\n'))
    )
    assert made.rewards.sampling == paper.rewards.sampling.model_copy(update={"temperature": 0.5})
    assert made.models["judge"] == paper.models["judge"].model_copy(update={"max_model_len": 4096})
    assert made.models["policy"] == paper.models["policy"]


@pytest.mark.parametrize("base", ['extends = "tiny"', WHOLE])
def test_one_sampling_knob_leaves_the_stages_others_alone(write, base: str) -> None:
    """Also where the base leaves the stage's sampling at its default: no constraint or penalty is lost."""
    knobs = "".join(
        f"\n[{stage}.sampling]\nmax_tokens = 17\n"
        for stage in ("quality", "instructions", "relevance", "responses", "rewards")
    )
    plain, changed = load(str(write(base, "plain.toml"))), load(str(write(base + knobs, "changed.toml")))
    for stage in ("quality", "instructions", "relevance", "responses", "rewards"):
        before, after = getattr(plain, stage).sampling, getattr(changed, stage).sampling
        assert after == before.model_copy(update={"max_tokens": 17}), stage


def test_lists_are_replaced_not_joined(write) -> None:
    made = load(str(write('extends = "paper"\n[training]\nobjectives = ["simpo"]\n')))
    assert made.training.objectives == ("simpo",)


def test_extends_a_recipe_beside_it_and_that_one_another(write) -> None:
    write('extends = "tiny"\n[responses]\nk = 7\n[rewards]\nn = 3\n', "base.toml")
    write('extends = "base"\n[rewards]\nn = 5\n', "middle.toml")
    made = load(str(write('extends = "middle.toml"\nabout = "Mine."\n')))
    assert (made.responses.k, made.rewards.n, made.about, made.name) == (7, 5, "Mine.", "mine")
    middle = load(str(write('extends = "tiny"\n', "middle.toml")))
    assert load("tiny").about
    assert (middle.about, middle.name) == ("", "middle"), "what a base says of itself is not said of this one"


def test_a_recipe_may_have_the_name_of_the_bundled_one_it_extends(write, tmp_path: Path) -> None:
    path = write('extends = "tiny"\n[responses]\nk = 7\n', "tiny.toml")
    assert load(str(path)).responses.k == 7
    assert load("tiny", [tmp_path]).responses.k == 7
    write('extends = "tiny"\n', "other.toml")
    assert load("other", [tmp_path]).responses.k == 7, "the nearest one of that name"


def test_recipes_in_a_circle(write) -> None:
    write('extends = "b"\n', "a.toml")
    write('extends = "c"\n', "b.toml")
    path = write('extends = "a"\n', "c.toml")
    message = refused(path)
    assert "circle" in message
    for name in ("a.toml", "b.toml", "c.toml"):
        assert name in message


@pytest.mark.parametrize("extends", ["5", '["tiny"]', "true", '{ name = "tiny" }'])
def test_extends_names_one_recipe(write, extends: str) -> None:
    assert "extends" in refused(write(f"extends = {extends}\n"))


def test_extends_an_unknown_recipe(write) -> None:
    message = refused(write('extends = "papr"\n'))
    assert "papr" in message
    assert "did you mean paper" in message


# Where recipes and what they name are found


def test_a_users_recipe_lives_outside_the_package(write, tmp_path: Path) -> None:
    write(WHOLE, "my-recipe.toml")
    assert load("my-recipe", [tmp_path]).name == "my-recipe"
    assert load("my-recipe", [tmp_path / "none", tmp_path]).group == "my_recipe"
    assert load(str(tmp_path / "my-recipe.toml")) == load("my-recipe", [tmp_path])


def test_an_unknown_recipe_names_the_known_ones(write, tmp_path: Path) -> None:
    write(WHOLE, "my-recipe.toml")
    message = refused("my-recip", tmp_path)
    for name in ("my-recipe", *bundled()):
        assert name in message
    assert "did you mean my-recipe?" in message
    assert "no recipe file" in refused(tmp_path / "none.toml")


def test_a_relative_prompt_is_found_from_the_recipes_folder(write, tmp_path: Path, monkeypatch) -> None:
    write("Rate it: {ugc}", "deep/prompts/rate.txt")
    path = write('extends = "tiny"\n[quality]\nprompt = "prompts/rate.txt"\n', "deep/mine.toml")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    made = load(str(path))
    assert made.quality.prompt == str((tmp_path / "deep/prompts/rate.txt").resolve())
    messages = made.stages(str)["quality"].prompt.render({"ugc": "U"})  # type: ignore[attr-defined]
    assert messages[0].content == "Rate it: U"
    write("{instruction}, not {earlier}", "deep/prompts/again.txt")
    varied = load(str(write('extends = "tiny"\n[responses]\nvary = "prompts/again.txt"\n', "deep/varied.toml")))
    assert varied.responses.vary == str((tmp_path / "deep/prompts/again.txt").resolve())
    # Also when a recipe in another folder extends the one that names it.
    child = write('extends = "../deep/mine.toml"\n', "child/child.toml")
    assert load(str(child)).quality.prompt == made.quality.prompt


def test_a_missing_prompt_is_told_before_anything_runs(write) -> None:
    path = write('extends = "tiny"\n[quality]\nprompt = "prompts/none.txt"\n')
    with pytest.raises(RecipeError, match=r"prompts/none\.txt"):
        load(str(path)).stages(str)


def test_a_prompt_without_its_slot_is_told_before_anything_runs(write) -> None:
    write("Rate it.", "rate.txt")
    path = write('extends = "tiny"\n[quality]\nprompt = "rate.txt"\n')
    with pytest.raises(RecipeError, match=r"rate\.txt.*\{ugc\}"):
        load(str(path)).stages(str)


def test_a_relative_model_folder_is_found_from_the_recipes_folder(write, tmp_path: Path) -> None:
    path = write('extends = "tiny"\n[models.tiny]\nid = "../weights"\n', "deep/mine.toml")
    assert load(str(path)).model("policy").id == str((tmp_path / "weights").resolve())
    with pytest.raises(ModelNotFound):
        load(str(path)).stages(str)


# Mistakes


@pytest.mark.parametrize(
    ("text", "where", "known", "meant"),
    [
        ("abuot = 'x'", "abuot", "dataset", "about"),
        ("[reward]\nn = 4", "reward", "rewards", "rewards"),
        ("[rewards]\nmax_draw = 4", "rewards.max_draw", "min_valid", "max_draws"),
        ("[rewards.sampling]\ntemprature = 1", "rewards.sampling.temprature", "top_p", "temperature"),
        ("[models.m]\nrevison = 'x'", "models.m.revison", "max_model_len", "revision"),
        ("[roles]\npolcy = 'm'", "roles.polcy", "instructor", "policy"),
        ("[ugc.fields]\ntxt = 'body'", "ugc.fields.txt", "title", "text"),
        ("[training]\nepoch = 1", "training.epoch", "batch_size", "epochs"),
        ("[training.simpo]\nbta = 1", "training.simpo.bta", "gamma_beta_ratio", "beta"),
        ("[dataset]\nshare = 0.5", "dataset.share", "test_share", "test_share"),
    ],
)
def test_an_unknown_key_is_named_with_the_known_ones(write, text: str, where: str, known: str, meant: str) -> None:
    path = write('extends = "tiny"\n[models.m]\nid = "x"\n' if "models.m" not in text else 'extends = "tiny"\n')
    path.write_text((text + "\n" + path.read_text()) if text.startswith("abuot") else path.read_text() + text + "\n")
    message = refused(path)
    assert str(path) in message
    assert f"{where}: unknown key" in message
    assert f"did you mean {meant}?" in message
    line = next(line for line in message.splitlines() if where in line)
    assert known in line.partition("known here:")[2]


def test_all_mistakes_are_told_at_once(write) -> None:
    message = refused(write('extends = "tiny"\nabuot = "x"\n[rewards]\nn = "many"\nnn = 3\n'))
    for where in ("abuot", "rewards.n:", "rewards.nn"):
        assert where in message


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[rewards]\nn = 9\nmax_draws = 8", "max_draws"),
        ("[quality]\nmin_score = 6", "quality.min_score"),
        ("[responses]\nk = 1", "responses.k"),
        ("[rewards.sampling]\ntop_p = 1.5", "rewards.sampling.top_p"),
        ("[relevance.sampling]\nregex = 'x'", "choices and regex"),
        ("[models.tiny]\nengine = 'vlm'", "models.tiny.engine"),
        ("[training]\nobjectives = ['dop']", "dop"),
        ("[training]\nbatch_size = 7", "batch_size"),
    ],
)
def test_a_wrong_value_is_named(write, text: str, what: str) -> None:
    assert what in refused(write(f'extends = "tiny"\n{text}\n'))


def test_a_base_url_with_a_bare_password_is_refused_and_not_repeated(write) -> None:
    good = ("http://host", "https://qq7:pa%23ss%40@host:8000/v1", "http://[::1]:8000/v1")
    bad = ("zz9#zz9@host/v1", "zz9/zz9@host/v1", "zz9?zz9@host/v1", "zz9[zz9@host/v1", "zz9", "zz9@host:zz9/v1")
    others = ("http://host/v1?zz9", "http://host/v1#zz9", "http//qq7:zz9@host", "qq7:zz9@host:8000")
    text = 'extends = "tiny"\n[models.far]\nid = "far"\nbase_urls = {}\n'
    assert load(str(write(text.format(list(good))))).models["far"].base_urls == good
    for url in (*(f"http://qq7:{rest}" for rest in bad), *others):
        path = write(text.format(["http://good", url]))
        message = refused(path)
        assert "models.far.base_urls.1: Value error, not a base URL" in message, url
        assert "percent-encode the password" in message
        with pytest.raises(RecipeError) as err:
            load(str(path))
        shown = "".join(traceback.format_exception(err.value))
        assert not [s for s in ("qq7", "zz9") if s in shown], shown


def test_a_role_without_a_model(write) -> None:
    message = refused(write('extends = "tiny"\n[roles]\npolicy = "tiney"\n'))
    assert "roles.policy" in message
    assert "tiney" in message
    assert "tiny" in message.replace("tiney", "")


def test_a_missing_role_is_named(write) -> None:
    assert "roles.reward_judge" in refused(write(WHOLE.replace('reward_judge = "m"', "")))


@pytest.mark.parametrize("name", ["Upper.toml", "with space.toml", "under_score.toml", "9.toml", "a.b.toml", ".toml"])
def test_a_name_that_is_no_name(write, name: str) -> None:
    path = write(WHOLE, name)
    assert name in refused(path)


def test_not_toml(write, tmp_path: Path) -> None:
    message = refused(write('extends = "tiny"\n[rewards\n'))
    assert "not TOML" in message
    assert "line 2" in message
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b'about = "\xff"')
    assert "not TOML" in refused(binary)


def test_a_table_given_as_a_value(write) -> None:
    assert "rewards" in refused(write('extends = "tiny"\nrewards = 3\n'))
    assert "models" in refused(write(WHOLE.replace('[models.m]\nid = "org/model"', 'models = "m"')))
    assert "models.m" in refused(write('extends = "tiny"\n[models]\nm = "org/model"\n'))


def test_an_empty_recipe_says_what_it_lacks(write) -> None:
    message = refused(write(""))
    assert "models" in message
    assert "roles" in message


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load("tiny").rewards.n = 3  # type: ignore[misc]


def test_bundled_folder_is_what_bundled_lists() -> None:
    assert sorted(p.stem for p in recipe.BUNDLED.glob("*.toml")) == bundled()
