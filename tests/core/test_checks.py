"""Checks on tables: each fails for what it is there for, and names the rows."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from helpers.chain import Chain, posts, scripted_recipe

from pugc_core import storage
from pugc_core.engines.base import Request
from pugc_core.engines.scripted import ScriptedEngine, plausible
from pugc_core.recipe import ChecksConfig
from pugc_core.results import summary
from pugc_core.stages import SHARDED, measures
from pugc_core.tables import checks
from pugc_core.tables.checks import Checked
from pugc_core.tables.pair_diff import PairDiff, compare
from pugc_core.tables.store import Footer, Tables, make_footer


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    chain = Chain(str(tmp_path), scripted_recipe())
    for shard in ("a", "b"):
        chain.put(shard, posts(40, start=100 * ord(shard)))
    return chain


def tables(chain: Chain, stage: str, **config: float) -> Checked:
    store, name = chain.workspace.store, chain.recipe.name
    footers = store.footers(name, stage)
    return Checked(Tables(store, name), stage, footers, list(footers), ChecksConfig(**config), chain.recipe.rewards.n)


def rewrite(chain: Chain, stage: str, shard: str, frame: pl.DataFrame) -> Footer:
    old = chain.workspace.store.footer(chain.recipe.name, stage, shard)
    assert old is not None
    footer = make_footer(frame, stage, shard, old.fingerprint, old.inputs)
    chain.workspace.store.write(chain.recipe.name, frame, footer)
    return footer


def test_a_sound_chain_passes_everything(chain: Chain) -> None:
    chain.run()
    for stage in SHARDED:
        for name in checks.of(stage):
            found = checks.CHECKS[name](tables(chain, stage))
            assert found.passed, (stage, found)
            assert found.words
    assert "votes_complete" in checks.of("rewards")
    assert "parse_rate" not in checks.of("pairs")


def test_answers_that_do_not_parse_are_counted_and_named(chain: Chain) -> None:
    def mute(request: Request, draw: int) -> str:
        text = plausible(request, draw)
        return text.replace("[RESULT]", "and so") if request.digest[0] % 3 == 0 else text

    chain.run(engine=lambda stage: ScriptedEngine(mute))
    found = checks.parsed(tables(chain, "rewards"))
    assert not found.passed
    rewards = chain.rows("rewards")
    draws = int(rewards["votes"].list.len().sum())
    valid = rewards["votes"].explode().struct.field("score").count()
    assert found.words.startswith(f"{valid / draws:.1%} of the answers parsed")
    unread = {f"{row['response_id']}" for row in rewards.to_dicts() if any(v["score"] is None for v in row["votes"])}
    assert len(found.rows) == 5
    assert {name.split("/")[1] for name in found.rows} <= unread
    mute_ones = rewards.filter(pl.col("n_valid") == 0).height
    assert f"; {mute_ones} responses have no valid vote in their first draws" in found.words
    assert checks.parsed(tables(chain, "rewards", min_parse_rate=0.1)).passed
    votes = checks.votes_complete(tables(chain, "rewards"))
    assert not votes.passed
    short = set(rewards.filter(pl.col("n_valid") < 4)["response_id"])
    assert {name.split("/")[1] for name in votes.rows} <= short


def test_lost_rows_are_noticed(chain: Chain) -> None:
    chain.run()
    frame = chain.table("rewards", "a")
    rewrite(chain, "rewards", "a", frame.head(frame.height - 1))
    found = checks.counts(tables(chain, "rewards"))
    assert (found.passed, found.rows) == (False, ("a",))


def test_twice_the_same_text_and_twice_the_same_id(chain: Chain) -> None:
    chain.run()
    frame = chain.table("pairs", "a")
    kept = frame.filter("keep")["pair_id"][0]
    same = frame.with_columns(rejected=pl.when(pl.col("pair_id") == kept).then("chosen").otherwise("rejected"))
    rewrite(chain, "pairs", "a", same)
    assert checks.distinct_texts(tables(chain, "pairs")).rows == (f"a/{kept}",)
    # A table with an id twice cannot be written by a stage; only another program could.
    footer = chain.workspace.store.footer("scripted", "pairs", "a")
    assert footer is not None
    chain.workspace.store.write("scripted", pl.concat([frame, frame.filter(pl.col("pair_id") == kept)]), footer)
    assert checks.unique_ids(tables(chain, "pairs")).rows == (f"a/{kept}", f"a/{kept}")
    chain.workspace.store.write("scripted", frame.drop("margin"), footer)
    found = checks.schema(tables(chain, "pairs"))
    assert (found.passed, found.rows) == (False, ("a",))


def test_a_shard_that_differs_from_the_one_before_it(chain: Chain) -> None:
    chain.run()
    assert checks.drift(tables(chain, "rewards")).passed
    frame = chain.table("rewards", "b")
    rewrite(chain, "rewards", "b", frame.with_columns(reward=pl.lit(5.0)))
    found = checks.drift(tables(chain, "rewards"))
    assert found.rows == ("b after a: mean reward",)
    scores = chain.table("quality", "b").with_columns(
        keep=pl.lit(False), drop_reason=pl.lit("low_quality"), score=pl.lit(1, pl.Int8)
    )
    rewrite(chain, "quality", "b", scores)
    assert not checks.drift(tables(chain, "quality")).passed


def test_a_damaged_neighbour_is_not_this_runs_business(chain: Chain) -> None:
    chain.run()
    all_ = tables(chain, "quality")
    path = chain.workspace.store.path("scripted", "quality", "a")
    storage.write(path, b"PAR1 no more")
    alone = Checked(all_.all, "quality", {"b": all_.footers["b"]}, ["b"], all_.config)
    assert checks.drift(alone).passed
    assert checks.counts(alone).passed


def test_measures_agree_with_the_rows(chain: Chain) -> None:
    chain.run()
    frame = chain.rows("rewards")
    found = measures.total(f.measures for f in chain.workspace.store.footers("scripted", "rewards").values())
    rewards = measures.moments(found, "reward")
    kept = frame.filter("keep")["reward"]
    assert rewards is not None
    assert (rewards.n, rewards.mean, rewards.std) == pytest.approx((kept.len(), kept.mean(), kept.std(ddof=0)))
    shape = summary.reward_shape(found)
    assert shape is not None
    assert sum(shape.histogram.values()) == kept.len()
    ties = frame.filter("keep").group_by("instruction_id").agg(pl.col("reward").n_unique() == 1)["reward"]
    assert shape.all_tied == pytest.approx(ties.mean())
    tied = frame.filter("keep").filter(pl.col("reward").n_unique().over("instruction_id") == 1).height
    assert sum(shape.histogram.values()) - sum(shape.untied.values()) == tied
    assert measures.moments({}, "reward") is None
    assert measures.parse_rate({}) is None


def pair(instruction: str, chosen: str, rejected: str, margin: float) -> dict[str, object]:
    return {
        "pair_id": f"{instruction}{chosen}{rejected}",
        "instruction_id": instruction,
        "instruction": instruction,
        "chosen_response_id": chosen,
        "rejected_response_id": rejected,
        "chosen": chosen,
        "rejected": rejected,
        "margin": margin,
        "keep": True,
    }


def test_what_a_change_did_to_the_pairs() -> None:
    before = pl.DataFrame(
        [pair("same", "x", "y", 1), pair("flip", "x", "y", 2), pair("lost", "x", "y", 3), pair("other", "x", "y", 1)]
    )
    after = pl.DataFrame(
        [pair("same", "x", "y", 2), pair("flip", "y", "x", 1), pair("new", "x", "y", 3), pair("other", "x", "z", 3)]
    )
    found = compare(before, after)
    assert (found.compared, found.flipped, found.other, found.gained, found.lost) == (3, 1, 1, 1, 1)
    assert (found.margin_before, found.margin_after) == (4.0, 6.0)
    assert [(e["instruction"], e["chosen_before"], e["chosen_after"]) for e in found.examples] == [("flip", "x", "y")]
    assert (found + found).flipped == 2
    assert "1 of 3 pairs flipped (33.3%; were the votes pure noise, 41.7% would)" in found.sentence(4)
    assert PairDiff().sentence(4) == "no instruction has a pair both before and after"
