"""What the terminal shows: the summary of a recipe, and a pair with all behind it."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import click
import polars as pl
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pugc_core import storage
from pugc_core.errors import RecipeError, StorageError
from pugc_core.models.spec import Price
from pugc_core.plan import Chain
from pugc_core.recipe import ROLES
from pugc_core.results import call_log, exports, policy_samples, provenance, summary
from pugc_core.results.comparison import Comparison
from pugc_core.stages import STAGES
from pugc_core.stages.measures import cut_off_share, moments
from pugc_core.tables.staleness import Survey, reasons, survey
from pugc_core.training.summary import Summary
from pugc_dagster.terminal import run_outcome
from pugc_dagster.terminal.safe_text import plain

_WIDE = 100
"""Columns where the output goes to a file or a pipe, which have none of their own."""
_BEST = 3
"""Pairs that are shown of a recipe."""
_READABLE = 110
"""Columns that a line of text takes at most, however wide the terminal."""
_LISTED = 20
"""Failed shards that are printed."""
_out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)


def samples() -> list[Path]:
    """The bundled sample shards."""
    folder = Path(str(resources.files("pugc_core"))) / "sample"
    return sorted(folder.glob("*.jsonl"))


def status(chain: Chain, *, as_json: bool, samples: bool = False) -> None:
    """Print the recipe's funnel, calls, rewards, policies, what is out of date, and where things are; with `samples`
    also the best pairs, and start and trained side by side."""
    content = _status(chain)
    if as_json:
        click.echo(json.dumps(content, indent=2, default=dataclasses.asdict))
        return
    if not content["stages"]:
        _out.print(f"recipe [bold]{chain.name}[/] has no tables yet; run: pugc run --recipe {chain.name}")
        return
    _out.print(_funnel_table(chain, content["stages"]))
    _print_calls(content["roles"], current=not content["out_of_date"])
    if content["cut_off"]:
        _out.print(
            f"{content['cut_off']:.1%} of the responses were cut off by max_tokens ({chain.recipe.responses.cut_off})"
        )
    if content["rewards"]:
        for line in run_outcome.histogram(content["rewards"], _out.width):
            _out.print(line)
    if samples:
        _print_best(chain)
    for shown in run_outcome.held_out(content["policies"]):
        _out.print(shown)
    if samples:
        _print_samples(chain, next(iter(content["policies"]), None))
    for line in content["out_of_date"]:
        _out.print(plain(line), markup=False)
    _print_failed(content["failed"])
    _out.print()
    for name, path in content["paths"].items():
        _out.print(plain(f"{name:<12} {path}"), soft_wrap=True, markup=False)
    _out.print(f"{'web UI':<12} make ui   (then open http://localhost:3000)")


def _status(chain: Chain) -> dict[str, Any]:
    inbox = chain.workspace.shards()
    shards = [shard for shard in chain.tables.shards("ugc") if shard in inbox]
    paths = {
        "tables": chain.workspace.store.path(chain.name, "*", "*"),
        "dataset": chain.dataset,
        **{f"policy {o}": chain.policy(o) for o in chain.recipe.training.objectives},
        "report": chain.report,
    }
    found = survey(chain)
    answered = summary.measured(chain.tables, "responses", shards)
    alike = moments(answered, "similarity")
    return {
        "recipe": chain.name,
        "shards": len(shards),
        "stages": {stage: c._asdict() for stage, c in summary.funnel(chain.tables, shards).items()},
        "roles": _by_role(chain, call_log.of(chain)),
        "cut_off": cut_off_share(answered),
        # Of the words of two answers to one question the share that both have.
        "similarity": round(alike.mean, 4) if alike else None,
        "rewards": summary.reward_shape(summary.measured(chain.tables, "rewards", shards)),
        "policies": _policies(chain),
        "out_of_date": _out_of_date(chain, found),
        "failed": {stage: dict(whys) for stage, whys in found.failed.items()},
        "paths": {name: path for name, path in paths.items() if name == "tables" or storage.exists(path)},
    }


def _policies(chain: Chain) -> dict[str, Summary]:
    found = {o: Summary.recorded(chain.policy(o)) for o in chain.recipe.training.objectives}
    return {objective: of for objective, of in found.items() if of}


def _print_calls(roles: Mapping[str, Mapping[str, Any]], *, current: bool) -> None:
    """What the last run asked of models; a sentence where it asked nothing."""
    if any(calls["made"] or calls["refused"] for calls in roles.values()):
        _out.print(_calls_table(roles))
    elif kept := sum(calls["from_ledger"] for calls in roles.values()):
        _out.print(f"no model was asked in the last run: all {kept:,} answers were in the ledger")
    elif roles:
        _out.print("no model was asked in the last run" + ": every table was there and up to date" * current)


def _print_best(chain: Chain) -> None:
    found, total = summary.best(chain.tables, _BEST)
    if not found:
        return
    _out.print()
    for line in run_outcome.pairs(found, total, min(_out.width, _READABLE)):
        _out.print(line)
    _out.print(f"\n  all behind a pair: pugc show pair {found[0].pair_id[:8]} --recipe {chain.name}\n", style="dim")


def _print_samples(chain: Chain, objective: str | None) -> None:
    """Start and trained side by side, of one policy: the first that there is."""
    if objective is None:
        return
    kept = policy_samples.samples(chain.policy(objective))
    if table := run_outcome.side_by_side(kept, chain.recipe.training.loss(objective).title, min(_out.width, _READABLE)):
        _out.print()
        _out.print(table)


def _out_of_date(chain: Chain, found: Survey) -> list[str]:
    """A sentence on what a run would make, and one on what a refresh would make again."""
    lines = []
    waiting = sorted({shard for stage in found.sharded for shard in found.missing(stage) if found.made[stage]})
    if waiting:
        shown = ", ".join(waiting[:5]) + (" ..." if len(waiting) > 5 else "")
        lines.append(f"{len(waiting)} shards have tables missing ({shown}): pugc run --recipe {chain.name}")
    if unmade := [stage for stage in found.stages if found.total[stage] and not found.made[stage]]:
        lines.append(f"not made yet: {', '.join(unmade)}: pugc run --recipe {chain.name}")
    if stages := [stage for stage in found.stages if found.outdated(stage)]:
        lines.append(f"{stages[0]} {found.sentence(stages[0])}: pugc stale, pugc refresh --recipe {chain.name}")
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


def _by_role(chain: Chain, stages: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Calls by role; with their cost, where the recipe has a price for the role's model."""
    roles: dict[str, dict[str, Any]] = {}
    for role in ROLES:
        for counts in (c for c in stages.values() if c["role"] == role):
            total = roles.setdefault(role, dict.fromkeys((k for k in counts if k != "role"), 0))
            for name in total:
                total[name] += counts[name]
        price = chain.recipe.model(role).price
        if role in roles and price != Price():
            tokens = roles[role]["prompt_tokens"], roles[role]["completion_tokens"]
            roles[role]["cost"] = round(price.cost(*tokens), 6)
    return roles


def _funnel_table(chain: Chain, stages: Mapping[str, Any]) -> Table:
    table = Table("stage", title=f"recipe {chain.name}", title_justify="left")
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


def stale(chain: Chain, found: Survey, *, as_json: bool, named: bool = False) -> None:
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
        click.echo(json.dumps({"recipe": chain.name, "stages": content}, indent=2))
        return
    table = Table("stage", title=f"recipe {chain.name}", title_justify="left")
    for column in ("shards", "made", "out of date"):
        table.add_column(column, justify="right")
    table.add_column("why")
    for stage in found.stages:
        whys = found.outdated(stage)
        figures = (str(n) for n in (found.total[stage], found.made[stage], len(whys)))
        table.add_row(stage, *figures, Text(plain(reasons(whys.values()))))
    _out.print(table)
    _print_failed(found.failed)
    for stage in found.sharded if named else ():
        by_reason: dict[str, list[str]] = {}
        for shard, why in found.outdated(stage).items():
            by_reason.setdefault(why, []).append(shard)
        for why, shards in by_reason.items():
            _out.print(plain(f"{stage}, {why}: {', '.join(shards)}"), soft_wrap=True, markup=False)
    if any(found.outdated(stage) for stage in found.stages):
        _out.print(f"mend it with: pugc refresh --recipe {chain.name}")


def comparison(found: Comparison, *, as_json: bool) -> None:
    """Print recipes side by side."""
    if as_json:
        click.echo(json.dumps(found.plain(), indent=2))
        return
    table = Table("", title=f"compared with {found.names[0]}; 95% intervals", title_justify="left")
    for name in found.names:
        table.add_column(name, justify="right")
    for row in found.rows():
        table.add_row(*row)
    _out.print(table)
    for note in found.notes:
        _out.print(plain(note), soft_wrap=True, markup=False)


def pair(chain: Chain, pair_id: str, *, as_json: bool) -> None:
    """Print a pair and all behind it."""
    behind = summary.lineage(chain.tables, pair_id)
    asked = provenance.asked(chain, behind)
    if as_json:
        click.echo(json.dumps({**behind, "asked": asked}, indent=2))
        return
    this, post = behind["pair"], behind["post"]
    _out.print(plain(f"\npair {this['pair_id']}  shard {behind['shard']}  post line {post['line']}"), style="bold")
    rated = behind["quality"]
    _panel(f"post (quality {rated['score']})" if rated else "post", post["text"], "blue")
    _panel("instruction", this["instruction"], "cyan")
    marks = {this["chosen_response_id"]: ("chosen", "green"), this["rejected_response_id"]: ("rejected", "red")}
    for response in behind["responses"]:
        mark, colour = marks.get(response["response_id"], ("", "dim"))
        scores = [v["score"] for v in response["votes"] or []]
        reward = "none" if response["reward"] is None else f"{response['reward']:.2f}"
        title = f"{mark or 'response'} {response['draw']}: reward {reward}"
        voted = response["reward"] is None or any(score is not None for score in scores)  # not a classifier's
        if voted:
            title += f" of votes {', '.join('-' if score is None else str(score) for score in scores)}"
        if mark:
            feedback = next((v["feedback"] for v in response["votes"] or [] if v["score"] is not None), "")
            _panel(title, response["text"] + (f"\n\nfirst vote: {feedback}" if voted else ""), colour)
        else:
            _out.print(plain(f"  {title}"), style=colour, markup=False)
    for stage, made in asked.items():
        since = "" if made["current"] else "; the recipe has changed since"
        asked_of = plain(f"  {stage:<13} {made['model']} {json.dumps(made['sampling'])}{since}")
        _out.print(asked_of, style="dim", soft_wrap=True, markup=False)
    _out.print("  --json has prompts and seeds", style="dim")


def _panel(title: str, text: str, colour: str) -> None:
    _out.print(Panel(Text(plain(text)), title=Text(plain(title)), title_align="left", border_style=colour))


def export(chain: Chain, target: Path, what: str, everything: bool) -> int:
    """Write a table, or the votes, to a file; returns its rows."""
    stage = "rewards" if what == "rationales" else what
    if stage not in STAGES:
        raise RecipeError(f"nothing called {what!r} to export", fix=f"take rationales, {', '.join(chain.stages)}")
    chain.must_have(stage)
    if target.suffix not in exports.SUFFIXES:
        raise RecipeError(f"cannot export to {target.name}", fix=f"end the name in {' or '.join(exports.SUFFIXES)}")
    if not chain.tables.shards(stage):
        raise StorageError(
            f"recipe {chain.name} has no table {stage} yet", fix=f"pugc run --recipe {chain.name} --to {stage}"
        )
    frame = summary.rows(chain.tables, stage)
    if not everything:
        frame = frame.filter(pl.col("keep"))
    if what == "rationales":
        responses = summary.rows(chain.tables, "responses").select("response_id", response="text")
        instructions = summary.rows(chain.tables, "instructions").select("instruction_id", "instruction")
        votes = frame.select("response_id", "instruction_id", "votes").explode("votes").unnest("votes")
        frame = votes.join(responses.unique("response_id"), on="response_id", maintain_order="left").join(
            instructions.unique("instruction_id"), on="instruction_id", maintain_order="left"
        )
    return exports.export(frame, target)
