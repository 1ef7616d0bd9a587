"""The whole core chain, ugc to dataset, over shards under one root, without Dagster.

    chain = Chain(root, scripted_recipe())
    chain.put("a", posts(10))
    run = chain.run()                 # every stage once over all shards; returns what each asked and made
    run.asked["rewards"]              # draws that reached the engine
    chain.table("pairs", "a")         # a stage's rows
    chain.files()                     # every table's bytes, by "stage/shard"

The same root may be given to chains with other recipes: they share ledger and inbox, as in a real project. Each stage
gets an engine of its own, which `engine` makes; a stage that the ledger answers whole makes none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import polars as pl

from pugc_core import plan, run, storage
from pugc_core import stages as every
from pugc_core.engines.base import Engine, Request
from pugc_core.engines.scripted import ScriptedEngine
from pugc_core.errors import PugcError
from pugc_core.ledger.dispatch import Calls
from pugc_core.ledger.store import Ledger
from pugc_core.recipe import Recipe
from pugc_core.stages.records import ALL
from pugc_core.tables.store import Tables
from pugc_core.tables.workspace import Workspace

STAGES = tuple(every.STAGES)
TOML = """
[models.judge]
id = "judge"
engine = "scripted"
[models.policy]
id = "policy"
engine = "scripted"
[roles]
quality_judge = "judge"
instructor = "policy"
relevance_judge = "policy"
policy = "policy"
reward_judge = "judge"
[ugc]
min_chars = 20
[quality]
prompt = "short"
[instructions]
prompt = "short"
[relevance]
prompt = "short"
[responses]
k = 3
[rewards]
prompt = "short"
n = 4
max_draws = 8
"""
"""A recipe file as `scripted_recipe` is, for recipes that extend it."""
ASKING = ("quality", "instructions", "relevance", "responses", "rewards")
"""The stages that ask a model."""


def scripted_recipe(name: str = "scripted", **changes: Any) -> Recipe:
    """A recipe whose models are scripted: small numbers, short wordings. `changes` are merged in, table by table:
    `scripted_recipe(rewards={"n": 8})`."""
    recipe: dict[str, Any] = {
        "name": name,
        "models": {"judge": {"id": "judge", "engine": "scripted"}, "policy": {"id": "policy", "engine": "scripted"}},
        "roles": {
            "quality_judge": "judge",
            "instructor": "policy",
            "relevance_judge": "policy",
            "policy": "policy",
            "reward_judge": "judge",
        },
        "ugc": {"min_chars": 20},
        "quality": {"prompt": "short"},
        "instructions": {"prompt": "short"},
        "relevance": {"prompt": "short"},
        "responses": {"k": 3},
        "rewards": {"prompt": "short", "n": 4, "max_draws": 8},
    }
    for table, change in changes.items():
        old = recipe.get(table)
        recipe[table] = {**old, **change} if isinstance(old, dict) and isinstance(change, dict) else change
    return Recipe.model_validate(recipe)


def posts(count: int, *, start: int = 0) -> list[str]:
    """Posts number start .. start+count, all different. The scripted judge keeps two in five."""
    return [
        f"Post {i}: how I sharpen knife number {i} on a wet stone, step by step." for i in range(start, start + count)
    ]


@dataclass
class Ran:
    """What one run of the chain did, by stage. Filled as it goes, so it also tells of a run that was interrupted."""

    engines: dict[str, Engine] = field(default_factory=dict)
    """Only of stages that needed one."""
    calls: dict[str, Calls] = field(default_factory=dict)
    """As the pass counted them."""
    made: dict[str, list[str]] = field(default_factory=dict)
    """Shards whose tables were written."""
    reused: dict[str, list[str]] = field(default_factory=dict)
    """Shards whose tables were current."""
    failed: dict[str, dict[str, PugcError]] = field(default_factory=dict)
    """Shards that could not be made."""

    @property
    def requests(self) -> dict[str, list[Request]]:
        """What reached the engines, stage by stage."""
        return {stage: list(getattr(self.engines.get(stage), "requests", ())) for stage in ASKING}

    @property
    def asked(self) -> dict[str, int]:
        """Draws that reached the engines."""
        return {stage: sum(len(r.draws) for r in requests) for stage, requests in self.requests.items()}

    @property
    def draws(self) -> dict[str, list[bytes]]:
        """Ledger keys of the draws that reached the engines, sorted, with repetitions."""
        return {stage: sorted(r.key(d) for r in rs for d in r.draws) for stage, rs in self.requests.items()}

    @property
    def total(self) -> int:
        return sum(self.asked.values())


class Chain:
    """A recipe at a root. `last` is the latest run, also when it raised."""

    def __init__(self, root: str, recipe: Recipe) -> None:
        self.workspace = Workspace(root)
        self.recipe = recipe
        self.last = Ran()

    @property
    def plan(self) -> plan.Chain:
        """Where what is made belongs."""
        return plan.Chain(self.recipe, self.workspace)

    @property
    def tables(self) -> Tables:
        return self.plan.tables

    def put(self, shard: str, texts: Iterable[str]) -> None:
        """Write a shard's source file into the inbox."""
        data = b"".join(orjson.dumps({"text": text}) + b"\n" for text in texts)
        storage.write(storage.join(self.workspace.inbox, f"{shard}.jsonl"), data)

    def run(
        self,
        *,
        engine: Callable[[str], Engine] = lambda stage: ScriptedEngine(),
        shards: Sequence[str] | None = None,
        groups: Sequence[Sequence[str]] | None = None,
        to: str = "dataset",
        flush_seconds: float = 60,
    ) -> Ran:
        """Every stage up to `to`, one pass each over all shards of the inbox, or those named.

        `engine` makes a stage's engine when it first needs one. `groups` runs each stage in several passes instead,
        one per group of shards. The ledger is opened for the run and closed at its end, however it ends.
        """
        self.last = Ran()
        names = sorted(self.workspace.shards()) if shards is None else list(shards)
        chain = self.plan
        with Ledger(self.workspace.ledger, flush_seconds=flush_seconds) as ledger:
            for name in chain.up_to(to):
                passes = list(groups or [names]) if chain.stages[name].sharded else [[ALL]]
                for group in passes:
                    self._pass(chain, name, group, names, ledger, engine)
        return self.last

    def _pass(
        self,
        chain: plan.Chain,
        name: str,
        group: Sequence[str],
        names: Sequence[str],
        ledger: Ledger,
        engine: Callable[[str], Engine],
    ) -> None:
        ran = self.last

        def lazily(model: Any) -> Engine:
            if name not in ran.engines:
                ran.engines[name] = engine(name)
            return ran.engines[name]

        read = run.inputs(chain, name, names if group == [ALL] else group)
        work = run.tables(chain, name, group, read, ledger=ledger, engines=lazily)
        try:
            for shard, frame, footer, _ in work:
                if frame is not None:
                    chain.tables.write(frame, footer)
                (ran.reused if frame is None else ran.made).setdefault(name, []).append(shard)
        finally:
            ran.calls.setdefault(name, Calls()).add(work.calls)
            if work.failed:
                ran.failed.setdefault(name, {}).update(work.failed)

    def table(self, stage: str, shard: str) -> pl.DataFrame:
        """A stage's rows for a shard."""
        return self.workspace.store.read(self.recipe.name, stage, shard)

    def rows(self, stage: str) -> pl.DataFrame:
        """A stage's rows of all shards."""
        store = self.workspace.store
        return pl.concat([self.table(stage, shard) for shard in store.shards(self.recipe.name, stage)])

    def files(self) -> dict[str, bytes]:
        """Every table's bytes, by "stage/shard"."""
        store, recipe = self.workspace.store, self.recipe.name
        return {
            f"{stage}/{shard}": storage.read(store.path(recipe, stage, shard))
            for stage in STAGES
            for shard in store.shards(recipe, stage)
        }

    def forget(self, *stages: str) -> None:
        """Delete the tables of stages (of all, unless named); the ledger stays."""
        store = self.workspace.store
        for stage in stages or STAGES:
            for shard in store.shards(self.recipe.name, stage):
                storage.delete(store.path(self.recipe.name, stage, shard))


def no_engine(stage: str) -> Engine:
    """For runs that must not ask: `chain.run(engine=no_engine)`."""
    raise AssertionError(f"stage {stage} wants an engine")
