"""What the ledger promises, over the whole chain, by counting what reaches the engines (helpers.chain)."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from helpers.chain import ASKING, STAGES, Chain, no_engine, posts, scripted_recipe
from helpers.engines import AnyOrder

from pugc_core import plan, run
from pugc_core.engines.base import Request
from pugc_core.engines.scripted import ScriptedEngine, plausible
from pugc_core.errors import EngineError, StorageError
from pugc_core.ledger.store import Ledger
from pugc_core.recipe import Recipe
from pugc_core.stages.quality import Quality
from pugc_core.tables import stage_run, workspace
from pugc_core.tables.staleness import survey
from pugc_core.tables.store import Loaded

NOTHING = dict.fromkeys(ASKING, 0)


def two_shards(root: str, recipe: Recipe | None = None) -> Chain:
    chain = Chain(root, recipe or scripted_recipe())
    chain.put("a", posts(12))
    chain.put("b", posts(8, start=12))
    return chain


def only(asked: dict[str, int], *stages: str) -> bool:
    """Whether just these stages asked anything."""
    return {stage for stage, count in asked.items() if count} == set(stages)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every table's bytes of a plain run over the two shards."""
    chain = two_shards(str(tmp_path_factory.mktemp("undisturbed")))
    ran = chain.run()
    assert all(ran.asked.values())
    assert chain.rows("pairs")["keep"].sum() >= 3
    # Votes that do not parse are among it, and were asked for again.
    assert any(len(votes) > 4 for votes in chain.rows("rewards")["votes"].to_list())
    return chain.files()


# --- 1. the same again


def test_the_same_run_again_makes_no_call(root: str, undisturbed: dict[str, bytes]) -> None:
    chain = two_shards(root)
    first = chain.run()
    assert all(first.asked.values())
    assert {s: first.calls[s].made for s in ASKING} == first.asked
    assert chain.files() == undisturbed  # wherever it is stored
    again = chain.run(engine=no_engine)
    assert again.made == {}
    assert all(again.reused[stage] == ["a", "b"] for stage in STAGES if stage != "dataset")
    # Also without the tables: they are a pure function of the sources and the ledger.
    chain.forget()
    assert chain.files() == {}
    rebuilt = chain.run(engine=no_engine)
    assert rebuilt.reused == {}
    assert {s: rebuilt.calls[s].from_ledger for s in ASKING} == first.asked
    assert chain.files() == undisturbed


def test_a_table_lost_or_damaged_is_made_again_without_a_call(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    chain = two_shards(str(tmp_path))
    chain.run()
    store = chain.workspace.store
    Path(store.path("scripted", "rewards", "a")).write_bytes(b"PAR1 no more")
    Path(store.path("scripted", "responses", "b")).unlink()
    ran = chain.run(engine=no_engine)
    assert ran.made == {"responses": ["b"], "rewards": ["a"]}
    assert chain.files() == undisturbed


def test_refused_prompts_are_not_asked_again_while_the_table_stands(tmp_path: Path) -> None:
    chain = two_shards(str(tmp_path))
    refusing = chain.run(engine=lambda stage: ScriptedEngine(faults={0: "prompt_too_long", 3: "prompt_too_long"}))
    assert chain.rows("quality").filter(pl.col("drop_reason") == "prompt_too_long").height == 2
    assert refusing.calls["quality"].refused == 2
    assert chain.run(engine=no_engine).made == {}
    chain.forget("quality")  # made again, only what was refused is asked
    assert chain.run(to="quality").asked == {**NOTHING, "quality": 2}


# --- 2. new documents


def test_new_documents_cost_exactly_those_documents(root: str, tmp_path: Path) -> None:
    chain = two_shards(root)
    chain.run()
    before = chain.files()
    chain.put("c", posts(10, start=200))
    more = chain.run()
    alone = Chain(str(tmp_path / "alone"), scripted_recipe())
    alone.put("c", posts(10, start=200))
    apart = alone.run()
    assert all(apart.asked.values())
    assert more.draws == apart.draws
    assert more.made == {stage: ["_all"] if stage == "dataset" else ["c"] for stage in STAGES}
    after = chain.files()
    assert {name: after[name] for name in before if name != "dataset/_all"} == {
        name: data for name, data in before.items() if name != "dataset/_all"
    }


def test_documents_added_to_a_shard_cost_only_themselves(tmp_path: Path) -> None:
    chain = two_shards(str(tmp_path))
    chain.run()
    chain.put("b", posts(14, start=12))
    more = chain.run()
    assert more.asked["quality"] == 6
    assert all(more.made[stage] == ["b"] for stage in STAGES if stage != "dataset")
    new = set(chain.table("ugc", "b").tail(6)["ugc_id"])
    kept = chain.table("instructions", "b").filter(pl.col("ugc_id").is_in(list(new)))
    assert more.asked["instructions"] == kept.height > 0


def test_the_same_documents_in_other_shards_cost_nothing(tmp_path: Path) -> None:
    chain = two_shards(str(tmp_path))
    chain.run()
    pairs = chain.rows("pairs").drop("line").sort("pair_id")
    texts = posts(20)
    chain.put("x", texts[15:][::-1])
    chain.put("y", texts[:3])
    chain.put("z", texts[3:15])
    ran = chain.run(shards=["x", "y", "z"], engine=no_engine)
    assert sorted(ran.made["pairs"]) == ["x", "y", "z"]
    again = pl.concat([chain.table("pairs", shard) for shard in "xyz"]).drop("line").sort("pair_id")
    assert again.equals(pairs)
    # All five shards side by side hold every post twice; the data set has each pair once.
    chain.run(engine=no_engine)
    dataset = chain.table("dataset", "_all")
    assert dataset["keep"].sum() == pairs["keep"].sum()
    assert dataset.height == 2 * pairs["keep"].sum()


# --- 3. a new prompt


@pytest.mark.parametrize("root", ["local", "memory"], indirect=True)
def test_a_new_reward_prompt_costs_the_judges_calls_only_and_the_old_one_back_nothing(
    root: str, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    two_shards(root).run()
    prompt = tmp_path / "judge.txt"
    prompt.write_text("Rate {response} to {instruction} by {ugc}. Answer with [RESULT] and a number.", encoding="utf-8")
    changed = Chain(root, scripted_recipe(rewards={"prompt": str(prompt)}))
    ran = changed.run()
    assert only(ran.asked, "rewards")
    assert ran.asked["rewards"] >= 4 * changed.rows("responses")["keep"].sum()
    assert set(ran.made) == {"rewards", "pairs", "dataset"}
    assert changed.run(engine=no_engine).made == {}
    old = Chain(root, scripted_recipe())
    assert set(old.run(engine=no_engine).made) == {"rewards", "pairs", "dataset"}
    assert old.files() == undisturbed
    # An edit of the file itself is a new prompt too.
    prompt.write_text("Rate {response} to {instruction} with {ugc} in mind: [RESULT] and a number.", encoding="utf-8")
    assert only(Chain(root, scripted_recipe(rewards={"prompt": str(prompt)})).run().asked, "rewards")


@pytest.mark.parametrize("stage", ["quality", "instructions", "relevance"])
def test_a_new_prompt_upstream_costs_nothing_further_up(tmp_path: Path, stage: str) -> None:
    two_shards(str(tmp_path)).run()
    changed = Chain(str(tmp_path), scripted_recipe(**{stage: {"prompt": "default"}}))
    asked = changed.run().asked
    assert [s for s in ASKING[: ASKING.index(stage)] if asked[s]] == []
    assert asked[stage]
    assert Chain(str(tmp_path), scripted_recipe()).run(engine=no_engine).total == 0


# --- 4. thresholds, aggregates, more votes


@pytest.mark.parametrize(
    ("stage", "knobs"),
    [
        ("quality", {"min_score": 5}),
        ("instructions", {"max_chars": 60}),
        ("responses", {"k": 2}),
        ("rewards", {"aggregate": "median"}),
        ("rewards", {"aggregate": "majority"}),
        ("rewards", {"min_valid": 4}),
        ("rewards", {"n": 2, "max_draws": 4}),
        ("pairs", {"min_margin": 0.5}),
        ("pairs", {"all_tied": "length"}),
        ("dataset", {"test_share": 0.5}),
    ],
    ids=str,
)
def test_a_new_threshold_or_aggregate_makes_tables_but_no_call(
    tmp_path: Path, stage: str, knobs: dict[str, object]
) -> None:
    chain = two_shards(str(tmp_path))
    chain.run()
    before = chain.files()
    changed = Chain(str(tmp_path), scripted_recipe(**{stage: knobs}))
    made = changed.run(engine=no_engine).made
    assert sorted(made[stage]) == (["_all"] if stage == "dataset" else ["a", "b"])
    after = changed.files()
    assert not set(made) & set(STAGES[: STAGES.index(stage)])
    # Below, only what came to stand on other rows is made again.
    assert {name for name in before if after[name] != before[name]} == {f"{s}/{x}" for s in made for x in made[s]}
    changed.forget()
    changed.run(engine=no_engine)
    assert changed.files() == after  # not stale anywhere


def test_a_lower_threshold_costs_only_the_posts_that_now_pass(tmp_path: Path) -> None:
    chain = two_shards(str(tmp_path))
    chain.run()
    before = set(chain.rows("quality").filter(pl.col("keep"))["ugc_id"])
    lower = Chain(str(tmp_path), scripted_recipe(quality={"min_score": 3}))
    asked = lower.run().asked
    passing = set(lower.rows("quality").filter(pl.col("keep"))["ugc_id"])
    assert passing > before
    assert asked["quality"] == 0
    assert asked["instructions"] == len(passing - before)


def test_eight_votes_more_cost_eight_more_per_response(memory_root: str) -> None:
    root = memory_root

    def parses(request: Request, draw: int) -> str:
        return f"Fine. [RESULT] {1 + request.key(draw)[0] % 5}"

    def engine(stage: str) -> ScriptedEngine:
        return ScriptedEngine(parses if stage == "rewards" else plausible)

    two_shards(root, scripted_recipe(rewards={"n": 8, "max_draws": 16})).run(engine=engine)
    more = Chain(root, scripted_recipe(rewards={"n": 16, "max_draws": 16}))
    ran = more.run(engine=engine)
    judged = more.rows("rewards").height
    assert judged > 0
    assert ran.asked == {**NOTHING, "rewards": 8 * judged}
    assert {r.draws for r in ran.requests["rewards"]} == {tuple(range(8, 16))}
    assert {tuple(v["draw"] for v in votes) for votes in more.rows("rewards")["votes"].to_list()} == {tuple(range(16))}
    fewer = Chain(root, scripted_recipe(rewards={"n": 8, "max_draws": 16}))
    assert fewer.run(engine=no_engine).total == 0


def test_more_votes_where_some_do_not_parse_cost_what_is_missing(tmp_path: Path) -> None:
    few = two_shards(str(tmp_path / "data"), scripted_recipe(rewards={"n": 8, "max_draws": 24}))
    first = few.run()
    more = Chain(str(tmp_path / "data"), scripted_recipe(rewards={"n": 16, "max_draws": 24}))
    ran = more.run()
    fresh = two_shards(str(tmp_path / "fresh"), scripted_recipe(rewards={"n": 16, "max_draws": 24}))
    whole = fresh.run()
    assert only(ran.asked, "rewards")
    assert sorted(first.draws["rewards"] + ran.draws["rewards"]) == whole.draws["rewards"]
    assert more.files() == fresh.files()


def test_one_more_answer_of_the_policy_costs_one_each_and_its_votes(tmp_path: Path) -> None:
    two_shards(str(tmp_path)).run()
    more = Chain(str(tmp_path), scripted_recipe(responses={"k": 4}))
    ran = more.run()
    assert only(ran.asked, "responses", "rewards")
    assert ran.asked["responses"] == more.rows("relevance")["keep"].sum()
    assert {r.draws for r in ran.requests["responses"]} == {(3,)}
    fourth = set(more.rows("responses").filter(pl.col("draw") == 3, pl.col("keep"))["response_id"])
    votes = more.rows("rewards").filter(pl.col("response_id").is_in(list(fourth)))["votes"].list.len().sum()
    assert ran.asked["rewards"] == votes > 0


# --- 5. recipes that agree up to a stage


def test_two_recipes_share_everything_up_to_where_they_differ(memory_root: str) -> None:
    root = memory_root
    models = {name: {"id": name, "engine": "scripted"} for name in ("judge", "policy", "other")}
    roles = dict(scripted_recipe().roles)
    two_shards(root).run()
    judged = Chain(root, scripted_recipe("judged", models=models, roles={**roles, "reward_judge": "other"}))
    ran = judged.run()
    assert only(ran.asked, "rewards")
    assert all(sorted(ran.made[stage]) == ["a", "b"] for stage in STAGES if stage != "dataset")  # tables of its own
    answered = Chain(root, scripted_recipe("answered", models=models, roles={**roles, "policy": "other"}))
    assert only(answered.run().asked, "responses", "rewards")
    plain = Chain(root, scripted_recipe("plain", pairs={"all_tied": "length"}, training={"epochs": 1}))
    assert plain.run(engine=no_engine).total == 0
    store = judged.workspace.store
    for stage in ("ugc", "quality", "instructions", "relevance", "responses"):
        footers = [store.footer(recipe, stage, "a") for recipe in ("scripted", "judged", "plain")]
        assert len({f.content for f in footers if f}) == 1


def test_one_model_in_two_roles_or_engines_keeps_its_answers_by_what_was_asked(tmp_path: Path) -> None:
    """How a model is run is not what it says: options of the engine change no key."""
    two_shards(str(tmp_path)).run()
    models = {n: {"id": n, "engine": "scripted", "options": {"capacity": 2}} for n in ("judge", "policy")}
    assert Chain(str(tmp_path), scripted_recipe("tuned", models=models)).run(engine=no_engine).total == 0


# --- the same tables, byte for byte


@pytest.mark.parametrize("stage", ASKING)
@pytest.mark.parametrize("at", [3])
def test_interrupted_anywhere_and_resumed(tmp_path: Path, undisturbed: dict[str, bytes], stage: str, at: int) -> None:
    """The engine breaks at a request of a stage; the next run finds every answer that was given."""
    chain, said = two_shards(str(tmp_path)), Counter[bytes]()

    def recorded(request: Request, draw: int) -> str:
        said[request.key(draw)] += 1
        return plausible(request, draw)

    with pytest.raises(EngineError, match="out of memory"):
        chain.run(
            engine=lambda s: ScriptedEngine(
                recorded, capacity=3, faults={at: EngineError("out of memory")} if s == stage else None
            )
        )
    broken = chain.last
    assert broken.asked[stage]
    resumed = chain.run(engine=lambda s: ScriptedEngine(recorded, capacity=3))
    assert chain.files() == undisturbed
    assert set(said.values()) == {1}, "an answer was given twice"
    # Only what was in hand is asked again: at most what the engine holds, and the request that broke it.
    again = Counter(broken.draws[stage]) & Counter(resumed.draws[stage])
    in_hand = broken.requests[stage][-4:]
    assert again.total() <= sum(len(r.draws) for r in in_hand)


def test_interrupted_again_and_again(memory_root: str, undisturbed: dict[str, bytes]) -> None:
    chain, breaks = two_shards(memory_root), 0
    while True:
        try:
            chain.run(engine=lambda stage: ScriptedEngine(capacity=2, faults={5: EngineError("gone")}))
            break
        except EngineError:
            breaks += 1
            assert breaks < 60
    assert breaks > 5
    assert chain.files() == undisturbed


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_order_of_completion(tmp_path: Path, undisturbed: dict[str, bytes], seed: int) -> None:
    chain = two_shards(str(tmp_path))
    chain.run(engine=lambda stage: AnyOrder(seed, capacity=(1, 5, 200)[seed]))
    assert chain.files() == undisturbed


@pytest.mark.parametrize("groups", [[["a"], ["b"]], [["b"], ["a"]], [["b", "a"]]])
def test_however_shards_are_grouped_into_passes(
    tmp_path: Path, undisturbed: dict[str, bytes], groups: list[list[str]]
) -> None:
    chain = two_shards(str(tmp_path))
    chain.run(groups=groups)
    assert chain.files() == undisturbed


def test_shard_by_shard_through_the_whole_chain(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    chain = two_shards(str(tmp_path))
    chain.run(shards=["b"], to="pairs")
    chain.run(shards=["a"], to="pairs")
    assert chain.run(engine=no_engine).made == {"dataset": ["_all"]}
    assert chain.files() == undisturbed


_CHILD = """
import sys
from helpers.chain import Chain, scripted_recipe
from helpers.engines import generation
from pugc_core.engines.scripted import ScriptedEngine, plausible

def told(request, draw):
    print("said", request.key(draw).hex(), flush=True)
    return plausible(request, draw)

def engine(stage):
    return ScriptedEngine(told if stage == "rewards" else plausible, capacity=8, delay=0.01 * (stage == "rewards"))

Chain(sys.argv[1], scripted_recipe()).run(engine=engine, flush_seconds=0.1)
print("end", flush=True)
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_of_rewards_three_times(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """What a kill costs: the requests in flight and what came since the last write, here a tenth of a second."""
    chain = two_shards(str(tmp_path))
    chain.run(to="responses")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said: Counter[str] = Counter()
    for point in (1, 25, 40):
        command = [sys.executable, "-c", _CHILD, str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        for count, line in enumerate(process.stdout, 1):
            assert line.startswith("said"), f"it was through after {count} answers"
            said[line] += 1
            if count == point:
                os.kill(process.pid, signal.SIGKILL)
                break
        said.update(line for line in process.stdout if line.startswith("said"))
        process.wait(30)
        process.stdout.close()
    rest = chain.run()
    assert chain.files() == undisturbed
    lost = Counter(key.hex() for key in rest.draws["rewards"]) & Counter(line.split()[1] for line in said)
    repeated = sum(said.values()) - len(said) + lost.total()
    whole = sum(len(votes) for votes in chain.rows("rewards")["votes"].to_list())
    # A tenth of a second is at most ten requests of up to four draws, each time; a busy machine may be slow to write.
    assert repeated <= 3 * 60
    assert repeated + whole == sum(said.values()) + rest.asked["rewards"]


# --- what goes wrong in a pass


def test_a_bad_file_is_an_empty_shard_that_says_why_until_the_file_is_fixed(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    chain = two_shards(str(tmp_path))
    (tmp_path / "inbox" / "bad.jsonl").write_bytes(b"")
    ran = chain.run()
    others = {name: data for name, data in chain.files().items() if not name.endswith(("/bad", "/_all"))}
    assert others == {name: data for name, data in undisturbed.items() if name != "dataset/_all"}
    assert chain.table("dataset", "_all")["keep"].sum() == chain.rows("pairs")["keep"].sum() > 0
    # It goes through all stages, and stands out in one.
    store = chain.workspace.store
    footers = {stage: store.footer("scripted", stage, "bad") for stage in STAGES if stage != "dataset"}
    assert all(footer and footer.rows_in == 0 for footer in footers.values())
    assert {stage for stage, footer in footers.items() if footer and footer.failed} == {"ugc"}
    assert {stage: list(failed) for stage, failed in ran.failed.items()} == {"ugc": ["bad"]}
    found = survey(plan.Chain(chain.recipe, chain.workspace), to="dataset")
    assert {stage: list(failed) for stage, failed in found.failed.items()} == {"ugc": ["bad"]}
    assert "bad.jsonl" in found.failed["ugc"]["bad"]
    assert "fix: " in found.failed["ugc"]["bad"]
    assert not any(found.stages.values())  # nothing is out of date, nothing is missing
    assert found.sentence("ugc") == "1 of 3 shards could not be made"
    # The same again: it is tried, and nothing is written.
    before = chain.files()
    assert chain.run(engine=no_engine).made == {}
    assert chain.files() == before
    chain.put("bad", posts(10, start=200))
    assert survey(plan.Chain(chain.recipe, chain.workspace)).stages["ugc"] == {"bad": "its file changed"}
    fixed = chain.run()
    assert fixed.made == {stage: ["_all"] if stage == "dataset" else ["bad"] for stage in STAGES}
    assert not fixed.failed


def test_a_file_that_cannot_be_opened_is_a_bad_shard_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = two_shards(str(tmp_path))
    hashed = stage_run.file_hash

    def denied(path: str) -> str:
        if path.endswith("a.jsonl"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return hashed(path)

    monkeypatch.setattr(stage_run, "file_hash", denied)
    monkeypatch.setattr(workspace, "file_hash", denied)
    ran = chain.run(to="ugc")
    assert list(ran.failed["ugc"]) == ["a"]
    assert "Permission denied" in str(ran.failed["ugc"]["a"])
    assert chain.table("ugc", "a").is_empty()
    assert chain.table("ugc", "b").height == 8


def test_an_odd_row_keeps_no_other_out(tmp_path: Path) -> None:
    chain = two_shards(str(tmp_path))
    inbox = tmp_path / "inbox" / "a.jsonl"
    deep = '{"text": "A post of many words.", "title": ' + "[" * 300 + "]" * 300 + "}\n"
    inbox.write_text(deep + inbox.read_text())
    assert not chain.run(to="ugc").failed
    table = chain.table("ugc", "a")
    assert table.height == 13
    assert table.filter("keep").height >= 12
    assert set(table.filter(~pl.col("keep"))["line"]) <= {1}


def test_a_table_that_breaks_its_schema_stops_only_its_own_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]
) -> None:
    honest = Quality.build

    def broken(self, shard, inputs):  # type: ignore[no-untyped-def]
        frame = yield from honest(self, shard, inputs)
        return frame.vstack(frame) if shard == "a" else frame

    monkeypatch.setattr(Quality, "build", broken)
    chain = two_shards(str(tmp_path))
    ran = chain.run()
    assert "ugc_id twice" in str(ran.failed["quality"]["a"])
    assert ran.calls["quality"].made == 20
    assert chain.table("quality", "a").is_empty()
    assert chain.files()["pairs/b"] == undisturbed["pairs/b"]
    monkeypatch.undo()  # the bug is fixed: it is tried again, and its answers are there
    assert chain.run(to="quality", engine=no_engine).made == {"quality": ["a"]}
    chain.run()
    assert chain.files() == undisturbed


def test_a_table_stays_where_what_it_is_made_of_cannot_be_read_for_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = two_shards(str(tmp_path))
    chain.run()
    before = chain.files()
    honest = Loaded.frame

    def away(self: Loaded) -> pl.DataFrame:
        if self.footer.stage == "quality" and self.footer.shard == "a":
            raise StorageError("the bucket does not answer")
        return honest(self)

    monkeypatch.setattr(Loaded, "frame", away)
    changed = Chain(str(tmp_path), scripted_recipe(instructions={"max_chars": 60}))
    ran = changed.run(to="instructions", engine=no_engine)
    assert list(ran.failed["instructions"]) == ["a"]
    assert ran.made == {"instructions": ["b"]}
    assert chain.files()["instructions/a"] == before["instructions/a"]
    monkeypatch.undo()
    assert changed.run(to="instructions", engine=no_engine).made == {"instructions": ["a"]}


def test_shards_without_their_inputs_do_not_hold_up_the_others(tmp_path: Path) -> None:
    chain = two_shards(str(tmp_path))
    chain.run(to="responses")
    before = chain.files()
    store = chain.workspace.store
    Path(store.path("scripted", "responses", "a")).unlink()
    with Ledger(chain.workspace.ledger) as ledger:
        read = run.inputs(chain.plan, "rewards", ["a", "b"])
        engines = ScriptedEngine()
        work = run.tables(chain.plan, "rewards", ["a", "b"], read, ledger=ledger, engines=lambda model: engines)
        assert [made.shard for made in work] == ["b"]  # the other keeps what it has
    assert "no table responses for shard a" in str(work.failed["a"])
    assert {**chain.files(), "responses/a": before["responses/a"]} == before


def test_a_stage_whose_input_is_missing_says_what_to_run(tmp_path: Path) -> None:
    chain = two_shards(str(tmp_path))
    chain.run(to="instructions")
    chain.forget("quality")
    read = run.inputs(chain.plan, "instructions", ["a"])
    with Ledger(chain.workspace.ledger) as ledger, pytest.raises(StorageError) as caught:
        list(run.tables(chain.plan, "instructions", ["a"], read, ledger=ledger, engines=lambda model: no_engine("")))
    assert caught.value.fix == "pugc run --recipe scripted --shard a --to quality"


def test_a_dataset_of_no_shard_at_all_is_a_clear_error(tmp_path: Path) -> None:
    chain = Chain(str(tmp_path), scripted_recipe())
    with pytest.raises(StorageError, match="no shard of recipe scripted has a table pairs") as caught:
        chain.run()
    assert caught.value.fix == "pugc run --recipe scripted --to pairs"


def test_shards_whose_posts_are_all_dropped_go_through_to_an_empty_dataset(tmp_path: Path) -> None:
    chain = Chain(str(tmp_path), scripted_recipe())
    chain.put("short", ["too short"])
    ran = chain.run(engine=no_engine)
    assert ran.made["dataset"] == ["_all"]
    assert chain.table("ugc", "short")["drop_reason"].to_list() == ["too_short"]
    assert all(chain.rows(stage).is_empty() for stage in STAGES[1:])
    assert chain.run(engine=no_engine).made == {}
