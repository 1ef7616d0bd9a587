"""Recipes that leave a filter out: nobody asks its model, the stages after it take all rows, and nothing misses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.chain import Chain, no_engine, posts, scripted_recipe

from pugc_core.errors import RecipeError
from pugc_core.recipe import Recipe
from pugc_core.results import dropped_rows, provenance, summary
from pugc_core.stages import STAGES
from pugc_core.tables import checks
from pugc_core.tables.checks import Checked
from pugc_core.tables.shard_states import states
from pugc_core.tables.staleness import survey, to_refresh

FILTERS = ("quality", "relevance")


def without(*names: str) -> Recipe:
    return scripted_recipe(**{name: {"skip": True} for name in names})


def made(root: Path, recipe: Recipe) -> Chain:
    chain = Chain(str(root), recipe)
    for shard, start in (("a", 0), ("b", 100)):
        chain.put(shard, posts(12, start=start))
    chain.run()
    return chain


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Run without either filter."""
    return made(tmp_path_factory.mktemp("bare"), without(*FILTERS))


def test_who_goes_through_which_filter() -> None:
    for out in ((), ("quality",), ("relevance",), FILTERS):
        stages = without(*out).stages(str)
        assert list(stages) == [name for name in STAGES if name not in out]
        gates = {name: stage.gates for name, stage in stages.items() if stage.gates}
        assert gates == {
            **({} if "quality" in out else {"instructions": ("quality",)}),
            **({} if "relevance" in out else {"responses": ("relevance",)}),
        }
        assert stages["instructions"].inputs == ("ugc", *gates.get("instructions", ()))
        assert stages["responses"].inputs == ("instructions", *gates.get("responses", ()))


def test_all_rows_go_on_and_no_judge_is_asked(bare: Chain) -> None:
    assert bare.last.asked["quality"] == bare.last.asked["relevance"] == 0
    assert set(bare.last.made) == set(STAGES) - set(FILTERS)
    assert set(bare.rows("instructions")["ugc_id"]) == set(bare.rows("ugc").filter("keep")["ugc_id"])
    answered, asked = bare.rows("responses"), bare.rows("instructions").filter("keep")
    assert set(answered["instruction_id"]) == set(asked["instruction_id"])
    assert bare.rows("pairs").filter("keep").height > 5
    assert not bare.run(engine=no_engine).made


def test_what_reads_the_tables_does_without(bare: Chain) -> None:
    chain = bare.plan
    tables, shards = chain.tables, ["a", "b"]
    assert chain.up_to("dataset") == [name for name in STAGES if name not in FILTERS]
    assert list(summary.funnel(tables, shards)) == [name for name in STAGES if name not in FILTERS]
    assert {row["stage"] for row in dropped_rows.sample(tables, shards, 3)} <= set(chain.stages)
    found = survey(chain)
    assert not any(found.outdated(name) for name in chain.stages)
    assert to_refresh(found, chain.sharded) == ([], [])
    assert {asked.stage for asked in states(tables, shards).asked()} == {"instructions", "responses", "rewards"}
    for name in chain.sharded:
        checked = Checked(tables, name, tables.footers(name), shards, chain.recipe.checks, chain.recipe.rewards.n)
        assert all(checks.CHECKS[check](checked).passed for check in checks.of(name)), name
    pair_id = bare.rows("pairs").filter("keep")["pair_id"][0]
    behind = summary.lineage(tables, pair_id)
    assert behind["quality"] is None
    assert json.dumps(behind)
    asked = provenance.asked(chain, behind)
    assert list(asked) == ["instructions", "responses", "rewards"]
    assert all(each["current"] for each in asked.values())


def test_tables_from_before_it_was_left_out_are_not_looked_at(tmp_path: Path) -> None:
    chain = made(tmp_path, scripted_recipe())
    for out, first in (("quality", "instructions"), ("relevance", "responses")):
        chain.recipe = without(out)
        found = survey(chain.plan)
        order = list(found.stages)
        assert [name for name in order if found.outdated(name)] == order[order.index(first) : order.index("policy/dpo")]
        assert set(found.outdated(first).values()) == {f"the filter {out} was left out"}
        assert to_refresh(found, chain.plan.sharded)[0] == list(chain.plan.sharded[chain.plan.sharded.index(first) :])
        assert out not in summary.funnel(chain.plan.tables, ["a", "b"])
        assert not {row["stage"] for row in dropped_rows.sample(chain.plan.tables, ["a", "b"], 3)} & {out}
        assert next(iter(chain.run().made)) == first
        assert not any(survey(chain.plan).outdated(name) for name in chain.plan.stages)
        chain.recipe = scripted_recipe()
        assert set(survey(chain.plan).outdated(first).values()) == {f"the filter {out} was put in"}
        chain.run(engine=no_engine)


def test_a_stage_that_is_left_out_cannot_be_named(bare: Chain) -> None:
    bare.plan.must_have("report")
    with pytest.raises(RecipeError, match=r"scripted leaves the stage quality out: \[quality\] skip = true"):
        bare.plan.must_have("quality")
    with pytest.raises(RecipeError, match="no stage 'qualty'; stages: ugc, instructions"):
        bare.plan.must_have("qualty")


def test_no_reference_goes_through_the_whole_chain(tmp_path: Path) -> None:
    recipe = scripted_recipe(rewards={"reference": "none", "prompt": "no-reference-short"})
    chain = made(tmp_path, recipe)
    footer = chain.tables.footer("rewards", "a")
    assert footer is not None
    assert set(footer.inputs) == {"responses", "instructions"}
    texts = chain.rows("ugc").filter("keep")["text"].to_list()
    assert not any(text in r.messages[-1].content for r in chain.last.requests["rewards"] for text in texts)
    behind = summary.lineage(chain.tables, chain.rows("pairs").filter("keep")["pair_id"][0])
    sent = {r.messages[-1].content for r in chain.last.requests["rewards"]}
    asked = provenance.asked(chain.plan, behind)["rewards"]
    assert asked["current"]
    assert {each["prompt"][-1]["content"] for each in asked["responses"].values()} <= sent
    assert not survey(chain.plan).outdated("rewards")
