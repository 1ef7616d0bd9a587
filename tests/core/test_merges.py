"""A data set of several recipes' pairs: weights, limits, no question twice, one split for all."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from helpers import chain as helper
from helpers.chain import TOML, posts

from pugc_core import run
from pugc_core.engines.scripted import ScriptedEngine
from pugc_core.errors import RecipeError, StorageError
from pugc_core.ledger.store import Ledger
from pugc_core.plan import Chain
from pugc_core.recipe import load
from pugc_core.stages.dataset import Dataset, DatasetConfig, Merged, slot
from pugc_core.stages.records import ALL
from pugc_core.tables.staleness import survey
from pugc_core.tables.workspace import Workspace

ONE = f"""{TOML}[training]
objectives = []
"""
OTHER = 'extends = "one"\n[instructions]\nprompt = "default"\n'
MERGED = 'extends = "one"\n[merge.one]\n[merge.other]\n'
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    write("one", ONE)
    write("other", OTHER)
    return write


def plan(path: Path) -> Chain:
    return Chain(load(str(path)), Workspace(str(path.parent / "data")))


def ran(tmp_path: Path, *names: str) -> None:
    for name in names:
        chain = helper.Chain(str(tmp_path / "data"), load(str(tmp_path / f"{name}.toml")))
        chain.put("a", posts(30))
        chain.put("b", posts(30, start=100))
        chain.run(to="pairs")


def go(chain: Chain) -> pl.DataFrame:
    with Ledger(chain.workspace.ledger) as ledger:
        run.run(chain, ledger, lambda model: ScriptedEngine())
    return chain.tables.read("dataset", ALL)


def test_a_merge_owns_its_data_set_alone(write: Write) -> None:
    chain = plan(write("both", MERGED))
    assert [name for name in chain.nodes if chain.owns(name)] == ["dataset"]
    assert {s: node.owner for s, node in chain.nodes["dataset"].parents.items()} == {
        "pairs@one": "one",
        "pairs@other": "other",
    }


def test_pairs_of_both_with_no_question_twice(write: Write, tmp_path: Path) -> None:
    ran(tmp_path, "one", "other")
    chain = plan(write("both", MERGED))
    made = go(chain)
    texts = made.filter("keep").select(question=pl.col("prompt").list.last().struct.field("content").str.to_lowercase())
    assert texts["question"].is_unique().all()
    before = {
        name: pl.concat([plan(tmp_path / f"{name}.toml").tables.read("pairs", s) for s in "ab"])
        for name in ("one", "other")
    }
    assert made.height == sum(frame["keep"].sum() for frame in before.values())
    assert set(made["shard"]) == {"one/a", "one/b", "other/a", "other/b"}
    assert not any(survey(chain).stages.values())
    assert "one: pairs" in (Path(chain.dataset) / "README.md").read_text()


def test_pairs_made_again_make_it_out_of_date(write: Write, tmp_path: Path) -> None:
    ran(tmp_path, "one", "other")
    chain = plan(write("both", MERGED))
    go(chain)
    write("other", OTHER + "[pairs]\nmin_margin = 9\n")
    again = plan(tmp_path / "both.toml")
    assert survey(again).stages["dataset"] == {ALL: "2 of 2 shards of pairs: the pairs smallest margin changed"}
    ran(tmp_path, "other")
    assert survey(again).stages["dataset"] == {ALL: "shards of pairs: 2 changed"}


def test_tables_that_are_not_there(write: Write, tmp_path: Path) -> None:
    ran(tmp_path, "one")
    with pytest.raises(StorageError, match="no shard of recipe other has a table pairs yet") as err:
        go(plan(write("both", MERGED)))
    assert err.value.fix == "pugc run --recipe other --to pairs"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('extends = "one"\n[merge.both]\n', "merges pairs with itself"),
        ('extends = "one"\n[merge.oen]\n', "no recipe 'oen'"),
        ('extends = "one"\n[merge.one]\nweight = 0\n', "merge.one.weight"),
        ('extends = "one"\n[merge.third]\n', "which has no pairs of its own but merges others"),
        ('extends = "one"\n[merge.round]\n', "merges pairs with itself: round -> both -> round"),
    ],
)
def test_bad_merges_are_named(write: Write, text: str, problem: str) -> None:
    write("third", 'extends = "one"\n[merge.other]\n')
    write("round", 'extends = "one"\n[merge.both]\n')
    path = write("both", text)
    with pytest.raises(RecipeError, match=problem):
        load(str(path if "round" not in problem else path.parent / "round.toml"))


def pairs(name: str, count: int, *, of: str = "") -> pl.DataFrame:
    """So many pairs about posts of their own."""
    table = Dataset.table  # for the columns that both have
    rows = []
    for i in range(count):
        about = f"{of or name} {i}: words that no other post has, such as {of or name}{i}x and {of or name}{i}y"
        rows.append(
            {
                "pair_id": f"{i:04}{name}",
                "instruction_id": f"{name}{i}",
                "ugc_id": f"{of or name}{i}",
                "instruction": about,
                "post": about,
                "thread": None,
                "title": None,
                "keep": True,
                "shard": "a",
                "line": i,
                **dict.fromkeys(("source", "author", "url", "license")),
                "chosen": "yes",
                "rejected": "no",
                "chosen_reward": 4.0,
                "rejected_reward": 1.0,
                "margin": 3.0,
                "chosen_cut_off": False,
                "rejected_cut_off": False,
            }
        )
    assert table.key == "pair_id"
    return pl.DataFrame(rows)


def merge(
    parts: dict[str, Merged], frames: dict[str, pl.DataFrame], most: int | None = None
) -> dict[str, dict[str, int]]:
    """Rows by recipe and reason ("" for those kept)."""
    from pugc_core.prompts.responses import WORDINGS

    stage = Dataset(DatasetConfig(test_share=0, max_pairs=most), WORDINGS["default"], merge=parts)
    build = stage.build(ALL, {slot(name): frame for name, frame in frames.items()})
    with pytest.raises(StopIteration) as end:
        next(build)
    made = end.value.value
    counted: dict[str, dict[str, int]] = {}
    for shard, reason in made.select("shard", "drop_reason").iter_rows():
        of = counted.setdefault(shard.partition("/")[0], {})
        of[reason or ""] = of.get(reason or "", 0) + 1
    return counted


def test_weights_hold_and_limits_cut() -> None:
    frames = {"a": pairs("a", 30), "b": pairs("b", 10)}
    assert merge({"a": Merged(), "b": Merged()}, frames) == {"a": {"": 30}, "b": {"": 10}}
    # 2 : 1, of 30 and 10: 20 and 10.
    assert merge({"a": Merged(2), "b": Merged(1)}, frames) == {"a": {"": 20, "over_weight": 10}, "b": {"": 10}}
    assert merge({"a": Merged(limit=5), "b": Merged()}, frames) == {"a": {"": 5, "over_limit": 25}, "b": {"": 10}}
    # The limit first: 5 and 10 as 1 : 1 are 5 and 5.
    assert merge({"a": Merged(1, 5), "b": Merged(1)}, frames) == {
        "a": {"": 5, "over_limit": 25},
        "b": {"": 5, "over_weight": 5},
    }
    # Then the limit to all of them.
    cut = merge({"a": Merged(1, 5), "b": Merged(1)}, frames, 4)
    assert sum(of.get("", 0) for of in cut.values()) == 4
    assert sum(of.get("over_limit", 0) for of in cut.values()) == 25 + 6


def test_of_a_question_that_both_have_the_firsts_pair_is_taken() -> None:
    frames = {"a": pairs("a", 10), "b": pairs("b", 12, of="a")}
    assert merge({"a": Merged(), "b": Merged()}, frames) == {"a": {"": 10}, "b": {"duplicate_question": 10, "": 2}}


def test_a_smaller_limit_takes_a_part_of_what_a_larger_one_takes() -> None:
    frame = pairs("a", 30)
    few = {row["pair_id"] for row in _kept(frame, 5)}
    assert few < {row["pair_id"] for row in _kept(frame, 9)}


def _kept(frame: pl.DataFrame, limit: int) -> list[dict[str, object]]:
    from pugc_core.prompts.responses import WORDINGS

    build = Dataset(DatasetConfig(), WORDINGS["default"], merge={"a": Merged(limit=limit)}).build(
        ALL, {"pairs@a": frame}
    )
    with pytest.raises(StopIteration) as end:
        next(build)
    return list(end.value.value.filter("keep").iter_rows(named=True))
