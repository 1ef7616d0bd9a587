"""Start and trained side by side: who is asked, what each remembers, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pugc_core import progress
from pugc_core.engines import EngineHost
from pugc_core.engines.base import Engine, Generation, Request
from pugc_core.engines.scripted import ScriptedEngine
from pugc_core.errors import EngineError, RecipeError, TrainingError
from pugc_core.ledger.store import Ledger
from pugc_core.models.spec import ModelSpec
from pugc_core.plan import Chain
from pugc_core.prompts.base import Message
from pugc_core.recipe import Recipe, load
from pugc_core.results.policy_samples import SAMPLES, Side, Talk, held_out, samples, sides
from pugc_core.stages import STAGES
from pugc_core.stages.records import ALL
from pugc_core.tables.store import make_footer
from pugc_core.tables.workspace import Workspace
from pugc_core.training import lineage


def make(tmp_path: Path, extra: str = "") -> tuple[Recipe, Workspace]:
    path = tmp_path / "mine.toml"
    path.write_text(f'extends = "tiny"\n{extra}')
    return load(str(path)), Workspace(str(tmp_path / "data"))


def train(recipe: Recipe, workspace: Workspace, objective: str) -> str:
    folder = Chain(recipe, workspace).policy(objective)
    lineage.record(folder, {}, {})
    return folder


def test_the_start_and_what_is_trained_are_asked(tmp_path: Path) -> None:
    recipe, workspace = make(tmp_path)
    assert [side.name for side in sides(Chain(recipe, workspace))] == ["start"]
    folder = train(recipe, workspace, "simpo")
    assert [side.name for side in sides(Chain(recipe, workspace))] == ["start", "simpo"]
    start, trained = sides(Chain(recipe, workspace), ["start", "simpo", "start"])
    assert start.model == recipe.model("policy")
    assert trained.model == start.model.model_copy(update={"id": folder})
    with pytest.raises(TrainingError, match="policy dpo of recipe mine is not trained yet"):
        sides(Chain(recipe, workspace), ["dpo"])
    with pytest.raises(RecipeError, match="no policy kto") as err:
        sides(Chain(recipe, workspace), ["kto"])
    assert "start, dpo, simpo" in str(err.value.fix)


def test_what_was_trained_runs_here_where_its_start_is_on_a_server(tmp_path: Path) -> None:
    for engine in ("endpoint", "auto"):
        recipe, workspace = make(
            tmp_path,
            f'[models.far]\nid = "org/far"\nrevision = "abc"\nengine = "{engine}"\nbase_urls = ["http://far/v1"]\n'
            'options = { max_retries = 1 }\n[roles]\npolicy = "far"\n',
        )
        train(recipe, workspace, "dpo")
        start, trained = (side.model for side in sides(Chain(recipe, workspace)))
        assert start.base_urls == ("http://far/v1",)
        assert (trained.engine, trained.base_urls, trained.revision, trained.options) == ("auto", (), None, {})


def test_held_out_questions_are_answered_by_both_and_the_start_is_not_asked_twice(tmp_path: Path) -> None:
    recipe, workspace = make(tmp_path, '[models.tiny]\nengine = "scripted"\n')
    folder = train(recipe, workspace, "dpo")
    start = recipe.model("policy")
    blank = dict.fromkeys(STAGES["dataset"].table.schema)
    # (pair, group, split, kept): of two pairs of a group one is shown, of training pairs and dropped ones none.
    rows = [("a", "x", "test", True), ("b", "x", "test", True), ("c", "y", "train", True), ("d", "z", "test", True)]
    rows += [("e", "w", "test", False)]
    frame = STAGES["dataset"].table.frame(
        {
            **blank,
            **{"pair_id": pair, "group": group, "split": split, "keep": keep},
            "drop_reason": None if keep else "duplicate",
            "prompt": [{"role": "user", "content": f"How {pair}?"}],
            **{side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")},
        }
        for pair, group, split, keep in rows
    )
    Chain(recipe, workspace).tables.write(frame, make_footer(frame, "dataset", ALL, {}, {}))
    request = Request(start.identity, (Message("user", "How a?"),), recipe.responses.sampling)
    with Ledger(workspace.ledger) as ledger:
        ledger.add(start.identity, [Generation(request.key(0), " as before ", "stop", 1, 1, 0, "scripted 1")])

    hosts = Hosts(**{start.id: ScriptedEngine(lambda *_: "afresh"), folder: ScriptedEngine(lambda *_: "learnt")})
    heard: list[str] = []
    with progress.listen(lambda state: None, heard.append):
        found = held_out(Chain(recipe, workspace), hosts, "policy/dpo")
    assert found == [
        {"question": "How a?", "start": "as before", "trained": "learnt"},
        {"question": "How d?", "start": "afresh", "trained": "learnt"},
    ]
    assert heard == [
        *("asking start what it says to 1 held-out questions: seconds", ""),
        *("asking dpo what it says to 2 held-out questions: seconds", ""),
    ]
    assert samples(folder) == []
    (Path(folder) / SAMPLES).write_text(json.dumps({"samples": found}))
    assert samples(folder) == found
    assert hosts.opened == [start.id, folder]


class Hosts(EngineHost):
    """Engines by model, and which were opened in what order."""

    def __init__(self, **engines: Engine) -> None:
        super().__init__()
        self.engines, self.opened = engines, list[str]()

    def engine(self, spec: ModelSpec) -> Engine:
        if self.opened[-1:] != [spec.id]:
            self.opened.append(spec.id)
        return self.engines[spec.id]


def talk(tmp_path: Path, hosts: Hosts, toml: str = "") -> Talk:
    recipe, workspace = make(tmp_path, toml)
    models = {name: ModelSpec(id=name, engine="scripted") for name in hosts.engines}
    return Talk(Chain(recipe, workspace), [Side(n, m) for n, m in models.items()], hosts)


def test_each_side_remembers_what_it_said_itself(tmp_path: Path) -> None:
    def says(name: str) -> ScriptedEngine:
        return ScriptedEngine(lambda request, draw: f" {name} {len(request.messages)} </s> {draw} ")

    hosts = Hosts(a=says("a"), b=says("b"))
    both = talk(tmp_path, hosts)
    assert {name: [g.text for g in given] for name, given in both.ask("one", 2).items()} == {
        "a": [" a 1 </s> 0 ", " a 1 </s> 1 "],
        "b": [" b 1 </s> 0 ", " b 1 </s> 1 "],
    }
    assert list(both.ask("two")) == ["a", "b"]
    for name in ("a", "b"):
        engine: Any = hosts.engines[name]
        # What a model said is no control string in its next prompt.
        assert [tuple(m) for m in engine.requests[-1].messages] == [
            ("user", "one"),
            ("assistant", f"{name} 1 <\\/s> 0"),
            ("user", "two"),
        ]
    assert hosts.opened == ["a", "b", "a"], "the model that is there is asked first"


def test_a_side_that_cannot_be_asked_leaves_no_half_a_turn(tmp_path: Path) -> None:
    class Full(ScriptedEngine):
        refuse = False

        def generate(self, requests: Any) -> Any:
            from pugc_core.engines.base import Refusal

            if self.refuse:
                return iter([Refusal(next(iter(requests)), "prompt_too_long")])
            return super().generate(requests)

    full = Full()
    hosts = Hosts(a=ScriptedEngine(), b=full)
    both = talk(tmp_path, hosts)
    both.ask("one")
    full.refuse = True
    with pytest.raises(EngineError, match="b cannot take this in: prompt_too_long"):
        both.ask("two")
    full.refuse = False
    both.ask("three")
    for engine in hosts.engines.values():
        asked: Any = engine
        assert [m.content for m in asked.requests[-1].messages if m.role == "user"] == ["one", "three"]


def test_greedy_answers_are_asked_for_once(tmp_path: Path) -> None:
    hosts = Hosts(a=ScriptedEngine())
    greedy = "[responses.sampling]\ntemperature = 0.0\n"
    assert len(talk(tmp_path, hosts, greedy).ask("one", 4)["a"]) == 1


def test_the_draws_that_came_are_shown_where_one_did_not(tmp_path: Path) -> None:
    class Mute(ScriptedEngine):
        def generate(self, requests: Any) -> Any:
            from dataclasses import replace

            from pugc_core.engines.base import Refusal

            (request,) = requests
            yield Refusal(replace(request, draws=(1,)), "no_content")
            yield from super().generate([replace(request, draws=(0, 2))])

    assert len(talk(tmp_path, Hosts(a=Mute())).ask("one", 3)["a"]) == 2
