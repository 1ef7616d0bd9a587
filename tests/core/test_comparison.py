"""Recipes side by side: every figure against values worked by hand, and what is said of tables that are not there."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from helpers import chain as helper
from helpers.chain import TOML, posts
from helpers.stages import table

from pugc_core import storage
from pugc_core.errors import RecipeError, StorageError
from pugc_core.intervals import Estimate, share_of
from pugc_core.plan import Chain
from pugc_core.recipe import Recipe, load
from pugc_core.results import comparison, pair_figures, plots
from pugc_core.results.pair_figures import Figure, Side
from pugc_core.results.summary import rows
from pugc_core.stages import STAGES
from pugc_core.stages.records import Counts
from pugc_core.tables import pair_diff
from pugc_core.tables.store import Tables

PairRow = tuple[str, str | None, str | None, float | None, int | None, int | None]
"""Instruction number, chosen, rejected, margin, tokens of both; None for an instruction without a pair."""
A_PAIRS: Sequence[PairRow] = [
    ("1", "r1", "r2", 2, 10, 20),
    ("2", "r3", "r4", 1, 12, 12),
    ("3", "r5", "r6", 3, 20, 10),
    ("4", None, None, None, None, None),
]
A_REWARDS = {"1": {"r1": 4, "r2": 2}, "2": {"r3": 3, "r4": 2}, "3": {"r5": 5, "r6": 2}, "4": {"r7": 3, "r8": 3}}
B_PAIRS: Sequence[PairRow] = [
    ("1", "r1", "r2", 1, 10, 20),
    ("2", "r4", "r3", 2, 14, 10),
    ("3", "r5", "r9", 1, 20, 16),
    ("4", "r7", "r8", 4, 8, 6),
]
B_REWARDS = {"1": {"r1": 3, "r2": 2}, "2": {"r3": 2, "r4": 4}, "3": {"r5": 3, "r9": 2}, "4": {"r7": 5, "r8": 1}}


def side(
    recipe: str,
    pairs: Sequence[PairRow],
    rewards: Mapping[str, Mapping[str, float]],
    *,
    tied: int,
    instruction: str = "i",
    post: str = "p",
) -> Side:
    """A side whose instructions are "i1" on post "p1", "i2" on "p2" and so on; or on the posts of their first digit."""
    names = ("chosen_response_id", "rejected_response_id", "margin", "chosen_tokens", "rejected_tokens")
    made = table(
        STAGES["pairs"].table,
        [
            {
                "pair_id": f"{number}{values}",
                "instruction_id": f"{instruction}{number}",
                "ugc_id": f"{post}{number[0]}",
                **dict(zip(names, values, strict=True)),
                "drop_reason": None if values[0] else "all_tied",
            }
            for number, *values in pairs
        ],
    )
    judged = table(
        STAGES["rewards"].table,
        [
            {"response_id": response, "instruction_id": f"{instruction}{number}", "reward": float(reward)}
            for number, of in rewards.items()
            for response, reward in of.items()
        ],
    )
    kept = int(made["keep"].sum())
    return Side(
        recipe,
        made.select(pair_figures.PAIRS),
        judged.select(pair_figures.REWARDS),
        Counts(made.height, kept, {"all_tied": made.height - kept}),
        {"instructions": len(rewards), "tied": tied},
    )


A = side("a", A_PAIRS, A_REWARDS, tied=1)
B = side("b", B_PAIRS, B_REWARDS, tied=0)
NOTHING_TO_MEASURE = {
    "same_pair", "flipped", "other_responses", "reward_correlation", "ordered_alike",
    "margin_difference", "chosen_tokens_difference", "rejected_tokens_difference", "tied_difference",
}  # fmt: skip


def values(figures: Mapping[str, Figure]) -> dict[str, Any]:
    """The values alone, with the number of samples of an estimate."""
    return {
        name: (pytest.approx(f.value.value), f.value.n) if isinstance(f.value, Estimate) else f.value
        for name, f in figures.items()
    }


def test_every_figure_by_hand() -> None:
    first, other = comparison.compare([A, B]).recipes
    assert values(first.own) == {
        "instructions": 4,
        "pairs": 3,
        "tied": (0.25, 4),
        "margin": (2, 3),
        "chosen_tokens": (14, 3),
        "rejected_tokens": (14, 3),
    }
    assert first.against == {}
    assert values(other.own) == {
        "instructions": 4,
        "pairs": 4,
        "tied": (0, 4),
        "margin": (2, 4),
        "chosen_tokens": (13, 4),
        "rejected_tokens": (13, 4),
    }
    assert values(other.against) == {
        "posts_in_common": 4,
        "instructions_in_common": 4,
        "pairs_in_common": 3,
        "same_pair": (1 / 3, 3),
        "flipped": (1 / 3, 3),
        "other_responses": (1 / 3, 3),
        "margin_difference": (-2 / 3, 3),  # -1, +1, -2
        "chosen_tokens_difference": (2 / 3, 3),  # 0, +2, 0
        "rejected_tokens_difference": (4 / 3, 3),  # 0, -2, +6
        "tied_difference": (-0.25, 4),
        "responses_in_common": 7,
        # 4, 2, 3, 2, 5, 3, 3 against 3, 2, 2, 4, 3, 5, 1: (7*63 - 22*20) / sqrt((7*76 - 22^2) * (7*68 - 20^2))
        "reward_correlation": (1 / (48 * 76) ** 0.5, 7),
        "ordered_alike": (0.5, 2),  # r1 and r2 alike, r3 and r4 not, r7 and r8 are tied in a
    }


def test_every_estimate_has_its_interval() -> None:
    (_, other) = comparison.compare([A, B]).recipes
    assert other.figures["flipped"].value == share_of(1, 3)
    margin = other.figures["margin_difference"].value
    assert isinstance(margin, Estimate)
    # Of resamples of -1, +1, -2 one in 27 is all -2, one in 27 all +1: both lie within 95%.
    assert (margin.low, margin.high) == (-2, 1)
    assert comparison.compare([A, B]) == comparison.compare([A, B])


def test_a_recipe_and_one_just_like_it() -> None:
    other = comparison.compare([A, replace(A, recipe="twin")]).recipes[1]
    assert values(other.against) == {
        "posts_in_common": 4,
        "instructions_in_common": 4,
        "pairs_in_common": 3,
        "same_pair": (1, 3),
        "flipped": (0, 3),
        "other_responses": (0, 3),
        **{f"{name}_difference": (0, 3) for name in ("margin", "chosen_tokens", "rejected_tokens")},
        "tied_difference": (0, 4),
        "responses_in_common": 8,
        "reward_correlation": (1, 8),
        "ordered_alike": (1, 3),
    }
    assert other.figures["reward_correlation"].value == Estimate(1.0, 1.0, 1.0, 8)


def test_nothing_in_common() -> None:
    renamed = {number: {f"x{r}": v for r, v in of.items()} for number, of in B_REWARDS.items()}
    found = comparison.compare([A, side("b", B_PAIRS, renamed, tied=0, instruction="x", post="q")])
    against = found.recipes[1].against
    assert {name for name, f in against.items() if f.value is None} == NOTHING_TO_MEASURE
    assert {f.value for f in against.values() if f.value is not None} == {0}
    assert found.recipes[1].figures["margin"].value is not None
    assert ["flipped pair", "", "–"] in found.rows()
    assert found.notes == ()
    assert "flipped against the first" in plots.svg(plots.comparison(found))


def test_a_side_without_a_pair_or_a_reward() -> None:
    nothing = side("none", [], {}, tied=0)
    for sides in ([A, nothing], [nothing, A]):
        found = {each.recipe: each for each in comparison.compare(sides).recipes}["none"]
        assert (found.figures["pairs"].value, found.figures["margin"].value, found.figures["tied"].value) == (
            0,
            None,
            None,
        )


def test_rewards_that_do_not_vary_have_no_correlation() -> None:
    level = {number: dict.fromkeys(of, 3.0) for number, of in A_REWARDS.items()}
    against = comparison.compare([A, side("b", A_PAIRS, level, tied=4)]).recipes[1].against
    assert (against["reward_correlation"].value, against["ordered_alike"].value) == (None, None)


def test_recipes_with_other_instructions_are_paired_by_post() -> None:
    renamed = {number: {f"x{r}": v for r, v in of.items()} for number, of in B_REWARDS.items()}
    found = comparison.compare([A, side("b", B_PAIRS, renamed, tied=0, instruction="x")])
    against = values(found.recipes[1].against)
    assert (against["posts_in_common"], against["instructions_in_common"], against["flipped"]) == (4, 0, None)
    assert against["margin_difference"] == (-2 / 3, 3)
    assert against["tied_difference"] == (-0.25, 4)
    assert "other instructions" in found.notes[0]


def test_the_instructions_of_a_post_count_as_their_mean() -> None:
    twice: Sequence[PairRow] = [
        ("1a", "r1", "r2", 2, 10, 10),
        ("1b", "r3", "r4", 4, 10, 10),
        ("2", "r5", "r6", 1, 9, 9),
    ]
    once: Sequence[PairRow] = [("1", "s1", "s2", 1, 10, 10), ("2", "s5", "s6", 2, 9, 9)]
    found = comparison.compare([side("a", twice, {}, tied=0), side("b", once, {}, tied=0, instruction="x")])
    assert values(found.recipes[1].against)["margin_difference"] == (-0.5, 2)  # 1 - 3, 2 - 1


def test_half_of_the_posts_with_instructions_in_common_are_enough_to_pair_by_instruction() -> None:
    def paired(in_common: int) -> str:
        other = [(f"{n}{'' if int(n) <= in_common else 'z'}", *rest) for n, *rest in A_PAIRS]
        return pair_figures.paired_by(A, side("b", other, {}, tied=0))  # type: ignore[arg-type]

    assert [paired(n) for n in range(5)] == ["ugc_id", "ugc_id", *["instruction_id"] * 3]


def test_how_figures_are_written() -> None:
    found = comparison.compare([A, B]).rows()
    assert found[0] == ["instructions answered", "4", "4"]
    cells = {label: cells for label, *cells in found}
    assert cells["flipped pair"] == ["", "33.3% (6.1% to 79.2%); n=3"]
    assert cells["margin: difference"] == ["", "-0.67 (-2.00 to +1.00); n=3"]
    twin = {label: cells for label, *cells in comparison.compare([A, replace(A, recipe="twin")]).rows()}
    assert twin["margin: difference"] == ["", "+0.00 (+0.00 to +0.00); n=3"]


BASE = TOML
FORK = 'extends = "base"\n[rewards]\nprompt = "default"\n'
Write = Callable[[str, str], Recipe]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> Recipe:
        path = tmp_path / f"{name}.toml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return load(str(path))

    return write


@pytest.fixture
def ran(write: Write, tmp_path: Path) -> tuple[Chain, Chain]:
    """A recipe and a fork of it with other votes, over two shards that have posts in common."""
    made = helper.Chain(str(tmp_path / "data"), write("base", BASE))
    chains = []
    for text in (("base", BASE), ("fork", FORK)):
        made.recipe = write(*text)
        made.put("a", posts(20))
        made.put("b", posts(20, start=10))
        made.run(to="pairs")
        chains.append(made.plan)
    return chains[0], chains[1]


def test_what_is_read_of_recipes_gives_what_their_tables_say(
    ran: tuple[Chain, Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = set[str]()
    whole = Tables.read

    def noting(self: Tables, stage: str, shard: str, columns: Sequence[str] | None = None) -> Any:
        read.update(columns or ["everything"])
        return whole(self, stage, shard, columns)

    monkeypatch.setattr(Tables, "read", noting)
    found = comparison.of(ran)
    monkeypatch.undo()
    assert read == {*pair_figures.PAIRS, *pair_figures.REWARDS}, "columns that no figure needs are not read"
    assert (found.names, found.notes) == (["base", "fork"], ())
    base, fork = (rows(chain.tables, "pairs") for chain in ran)
    assert found.recipes[0].figures["pairs"].value == base["keep"].sum()
    # A post that lies in two shards counts once.
    once = [frame.unique("instruction_id", keep="first", maintain_order=True) for frame in (base, fork)]
    assert once[0].height < base.height
    change, against = pair_diff.compare(*once), found.recipes[1].against
    assert change.flipped > 0
    assert against["pairs_in_common"].value == change.compared
    assert against["flipped"].value == share_of(change.flipped, change.compared)
    assert against["other_responses"].value == share_of(change.other, change.compared)
    assert against["responses_in_common"].value == rows(ran[0].tables, "rewards")["response_id"].n_unique()


def test_ties_are_those_of_the_footers(ran: tuple[Chain, Chain]) -> None:
    judged = rows(ran[0].tables, "rewards").filter("keep").group_by("shard", "instruction_id")
    n_rewards = judged.agg(n=pl.col("reward").n_unique())["n"]
    tied = comparison.of(ran).recipes[0].figures["tied"].value
    assert tied == share_of(int((n_rewards == 1).sum()), n_rewards.len())


def test_shards_that_are_missing_out_of_date_or_broken_are_named(ran: tuple[Chain, Chain], tmp_path: Path) -> None:
    base, fork = ran
    storage.delete(fork.tables.path("pairs", "b"))
    (note,) = comparison.of(ran).notes
    assert note == "pairs of fork: 1 shards not made yet; fix: pugc run --recipe fork --to pairs"
    made = helper.Chain(str(tmp_path / "data"), base.recipe)
    made.put("c", [])
    made.run(shards=["c"], to="pairs")
    notes = comparison.of(ran).notes
    assert notes[0] == "1 shards of base could not be made; pugc status --recipe base says why"


def test_what_is_not_there_is_said_with_the_command_that_makes_it(write: Write, ran: tuple[Chain, Chain]) -> None:
    more = [Chain(write(name, FORK), ran[0].workspace) for name in ("one", "two")]
    with pytest.raises(StorageError, match="recipes one and two cannot be compared: no pairs yet") as err:
        comparison.of([*ran, *more])
    assert err.value.fix == "pugc run --recipe one --to pairs && pugc run --recipe two --to pairs"
    with pytest.raises(RecipeError, match="recipe base is named twice"):
        comparison.of([ran[0], ran[1], ran[0]])
    storage.delete(ran[1].tables.path("rewards", "a"))
    with pytest.raises(StorageError, match="no table rewards for shard a of recipe fork") as err:
        comparison.of(ran)
    assert err.value.fix == "pugc run --recipe fork --shard a --to rewards"


def test_a_recipe_names_what_it_is_compared_with(write: Write) -> None:
    write("fork", BASE)
    base = write("base", BASE + '[compare]\nwith = ["fork"]\n')
    assert [recipe.name for recipe in base.compared()] == ["fork"]
    again = write("fork", FORK + '[compare]\nwith = ["base", "tiny"]\n')  # two recipes may name each other
    assert [recipe.name for recipe in again.compared()] == ["base", "tiny"]
    assert write("other", FORK).compared() == [], "what a base is compared with, a fork of it is not"


@pytest.mark.parametrize(
    ("names", "words", "fix"),
    [
        ('["bse"]', r"recipe \S+base\.toml: compare\.with: no recipe 'bse'; known: .*base.*tiny", "did you mean base?"),
        ('["base"]', "compare.with names the recipe itself, 'base'", "name others: classifier-reward, fork, laptop"),
        ('["fork", "fork"]', "compare.with names 'fork' twice", "name it once"),
    ],
)
def test_a_comparison_with_nothing_sensible_is_refused(
    write: Write, tmp_path: Path, names: str, words: str, fix: str
) -> None:
    write("fork", BASE)
    (tmp_path / "base.toml").write_text(f"{BASE}[compare]\nwith = {names}\n")
    with pytest.raises(RecipeError, match=words) as err:
        load("base", [tmp_path])
    assert str(err.value.fix).startswith(fix)


def test_a_base_with_a_comparison_that_is_wrong_goes_on_being_shared(write: Write, tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(BASE + '[compare]\nwith = ["nobody"]\n')
    fork = write("fork", FORK)
    assert fork.base is not None
    assert fork.base.name == "base"


def test_an_unknown_key_names_the_known_one(write: Write) -> None:
    with pytest.raises(RecipeError, match=r"compare\.wiht: unknown key \(did you mean with\?\)"):
        write("base", BASE + '[compare]\nwiht = ["tiny"]\n')
