"""`pugc recipes`: the recipes as a tree."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

import click
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from pugc_core.errors import PugcError
from pugc_core.results.pending_calls import Draws
from pugc_core.results.recipe_tree import Branch
from pugc_core.stages import POLICY
from pugc_dagster.terminal.safe_text import plain

_out = Console(highlight=False)


def recipes(branches: Sequence[Branch], broken: Mapping[str, PugcError], *, as_json: bool) -> None:
    """Print recipes as a tree, and what is wrong with those that cannot be loaded."""
    if as_json:
        wrong = {name: {"problem": err.problem, "fix": err.fix} for name, err in broken.items()}
        found = [dataclasses.asdict(branch) for branch in branches]
        click.echo(json.dumps({"recipes": found, "broken": wrong}, indent=2))
        return
    for branch in branches:
        _out.print(_grown(branch, Tree(_words(branch))))
    for name, err in broken.items():
        _out.print(plain(f"{name}: cannot be loaded: {err.line}"), style="red", soft_wrap=True, markup=False)


def _grown(branch: Branch, tree: Tree) -> Tree:
    for fork in branch.forks:
        _grown(fork, tree.add(_words(fork)))
    return tree


def _words(branch: Branch) -> Text:
    """A recipe in a few lines: what it is, what is its own, how far it is, and what the rest would ask."""
    lines = [(branch.name, "bold"), (f"  {branch.about}", "dim")]
    if branch.shares:
        shared = "; ".join(f"{len(names)} of {owner}" for owner, names in branch.shares.items())
        lines.append((f"\nowns {_named(branch.owns)}; shares {shared}", ""))
    state = f"{branch.made} of {branch.total} tables and policies made"
    if branch.out_of_date:
        state += f", {branch.out_of_date} of them out of date"
    lines.append((f"\n{state}", "yellow" if branch.out_of_date else ""))
    if asked := [f"{role} {_draws(draws)}" for role, draws in branch.would_ask.items() if draws != Draws(0)]:
        lines.append((f"\nwould ask at most: {', '.join(asked)}", ""))
    return Text.assemble(*((plain(words), style) for words, style in lines))


def _named(nodes: Sequence[str]) -> str:
    """The nodes; of more than two policies the number."""
    policies = [name for name in nodes if POLICY in name.split("/")]
    rest = [name for name in nodes if name not in policies]
    return ", ".join([*rest, *(policies if len(policies) < 3 else [f"{len(policies)} policies"])]) or "nothing"


def _draws(draws: Draws) -> str:
    parts = [f"{draws.at_most:,} times" if draws.at_most else "", _shards(draws.unknown) if draws.unknown else ""]
    return " and ".join(filter(None, parts))


def _shards(count: int) -> str:
    return f"for {count} {'shard' if count == 1 else 'shards'} of unknown size"
