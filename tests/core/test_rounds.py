"""Rounds: every one samples from the policy of the one before, on posts of its own; a kill changes nothing."""

import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from helpers.chain import posts

from pugc_core import run, storage
from pugc_core.engines.base import Engine, Generation
from pugc_core.engines.scripted import ScriptedEngine
from pugc_core.errors import RecipeError, TrainingError
from pugc_core.ledger.store import Ledger
from pugc_core.models.spec import ModelSpec
from pugc_core.plan import Chain
from pugc_core.recipe import Recipe, load
from pugc_core.stages.records import ALL
from pugc_core.tables.staleness import MISSING, survey
from pugc_core.tables.workspace import Workspace

RECIPE = """
[models.judge]
id = "judge"
engine = "scripted"
[models.policy]
id = "./start"
engine = "transformers"
[roles]
quality_judge = "judge"
instructor = "policy"
relevance_judge = "policy"
policy = "policy"
reward_judge = "judge"
[ugc]
min_chars = 20
[quality]
prompt = "short"
[instructions]
prompt = "short"
[relevance]
prompt = "short"
[responses]
k = 3
[rewards]
prompt = "short"
n = 4
max_draws = 8
[training]
objectives = ["dpo", "simpo"]
[rounds]
count = 2
"""
FIRST = ["round-1/responses", "round-1/rewards", "round-1/pairs", "round-1/dataset", "round-1/policy/dpo"]
LAST = ["responses", "rewards", "pairs", "dataset", "policy/dpo", "policy/simpo"]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Chain]:
    def make(text: str = RECIPE, root: str = "data") -> Chain:
        weights(tmp_path / "start", b"start")
        path = tmp_path / "rounds.toml"
        path.write_text(textwrap.dedent(text))
        chain = Chain(load(str(path)), Workspace(str(tmp_path / root)))
        for shard, start in (("a", 0), ("b", 100)):
            rows = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in posts(40, start=start))
            storage.write(storage.join(chain.workspace.inbox, f"{shard}.jsonl"), rows)
        return chain

    return make


def weights(folder: Path, content: bytes) -> None:
    """What looks like a model, as far as its identity goes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(content)


def trained(chain: Chain, name: str) -> None:
    """Stands for a training: what it makes follows from what it is made from, as weights do."""
    dataset = chain.nodes[name].parents["dataset"].name
    made_from = chain.wanted(name, chain.tables.footer(dataset, ALL))
    weights(Path(chain.folder(name)), json.dumps([name, made_from]).encode())


def go(chain: Chain, engines: Callable[[ModelSpec], Engine] = lambda model: ScriptedEngine(), **how: Any) -> None:
    with Ledger(chain.workspace.ledger) as ledger:
        run.run(chain, ledger, engines, **{"trained": trained, **how})


def files(root: str) -> dict[str, bytes]:
    """All that was made, but for what has the root's path or a time in it."""
    found = {}
    for part in ("tables", "policies", "datasets"):
        for path in sorted((Path(root) / part).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                found[str(path.relative_to(root))] = path.read_bytes()
    return found


def test_the_nodes_of_two_rounds(make: Callable[..., Chain]) -> None:
    chain = make()
    assert list(chain.nodes) == ["ugc", "quality", "instructions", "relevance", *FIRST, *LAST]
    sampler = chain.nodes["round-1/policy/dpo"]
    assert chain.nodes["responses"].parents["policy"] is sampler
    assert chain.nodes["policy/simpo"].parents["start"] is sampler
    assert "policy" not in chain.nodes["round-1/responses"].parents
    assert chain.folder("round-1/policy/dpo").endswith("policies/rounds/round-1/dpo")
    assert chain.folder("round-1/dataset").endswith("datasets/rounds/round-1")
    assert [over for over, _ in chain.segments()] == [True, False, True, False]


def test_rounds_without_filters(make: Callable[..., Chain]) -> None:
    text = RECIPE.replace("[quality]\n", "[quality]\nskip = true\n").replace(
        "[relevance]\n", "[relevance]\nskip = true\n"
    )
    chain = make(text)
    assert list(chain.nodes) == ["ugc", "instructions", *FIRST, *LAST]
    assert set(chain.nodes["round-1/responses"].parents) == {"instructions"}
    assert set(chain.nodes["responses"].parents) == {"instructions", "policy"}
    for name in ("round-1/pairs", "policy/dpo", "policy", "report"):
        chain.must_have(name)
    for name, words in (("quality", "leaves the stage quality out"), ("round-3/pairs", "no stage 'round-3/pairs'")):
        with pytest.raises(RecipeError, match=words):
            chain.must_have(name)


def test_every_round_has_posts_of_its_own(make: Callable[..., Chain]) -> None:
    chain = make()
    go(chain)
    kept = pl.concat([chain.tables.read("relevance", s).filter("keep") for s in "ab"])["instruction_id"]
    asked = [
        set(pl.concat([chain.tables.read(name, s) for s in "ab"])["instruction_id"])
        for name in ("round-1/responses", "responses")
    ]
    assert not asked[0] & asked[1]
    assert asked[0] | asked[1] == set(kept)
    assert all(asked)
    assert chain.tables.read("dataset", ALL).height > 0


def test_the_second_round_asks_the_policy_of_the_first(make: Callable[..., Chain]) -> None:
    chain, models = make(), list[str]()

    def engines(model: ModelSpec) -> Engine:
        models.append(model.id)
        return ScriptedEngine()

    go(chain, engines)
    folder = chain.folder("round-1/policy/dpo")
    # quality, instructions, relevance, responses, rewards; then responses of the policy, and their rewards
    start = chain.recipe.model("policy").id
    assert models == ["judge", start, start, start, "judge", folder, "judge"]
    footer = chain.tables.footer("responses", "a")
    assert footer is not None
    assert footer.inputs["policy"] == chain.model("responses").identity
    assert footer.fingerprint["part"] == "2 of 2"


def test_nothing_is_out_of_date_after_a_run_and_a_policy_trained_again_makes_its_round_so(
    make: Callable[..., Chain],
) -> None:
    chain = make()
    assert set(survey(chain).stages["responses"].values()) == {MISSING}
    go(chain)
    found = survey(chain)
    assert not any(found.stages.values())
    weights(Path(chain.folder("round-1/policy/dpo")), b"another")
    found = survey(chain)
    assert {name for name, whys in found.stages.items() if whys} == set(LAST)
    assert set(found.stages["pairs"].values()) == {"the policy that it was sampled from was trained again"}


class Killed(BaseException):
    pass


class Mortal(ScriptedEngine):
    """Dies after so many answers."""

    def __init__(self, left: list[int]) -> None:
        super().__init__()
        self.left = left

    def generate(self, requests: Any) -> Iterator[Any]:
        for answer in super().generate(requests):
            if isinstance(answer, Generation):
                self.left[0] -= 1
                if self.left[0] < 0:
                    raise Killed
            yield answer


def test_killed_anywhere_it_goes_on_to_the_same_bytes(make: Callable[..., Chain]) -> None:
    whole, endless = make(), [10**9]
    go(whole, lambda model: Mortal(endless))
    wanted = files(whole.workspace.root)
    total = 10**9 - endless[0]
    for after in (total // 4, total // 2, 3 * total // 4, total - 5):
        Path(whole.workspace.root).rename(f"{whole.workspace.root}-{after}")
        chain, left = make(), [after]
        with pytest.raises(Killed):
            go(chain, lambda model, left=left: Mortal(left))  # type: ignore[misc]
        go(Chain(chain.recipe, chain.workspace))
        assert files(chain.workspace.root) == wanted


def test_killed_between_the_rounds(make: Callable[..., Chain]) -> None:
    whole = make()
    go(whole)
    wanted = files(whole.workspace.root)
    Path(whole.workspace.root).rename(f"{whole.workspace.root}-whole")

    def dies(chain: Chain, name: str) -> None:
        raise Killed

    chain = make()
    with pytest.raises(Killed):
        go(chain, trained=dies)
    with pytest.raises(TrainingError, match="round-1/policy/dpo of recipe rounds is not trained yet") as err:
        chain.model("responses")
    assert "pugc run --recipe rounds" in str(err.value.fix)
    go(Chain(chain.recipe, chain.workspace))
    assert files(chain.workspace.root) == wanted


def test_bad_rounds_are_named(make: Callable[..., Chain]) -> None:
    with pytest.raises(RecipeError, match=r"rounds.objective = 'kto' is not among training.objectives: dpo, simpo"):
        make(RECIPE.replace("count = 2", 'count = 2\nobjective = "kto"'))
    with pytest.raises(RecipeError, match="names no policy that could go on"):
        make(RECIPE.replace('["dpo", "simpo"]', "[]"))
    with pytest.raises(RecipeError):
        make(RECIPE.replace("count = 2", "count = 0"))


def test_more_rounds_than_posts(make: Callable[..., Chain]) -> None:
    chain = make(RECIPE.replace("count = 2", "count = 50"))
    with pytest.raises(
        TrainingError, match=r"round-\d+/dataset of recipe rounds holds no pair to train on; .* 50 parts"
    ):
        go(chain)


def test_a_recipe_without_rounds_is_what_it_was(make: Callable[..., Chain]) -> None:
    chain = make(RECIPE.replace("[rounds]\ncount = 2\n", ""))
    assert "part" not in chain.stages["responses"].fingerprint
    assert isinstance(chain.recipe, Recipe)
    assert not any("/" in name for name in chain.stages)
