"""What is out of date, and why: exact, transitive, read off footers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from helpers.chain import STAGES, Chain, posts, scripted_recipe

from pugc_core import file_cache, plan, storage
from pugc_core.stages.quality import Quality
from pugc_core.stages.records import ALL
from pugc_core.tables.staleness import MISSING, Survey, survey, to_refresh

SHARDED = STAGES[:-1]


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    chain = Chain(str(tmp_path), scripted_recipe())
    for shard in ("a", "b", "c"):
        chain.put(shard, posts(6, start=ord(shard)))
    chain.run()
    return chain


def look(chain: Chain, **changes: object) -> Survey:
    recipe = scripted_recipe(**changes)
    return survey(plan.Chain(recipe, chain.workspace))


def stale(found: Survey) -> dict[str, dict[str, str]]:
    return {stage: found.outdated(stage) for stage in found.stages if found.outdated(stage)}


def test_nothing_is_out_of_date_after_a_run(chain: Chain) -> None:
    found = look(chain)
    assert stale(found) == {}
    assert found.missing("policy/dpo") == [ALL]
    assert found.total["pairs"] == found.made["pairs"] == 3
    assert found.sentence("pairs") == "up to date"


def test_a_changed_prompt_is_named_on_everything_below_it(chain: Chain, tmp_path: Path) -> None:
    prompt = tmp_path / "judge.txt"
    prompt.write_text("Post: {ugc}\nQuestion: {instruction}\nAnswer: {response}\nFeedback, then [RESULT] 1 to 5.")
    found = look(chain, rewards={"prompt": str(prompt)})
    why = "the rewards prompt changed"
    assert stale(found) == {
        "rewards": dict.fromkeys("abc", why),
        "pairs": dict.fromkeys("abc", why),
        "dataset": {ALL: f"3 of 3 shards of pairs: {why}"},
    }
    assert found.sentence("rewards") == f"3 of 3 shards out of date: {why}"
    assert to_refresh(found, SHARDED) == (["rewards", "pairs"], ["a", "b", "c"])


@pytest.mark.parametrize(
    ("change", "first", "why"),
    [
        ({"quality": {"min_score": 3}}, "quality", "the quality threshold changed"),
        ({"rewards": {"n": 5}}, "rewards", "the rewards number of votes changed"),
        ({"pairs": {"min_margin": 0.5}}, "pairs", "the pairs smallest margin changed"),
        ({"ugc": {"min_chars": 10}}, "ugc", "the ugc"),
    ],
)
def test_each_part_of_a_fingerprint_has_its_words(
    chain: Chain, change: dict[str, object], first: str, why: str
) -> None:
    found = stale(look(chain, **change))
    assert list(found) == list(STAGES[STAGES.index(first) :])
    assert set(found[first]) == {"a", "b", "c"}
    assert all(reason.startswith(why) for reason in found[first].values())


def test_a_changed_file_makes_its_own_shard_stale_and_no_other(chain: Chain) -> None:
    chain.put("b", posts(7, start=500))
    found = look(chain)
    assert {stage: set(whys) for stage, whys in stale(found).items()} == {
        **{stage: {"b"} for stage in SHARDED},
        "dataset": {ALL},
    }
    assert found.stages["pairs"]["b"] == "its file changed"
    chain.run()
    assert stale(look(chain)) == {}


def test_new_and_retired_shards(chain: Chain) -> None:
    chain.put("d", posts(4, start=900))
    storage.delete(chain.workspace.source("a"))
    found = look(chain)
    assert found.missing("ugc") == ["d"]
    assert all(set(found.stages[stage]) == {"d"} for stage in SHARDED)
    assert "a" not in found.stages["pairs"]
    assert stale(found) == {"dataset": {ALL: "shards of pairs: 1 retired"}}
    assert to_refresh(found, SHARDED) == ([], [])


def test_a_table_made_again_with_other_content_is_noticed_below_it(chain: Chain) -> None:
    """Only the upper half is run for a changed file: what lies below was made from an older table."""
    chain.put("b", posts(7, start=500))
    chain.run(to="responses")
    found = stale(look(chain))
    assert list(found) == ["rewards", "pairs", "dataset"]
    assert set(found["rewards"]) == {"b"}
    assert "made again" in found["rewards"]["b"]


def test_deleted_and_damaged_tables(chain: Chain) -> None:
    store = chain.workspace.store
    storage.delete(store.path("scripted", "quality", "a"))
    storage.write(store.path("scripted", "responses", "b"), b"PAR1 no more")
    found = look(chain)
    assert found.stages["quality"] == {"a": MISSING}
    assert found.stages["responses"]["b"] == MISSING
    assert found.stages["instructions"] == {"a": "a table before it is not made yet"}
    assert set(found.outdated("pairs")) == {"a", "b"}
    chain.run()
    assert stale(look(chain)) == {}


def test_a_lost_first_table_is_made_again_by_a_refresh(chain: Chain) -> None:
    storage.delete(chain.workspace.store.path("scripted", "ugc", "a"))
    assert to_refresh(look(chain), SHARDED) == (list(SHARDED), ["a"])
    chain.put("new", posts(3, start=77))
    assert to_refresh(look(chain), SHARDED) == (list(SHARDED), ["a"])


def test_a_refresh_tries_again_what_failed_but_for_files_that_are_of_no_use(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write(storage.join(chain.workspace.inbox, "bad.jsonl"), b"")
    honest = Quality.build

    def broken(self, shard, inputs):  # type: ignore[no-untyped-def]
        frame = yield from honest(self, shard, inputs)
        return frame.vstack(frame) if shard == "a" else frame

    monkeypatch.setattr(Quality, "build", broken)
    chain.forget("quality")
    chain.run()
    found = look(chain)
    assert {stage: list(shards) for stage, shards in found.failed.items()} == {"ugc": ["bad"], "quality": ["a"]}
    assert stale(found) == {}
    assert to_refresh(found, SHARDED) == (list(SHARDED[SHARDED.index("quality") :]), ["a"])


def test_agrees_with_what_a_run_makes_whatever_was_changed(chain: Chain) -> None:
    """The survey names exactly the tables that the next run makes: not one more, not one less."""
    rng = random.Random(4)
    changes: list[dict[str, object]] = [
        {"quality": {"min_score": 3}},
        {"instructions": {"sampling": {"temperature": 0.1}}},
        {"responses": {"k": 2}},
        {"rewards": {"n": 6}},
        {"rewards": {"aggregate": "median"}},
        {"pairs": {"all_tied": "length"}},
        {},
    ]
    for step in range(12):
        if rng.random() < 0.4:
            chain.put(rng.choice("abcd"), posts(5, start=1000 + 10 * step))
        change = rng.choice(changes)
        found = look(chain, **change)
        foretold = {(stage, shard) for stage in SHARDED for shard in found.stages[stage]}
        chain.recipe = scripted_recipe(**change)
        made = {(stage, shard) for stage, shards in chain.run().made.items() for shard in shards if stage != "dataset"}
        # A table above may come out as it was; then those below it need not be made after all.
        assert made <= foretold, (step, change)
        own = {item for item in foretold if found.stages[item[0]][item[1]] in (MISSING, "its file changed")}
        assert {item for item in own if item[0] == "ugc"} <= made
        assert stale(look(chain, **change)) == {}


def test_a_file_is_read_once_for_as_long_as_it_does_not_change(tmp_path: Path) -> None:
    read: list[str] = []

    def remember() -> dict[str, str]:
        def content(name: str) -> str:
            read.append(name)
            return (tmp_path / name).read_text()

        return file_cache.cached(str(tmp_path), str(tmp_path / ".seen"), content, clock=lambda: 1e11)

    (tmp_path / "x").write_text("one")
    (tmp_path / "y").write_text("why")
    assert remember() == remember() == {"x": "one", "y": "why"}
    assert sorted(read) == ["x", "y"]
    (tmp_path / "x").write_text("two")
    assert remember() == {"x": "two", "y": "why"}
    (tmp_path / "x").unlink()
    (tmp_path / ".seen").write_text("damaged")
    assert remember() == {"y": "why"}


def test_a_file_that_just_changed_is_not_trusted(tmp_path: Path) -> None:
    """A file can change twice within the grain of its clock; a clock that was set back must not hide it either."""
    (tmp_path / "x").write_text("one")
    read: list[str] = []

    def remember(now: float) -> None:
        file_cache.cached(str(tmp_path), str(tmp_path / ".seen"), lambda n: read.append(n) or "v", clock=lambda: now)

    written = (tmp_path / "x").stat().st_mtime
    remember(written + 1)
    remember(written - 3600)
    remember(written + 10)
    assert len(read) == 3
    remember(written + 10)
    assert len(read) == 3


@pytest.mark.parametrize("place", ["s3_root", "memory_root"])
def test_on_object_stores_too(place: str, request: pytest.FixtureRequest) -> None:
    chain = Chain(request.getfixturevalue(place), scripted_recipe())
    for shard in ("a", "b"):
        chain.put(shard, posts(6, start=ord(shard)))
    chain.run()
    assert stale(look(chain)) == stale(look(chain)) == {}
    chain.put("b", posts(6, start=700))
    found = look(chain)
    assert {stage: set(whys) for stage, whys in stale(found).items() if stage != "dataset"} == {
        stage: {"b"} for stage in SHARDED
    }
    storage.delete(chain.workspace.source("a"))
    assert set(look(chain).stages["ugc"]) == {"b"}
