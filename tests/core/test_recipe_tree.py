"""Recipes as a tree, and what they would still ask."""

import textwrap
from pathlib import Path

import pytest
from helpers import chain as helper
from helpers.chain import no_engine, posts

from pugc_core.plan import Chain
from pugc_core.recipe import load
from pugc_core.results.pending_calls import Draws, draws
from pugc_core.results.recipe_tree import tree
from pugc_core.tables.staleness import survey
from pugc_core.tables.workspace import Workspace

BASE = """
[models.judge]
id = "judge"
engine = "scripted"
[roles]
quality_judge = "judge"
instructor = "judge"
relevance_judge = "judge"
policy = "judge"
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
objectives = []
"""


@pytest.fixture
def plan(tmp_path: Path):
    (tmp_path / "base.toml").write_text(textwrap.dedent(BASE))

    def plan(name: str = "base", text: str = "") -> Chain:
        if text:
            (tmp_path / f"{name}.toml").write_text(text)
        return Chain(load(str(tmp_path / f"{name}.toml")), Workspace(str(tmp_path / "data")))

    return plan


@pytest.fixture
def ran(plan, tmp_path: Path) -> helper.Chain:
    chain = helper.Chain(str(tmp_path / "data"), plan().recipe)
    chain.put("a", posts(20))
    chain.put("b", posts(30, start=100))
    chain.run()
    return chain


def left(chain: Chain) -> dict[str, Draws]:
    return draws(chain, survey(chain))


def test_nothing_is_left_to_ask_after_a_run(plan, ran: helper.Chain) -> None:
    assert left(plan()) == {}


def test_of_a_fork_it_is_just_what_a_run_then_asks(plan, ran: helper.Chain) -> None:
    for name, text in (
        ("votes", '[rewards]\nprompt = "default"\n'),
        ("more", "[rewards]\nn = 6\nmax_draws = 8\n"),
    ):
        fork = plan(name, f'extends = "base"\n{text}')
        answers = ran.plan.tables.footers("responses")
        kept = sum(footer.kept for footer in answers.values())
        assert left(fork) == {"reward_judge": Draws(kept * fork.recipe.rewards.n)}


def test_a_fork_further_up_counts_by_what_its_base_had(plan, ran: helper.Chain) -> None:
    fork = plan("answers", 'extends = "base"\n[responses]\nk = 6\n')
    found = left(fork)
    relevant = sum(footer.kept for footer in ran.plan.tables.footers("relevance").values())
    assert found["policy"] == Draws(relevant * 6)
    assert found["reward_judge"].unknown == 0
    judged = sum(footer.rows_in for footer in ran.plan.tables.footers("rewards").values())
    assert found["reward_judge"] == Draws(judged * 4), "as many answers as the base had: nobody knows better yet"


def test_a_new_shard_counts_by_what_others_had(plan, ran: helper.Chain) -> None:
    ran.put("c", posts(25, start=500))
    found = left(plan())
    rows = [footer.rows_in for footer in ran.plan.tables.footers("quality").values()]
    assert found["quality_judge"] == Draws(round(sum(rows) / len(rows)))


def test_before_anything_ran_nobody_knows(plan, tmp_path: Path) -> None:
    chain = helper.Chain(str(tmp_path / "data"), plan().recipe)
    chain.put("a", posts(20))
    assert left(plan()) == {
        role: Draws(0, 1) for role in ("quality_judge", "instructor", "relevance_judge", "policy", "reward_judge")
    }


def test_the_tree(plan, ran: helper.Chain) -> None:
    fork = plan("fork", 'extends = "base"\nabout = "Other votes."\n[rewards]\nn = 6\n')
    deep = plan("deep", 'extends = "fork"\n[pairs]\nmin_margin = 1\n')
    [root] = tree([deep, fork])
    assert (root.name, root.owns[0], root.shares, root.out_of_date) == ("base", "ugc", {}, 0)
    [branch] = root.forks
    assert (branch.name, branch.about) == ("fork", "Other votes.")
    assert branch.owns == ("rewards", "pairs", "dataset")
    assert branch.shares == {"base": ("ugc", "quality", "instructions", "relevance", "responses")}
    assert (branch.made, branch.total) == (10, 15)
    [leaf] = branch.forks
    assert leaf.shares["fork"] == ("rewards",)
    assert leaf.would_ask == branch.would_ask
    ran.recipe = plan("fork").recipe
    ran.run()
    ran.recipe = plan("deep").recipe
    ran.run(engine=no_engine)
    assert tree([plan("deep")])[0].forks[0].forks[0].would_ask == {}
