"""Recipes compile into nodes: a fork owns what it changes and what follows from that, and shares the rest."""

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from helpers import chain as helper
from helpers.chain import TOML, no_engine, posts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pugc_core import storage
from pugc_core.errors import RecipeError
from pugc_core.plan import Chain
from pugc_core.recipe import load
from pugc_core.stages.records import ALL
from pugc_core.tables.staleness import MISSING, survey
from pugc_core.tables.upgrade import adopt
from pugc_core.tables.workspace import Workspace
from pugc_core.training import lineage

BASE = f"""{TOML}[training]
objectives = ["dpo", "simpo"]
"""
READ_BY: Mapping[str, tuple[str, ...]] = {
    "ugc": ("quality", "instructions", "relevance", "rewards", "pairs"),
    "quality": ("instructions",),
    "instructions": ("relevance", "responses", "rewards", "pairs"),
    "relevance": ("responses",),
    "responses": ("rewards", "pairs"),
    "rewards": ("pairs",),
    "pairs": ("dataset",),
    "dataset": ("policy/dpo", "policy/simpo"),
}
"""Who reads whose table: written down again here, so that the plan is held against something."""
KNOBS: Mapping[str, tuple[str, ...]] = {
    "[ugc]\nmin_chars = 30": ("ugc",),
    "[ugc]\nsimilarity = 0.9": ("ugc", "dataset"),
    "[quality]\nmin_score = 5": ("quality",),
    "[quality]\nskip = true": ("instructions",),
    "[instructions]\nmax_chars = 60": ("instructions",),
    "[relevance]\nprompt = 'default'": ("relevance",),
    "[relevance]\nskip = true": ("responses",),
    "[responses]\nk = 4": ("responses",),
    "[responses]\nprompt = 'brief'": ("responses", "dataset"),
    "[responses]\nvary = 'earlier'": ("responses",),
    "[rewards]\naggregate = 'median'": ("rewards",),
    "[rewards]\nreference = 'none'\nprompt = 'no-reference'": ("rewards",),
    "[pairs]\nmin_margin = 0.5": ("pairs",),
    "[dataset]\ntest_share = 0.3": ("dataset",),
    "[dataset]\nmax_pairs = 3": ("dataset",),
    "[training]\nseed = 7": ("policy/dpo", "policy/simpo"),
    "[training]\ndpo = { beta = 0.3 }": ("policy/dpo",),
    "[roles]\ninstructor = 'judge'": ("instructions",),
    "[checks]\nmin_parse_rate = 0.5": (),
    "[automation]\nmin_new_pairs = 7": (),
    "[compare]\nwith = ['tiny']": (),
}
"""A change, and the nodes that read what it changes."""


def after(changed: set[str]) -> set[str]:
    found, todo = set[str](), list(changed)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += READ_BY.get(name, ())
    return found


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


def plan(path: Path, root: Path | str | None = None) -> Chain:
    return Chain(load(str(path)), Workspace(str(root or path.parent / "data")))


def owned(chain: Chain) -> set[str]:
    return {name for name in chain.nodes if chain.owns(name)}


def ran(path: Path, **how: object) -> helper.Chain:
    """The base, run with scripted models over two shards."""
    chain = helper.Chain(str(path.parent / "data"), load(str(path)))
    chain.put("a", posts(20))
    chain.put("b", posts(20, start=100))
    chain.run(**how)  # type: ignore[arg-type]
    return chain


@pytest.mark.parametrize("change", KNOBS)
def test_a_fork_owns_what_its_change_reaches(write: Write, change: str) -> None:
    write("base", BASE)
    fork = plan(write("fork", f'extends = "base"\n{change}'))
    assert owned(fork) == after(set(KNOBS[change]))
    assert {"quality", "relevance"} - fork.nodes.keys() == ({change.split("]")[0][1:]} if "skip" in change else set())
    assert {node.owner for node in fork.nodes.values()} <= {"base", "fork"}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sets(st.sampled_from(sorted(KNOBS)), max_size=3), min_size=1, max_size=4))
def test_in_a_line_of_forks_every_node_belongs_to_the_last_that_changed_it(
    write: Write, changes: list[set[str]]
) -> None:
    """Each level is compared with what its own changes reach, given that none of them was made before."""
    write("base", BASE)
    seen: set[str] = set()
    owner = dict.fromkeys(plan(write("base", BASE)).nodes, "base")
    for level, change in enumerate(changes):
        fresh = [c for c in sorted(change) if c not in seen]
        sections: dict[str, list[str]] = {}
        for text in fresh:
            section, *lines = text.split("\n")
            sections.setdefault(section, []).extend(lines)
        seen |= set(fresh)
        name, base = f"fork{level}", f"fork{level - 1}" if level else "base"
        body = "\n".join(f"{section}\n" + "\n".join(lines) for section, lines in sections.items())
        fork = plan(write(name, f'extends = "{base}"\n{body}'))
        # The knobs of a filter that is left out reach nothing.
        for node in after({node for text in fresh for node in KNOBS[text] if node in fork.nodes}):
            owner[node] = name
        assert {node: fork.nodes[node].owner for node in fork.nodes} == {node: owner[node] for node in fork.nodes}


@pytest.mark.parametrize("change", [c for c, first in KNOBS.items() if first and not first[0].startswith("policy")])
def test_what_is_out_of_date_in_a_fork_is_what_it_owns(write: Write, change: str) -> None:
    base = write("base", BASE)
    ran(base)
    fork = plan(write("fork", f'extends = "base"\n{change}'))
    found = survey(fork)
    assert {name for name in found.stages if found.stages[name]} == owned(fork) | {"policy/dpo", "policy/simpo"}
    assert all(why == MISSING for name in owned(fork) for why in found.stages[name].values())


def test_a_fork_of_the_reward_prompt_asks_the_judge_alone_and_writes_nothing_further_up(write: Write) -> None:
    base = write("base", BASE)
    made = ran(base)
    before = made.files()
    fork = plan(write("fork", 'extends = "base"\n[rewards]\nprompt = "default"\n'))
    made.recipe = fork.recipe
    asked = made.run().asked
    assert asked["rewards"] > 0
    assert sum(asked.values()) == asked["rewards"]
    assert set(made.last.made) == {"rewards", "pairs", "dataset"}
    store = made.workspace.store
    assert all(storage.read(store.path("base", *name.split("/"))) == content for name, content in before.items())
    folders = {p.name for p in Path(store.root, "fork").iterdir() if p.is_dir()}
    assert folders == {"rewards", "pairs", "dataset"}
    assert not made.run(engine=no_engine).made


def test_a_fork_of_a_fork(write: Write) -> None:
    write("base", BASE)
    write("middle", 'extends = "base"\n[responses]\nk = 4\n')
    last = plan(write("last", 'extends = "middle"\n[rewards]\nn = 2\n'))
    owners = {name: node.owner for name, node in last.nodes.items()}
    assert [owners[name] for name in ("ugc", "relevance", "responses", "rewards", "dataset")] == [
        "base",
        "base",
        "middle",
        "last",
        "last",
    ]
    assert last.tables.path("responses", "a").endswith("tables/middle/responses/a.parquet")
    assert last.policy("dpo").endswith("policies/last/dpo")
    assert [chain.name for chain in last.lineage] == ["last", "middle", "base"]


def test_what_is_changed_back_is_the_bases_again(write: Write) -> None:
    write("base", BASE)
    write("middle", 'extends = "base"\n[responses]\nk = 4\n')
    back = plan(write("back", 'extends = "middle"\n[responses]\nk = 3\n'))
    assert {node.owner for node in back.nodes.values()} == {"base"}


def test_a_recipe_of_its_bases_name_takes_its_place(write: Write, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    write("base", BASE)
    mine = write("own/base", 'extends = "../base.toml"\n[pairs]\nmin_margin = 1\n')
    assert plan(mine).base is None
    assert owned(plan(mine)) == set(plan(mine).nodes)


def test_part_of_a_recipe_may_be_extended_and_owns_nothing(write: Write) -> None:
    write("knobs", "[rewards]\nn = 2\nmax_draws = 4\n")
    whole = plan(write("whole", 'extends = "knobs"\n' + BASE.replace("n = 4\nmax_draws = 8\n", "")))
    assert whole.recipe.rewards.n == 2
    assert whole.base is None


def test_a_broken_base_is_named(write: Write) -> None:
    write("base", BASE.replace('prompt = "short"\nn = 4', 'prompt = "gone.txt"\nn = 4'))
    fork = write("fork", 'extends = "base"\n[rewards]\nprompt = "short"\n')
    with pytest.raises(RecipeError, match=r"recipe fork extends base: no prompt 'gone\.txt'") as err:
        plan(fork)
    assert "in recipe base" in str(err.value.fix)


def test_a_project_from_before_keeps_its_tables(write: Write) -> None:
    """It has every table of a fork in the fork's own folder."""
    base = write("base", BASE)
    made = ran(base)
    files = made.files()
    fork = plan(write("fork", 'extends = "base"\n[pairs]\nmin_margin = 0.5\n'))
    root = Path(made.workspace.store.root)
    (root / "base").rename(root / "fork")
    Path(fork.workspace.dataset("fork")).mkdir(parents=True)
    assert adopt(fork) == ["ugc", "quality", "instructions", "relevance", "responses", "rewards"]
    assert adopt(fork) == []
    found = survey(fork)
    assert not any(found.outdated(name) or found.missing(name) for name in fork.nodes if not fork.owns(name))
    assert set(found.outdated("pairs").values()) == {"the pairs smallest margin changed"}
    kept = {name for name in files if not name.startswith(("pairs", "dataset"))}
    assert {name: files[name] for name in kept} == {
        name: storage.read(made.workspace.store.path("base", *name.split("/"))) for name in kept
    }


def test_of_two_tables_the_current_one_stays(write: Write) -> None:
    base = write("base", BASE)
    made = ran(base)
    store = made.workspace.store
    fork = plan(write("fork", 'extends = "base"\n[pairs]\nmin_margin = 0.5\n'))
    sound = storage.read(store.path("base", "quality", "a"))
    storage.write(store.path("fork", "quality", "a"), sound)
    storage.write(store.path("base", "quality", "a"), b"damaged")
    storage.write(store.path("fork", "quality", "b"), b"damaged too")
    other = storage.read(store.path("base", "quality", "b"))
    assert adopt(fork) == ["quality"]
    assert storage.read(store.path("base", "quality", "a")) == sound
    assert storage.read(store.path("base", "quality", "b")) == other
    assert store.shards("fork", "quality") == []


def test_policies_and_data_set_move_too(write: Write) -> None:
    write("base", BASE)
    fork = plan(write("fork", 'extends = "base"\n[training]\nobjectives = ["dpo"]\n'))
    assert owned(fork) == set()
    lineage.record(fork.workspace.policy("fork", "dpo"), {"dataset": "x"}, {})
    assert adopt(fork) == ["policy/dpo"]
    assert lineage.recorded(fork.policy("dpo")) == {"dataset": "x", "pairs": {}}
    assert fork.policy("dpo").endswith("policies/base/dpo")
    assert ALL not in fork.tables.shards("dataset")
