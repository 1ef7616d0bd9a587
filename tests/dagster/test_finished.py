"""A run with nothing to do: it imports no Dagster, and nothing that is left to do is ever taken for done."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pugc_core.plan import Chain
from pugc_core.recipe import Recipe, load
from pugc_core.stages.records import ALL
from pugc_core.tables.workspace import Workspace
from pugc_core.training import lineage
from pugc_core.training.summary import Summary
from pugc_dagster import cli
from pugc_dagster.project import data_root, recipe_folders
from pugc_dagster.runs import execute, finished
from pugc_dagster.terminal import console

SUMMARY = Summary(
    objective="dpo",
    steps=1,
    n_train=1,
    n_test=0,
    dropped_too_long=0,
    dropped={},
    pairs_trained=1,
    tokens_per_epoch=1,
    seconds=1.0,
    resumed_at=0,
    devices=1,
    tokens_per_second=1.0,
    final={"loss": 0.2, "margin": 1.5, "accuracy": 1.0},
    curve=[{"step": 1, "loss": 0.69, "margin": 0.0, "accuracy": 0.5, "rows": 8}],
    device="cpu",
    precision="fp32",
    notes=[],
)
SLOW = {"dagster", "sqlalchemy", "grpc", "matplotlib", "jinja2", "torch", "transformers", "trl", "vllm"}
REALLY_RUN = execute.run
PROMPT = "Rate {response} to {instruction}, given {ugc}. End with [RESULT] and 1 to 5.\n"


def recipe() -> Recipe:
    return load("scripted", recipe_folders())


def workspace() -> Workspace:
    return Workspace(data_root())


def pugc(*words: object) -> Result:
    result = CliRunner().invoke(cli.main, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def train_by_hand() -> None:
    """Policies as a training leaves them; a scripted model cannot be trained."""
    footer = workspace().store.footer("scripted", "dataset", ALL)
    assert footer is not None
    for objective in recipe().training.objectives:
        folder = Path(workspace().policy("scripted", objective))
        folder.mkdir(parents=True, exist_ok=True)
        lineage.record(str(folder), lineage.wanted(recipe(), objective, footer.content), dict(footer.inputs))
        (folder / "training.json").write_text(json.dumps(asdict(replace(SUMMARY, objective=objective))))
        (folder / "samples.json").write_text('{"samples": []}')


@pytest.fixture
def whole(begun: Callable[..., Path], posts: Callable[..., Path]) -> Path:
    """A project of the shards a and b in which a run of everything has ended."""

    def make() -> None:
        own = Path("recipes/scripted.toml")
        own.write_text(own.read_text() + '[rewards]\nprompt = "judge.txt"\n')
        Path("recipes/judge.txt").write_text(PROMPT)
        assert pugc("ingest", posts("a"), posts("b")).exit_code == 0
        assert pugc("run", "--recipe", "scripted", "--to", "dataset").exit_code == 0
        train_by_hand()
        assert pugc("run", "--recipe", "scripted").exit_code == 0

    project = begun("whole", make)
    finished.note(Chain(recipe(), workspace()), workspace().shards(), None)  # of the files as they were copied
    return project


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The recipes that Dagster was to run; none is."""
    asked: list[str] = []
    monkeypatch.setattr(execute, "run", lambda _instance, recipe, *_: asked.append(recipe.name))
    return asked


def imported(*words: str) -> set[str]:
    """The packages that a command imports, of those that take their time."""
    code = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print('imported', *({SLOW!r} & set(sys.modules)), file=sys.stderr))\n"
        "from pugc_dagster.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split()[1:])


def test_commands_that_run_nothing_import_no_dagster(whole: Path) -> None:
    before = (whole / "data" / "reports" / "scripted.html").stat().st_mtime_ns
    for words in (("run",), ("status",), ("stale",), ("doctor",)):
        assert imported(*words, "--recipe", "scripted") == set(), words
    assert imported("--help") == set()
    assert (whole / "data" / "reports" / "scripted.html").stat().st_mtime_ns == before
    (whole / "data" / "reports" / "scripted.html").unlink()
    assert "dagster" in imported("run", "--recipe", "scripted")  # and the test can tell
    assert (whole / "data" / "reports" / "scripted.html").is_file()
    assert imported("run", "--recipe", "scripted") == set()


def test_it_says_what_a_run_of_everything_says(whole: Path, ran: list[str]) -> None:
    run = pugc("run", "--recipe", "scripted")
    assert "no model was asked in the last run: every table was there and up to date" in run.output
    assert ran == []
    quick = json.loads(pugc("status", "--recipe", "scripted", "--json").stdout)
    finished.forget("scripted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "run", REALLY_RUN)
        assert pugc("run", "--recipe", "scripted").exit_code == 0
    full = json.loads(pugc("status", "--recipe", "scripted", "--json").stdout)
    for status in (quick, full):
        for calls in status["roles"].values():
            calls.pop("seconds")
    assert quick == full


class Harm:
    """What may happen to a project, by name; the first ones are such that staleness alone tells."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stale: dict[str, Callable[[], object]] = {
            "a prompt's text": self.added("recipes/judge.txt", "Be fair.\n"),
            "sampling": self.added("recipes/scripted.toml", "[instructions.sampling]\ntemperature = 0.6\n"),
            "one more policy": self.added(
                "recipes/scripted.toml", '[training]\nobjectives = ["dpo", "simpo", "ipo"]\n'
            ),
            "a new shard": lambda: (root / "data/inbox/c.jsonl").write_text('{"text": "a post"}\n'),
            "a changed file": self.added("data/inbox/a.jsonl", '{"text": "one more post"}\n'),
            "a retired file": self.gone("data/inbox/a.jsonl"),
            "a table gone": self.gone("data/tables/scripted/responses/a.parquet"),
            "a table cut short": self.cut("data/tables/scripted/responses/a.parquet"),
            "the pairs gone": self.gone("data/tables/scripted/pairs"),
            "the dataset gone": self.gone("data/tables/scripted/dataset/_all.parquet"),
            "a policy gone": self.gone("data/policies/scripted/dpo"),
            "a policy without its lineage": self.gone("data/policies/scripted/simpo/lineage.json"),
            "a policy without samples": self.gone("data/policies/scripted/simpo/samples.json"),
        }
        self.other: dict[str, Callable[[], object]] = {
            "a table's rows": self.flipped("data/tables/scripted/responses/a.parquet"),
            "a check": self.added("recipes/scripted.toml", "[checks]\nmin_parse_rate = 0.4\n"),
            "a file of the dataset": self.gone("data/datasets/scripted/unpaired/train.parquet"),
            "the dataset's card": self.added("data/datasets/scripted/README.md", "mine\n"),
            "the report gone": self.gone("data/reports/scripted.html"),
            "Dagster's history put aside": self.gone(".dagster"),
            "a damaged note": lambda: (root / ".dagster/finished/scripted.json").write_text('{"shards": 1'),
        }

    def added(self, file: str, words: str) -> Callable[[], object]:
        return lambda: (self.root / file).write_text((self.root / file).read_text() + words)

    def gone(self, path: str) -> Callable[[], object]:
        place = self.root / path
        return lambda: shutil.rmtree(place) if place.is_dir() else place.unlink()

    def cut(self, file: str) -> Callable[[], object]:
        return lambda: (self.root / file).write_bytes((self.root / file).read_bytes()[:-9])

    def flipped(self, file: str) -> Callable[[], object]:
        def flip() -> None:
            content = bytearray((self.root / file).read_bytes())
            content[20] ^= 255
            (self.root / file).write_bytes(content)

        return flip


def test_whatever_is_left_to_do_is_run(whole: Path, ran: list[str], tmp_path: Path) -> None:
    kept, missed = tmp_path / "kept", []
    shutil.copytree(whole, kept)
    for name, harm in {**Harm(whole).stale, **Harm(whole).other}.items():
        renew(whole, kept)
        ran.clear()
        pugc("run", "--recipe", "scripted")
        assert ran == [], f"before {name}"
        harm()
        pugc("run", "--recipe", "scripted")
        missed += [name] if ran != ["scripted"] else []
    assert missed == []


def test_staleness_has_the_last_word(whole: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also where every file looked as it did."""
    kept = tmp_path / "kept"
    shutil.copytree(whole, kept)
    monkeypatch.setattr(finished, "_state", lambda *_: "as it was")
    taken = []
    for name, harm in Harm(whole).stale.items():
        renew(whole, kept)
        assert finished.covers(Chain(recipe(), workspace()))
        harm()
        # A retired file leaves fewer shards to ask for, which are current; the data set is not.
        taken += [name] if finished.covers(Chain(recipe(), workspace())) else []
    assert taken == []


def renew(project: Path, kept: Path) -> None:
    shutil.rmtree(project)
    shutil.copytree(kept, project)
    finished.note(Chain(recipe(), workspace()), workspace().shards(), None)


def test_another_program_goes_through_everything(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert finished.covers(Chain(recipe(), workspace()))
    monkeypatch.setattr(finished, "_program", list)
    assert not finished.covers(Chain(recipe(), workspace()))


def test_a_run_covers_what_it_went_through_and_no_more(whole: Path) -> None:
    def covered(*asked: tuple[tuple[str, ...], str | None]) -> list[bool]:
        return [finished.covers(Chain(recipe(), workspace()), shards, to) for shards, to in asked]

    every, some = ((), None), (("a",), "quality")
    assert covered(every, some, ((), "policy"), (("a", "b"), None)) == [True] * 4
    assert covered((("c",), None), ((), "rewrads")) == [False] * 2
    finished.note(Chain(recipe(), workspace()), ["a"], "rewards")
    assert covered(some, (("a",), "rewards")) == [True] * 2
    assert covered(every, ((), "quality"), (("a",), "pairs"), (("b",), "quality")) == [False] * 4


def test_a_run_that_did_not_end_well_is_made_again(project: Path, posts: Callable[..., Path]) -> None:
    pugc("ingest", posts("a"))
    (project / "data" / "inbox" / "bad.parquet").write_bytes(b"PAR1 half a file")
    for _ in range(2):  # a shard that failed is tried again, and told
        assert "1 of 2 shards could not be made (bad)" in pugc("run", "--recipe", "scripted", "--to", "ugc").output
        assert not finished.covers(Chain(recipe(), workspace()), to="ugc")
    pugc("run", "--recipe", "scripted", "--to", "ugc", "--shard", "a")
    assert finished.covers(Chain(recipe(), workspace()), ["a"], "ugc")


def test_a_check_that_stops_a_run_stops_it_again(whole: Path) -> None:
    own = whole / "recipes" / "scripted.toml"
    own.write_text(own.read_text() + "[checks]\nmin_parse_rate = 1.0\n")
    for _ in range(2):
        ended = pugc("run", "--recipe", "scripted", "--to", "rewards")
        assert ended.exit_code == 1
        assert "of the answers parsed, fewer than 100%" in ended.output


def test_shards_marked_in_the_web_ui_lose_their_mark(whole: Path) -> None:
    from pugc_dagster import definitions

    prompt = whole / "recipes" / "judge.txt"
    prompt.write_text(PROMPT + "Be fair.\n")
    with execute.instance() as instance:
        job: Any = definitions.defs().resolve_job_def("scripted_mark_stale")
        assert not job.execute_in_process(instance=instance, raise_on_error=False).success
    prompt.write_text(PROMPT)
    assert not finished.covers(Chain(recipe(), workspace()))


def test_the_demo_again_runs_nothing(
    whole: Path, posts: Callable[..., Path], ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "samples", lambda: [posts("a"), posts("b")])
    monkeypatch.setattr(cli, "_load", lambda *_, **__: Chain(recipe(), workspace()))
    assert pugc("demo").exit_code == 0
    assert ran == []
    (whole / "data" / "inbox" / "a.jsonl").unlink()
    pugc("demo")
    assert ran == ["scripted"]
