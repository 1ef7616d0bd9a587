"""Sensors, schedules and jobs, without a daemon: ticks are made by hand, and so is the clock."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from pugc_core.errors import EngineError, PugcError
from pugc_core.plan import Chain
from pugc_core.recipe import Recipe, load
from pugc_core.results import call_log
from pugc_core.stages.quality import Quality
from pugc_core.tables.workspace import Workspace
from pugc_dagster import definitions
from pugc_dagster.partitions import partitions_name, stretches
from pugc_dagster.project import data_root, recipe_folders
from pugc_dagster.resources import WorkspaceResource
from pugc_dagster.runs import execute
from pugc_dagster.web import automation, outdated

START, END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def chain() -> Chain:
    return Chain(recipe(), execute.workspace())


def recipe() -> Recipe:
    return load("scripted", recipe_folders())


class Ticks:
    """A sensor's ticks, one after another: each is given the cursor of the one before."""

    def __init__(self, sensor: dg.SensorDefinition, instance: dg.DagsterInstance) -> None:
        self.sensor, self.instance = sensor, instance
        self.cursor: str | None = None

    def __call__(self) -> dg.SensorResult:
        context = dg.build_sensor_context(
            self.instance,
            cursor=self.cursor,
            resources={"workspace": WorkspaceResource()},
            definitions=definitions.of([Chain(recipe(), Workspace(data_root()))]),
        )
        result: Any = self.sensor(context)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        for request in result.dynamic_partitions_requests or ():
            if isinstance(request, dg.AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
            else:
                for key in request.partition_keys:
                    self.instance.delete_dynamic_partition(request.partitions_def_name, key)
        return result

    def partitions(self) -> set[str]:
        return set(self.instance.get_dynamic_partitions(partitions_name()))


@pytest.fixture
def inbox(project: Path) -> Path:
    folder = project / "data" / "inbox"
    folder.mkdir(parents=True)
    return folder


def shards_of(result: dg.SensorResult, known: list[str]) -> list[list[str]]:
    found = []
    for request in result.run_requests or ():
        first, last = known.index(request.tags[START]), known.index(request.tags[END])
        found.append(known[first : last + 1])
    return found


def launch(instance: dg.DagsterInstance, result: dg.SensorResult) -> bool:
    """Do what the daemon does with run requests; whether all runs succeeded."""
    defs = definitions.of([Chain(recipe(), Workspace(data_root()))])
    job = defs.resolve_job_def("scripted_pairs")
    done = [
        job.execute_in_process(instance=instance, tags=dict(r.tags), raise_on_error=False).success
        for r in result.run_requests or ()
    ]
    return all(done)


def test_a_file_becomes_a_partition_once_it_is_whole(inbox: Path, posts: Callable[..., Path]) -> None:
    with execute.instance() as instance:
        tick = Ticks(automation.inbox, instance)
        tick()
        content = posts("a").read_bytes()
        (inbox / "a.jsonl").write_bytes(content[:100])
        tick()
        assert tick.partitions() == set()
        (inbox / "a.jsonl").write_bytes(content)
        tick()
        assert tick.partitions() == set()
        tick()
        assert tick.partitions() == {"a"}
        # A clock that jumps back changes nothing: no clock is asked.
        (inbox / "b.jsonl").write_bytes(posts("b").read_bytes())
        os.utime(inbox / "b.jsonl", (0, 0))
        tick()
        tick()
        assert tick.partitions() == {"a", "b"}
        assert tick().dynamic_partitions_requests == []


def test_a_file_that_is_gone_is_retired_but_not_a_whole_inbox(inbox: Path, posts: Callable[..., Path]) -> None:
    with execute.instance() as instance:
        tick = Ticks(automation.inbox, instance)
        for name in ("a", "b"):
            (inbox / f"{name}.jsonl").write_bytes(posts(name).read_bytes())
        tick()
        tick()
        (inbox / "a.jsonl").unlink()
        tick()
        assert tick.partitions() == {"b"}
        inbox.rename(inbox.with_name("unmounted"))
        tick()
        assert tick.partitions() == {"b"}


def test_names_that_cannot_be_partitions_are_said_and_passed_over(inbox: Path, posts: Callable[..., Path]) -> None:
    (inbox / "two words...jsonl").write_bytes(posts("x").read_bytes())
    (inbox / "fine.jsonl").write_bytes(posts("fine").read_bytes())
    with execute.instance() as instance:
        tick = Ticks(automation.inbox, instance)
        tick()
        result = tick()
        assert tick.partitions() == {"fine"}
        words = tick().skip_reason
        assert result.run_requests == []
        assert words is not None
        assert "two words...jsonl" in str(words.skip_message)


def test_two_hundred_files_are_a_handful_of_runs(inbox: Path, posts: Callable[..., Path]) -> None:
    content = posts("a", 1).read_bytes()
    for number in range(200):
        (inbox / f"f{number:03d}.jsonl").write_bytes(content.replace(b"Post 0", f"Post {number}".encode()))
    with execute.instance() as instance:
        seen, tick = (
            Ticks(automation.inbox, instance),
            Ticks(automation.new_content(chain())[1], instance),
        )
        first = seen()
        assert first.run_requests == []
        assert len(seen().dynamic_partitions_requests or ()) == 1
        assert tick().run_requests == []  # looked at once more
        found = shards_of(tick(), list(instance.get_dynamic_partitions(partitions_name())))
        assert [len(batch) for batch in found] == [64, 64, 64, 8]
        assert sorted(shard for batch in found for shard in batch) == sorted(seen.partitions())


def test_new_changed_and_broken_shards_run_down_to_pairs(inbox: Path, posts: Callable[..., Path]) -> None:
    store = Workspace(str(inbox.parent)).store
    with execute.instance() as instance:
        seen, tick = (
            Ticks(automation.inbox, instance),
            Ticks(automation.new_content(chain())[1], instance),
        )

        def settle() -> dg.SensorResult:
            seen(), seen(), tick()
            return tick()

        for name in ("a", "b"):
            (inbox / f"{name}.jsonl").write_bytes(posts(name).read_bytes())
        (inbox / "broken.parquet").write_bytes(b"PAR1 half a file")
        assert launch(instance, settle())  # the broken one is empty and says why; the others go on in the same run
        assert store.shards("scripted", "pairs") == ["a", "b", "broken"]
        assert all(store.read("scripted", "pairs", shard).height for shard in ("a", "b"))
        footer = store.footer("scripted", "ugc", "broken")
        assert footer is not None
        assert "broken.parquet" in footer.failed
        result = settle()
        assert result.run_requests == []  # it is not tried again until its file changes
        assert "every shard has its pairs" in str(result.skip_reason)

        before = {stage: store.footer("scripted", stage, "b") for stage in ("ugc", "pairs")}
        (inbox / "a.jsonl").write_bytes(posts("a", 9).read_bytes())
        result = settle()
        assert shards_of(result, ["a", "b", "broken"]) == [["a"]]
        assert launch(instance, result)
        assert {stage: store.footer("scripted", stage, "b") for stage in ("ugc", "pairs")} == before
        (inbox / "broken.parquet").unlink()
        assert settle().run_requests == []

        # What is out of date for another reason than new content is not run by itself: it costs money.
        file = inbox.parent.parent / "recipes" / "scripted.toml"
        file.write_text(file.read_text() + "[rewards]\nn = 4\n")
        tick.sensor = automation.new_content(chain())[1]
        assert settle().run_requests == []


def test_a_shard_that_failed_after_its_posts_were_read_is_tried_once_more(
    inbox: Path, posts: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (inbox / f"{name}.jsonl").write_bytes(posts(name).read_bytes())
    (inbox / "broken.parquet").write_bytes(b"PAR1 half a file")
    honest = Quality.build

    def broken(self, shard, inputs):  # type: ignore[no-untyped-def]
        frame = yield from honest(self, shard, inputs)
        return frame.vstack(frame) if shard == "a" else frame

    with execute.instance() as instance:
        with monkeypatch.context() as patch:
            patch.setattr(Quality, "build", broken)
            with contextlib.suppress(PugcError):
                execute.run(instance, chain(), to="pairs")
        new = automation.new_shards(chain())
        assert {shard: state.split()[1] for shard, state in new.items()} == {"a": "quality"}
        seen, tick = (
            Ticks(automation.inbox, instance),
            Ticks(automation.new_content(chain())[1], instance),
        )
        seen(), seen(), tick()
        assert launch(instance, tick())
        assert automation.new_shards(chain()) == {}


def test_a_partial_run_of_a_changed_recipe_is_no_new_content(inbox: Path, posts: Callable[..., Path]) -> None:
    (inbox / "a.jsonl").write_bytes(posts("a", 20).read_bytes())
    file = inbox.parent.parent / "recipes" / "scripted.toml"
    with execute.instance() as instance:
        execute.run(instance, chain(), to="pairs")
        assert automation.new_shards(chain()) == {}
        file.write_text(file.read_text() + "[responses]\nk = 3\n")
        execute.run(instance, chain(), to="responses")
        assert automation.new_shards(chain()) == {}
        # A file that changes while the recipe is out of date is new all the same.
        (inbox / "a.jsonl").write_bytes(posts("a", 21).read_bytes())
        assert set(automation.new_shards(chain())) == {"a"}


@pytest.mark.parametrize(
    ("wanted", "most", "bridges", "expected"),
    [
        ("abc", 0, "", ["abc"]),
        ("acd", 0, "", ["a", "cd"]),
        ("acd", 0, "b", ["abcd"]),
        ("ad", 0, "b", ["a", "d"]),
        ("ab", 0, "cdef", ["ab"]),
        ("abcdef", 4, "", ["abcd", "ef"]),
        ("", 0, "abc", []),
    ],
)
def test_stretches(wanted: str, most: int, bridges: str, expected: list[str]) -> None:
    assert ["".join(s) for s in stretches("abcdef", wanted, most, bridges)] == expected


def test_a_tick_that_is_repeated_starts_nothing_twice(inbox: Path, posts: Callable[..., Path]) -> None:
    (inbox / "a.jsonl").write_bytes(posts("a").read_bytes())
    with execute.instance() as instance:
        seen, tick = (
            Ticks(automation.inbox, instance),
            Ticks(automation.new_content(chain())[1], instance),
        )
        seen(), seen(), tick()
        cursor = tick.cursor
        first = tick()
        tick.cursor = cursor  # the daemon died before it could write the cursor down
        second = tick()
        assert [r.run_key for r in first.run_requests or ()] == [r.run_key for r in second.run_requests or ()] != []


def night(when: datetime, instance: dg.DagsterInstance) -> Any:
    schedule = automation.nightly(chain())[1]
    context = dg.build_schedule_context(instance, when, resources={"workspace": WorkspaceResource()})
    return schedule(context)


def test_the_night_trains_when_enough_new_pairs_have_come(inbox: Path, posts: Callable[..., Path]) -> None:
    file = inbox.parent.parent / "recipes" / "scripted.toml"
    file.write_text(file.read_text() + "[automation]\nmin_new_pairs = 3\n")
    when = datetime(2026, 5, 1, 3, tzinfo=UTC)
    with execute.instance() as instance:
        assert isinstance(night(when, instance), dg.SkipReason)
        (inbox / "a.jsonl").write_bytes(posts("a", 20).read_bytes())
        execute.run(instance, chain(), to="pairs")
        asked, again = night(when, instance), night(when, instance)
        assert isinstance(asked, dg.RunRequest)
        assert asked.run_key == again.run_key  # fired twice, it starts one run
        assert night(datetime(2026, 5, 2, 3, tzinfo=UTC), instance).run_key != asked.run_key
        assert automation.new_pairs(chain()) >= 3


def test_the_check_says_what_is_out_of_date_without_a_run(inbox: Path, posts: Callable[..., Path]) -> None:
    for name in ("a", "b"):
        (inbox / f"{name}.jsonl").write_bytes(posts(name).read_bytes())
    with execute.instance() as instance:
        execute.run(instance, chain(), to="dataset")
        tick = Ticks(outdated.staleness_sensor([chain()]), instance)
        assert all(event.passed for event in tick().asset_events)  # type: ignore[union-attr]
        assert tick().asset_events == []  # nothing new to say
        file = inbox.parent.parent / "recipes" / "scripted.toml"
        (file.parent / "judge.txt").write_text("{ugc} {instruction} {response} [RESULT] 1 to 5")
        file.write_text(file.read_text() + '[rewards]\nprompt = "judge.txt"\n')
        tick.sensor = outdated.staleness_sensor([chain()])
        said = {event.asset_key.path[-1]: event for event in tick().asset_events}  # type: ignore[union-attr]
        assert set(said) == {"rewards", "pairs", "dataset"}
        assert not any(event.passed for event in said.values())  # type: ignore[union-attr]
        words = "2 of 2 shards out of date: the rewards prompt changed"
        assert said["rewards"].description == said["pairs"].description == words
        shown = said["rewards"].metadata
        assert shown["names"].value == "a, b"
        assert shown["why"].value == ["a: the rewards prompt changed", "b: the rewards prompt changed"]
        assert "names" not in said["dataset"].metadata


def test_the_job_refresh_asks_the_judge_and_nobody_else(inbox: Path, posts: Callable[..., Path]) -> None:
    for name in ("a", "b", "c"):
        (inbox / f"{name}.jsonl").write_bytes(posts(name, 12).read_bytes())
    file = inbox.parent.parent / "recipes" / "scripted.toml"
    plain = file.read_text()

    def refresh(instance: dg.DagsterInstance) -> dict[str, int]:
        defs = definitions.of(definitions.chains())
        assert defs.resolve_job_def("scripted_refresh").execute_in_process(instance=instance).success
        page = call_log.last(execute.workspace().calls("scripted"))["stages"]
        return {stage: counts["made"] for stage, counts in page.items()}

    with execute.instance() as instance:
        execute.run(instance, chain(), to="dataset")
        first = call_log.last(execute.workspace().calls("scripted"))["stages"]["rewards"]["made"]
        (file.parent / "judge.txt").write_text("{ugc} {instruction} {response} [RESULT] 1 to 5")
        file.write_text(plain + '[rewards]\nprompt = "judge.txt"\n')
        made = refresh(instance)
        assert set(made) == {"rewards", "pairs", "dataset"}  # nothing upstream was even looked at
        assert made.pop("rewards") >= 0.9 * first
        assert set(made.values()) == {0}
        shown = instance.get_latest_materialization_event(dg.AssetKey(["scripted", "pairs"]))
        assert shown is not None
        assert shown.asset_materialization is not None
        assert "pairs flipped" in str(shown.asset_materialization.metadata["change"].value)
        file.write_text(plain)
        assert set(refresh(instance).values()) == {0}
        file.write_text(plain)
        before = instance.get_runs_count()
        refresh(instance)
        assert instance.get_runs_count() == before + 1  # itself: there was nothing to do


class Judge(http.server.BaseHTTPRequestHandler):
    """A model server that gives `left` answers and then is gone."""

    left = 0
    asked = 0

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if type(self).left <= 0:
            self.connection.close()
            return
        type(self).left -= 1
        type(self).asked += request.get("n", 1)
        message = {"role": "assistant", "content": f"Fine. [RESULT] {1 + len(str(request)) % 5}"}
        choices = [{"index": i, "finish_reason": "stop", "message": message} for i in range(request.get("n", 1))]
        body = json.dumps({"choices": choices, "usage": {"prompt_tokens": 9, "completion_tokens": 5}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: Any) -> None: ...


@pytest.mark.slow
def test_refresh_goes_on_where_an_endpoint_left_off(inbox: Path, posts: Callable[..., Path]) -> None:
    """The judge's server goes away in the middle: done shards stay done, and refresh asks for the rest alone."""
    for name in ("a", "b", "c", "d"):
        (inbox / f"{name}.jsonl").write_bytes(posts(name, 10).read_bytes())
    file = inbox.parent.parent / "recipes" / "scripted.toml"
    plain = file.read_text()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge) as server, execute.instance() as instance:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        execute.run(instance, chain(), to="pairs")
        responses = sum(f.kept for f in execute.workspace().store.footers("scripted", "responses").values())
        file.write_text(
            f'{plain}[models.judge]\nid = "judge"\nengine = "endpoint"\n'
            f'base_urls = ["http://127.0.0.1:{server.server_port}/v1"]\noptions = {{ max_retries = 1 }}\n'
            '[roles]\nreward_judge = "judge"\n'
        )
        Judge.left, Judge.asked = responses // 2, 0
        with pytest.raises(EngineError):
            execute.refresh(instance, chain())
        before = Judge.asked
        assert before > 0
        Judge.left = 10**6
        execute.refresh(instance, chain())
        server.shutdown()
        made = call_log.last(execute.workspace().calls("scripted"))["stages"]
        assert set(made) <= {"rewards", "pairs"}
        # What was answered before the server went away is not asked again, but for what was on the wire.
        assert made["rewards"]["made"] <= 8 * responses - before + 8 * 4
        found = execute.workspace().store.footers("scripted", "rewards")
        assert sum(f.rows_in for f in found.values()) == responses


def test_a_broken_recipe_is_shown_with_its_error(project: Path) -> None:
    (project / "recipes" / "mine.toml").write_text('extends = "tiny"\n[rewards]\nprompt = "judge.txt"\n')
    (project / "recipes" / "judge.txt").write_text("Rate {response} to {instruction}. [RESULT] 1 to 5\n")
    graph = definitions.defs().resolve_asset_graph()
    notice = graph.get(dg.AssetKey(["mine", "cannot_be_loaded"]))
    assert "{ugc}" in str(notice.description)
    assert dg.AssetKey(["tiny", "ugc"]) in graph.get_all_asset_keys()


def test_a_timezone_that_is_none_is_refused_with_the_recipe(project: Path) -> None:
    (project / "recipes" / "mine.toml").write_text('extends = "tiny"\n[automation]\ntimezone = "Mars/Olympus"\n')
    graph = definitions.defs().resolve_asset_graph()
    assert "Mars/Olympus" in str(graph.get(dg.AssetKey(["mine", "cannot_be_loaded"])).description)
    assert dg.AssetKey(["tiny", "ugc"]) in graph.get_all_asset_keys()


def test_a_bad_cron_expression_is_refused_with_the_recipe(project: Path) -> None:
    (project / "recipes" / "mine.toml").write_text('extends = "tiny"\n[automation]\nnightly = "at three"\n')
    graph = definitions.defs().resolve_asset_graph()
    assert "at three" in str(graph.get(dg.AssetKey(["mine", "cannot_be_loaded"])).description)


def test_everything_loads_together(project: Path) -> None:
    """Names of jobs, ops, sensors and schedules must not meet."""
    found = definitions.defs()
    dg.Definitions.validate_loadable(found)
    names = {job.name for job in found.resolve_all_job_defs()}
    assert {"scripted_refresh", "scripted_mark_stale", "tiny_pairs", "tiny_train", "scripted_pairs"} <= names
