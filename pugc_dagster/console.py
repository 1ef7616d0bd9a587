"""What the terminal shows: progress bars, the summary of a recipe, a pair with all behind it."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import click
import polars as pl
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pugc_core import exports, progress, provenance, runs, storage, summary
from pugc_core.errors import RecipeError, StorageError
from pugc_core.measures import cut_off_share
from pugc_core.models import Price
from pugc_core.recipe import ROLES, Recipe
from pugc_core.records import TABLES
from pugc_core.staleness import Survey, reasons, survey
from pugc_core.workspace import Workspace
from pugc_dagster.terminal import echo, plain

_WIDE = 100
"""Columns where the output goes to a file or a pipe, which have none of their own."""
_LISTED = 20
"""Failed shards that are printed."""
_out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)


def samples() -> list[Path]:
    """The bundled sample shards."""
    folder = Path(str(resources.files("pugc_core"))) / "sample"
    return sorted(folder.glob("*.jsonl"))


@contextmanager
def bars(enabled: bool = True) -> Iterator[None]:
    """A bar per stage while the block runs; on a pipe, a line when a stage has ended."""
    if not enabled:
        yield
        return
    if not sys.stderr.isatty():
        with progress.listen(_line, lambda sentence: echo(sentence, err=True)):
            yield
        return
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as display:
        tasks: dict[str, TaskID] = {}

        def show(state: progress.Progress) -> None:
            if state.work not in tasks:
                tasks[state.work] = display.add_task(state.work, note="")
            display.update(tasks[state.work], completed=state.done, total=state.total, note=state.note)

        with progress.listen(show, lambda sentence: display.console.print(Text(plain(sentence)))):
            yield


def _line(state: progress.Progress) -> None:
    if state.done == state.total:
        echo(f"{state.work}: {state.total:,}{f' ({state.note})' if state.note else ''}", err=True)


def status(recipe: Recipe, workspace: Workspace, *, as_json: bool, example: bool = False) -> None:
    """Print the recipe's funnel, calls, rewards, what is out of date, an example pair, and where things are."""
    content = _status(recipe, workspace)
    if as_json:
        click.echo(json.dumps(content, indent=2))
        return
    if not content["stages"]:
        _out.print(f"recipe [bold]{recipe.name}[/] has no tables yet; run: pugc run --recipe {recipe.name}")
        return
    _out.print(_funnel_table(recipe, content["stages"]))
    if any(calls["made"] or calls["from_ledger"] or calls["refused"] for calls in content["roles"].values()):
        _out.print(_calls_table(content["roles"]))
    elif content["roles"]:
        why = "" if content["out_of_date"] else ": every table was there and up to date"
        _out.print(f"no model was asked in the last run{why}")
    if content["cut_off"]:
        _out.print(f"{content['cut_off']:.1%} of the responses were cut off by max_tokens ({recipe.responses.cut_off})")
    _print_rewards(content["rewards"])
    for line in content["out_of_date"]:
        _out.print(plain(line), markup=False)
    _print_failed(content["failed"])
    widest = summary.example(workspace.store, recipe.name) if example else None
    if widest:
        try:
            pair(recipe, workspace, widest, as_json=False)
        except StorageError as err:
            _out.print(plain(f"\nno example: {err.problem}"), markup=False)
    _out.print()
    for name, path in content["paths"].items():
        _out.print(plain(f"{name:<12} {path}"), soft_wrap=True, markup=False)
    _out.print(f"{'web UI':<12} make ui   (then open http://localhost:3000)")


def _status(recipe: Recipe, workspace: Workspace) -> dict[str, Any]:
    store = workspace.store
    inbox = workspace.shards()
    shards = [shard for shard in store.shards(recipe.name, "ugc") if shard in inbox]
    shape = summary.reward_shape(summary.measured(store, recipe.name, "rewards", shards))
    last = runs.last(workspace.calls(recipe.name))
    paths = {
        "tables": store.path(recipe.name, "*", "*"),
        "dataset": workspace.dataset(recipe.name),
        **{f"policy {o}": workspace.policy(recipe.name, o) for o in recipe.training.objectives},
        "report": workspace.report(recipe.name),
    }
    found = survey(recipe, recipe.stages(workspace.source), workspace)
    return {
        "recipe": recipe.name,
        "shards": len(shards),
        "stages": {stage: c._asdict() for stage, c in summary.funnel(store, recipe.name, shards).items()},
        "roles": _by_role(recipe, last.get("stages", {})),
        "cut_off": cut_off_share(summary.measured(store, recipe.name, "responses", shards)),
        "rewards": dataclasses.asdict(shape) if shape else None,
        "out_of_date": _out_of_date(recipe, found),
        "failed": {stage: dict(whys) for stage, whys in found.failed.items()},
        "paths": {name: path for name, path in paths.items() if name == "tables" or storage.exists(path)},
    }


def _out_of_date(recipe: Recipe, found: Survey) -> list[str]:
    """A sentence on what a run would make, and one on what a refresh would make again."""
    lines = []
    waiting = sorted({shard for stage in summary.SHARDED for shard in found.missing(stage) if found.made[stage]})
    if waiting:
        shown = ", ".join(waiting[:5]) + (" ..." if len(waiting) > 5 else "")
        lines.append(f"{len(waiting)} shards have tables missing ({shown}): pugc run --recipe {recipe.name}")
    if unmade := [stage for stage in found.stages if found.total[stage] and not found.made[stage]]:
        lines.append(f"not made yet: {', '.join(unmade)}: pugc run --recipe {recipe.name}")
    if stages := [stage for stage in found.stages if found.outdated(stage)]:
        lines.append(f"{stages[0]} {found.sentence(stages[0])}: pugc stale, pugc refresh --recipe {recipe.name}")
    return lines


def _print_failed(failed: Mapping[str, Mapping[str, str]]) -> None:
    """The shards that could not be made, with the reason and the fix."""
    for stage, whys in failed.items():
        shards = f"{len(whys)} shard has" if len(whys) == 1 else f"{len(whys)} shards have"
        _out.print(f"{shards} no usable {stage}; the others go on:", style="red")
        for shard, why in list(whys.items())[:_LISTED]:
            _out.print(plain(f"  {shard}: {why}"), soft_wrap=True, markup=False)
        if len(whys) > _LISTED:
            _out.print(f"  and {len(whys) - _LISTED} more; --json lists them all")


def _by_role(recipe: Recipe, stages: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Calls by role; with their cost, where the recipe has a price for the role's model."""
    roles: dict[str, dict[str, Any]] = {}
    for role in ROLES:
        for counts in (c for c in stages.values() if c["role"] == role):
            total = roles.setdefault(role, dict.fromkeys((k for k in counts if k != "role"), 0))
            for name in total:
                total[name] += counts[name]
        price = recipe.model(role).price
        if role in roles and price != Price():
            tokens = roles[role]["prompt_tokens"], roles[role]["completion_tokens"]
            roles[role]["cost"] = round(price.cost(*tokens), 6)
    return roles


def _funnel_table(recipe: Recipe, stages: Mapping[str, Any]) -> Table:
    table = Table("stage", title=f"recipe {recipe.name}", title_justify="left")
    for column in ("in", "kept", "dropped"):
        table.add_column(column, justify="right")
    table.add_column("reasons")
    for stage, counts in stages.items():
        reasons = ", ".join(f"{reason} {n}" for reason, n in counts["dropped"].items())
        dropped = counts["rows_in"] - counts["kept"]
        table.add_row(stage, str(counts["rows_in"]), str(counts["kept"]), str(dropped), Text(plain(reasons)))
    return table


def _calls_table(roles: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table("role", title="model calls in the last run", title_justify="left")
    priced = any("cost" in calls for calls in roles.values())
    for column in ("made", "from ledger", "prompt tokens", "completion tokens", "seconds", *(["cost"] * priced)):
        table.add_column(column, justify="right")
    for role, calls in roles.items():
        figures = (calls[k] for k in ("made", "from_ledger", "prompt_tokens", "completion_tokens"))
        cost = [f"{calls['cost']:,.4g}" if "cost" in calls else "no price"] * priced
        table.add_row(role, *(f"{n:,}" for n in figures), f"{calls['seconds']:.1f}", *cost)
    if priced:
        table.add_section()
        total = sum(calls.get("cost", 0) for calls in roles.values())
        table.add_row("all", *[""] * 5, f"{total:,.4g}")
    return table


def _print_rewards(shape: Mapping[str, Any] | None) -> None:
    if shape is None:
        return
    _out.print(
        f"rewards of {shape['responses']} responses: mean {shape['mean']:.2f}, std {shape['std']:.2f}; "
        f"{shape['parse_rate']:.1%} of the votes parsed; all tied for {shape['all_tied']:.1%} of the instructions"
    )
    most = max(shape["histogram"].values())
    for band, n in shape["histogram"].items():
        _out.print(f"  {band}  {'█' * round(40 * n / most):<40} {n}")


def stale(recipe: Recipe, found: Survey, *, as_json: bool, named: bool = False) -> None:
    """Print what is out of date, stage by stage, and the command that mends it; `named`, with the names of shards."""
    if as_json:
        content = {
            stage: {
                "total": found.total[stage],
                "made": found.made[stage],
                "out_of_date": found.outdated(stage),
                "failed": found.failed.get(stage, {}),
            }
            for stage in found.stages
        }
        click.echo(json.dumps({"recipe": recipe.name, "stages": content}, indent=2))
        return
    table = Table("stage", title=f"recipe {recipe.name}", title_justify="left")
    for column in ("shards", "made", "out of date"):
        table.add_column(column, justify="right")
    table.add_column("why")
    for stage in found.stages:
        whys = found.outdated(stage)
        figures = (str(n) for n in (found.total[stage], found.made[stage], len(whys)))
        table.add_row(stage, *figures, Text(plain(reasons(whys.values()))))
    _out.print(table)
    _print_failed(found.failed)
    for stage in summary.SHARDED if named else ():
        by_reason: dict[str, list[str]] = {}
        for shard, why in found.outdated(stage).items():
            by_reason.setdefault(why, []).append(shard)
        for why, shards in by_reason.items():
            _out.print(plain(f"{stage}, {why}: {', '.join(shards)}"), soft_wrap=True, markup=False)
    if any(found.outdated(stage) for stage in found.stages):
        _out.print(f"mend it with: pugc refresh --recipe {recipe.name}")


def pair(recipe: Recipe, workspace: Workspace, pair_id: str, *, as_json: bool) -> None:
    """Print a pair and all behind it."""
    behind = summary.lineage(workspace.store, recipe.name, pair_id)
    asked = provenance.asked(recipe, recipe.stages(workspace.source), workspace, behind)
    if as_json:
        click.echo(json.dumps({**behind, "asked": asked}, indent=2))
        return
    this, post = behind["pair"], behind["post"]
    _out.print(plain(f"\npair {this['pair_id']}  shard {behind['shard']}  post line {post['line']}"), style="bold")
    _panel(f"post (quality {behind['quality']['score']})", post["text"], "blue")
    _panel("instruction", this["instruction"], "cyan")
    marks = {this["chosen_response_id"]: ("chosen", "green"), this["rejected_response_id"]: ("rejected", "red")}
    for response in behind["responses"]:
        mark, colour = marks.get(response["response_id"], ("", "dim"))
        votes = ", ".join("-" if v["score"] is None else str(v["score"]) for v in response["votes"] or [])
        reward = "none" if response["reward"] is None else f"{response['reward']:.2f}"
        title = f"{mark or 'response'} {response['draw']}: reward {reward} of votes {votes}"
        if mark:
            feedback = next((v["feedback"] for v in response["votes"] or [] if v["score"] is not None), "")
            _panel(title, f"{response['text']}\n\nfirst vote: {feedback}", colour)
        else:
            _out.print(plain(f"  {title}"), style=colour, markup=False)
    for stage, made in asked.items():
        since = "" if made["current"] else "; the recipe has changed since"
        asked_of = plain(f"  {stage:<13} {made['model']} {json.dumps(made['sampling'])}{since}")
        _out.print(asked_of, style="dim", soft_wrap=True, markup=False)
    _out.print("  --json has prompts and seeds", style="dim")


def _panel(title: str, text: str, colour: str) -> None:
    _out.print(Panel(Text(plain(text)), title=Text(plain(title)), title_align="left", border_style=colour))


def export(recipe: Recipe, workspace: Workspace, target: Path, what: str, everything: bool) -> int:
    """Write a table, or the votes, to a file; returns its rows."""
    stage = "rewards" if what == "rationales" else what
    if stage not in TABLES:
        raise RecipeError(f"nothing called {what!r} to export", fix=f"take rationales, {', '.join(TABLES)}")
    if target.suffix not in exports.SUFFIXES:
        raise RecipeError(f"cannot export to {target.name}", fix=f"end the name in {' or '.join(exports.SUFFIXES)}")
    if not workspace.store.shards(recipe.name, stage):
        raise StorageError(
            f"recipe {recipe.name} has no table {stage} yet", fix=f"pugc run --recipe {recipe.name} --to {stage}"
        )
    frame = summary.rows(workspace.store, recipe.name, stage)
    if not everything:
        frame = frame.filter(pl.col("keep"))
    if what == "rationales":
        responses = summary.rows(workspace.store, recipe.name, "responses").select("response_id", response="text")
        instructions = summary.rows(workspace.store, recipe.name, "instructions").select(
            "instruction_id", "instruction"
        )
        votes = frame.select("response_id", "instruction_id", "votes").explode("votes").unnest("votes")
        frame = votes.join(responses.unique("response_id"), on="response_id", maintain_order="left").join(
            instructions.unique("instruction_id"), on="instruction_id", maintain_order="left"
        )
    return exports.export(frame, target)
