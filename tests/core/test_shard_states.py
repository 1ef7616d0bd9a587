"""In which state shards are, and that a data set of several states is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.chain import Chain, posts, scripted_recipe

from pugc_core import storage
from pugc_core.errors import CheckFailed
from pugc_core.recipe import ChecksConfig
from pugc_core.stages.records import ALL
from pugc_core.tables import checks
from pugc_core.tables.checks import Checked
from pugc_core.tables.shard_states import states
from pugc_core.tables.store import Tables

JUDGE = "Post: {ugc}\nQuestion: {instruction}\nAnswer: {response}\nFeedback, then [RESULT] 1 to 5."


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    chain = Chain(str(tmp_path / "data"), scripted_recipe())
    for shard in ("a", "b", "c"):
        chain.put(shard, posts(12, start=100 * ord(shard)))
    chain.run()
    return chain


def tables(chain: Chain, stage: str = "pairs", **config: bool) -> Checked:
    store, name = chain.workspace.store, chain.recipe.name
    footers = store.footers(name, stage)
    return Checked(Tables(store, name), stage, footers, [], ChecksConfig(**config))


def said(chain: Chain) -> list[str]:
    store = chain.workspace.store
    return [str(d) for d in states(Tables(store, "scripted"), store.shards("scripted", "pairs")).differences]


def test_shards_of_one_run_are_in_one_state(chain: Chain) -> None:
    assert said(chain) == []
    assert checks.one_state(tables(chain)).words == "3 shards were made in the same way"
    assert checks.one_state(tables(chain, "dataset")).passed
    checks.refuse_mixture(tables(chain))
    found = states(Tables(chain.workspace.store, "scripted"), ["a", "b", "c"])
    assert [(a.stage, a.model, a.shards) for a in found.asked()] == [
        (stage, f"{model}@scripted", ("a", "b", "c"))
        for stage, model in (
            ("quality", "judge"),
            ("instructions", "policy"),
            ("relevance", "policy"),
            ("responses", "policy"),
            ("rewards", "judge"),
        )
    ]


def test_what_differs_is_named_with_its_shards(chain: Chain, tmp_path: Path) -> None:
    prompt = tmp_path / "judge.txt"
    prompt.write_text(JUDGE)
    cases: list[tuple[dict[str, object], list[str]]] = [
        ({"rewards": {"prompt": str(prompt)}}, ["the rewards prompt differs: b against a, c"]),
        ({"pairs": {"min_margin": 0.5}}, ["the pairs smallest margin differs: b against a, c"]),
        ({"ugc": {"similarity": 0.9}}, ["the ugc rule for near-duplicates differs: b against a, c"]),
        (
            {"responses": {"k": 2}, "rewards": {"n": 5}},
            ["the responses limits differs: b against a, c", "the rewards number of votes differs: b against a, c"],
        ),
    ]
    for changes, expected in cases:
        chain.recipe = scripted_recipe(**changes)
        chain.run(shards=["b"], to="pairs")
        assert said(chain) == expected
        found = checks.one_state(tables(chain))
        assert (found.passed, found.words) == (False, "; ".join(expected))
        with pytest.raises(CheckFailed, match=r"different states: the .* differs: b against a, c") as caught:
            checks.refuse_mixture(tables(chain))
        assert caught.value.fix == "pugc refresh --recipe scripted, or allow it: [checks] mixed_shards = true"
        allowed = checks.one_state(tables(chain, mixed_shards=True))
        assert allowed.passed
        assert expected[0] in allowed.words
        checks.refuse_mixture(tables(chain, mixed_shards=True))
        # The fix: the others as well.
        chain.run()
        assert said(chain) == []
        chain.recipe = scripted_recipe()
        chain.run()


def test_a_filter_that_some_shards_did_not_go_through_is_named(chain: Chain) -> None:
    for name in ("quality", "relevance"):
        chain.recipe = scripted_recipe(**{name: {"skip": True}})
        chain.run(shards=["b"], to="pairs")
        assert said(chain) == [f"the filter {name} was left out of b"]
        assert not checks.one_state(tables(chain)).passed
        chain.run()
        assert said(chain) == []
        chain.recipe = scripted_recipe()
        chain.run()


def test_a_new_prompt_that_got_no_further_than_the_rewards_is_told(chain: Chain, tmp_path: Path) -> None:
    """The pairs of b are still those of the old votes, and nothing says which those were."""
    prompt = tmp_path / "judge.txt"
    prompt.write_text(JUDGE)
    chain.recipe = scripted_recipe(rewards={"prompt": str(prompt)})
    chain.run(shards=["b"], to="rewards")
    assert said(chain) == ["the pairs of b were made from an older table rewards"]
    chain.run(shards=["b"], to="pairs")
    assert said(chain) == ["the rewards prompt differs: b against a, c"]
    chain.run()
    assert said(chain) == []


def test_a_table_made_again_as_it_was_changes_nothing(chain: Chain) -> None:
    chain.forget("quality")
    chain.run(to="quality")
    assert said(chain) == []
    storage.delete(chain.workspace.store.path("scripted", "quality", "a"))
    assert said(chain) == ["the pairs of a were made from an older table quality"]


def test_a_shard_that_gives_no_pair_has_no_state(chain: Chain, tmp_path: Path) -> None:
    prompt = tmp_path / "judge.txt"
    prompt.write_text(JUDGE)
    chain.put("d", ["x"])  # too short
    chain.recipe = scripted_recipe(rewards={"prompt": str(prompt)})
    chain.run(shards=["d"], to="pairs")
    assert said(chain) == []


def test_the_check_of_a_data_set_looks_at_the_shards_it_was_made_of(chain: Chain) -> None:
    chain.put("d", posts(12, start=9000))
    chain.recipe = scripted_recipe(pairs={"min_margin": 0.25})
    chain.run(shards=["d"], to="pairs")
    footer = chain.workspace.store.footer("scripted", "dataset", ALL)
    assert footer is not None
    assert "pairs/d" not in footer.inputs
    assert checks.one_state(tables(chain, "dataset")).passed
    assert not checks.one_state(tables(chain)).passed
