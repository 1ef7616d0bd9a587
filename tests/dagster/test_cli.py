"""The command `pugc`, as people type it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from sqlalchemy.exc import OperationalError

from pugc_core.errors import TrainingError
from pugc_core.models.spec import ModelSpec
from pugc_core.plan import Chain
from pugc_core.run import start_of
from pugc_core.tables.store import Tables
from pugc_dagster.cli import main
from pugc_dagster.runs import finished, history


def pugc(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(w) for w in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def made(begun: Callable[..., Path], posts: Callable[..., Path]) -> Path:
    """A project with two shards, run to the dataset."""

    def make() -> None:
        pugc("ingest", posts("a"), posts("b"))
        pugc("run", "--recipe", "scripted", "--to", "dataset")

    return begun("two shards", make)


def test_status_counts_every_row_and_every_call(made: Path) -> None:
    status = json.loads(pugc("status", "--recipe", "scripted", "--json").output)
    assert list(status["stages"]) == [
        "ugc", "quality", "instructions", "relevance", "responses", "rewards", "pairs", "dataset",
    ]  # fmt: skip
    for counts in status["stages"].values():
        assert counts["rows_in"] == counts["kept"] + sum(counts["dropped"].values())
    assert status["stages"]["ugc"]["rows_in"] == 16
    # What one stage keeps is what the next takes in.
    stages = status["stages"]
    for earlier, later in [("ugc", "quality"), ("quality", "instructions"), ("instructions", "relevance")]:
        assert stages[later]["rows_in"] == stages[earlier]["kept"]
    assert stages["responses"]["rows_in"] == 4 * stages["relevance"]["kept"]
    assert 0 < status["similarity"] < 1
    assert status["roles"]["quality_judge"]["made"] == 16
    assert status["roles"]["reward_judge"]["made"] >= 8 * stages["responses"]["kept"]
    again = json.loads(pugc("run", "--recipe", "scripted", "--to", "dataset", "--json").output)
    assert {role: calls["made"] for role, calls in again["roles"].items()} == dict.fromkeys(status["roles"], 0)
    assert again["stages"] == status["stages"]


def test_a_new_reward_prompt_costs_the_judge_alone(made: Path) -> None:
    first = json.loads(pugc("status", "--recipe", "scripted", "--json").output)
    own = made / "recipes" / "judge.txt"
    own.write_text("Rate {response} to {instruction}, given {ugc}. End with [RESULT] and 1 to 5.\n")
    file = made / "recipes" / "scripted.toml"
    before = file.read_text()

    def rerun() -> dict[str, int]:
        status = json.loads(pugc("run", "--recipe", "scripted", "--to", "dataset", "--json").output)
        return {role: calls["made"] for role, calls in status["roles"].items()}

    file.write_text(before + '[rewards]\nprompt = "judge.txt"\n')
    calls = rerun()
    assert calls.pop("reward_judge") >= first["roles"]["reward_judge"]["made"] * 0.9
    assert set(calls.values()) == {0}
    file.write_text(before)
    assert set(rerun().values()) == {0}


def test_status_for_people(made: Path) -> None:
    text = pugc("status", "--recipe", "scripted").output
    for word in ("quality", "reasons", "made", "rewards of", "votes", "make ui", "dataset"):
        assert word in text


def test_status_claims_nothing_for_tables_that_are_not_there(project: Path, posts: Callable[..., Path]) -> None:
    pugc("ingest", posts("a"))
    pugc("run", "--recipe", "scripted", "--to", "relevance")
    output = pugc("run", "--recipe", "scripted", "--to", "relevance").output
    assert "no model was asked in the last run" in output
    assert "up to date" not in output
    assert "not made yet: responses, rewards, pairs, dataset, policy/dpo, policy/simpo" in output
    pugc("run", "--recipe", "scripted", "--to", "dataset")
    pugc("ingest", posts("b"))
    output = pugc("run", "--recipe", "scripted", "--to", "dataset", "--shard", "a").output
    assert "1 shards have tables missing (b)" in output
    assert "up to date" not in output


def test_answers_that_the_ledger_had_are_said_to_have_cost_nothing(made: Path) -> None:
    calls = json.loads(pugc("status", "--recipe", "scripted", "--json").output)["roles"].values()
    shutil.rmtree(made / "data" / "tables")
    ran = pugc("run", "--recipe", "scripted", "--to", "dataset")
    answers = sum(role["made"] + role["from_ledger"] for role in calls)
    assert f"no model was asked in the last run: all {answers:,} answers were in the ledger" in ran.stdout
    assert "looking at what is there" in ran.stderr or ran.stderr == ""
    assert "rewards: " in ran.stderr
    again = pugc("run", "--recipe", "scripted", "--to", "dataset")
    assert "rewards: " not in again.stderr


def test_a_demo_ends_with_the_best_pairs_and_start_and_trained(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pugc_core.recipe import load
    from pugc_core.results import summary
    from pugc_dagster.project import recipe_folders
    from pugc_dagster.runs import execute
    from pugc_dagster.terminal import console

    folder = made / "data" / "policies" / "scripted" / "simpo"
    folder.mkdir(parents=True)
    numbers = ("steps", "n_train", "n_test", "pairs_trained", "tokens_per_epoch", "resumed_at", "dropped_too_long")
    figure = {"value": 0.25, "low": 0.125, "high": 0.375, "n": 8}
    record = dict.fromkeys((*numbers, "seconds", "devices", "tokens_per_second"), 8)
    record |= {"objective": "simpo", "dropped": {}, "final": {}, "curve": [], "notes": [], "device": "cpu"}  # type: ignore[dict-item]
    record |= {"precision": "fp32", "held_out": {"accuracy": figure, "gain": figure}}  # type: ignore[dict-item]
    (folder / "training.json").write_text(json.dumps(record))
    samples = [{"question": f"How {i}?", "start": "By hand.", "trained": "With care."} for i in range(3)]
    (folder / "samples.json").write_text(json.dumps({"samples": samples}))

    status = json.loads(pugc("status", "--recipe", "scripted", "--json").output)
    assert status["policies"]["simpo"]["held_out"]["gain"] == figure
    assert status["rewards"]["fullest"] <= 1
    assert "0.250 (0.125 to 0.375)" in pugc("status", "--recipe", "scripted").output
    recipe, workspace = load("scripted", recipe_folders()), execute.workspace()
    widest, total = summary.best(Tables(workspace.store, "scripted"), 3)
    capsys.readouterr()
    monkeypatch.setattr(console, "_out", Console(highlight=False, width=100))
    console.status(Chain(recipe, workspace), as_json=False, samples=True)
    printed = capsys.readouterr().out
    assert f"the best {len(widest)} of {total} pairs" in printed
    assert [printed.index(pair.pair_id) for pair in widest] == sorted(printed.index(pair.pair_id) for pair in widest)
    assert f"pugc show pair {widest[0].pair_id[:8]} --recipe scripted" in printed
    assert "trained by SimPO" in printed
    assert printed.count("With care.") == 3
    assert "\x1b" not in printed


def test_status_shows_what_the_calls_cost(made: Path) -> None:
    file = made / "recipes" / "scripted.toml"
    assert "cost" not in pugc("status", "--recipe", "scripted").output
    file.write_text(
        file.read_text()
        + '[models.judge]\nid = "judge"\nengine = "scripted"\nprice = { prompt = 2.0, completion = 6.0 }\n'
        '[roles]\nreward_judge = "judge"\n'
    )
    roles = json.loads(pugc("status", "--recipe", "scripted", "--json").output)["roles"]
    judge = roles["reward_judge"]
    assert judge["cost"] == pytest.approx((2 * judge["prompt_tokens"] + 6 * judge["completion_tokens"]) / 1e6)
    assert judge["cost"] > 0
    assert "cost" not in roles["instructor"]
    output = pugc("status", "--recipe", "scripted").output
    assert "cost" in output
    assert "no price" in output


def test_status_before_the_first_run(project: Path) -> None:
    assert "pugc run --recipe scripted" in pugc("status", "--recipe", "scripted").output
    assert json.loads(pugc("status", "--recipe", "scripted", "--json").output)["stages"] == {}


def test_show_pair_leads_back_to_post_and_votes(made: Path) -> None:
    pugc("export", made / "pairs.jsonl", "--recipe", "scripted", "--what", "pairs")
    row = json.loads((made / "pairs.jsonl").read_text().splitlines()[0])
    behind = json.loads(pugc("show", "pair", row["pair_id"][:8], "--recipe", "scripted", "--json").output)
    assert behind["pair"]["pair_id"] == row["pair_id"]
    assert behind["post"]["ugc_id"] == row["ugc_id"]
    assert len(behind["responses"]) == 4
    assert all(len(r["votes"]) >= 8 for r in behind["responses"])


def test_show_pair_of_no_such_id(made: Path) -> None:
    assert "no pair nothere" in pugc("show", "pair", "nothere", "--recipe", "scripted", code=1).output


def test_export_dataset_and_rationales(made: Path) -> None:
    pugc("export", made / "out" / "train.parquet", "--recipe", "scripted")
    dataset = pl.read_parquet(made / "out" / "train.parquet")
    assert {"prompt", "chosen", "rejected"} <= set(dataset.columns)
    answer = json.loads(
        pugc("export", made / "votes.jsonl", "--recipe", "scripted", "--what", "rationales", "--json").output
    )
    votes = [json.loads(line) for line in (made / "votes.jsonl").read_text().splitlines()]
    assert answer["rows"] == len(votes) > 0
    assert {"feedback", "score", "draw", "response", "instruction"} <= set(votes[0])
    assert "take rationales, ugc" in pugc("export", made / "x.jsonl", "--what", "nonsense", code=1).output
    assert ".jsonl or .parquet" in pugc("export", made / "x.xlsx", code=1).output


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jsonl", b"", "empty"),
        ("my.posts.jsonl", b'{"text": "x"}\n', "my-posts"),
        ("a b.jsonl", b'{"text": "x"}\n', "a-b"),
        ("posts.docx", b"x", ".jsonl"),
        ("utf16.jsonl", '{"text": "x"}\n'.encode("utf-16"), "iconv"),
    ],
)
def test_ingest_refuses_what_cannot_be_a_shard(project: Path, name: str, content: bytes, said: str) -> None:
    path = project.parent / name
    path.write_bytes(content)
    output = pugc("ingest", path, code=1).output
    assert "error:" in output
    assert said in output
    assert not list(project.glob("data/inbox/*"))


def test_ingest_of_a_missing_file_and_of_nothing(project: Path) -> None:
    assert "nothere.jsonl" in pugc("ingest", project / "nothere.jsonl", code=1).output
    assert "FILE" in pugc("ingest", code=2).output


def test_two_files_for_one_shard(project: Path, posts: Callable[..., Path]) -> None:
    a = posts("a")
    other = a.with_suffix(".csv")
    other.write_text("text\nhello\n")
    pugc("ingest", a)
    assert "already there" in pugc("ingest", other, code=1).output


def test_run_without_any_shard(project: Path) -> None:
    output = pugc("run", "--recipe", "scripted", code=1).output
    assert "there is no shard" in output
    assert "pugc ingest FILE" in output


def test_run_of_unknown_shard_stage_and_recipe(project: Path, posts: Callable[..., Path]) -> None:
    pugc("ingest", posts("a"))
    assert "there are: a" in pugc("run", "--recipe", "scripted", "--shard", "b", code=1).output
    assert "stages: ugc, quality" in pugc("run", "--recipe", "scripted", "--to", "rewrads", code=1).output
    assert "did you mean scripted" in pugc("run", "--recipe", "scriptd", code=1).output


def test_a_scripted_policy_cannot_be_trained(made: Path) -> None:
    output = pugc("run", "--recipe", "scripted", code=1).output
    assert "no weights to train" in output
    assert "--to dataset" in output


def test_a_policy_with_an_adapter_is_not_trained_without_it() -> None:
    with pytest.raises(TrainingError, match="with an adapter"):
        start_of(ModelSpec(id="org/model", adapter="/adapter"))
    assert start_of(ModelSpec(id="org/model", revision="abc")) == "org/model@abc"


def test_a_model_that_does_not_exist(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (made / "recipes" / "gone.toml").write_text(
        'extends = "tiny"\n[models.tiny]\nid = "nobody/no-such-model"\nengine = "transformers"\n'
    )
    output = pugc("run", "--recipe", "gone", "--to", "quality", code=1).output
    assert "no model nobody/no-such-model" in output
    assert "fix:" in output


def test_doctor(project: Path) -> None:
    findings = json.loads(pugc("doctor", "--recipe", "scripted", "--json").output)
    by_name = {f["what"]: f for f in findings}
    assert by_name["reward_judge"]["state"].endswith("on scripted (named in the recipe)")
    assert by_name["polars"]["ok"]
    assert "no recipe" in pugc("doctor", "--recipe", "nonsense", code=1).output


def test_outside_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert "no dagster.yaml" in pugc("status", code=1).output


def test_a_large_file_becomes_shards_of_so_many_rows(project: Path, posts: Callable[..., Path]) -> None:
    taken = json.loads(pugc("ingest", posts("big", 10), "--rows", 4, "--json").output)
    assert list(taken) == ["big-0000", "big-0001", "big-0002"]
    status = json.loads(pugc("run", "--recipe", "scripted", "--to", "ugc", "--json").output)
    assert status["stages"]["ugc"]["rows_in"] == 10


def test_an_option_that_the_engine_does_not_know(made: Path) -> None:
    (made / "recipes" / "odd.toml").write_text(
        'extends = "scripted"\n[models.tiny]\noptions = { foo = 1 }\n[quality.sampling]\nmax_tokens = 7\n'
    )
    assert "'foo'" in pugc("run", "--recipe", "odd", "--to", "quality", code=1).output


def test_status_after_a_part_was_made_anew(made: Path) -> None:
    file = made / "recipes" / "scripted.toml"
    file.write_text(file.read_text() + "[instructions.sampling]\ntemperature = 0.6\n")
    output = pugc("run", "--recipe", "scripted", "--to", "instructions").output
    assert "relevance 2 of 2 shards out of date: made again: the table instructions" in output
    found = json.loads(pugc("stale", "--recipe", "scripted", "--json").output)["stages"]
    assert [stage for stage in found if found[stage]["out_of_date"]] == [
        "relevance", "responses", "rewards", "pairs", "dataset",
    ]  # fmt: skip
    pair = json.loads(pugc("status", "--recipe", "scripted", "--json").output)["paths"]["dataset"]
    id_ = pl.read_parquet(f"{pair}/train.parquet")["pair_id"][0]
    assert "is older than the table instructions" in pugc("show", "pair", id_, "--recipe", "scripted", code=1).output
    # Responses newer than the pairs: the report shows what it can.
    pugc("run", "--recipe", "scripted", "--to", "responses")
    pugc("run", "--recipe", "scripted", "--to", "instructions")
    from pugc_core.recipe import load
    from pugc_dagster import reports
    from pugc_dagster.project import recipe_folders
    from pugc_dagster.runs import execute

    report = Path(reports.write(Chain(load("scripted", recipe_folders()), execute.workspace()))).read_text()
    assert "left out: their tables have changed since" in report
    assert reports.outside(report) == []
    assert reports.outside(report + '<img src="https://x/y.png"> <a style="background: url(z.png)">') == [
        "https://x/y.png",
        "z.png",
    ]
    pugc("refresh", "--recipe", "scripted")
    assert pugc("status", "--recipe", "scripted").output.count("out of date") == 0


def test_files_in_the_inbox_that_are_no_shards_are_told(project: Path, posts: Callable[..., Path]) -> None:
    upper = posts("a").rename(project / "UPPER.JSONL")
    pugc("ingest", upper)
    inbox = project / "data" / "inbox"
    (inbox / "UPPER.csv").write_text("text\nx\n")
    (inbox / "my.posts.jsonl").write_text("{}\n")
    output = pugc("run", "--recipe", "scripted", "--to", "ugc").output
    assert "UPPER.csv in the inbox is passed over" in output or "UPPER.JSONL in the inbox is passed over" in output
    assert "my-posts" in output
    (inbox / "UPPER.csv").unlink()
    status = json.loads(pugc("run", "--recipe", "scripted", "--to", "ugc", "--json").stdout)
    assert status["stages"]["ugc"]["rows_in"] == 8


def test_other_content_under_the_same_name_is_not_taken_silently(project: Path, posts: Callable[..., Path]) -> None:
    path = posts("a", 8)
    pugc("ingest", path)
    pugc("ingest", path)  # the same again is no news
    posts("a", 5)
    assert "--replace" in pugc("ingest", path, code=1).output
    pugc("ingest", path, "--replace")
    status = json.loads(pugc("run", "--recipe", "scripted", "--to", "ugc", "--json").output)
    assert status["stages"]["ugc"]["rows_in"] == 5


def test_a_shorter_file_leaves_no_parts_of_the_longer_one(project: Path, posts: Callable[..., Path]) -> None:
    pugc("ingest", posts("g", 9), "--rows", 2)
    pugc("ingest", posts("g", 3), "--rows", 2, "--replace")
    assert sorted(p.name for p in (project / "data" / "inbox").iterdir()) == ["g-0000.jsonl", "g-0001.jsonl"]


def test_a_relative_data_folder_is_the_project_s(
    project: Path, posts: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUGC_DATA", "elsewhere")
    (project / "sub").mkdir()
    monkeypatch.delenv("DAGSTER_HOME")
    monkeypatch.chdir(project / "sub")
    pugc("ingest", posts("a"))
    monkeypatch.chdir(project / "sub")
    assert json.loads(pugc("run", "--recipe", "scripted", "--to", "ugc", "--json").output)["shards"] == 1
    assert (project / "elsewhere" / "tables").is_dir()


def test_export_keeps_the_shard_and_says_what_it_cannot_write(made: Path) -> None:
    pugc("export", made / "out.jsonl", "--recipe", "scripted")
    assert {json.loads(line)["shard"] for line in (made / "out.jsonl").read_text().splitlines()} == {"a", "b"}
    (made / "folder.jsonl").mkdir()
    assert "error:" in pugc("export", made / "folder.jsonl", "--recipe", "scripted", code=1).output


def test_the_summary_comes_also_when_shards_failed(project: Path, posts: Callable[..., Path]) -> None:
    pugc("ingest", posts("a"))
    (project / "data" / "inbox" / "bad.parquet").write_bytes(b"PAR1 half a file")
    ran = pugc("run", "--recipe", "scripted", "--to", "dataset", code=1)
    assert "dataset" in ran.stdout
    assert "1 shard has no usable ugc" in ran.stdout
    assert "bad: " in ran.stdout
    assert "fix: copy the file here again" in ran.stdout
    assert "1 of 2 shards could not be made (bad)" in ran.stderr
    status = json.loads(pugc("status", "--recipe", "scripted", "--json").stdout)
    assert list(status["failed"]["ugc"]) == ["bad"]
    assert status["stages"]["pairs"]["kept"] > 0
    stale = json.loads(pugc("stale", "--recipe", "scripted", "--json").stdout)["stages"]
    assert list(stale["ugc"]["failed"]) == ["bad"]
    assert all(not stage["failed"] for name, stage in stale.items() if name != "ugc")
    assert all(stage["made"] == stage["total"] for name, stage in stale.items() if "policy" not in name)
    pugc("run", "--recipe", "scripted", "--to", "dataset", "--shard", "a")  # nothing failed that was asked for
    pugc("refresh", "--recipe", "scripted")
    (project / "data" / "inbox" / "a.jsonl").write_text("")
    assert "no usable ugc" in pugc("run", "--recipe", "scripted", code=1).stdout  # and trains on nothing


def test_a_broken_history_is_told_with_its_remedy(project: Path, posts: Callable[..., Path]) -> None:
    pugc("ingest", posts("a"))
    pugc("run", "--recipe", "scripted", "--to", "quality")
    finished.forget("scripted")  # a run with nothing to do needs no history
    history = project / ".dagster" / "storage" / "history"
    sound = project / "sound"
    shutil.copytree(project / ".dagster", sound)

    def emptied(path: Path) -> None:
        path.write_bytes(b"")

    def garbage(path: Path) -> None:
        path.write_bytes(b"no database" * 900)

    def half(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def folder(path: Path) -> None:
        path.unlink()
        path.mkdir()

    def file(path: Path) -> None:
        shutil.rmtree(path)
        path.write_text("")

    cases = [
        (garbage, history / "runs.db"),
        (half, history / "runs.db"),
        (folder, history / "runs.db"),
        (garbage, history / "runs" / "index.db"),
        (emptied, history / "runs" / "index.db"),
        (garbage, project / ".dagster" / "storage" / "schedules" / "schedules.db"),
        (file, project / ".dagster" / "storage"),
        (file, project / ".dagster"),
    ]
    for harm, path in cases:
        harm(path)
        said = pugc("run", "--recipe", "scripted", "--to", "quality", code=1).output
        assert f"Dagster's history in {project}/.dagster cannot be used" in said, (harm, path)
        assert f"mv {project}/.dagster {project}/.dagster.broken" in said
        (project / ".dagster").rename(project / ".dagster.broken")  # as told
        if path == cases[-1][1]:  # and it goes on, with what there is
            status = json.loads(pugc("run", "--recipe", "scripted", "--to", "quality", "--json").stdout)
            assert status["roles"]["quality_judge"]["made"] == 0
            assert status["stages"]["quality"]["kept"] > 0
            break
        shutil.rmtree(project / ".dagster.broken")
        shutil.copytree(sound, project / ".dagster")


def test_other_trouble_with_the_history_has_other_remedies(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {
        "attempt to write a readonly database": "chown",
        "database is locked": "try again",
        "database or disk is full": "free disk space",
    }
    for words, fix in cases.items():

        def fails(found: object, words: str = words) -> None:
            raise OperationalError("INSERT", {}, sqlite3.OperationalError(words))

        monkeypatch.setattr(history, "end_dead_runs", fails)
        said = pugc("run", "--recipe", "scripted", "--to", "ugc", code=1).output
        assert words in said
        assert fix in said


def test_files_of_no_use_keep_no_other_out(project: Path, posts: Callable[..., Path]) -> None:
    bad, twin = project / "bad.parquet", project / "a.csv"
    bad.write_bytes(b"PAR1 half a file")
    twin.write_text("text\nhello\n")
    files = [posts("a"), bad, project / "nothere.jsonl", twin, posts("z")]
    took = pugc("ingest", *files, "--replace", "--json", code=1)
    assert list(json.loads(took.stdout)) == ["a", "z"]
    assert sorted(p.name for p in (project / "data" / "inbox").iterdir()) == ["a.jsonl", "z.jsonl"]
    for said in ("bad.parquet is damaged", "nothere.jsonl", "would both be shard a"):
        assert said in took.stderr
    assert took.stderr.count("fix: ") == 3
    with history.opened(project) as instance:
        assert set(instance.get_dynamic_partitions("ugc_shards")) == {"a", "z"}
