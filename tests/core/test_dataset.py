"""Stage dataset: what TRL reads, each pair once, split by groups of posts."""

from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest
from helpers.stages import Run, changed, drive, ident, table
from pydantic import ValidationError

from pugc_core.errors import StorageError
from pugc_core.prompts import responses
from pugc_core.prompts.base import Prompt
from pugc_core.results import exports
from pugc_core.stages import STAGES, records
from pugc_core.stages.dataset import Dataset, DatasetConfig
from pugc_core.stages.groups import grouped, point
from pugc_core.stages.records import ALL

PROMPT = responses.WORDINGS["default"]
STAGE = Dataset(DatasetConfig(), PROMPT)


def pairs(*names: str, shard: str = "a", **columns: Any) -> pl.DataFrame:
    rows = [
        {
            "pair_id": ident(name),
            "instruction_id": ident(f"instruction of {name}"),
            "ugc_id": ident(f"post of {name}"),
            "instruction": f"How {name}?",
            "line": line,
            "post": f"post {ident(name)}",
            "license": "CC0-1.0",
            "chosen": f"good {name}",
            "rejected": f"bad {name}",
            "chosen_reward": 5.0,
            "rejected_reward": 1.5,
            "margin": 3.5,
            "chosen_cut_off": False,
            "rejected_cut_off": True,
            **columns,
        }
        for line, name in enumerate(names, 1)
    ]
    return table(STAGES["pairs"].table, rows).with_columns(shard=pl.lit(shard))


def build(frames: Sequence[pl.DataFrame], stage: Dataset = STAGE) -> Run:
    return drive(stage, {}, shard=ALL, pairs=pl.concat(frames))


def test_a_row_is_conversational() -> None:
    (row,) = build([pairs("one")]).table.iter_rows(named=True)
    assert row == {
        "pair_id": ident("one"),
        "instruction_id": ident("instruction of one"),
        "ugc_id": ident("post of one"),
        "shard": "a",
        "split": "train",
        "group": row["group"],
        "prompt": [{"role": "user", "content": "How one?"}],
        "chosen": [{"role": "assistant", "content": "good one"}],
        "rejected": [{"role": "assistant", "content": "bad one"}],
        "chosen_reward": 5.0,
        "rejected_reward": 1.5,
        "margin": 3.5,
        "chosen_cut_off": False,
        "rejected_cut_off": True,
        "source": None,
        "author": None,
        "url": None,
        "license": "CC0-1.0",
        "keep": True,
        "drop_reason": None,
    }


def test_the_prompt_is_the_policys_own_wording() -> None:
    wording = Prompt(user="Answer: {instruction}", slots=("instruction",), system="Be brief.")
    (prompt,) = build([pairs("one", instruction="How </s>?")], Dataset(DatasetConfig(), wording)).rows("prompt")
    assert prompt == [{"role": m.role, "content": m.content} for m in wording.render({"instruction": "How </s>?"})]
    assert [turn["role"] for turn in prompt] == ["system", "user"]


def test_a_pair_that_stands_in_two_shards_is_taken_once() -> None:
    frames = [pairs("one", "two"), pairs("two", "three", shard="b"), pairs("two", shard="c")]
    run = build(frames)
    assert run.counts == (5, 3, {"duplicate": 2})
    kept = run.table.filter("keep")
    assert sorted(kept["pair_id"]) == sorted(map(ident, ("one", "two", "three")))
    assert kept.filter(pl.col("pair_id") == ident("two"))["shard"].to_list() == ["a"]


def test_the_table_does_not_depend_on_the_order_of_shards_or_rows() -> None:
    frames = [pairs("one", "two"), pairs("two", "three", shard="b")]
    first = build(frames)
    assert build(frames[::-1]).table.equals(first.table)
    assert build([frame.reverse() for frame in frames]).table.equals(first.table)


def test_pairs_of_an_older_version_are_an_error_that_names_their_shards() -> None:
    older = pairs("two", shard="b").with_columns(post=pl.lit(None, pl.String))
    with pytest.raises(StorageError, match="of 1 shards were made by an older version of pugc: b\n") as err:
        build([pairs("one"), older])
    assert "pugc refresh" in (err.value.fix or "")


def test_dropped_pairs_stay_out() -> None:
    dropped = pairs("two", drop_reason="all_tied")
    assert build([pairs("one"), dropped]).rows("pair_id") == [ident("one")]
    assert build([dropped]).counts == (0, 0, {})


def test_pairs_of_one_post_are_on_the_same_side() -> None:
    posts = [ident(f"p{i}") for i in range(50)]
    frames = [pairs(f"{post}{i}", ugc_id=post, post=post, shard=str(i)) for i in range(3) for post in posts]
    rows = build(frames, Dataset(DatasetConfig(test_share=0.5), PROMPT)).rows("ugc_id", "split")
    assert len(rows) == 150
    assert len(set(rows)) == 50
    assert {split for _, split in rows} == {"train", "test"}


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.5, 0.9])
def test_the_split_has_roughly_its_share(share: float) -> None:
    test = sum(point(ident(str(i))) < share for i in range(4000))
    # Five standard deviations of a binomial: the draw is fixed, so this passes always or never.
    slack = 5 * (share * (1 - share) / 4000) ** 0.5
    assert abs(test / 4000 - share) <= slack


def test_a_larger_share_only_moves_posts_to_the_test_side() -> None:
    frame = pairs(*(f"question {i}" for i in range(60)))
    held_out: set[str] = set()
    for share in (0.0, 0.05, 0.2, 0.5, 0.9):
        rows = build([frame], Dataset(DatasetConfig(test_share=share), PROMPT)).rows("ugc_id", "split")
        now = {ugc_id for ugc_id, split in rows if split == "test"}
        assert held_out <= now
        held_out = now
    assert 40 < len(held_out) < 60


def test_the_split_never_changes_between_versions() -> None:
    """Posts that were held out stay held out: written down once, true for ever."""
    assert [i for i in range(40) if point(f"{i:016x}") < 0.2] == HELD_OUT


def test_near_duplicate_posts_of_two_shards_are_taken_once() -> None:
    post = " ".join(f"word{i}" for i in range(40))
    frames = [pairs("one", "two", post=post), pairs("three", post=post + " more", shard="b"), pairs("four", shard="c")]
    frames[0] = frames[0].with_columns(ugc_id=pl.lit(ident("a post")))
    run = build(frames)
    assert run.counts == (4, 3, {"near_duplicate": 1})
    assert run.table.filter(pl.col("drop_reason") == "near_duplicate")["shard"].to_list() == ["b"]
    kept = build(frames, Dataset(DatasetConfig(), PROMPT, "keep"))
    assert kept.counts == (4, 4, {})
    assert kept.table.filter(pl.col("shard").is_in(["a", "b"]))["group"].n_unique() == 1
    assert kept.table["group"].n_unique() == 2


def test_near_duplicate_questions_never_stand_on_both_sides() -> None:
    """Two posts ask the same in other words, over and over: each two stand on one side, whichever it is."""
    frames = []
    for i in range(40):
        question = f"How do I {ident(f'a{i}')} my {ident(f'b{i}')} for {ident(f'c{i}')} in a whole week?"
        frames += [
            pairs(f"p{i}", instruction=question, shard=f"{i:02}a"),
            pairs(f"q{i}", instruction=question.replace("whole", "full"), shard=f"{i:02}b"),
        ]
    run = build(frames, Dataset(DatasetConfig(test_share=0.3), PROMPT))
    assert set(run.rows("split")) == {"train", "test"}
    sides = (
        run.table.with_columns(question=pl.col("shard").str.head(2))
        .group_by("question")
        .agg(pl.col("split").n_unique())
    )
    assert sides["split"].unique().to_list() == [1]
    alone = {row["ugc_id"]: point(row["ugc_id"]) < 0.3 for row in pl.concat(frames).iter_rows(named=True)}
    assert grouped(pl.concat(frames), 0.8).point.keys() == alone.keys()
    assert any(alone[ident(f"post of p{i}")] != alone[ident(f"post of q{i}")] for i in range(40)), "by post they would"


def test_a_smaller_set_is_part_of_a_larger_one_and_the_test_side_stays() -> None:
    """Pairs of one post are one group, which goes by its hash: whole groups stay or go, but for the last."""
    posts = [ident(f"p{i}") for i in range(40)]
    frame = pl.concat([pairs(f"{post}{i}", ugc_id=post, post=post, shard=str(i)) for i in range(2) for post in posts])

    def sides(most: int | None) -> tuple[set[str], set[str]]:
        run = build([frame], Dataset(DatasetConfig(test_share=0.3, max_pairs=most), PROMPT))
        kept = run.table.filter("keep")
        assert run.counts == (80, kept.height, {"over_limit": 80 - kept.height} if kept.height < 80 else {})
        train, test = (set(kept.filter(pl.col("split") == side)["pair_id"]) for side in ("train", "test"))
        return train, test

    everything, held_out = sides(None)
    assert (len(everything) + len(held_out), len(held_out) > 10) == (80, True)
    before: set[str] = set()
    for most in (1, 2, 7, 8, 30):
        train, test = sides(most)
        assert len(train) == most
        assert before <= train <= everything
        assert test == held_out
        before = train
    assert sides(200) == (everything, held_out)
    groups = build([frame], Dataset(DatasetConfig(test_share=0.3, max_pairs=8), PROMPT)).table
    left = groups.filter(pl.col("split") == "train", "keep").group_by("group").len()["len"].to_list()
    assert left == [2] * 4
    with pytest.raises(ValidationError):
        DatasetConfig(max_pairs=0)


HELD_OUT = [0, 4, 13, 28, 32, 39]


@pytest.mark.parametrize("share", [-0.1, 1.0, 2])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValidationError):
        DatasetConfig(test_share=share)


def test_the_fingerprint_holds_what_shapes_the_table() -> None:
    assert changed(STAGE, Dataset(DatasetConfig(), PROMPT)) == set()
    assert changed(STAGE, Dataset(DatasetConfig(test_share=0.2), PROMPT)) == {"split"}
    assert changed(STAGE, Dataset(DatasetConfig(max_pairs=7), PROMPT)) == {"limit"}
    assert changed(STAGE, Dataset(DatasetConfig(), PROMPT, "keep")) == {"near"}
    assert changed(STAGE, Dataset(DatasetConfig(), PROMPT, similarity=0.9)) == {"near"}
    other = Prompt(user="Answer: {instruction}", slots=("instruction",))
    assert changed(STAGE, Dataset(DatasetConfig(), other)) == {"prompt"}


def test_the_views_hold_the_same_pairs_in_other_forms() -> None:
    turns = {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    ends = {"chosen_cut_off": False, "rejected_cut_off": True}
    pairs = pl.DataFrame(
        [
            {
                **{"pair_id": name, "ugc_id": "u", "prompt": [{"role": "user", "content": name}], "margin": 1.5},
                **turns,
                **ends,
                **dict.fromkeys(records.ORIGIN, "x"),
            }
            for name in ("a", "b")
        ]
    )
    rows = exports.unpaired(pairs).rows(named=True)
    assert [(r["pair_id"], r["label"], r["completion"][0]["content"], r["cut_off"]) for r in rows] == [
        ("a", True, "chosen", False),
        ("a", False, "rejected", True),
        ("b", True, "chosen", False),
        ("b", False, "rejected", True),
    ]
    (first, _) = exports.reward_model(pairs).rows(named=True)
    assert first["margin"] == 1.5
    assert first["license"] == rows[0]["license"] == "x"
    assert [t["content"] for t in first["chosen"]] == ["a", "chosen"]
    assert [t["role"] for t in first["rejected"]] == ["user", "assistant"]
