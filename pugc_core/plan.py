"""What a recipe's run consists of: nodes, each one stage's work for one recipe, known before anything runs.

A node's identity is a digest of its work (the stage's fingerprint) and of the identities of the nodes it is made from.
A recipe that extends another shares every node whose identity is that of the other's node of the same name: the same
tables, the same asset, made once. It owns what differs, and what follows from that.

Of a recipe with rounds, all but the last have names of their own (`round-1/responses`): what such a recipe is after is
what its last round makes, under the names that every recipe has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from pugc_core.config import digest
from pugc_core.errors import PugcError, RecipeError, TrainingError
from pugc_core.models.spec import ModelSpec
from pugc_core.recipe import Recipe
from pugc_core.stages import POLICY, REPORT, STAGES
from pugc_core.stages.base import Asking, Stage
from pugc_core.stages.dataset import Dataset, Merged, slot
from pugc_core.stages.responses import Responses
from pugc_core.tables.store import Footer, Tables
from pugc_core.tables.workspace import Workspace
from pugc_core.training import lineage


@dataclass(frozen=True)
class Node:
    """One stage's work for one recipe."""

    owner: str
    """The recipe whose folder and group hold what it makes."""
    name: str
    """The stage's, for a policy `policy/<objective>`; before it the round (`round-1/`), but for the last."""
    identity: str
    parents: Mapping[str, Node]
    """By the slot that each fills: the name under which the work reads it."""

    @property
    def objective(self) -> str | None:
        """Of a policy, its objective."""
        head, _, last = self.name.rpartition("/")
        return last if head.rpartition("/")[2] == POLICY else None


class Chain:
    """A recipe's nodes, in run order, and where what they make lies in a workspace.

    Raises RecipeError or ModelNotFound where a prompt or a model is amiss, here or in a recipe that this one extends.
    """

    def __init__(self, recipe: Recipe, workspace: Workspace) -> None:
        self.recipe = recipe
        self.workspace = workspace
        self.base = _base(recipe, workspace)
        self.sources = {name: Chain(other, workspace) for name, other in recipe.merged.items()}
        """The recipes whose pairs it merges."""
        self.stages: dict[str, Stage] = {}
        """The stages that make tables, by node."""
        self.nodes: dict[str, Node] = {}
        self._build()

    @property
    def name(self) -> str:
        return self.recipe.name

    def must_have(self, name: str) -> None:
        """Raise RecipeError where there is nothing of that name to make, or this recipe leaves it out."""
        known = dict.fromkeys((*self.nodes, POLICY, REPORT))
        stage = name.rpartition("/")[2]
        if stage in STAGES and stage not in self.stages:
            raise RecipeError(
                f"recipe {self.name} leaves the stage {stage} out: [{stage}] skip = true",
                fix=f"name one of {', '.join(known)}",
            )
        if name not in known:
            raise RecipeError(f"no stage {name!r}; stages: {', '.join(known)}", fix="name one of them")

    def _build(self) -> None:
        stages = self.recipe.stages(self.workspace.source)
        first = next(place for place, stage in enumerate(stages.values()) if stage.role == POLICY)
        before, again = dict(list(stages.items())[:first]), dict(list(stages.items())[first:])
        for name, stage in before.items():
            self._table(name, stage, {slot: self.nodes[slot] for slot in stage.inputs})
        rounds, sampler = self.recipe.rounds, None
        for number in range(1, rounds.count + 1):
            last = number == rounds.count
            prefix = "" if last else f"round-{number}/"
            for name, stage in again.items():
                if isinstance(stage, Dataset) and self.sources:
                    parts = {name: Merged(of.weight, of.limit) for name, of in self.recipe.merge.items()}
                    stage = replace(stage, merge=parts)
                    self._table(prefix + name, stage, {slot(of): c.nodes["pairs"] for of, c in self.sources.items()})
                    continue
                parents = {slot: self.nodes[prefix + slot if slot in again else slot] for slot in stage.inputs}
                if isinstance(stage, Responses) and rounds.count > 1:
                    stage = replace(stage, part=(number, rounds.count))
                    if sampler is not None:
                        parents[POLICY] = sampler
                        stage = replace(stage, model=f"{POLICY}:{sampler.identity}")
                self._table(prefix + name, stage, parents)
            objectives = self.recipe.training.objectives
            for objective in objectives if last else (rounds.of(objectives),):
                self._policy(f"{prefix}{POLICY}/{objective}", objective, self.nodes[f"{prefix}dataset"], sampler)
            if not last:
                sampler = self.nodes[f"{prefix}{POLICY}/{rounds.of(objectives)}"]

    def _table(self, name: str, stage: Stage, parents: Mapping[str, Node]) -> None:
        self.stages[name] = stage
        self.nodes[name] = self._node(name, dict(stage.fingerprint), parents)

    def _policy(self, name: str, objective: str, dataset: Node, start: Node | None) -> None:
        work = lineage.wanted(self.recipe, objective, None, f"{POLICY}:{start.identity}" if start else None)
        self.nodes[name] = self._node(name, work, {"dataset": dataset, **({"start": start} if start else {})})

    def _node(self, name: str, work: Mapping[str, Any], parents: Mapping[str, Node]) -> Node:
        identity = digest([name, work, {slot: parent.identity for slot, parent in parents.items()}])
        below = (chain.nodes.get(name) for chain in (self.base.lineage if self.base else ()))
        same = (node for node in below if node and node.identity == identity)
        return next(same, None) or Node(self.name, name, identity, parents)

    @property
    def sharded(self) -> tuple[str, ...]:
        """The nodes that make a table per shard."""
        return tuple(name for name, stage in self.stages.items() if stage.sharded)

    def segments(self) -> Iterator[tuple[bool, list[str]]]:
        """The nodes in the stretches in which they run: over shards or not."""
        for over_shards, names in groupby(self.nodes, lambda name: name in self.sharded):
            yield over_shards, list(names)

    def up_to(self, last: str | None) -> list[str]:
        """The nodes up to the one of a name; all, where that is None or no node."""
        names = list(self.nodes)
        return names[: names.index(last) + 1] if last in self.nodes else names

    def behind(self, name: str) -> list[str]:
        """The nodes that one is made from, directly or not, and itself, in run order."""
        found, todo = set[str](), [self.nodes[name]]
        while todo:
            node = todo.pop()
            found.add(node.name)
            todo += node.parents.values()
        return [other for other in self.nodes if other in found]

    def owns(self, name: str) -> bool:
        """Whether a node is this recipe's own, not one that it shares with a recipe it extends."""
        return self.nodes[name].owner == self.name

    def owner(self, name: str) -> Chain:
        """The chain of the recipe that owns a node."""
        return next(chain for chain in self.lineage if chain.name == self.nodes[name].owner)

    @property
    def lineage(self) -> list[Chain]:
        """This chain and those of the recipes that it extends, the nearest first."""
        return [self, *(self.base.lineage if self.base else [])]

    @cached_property
    def tables(self) -> Tables:
        return Tables(self.workspace.store, self.name, {name: self.nodes[name].owner for name in self.stages})

    @property
    def dataset(self) -> str:
        """The folder of the data set."""
        return self.folder("dataset")

    def policy(self, objective: str) -> str:
        """The folder of a policy of the last round."""
        return self.folder(f"{POLICY}/{objective}")

    def folder(self, name: str) -> str:
        """The folder of a data set or a policy."""
        node = self.nodes[name]
        around, _, _ = name.rpartition(f"{POLICY}/" if node.objective else "dataset")
        place = f"{node.owner}/{around}".rstrip("/")
        workspace = self.workspace
        return workspace.policy(place, node.objective) if node.objective else workspace.dataset(place)

    @property
    def report(self) -> str:
        return self.workspace.report(self.name)

    @cached_property
    def compared(self) -> list[Chain]:
        """The chains of the recipes that it is compared with. Raises RecipeError or ModelNotFound where one of them
        cannot be loaded."""
        return [Chain(recipe, self.workspace) for recipe in self.recipe.compared()]

    def model(self, name: str) -> ModelSpec:
        """The model that a node asks, or that a policy starts from: one that was trained, where an earlier round has
        made it. Raises TrainingError where that is not trained yet."""
        node, stage = self.nodes[name], self.stages.get(name)
        start = self.recipe.model(stage.role if stage and stage.role else POLICY)
        trained = node.parents.get(POLICY) or node.parents.get("start")
        if trained is None:
            return start
        folder = self.folder(trained.name)
        if lineage.recorded(folder) is None:
            raise TrainingError(f"{trained.name} of recipe {self.name} is not trained yet", fix=self.command())
        return trained_model(start, folder)

    def ready(self, name: str) -> Stage:
        """The stage of a node, with the model that it asks now, also where that is only known once it is trained."""
        stage = self.stages[name]
        if isinstance(stage, Asking) and POLICY in self.nodes[name].parents:
            return replace(stage, asked=self.model(name).identity)
        return stage

    def wanted(self, name: str, dataset: Footer | None) -> dict[str, Any]:
        """What a policy trained now would be made from, with the footer of its data set. Raises TrainingError where the
        policy that it starts from is not trained yet."""
        objective, content = str(self.nodes[name].objective), dataset.content if dataset else None
        start = self.model(name).identity if "start" in self.nodes[name].parents else None
        return lineage.wanted(self.recipe, objective, content, start)

    def besides(self, name: str) -> dict[str, str]:
        """What a table is made of besides other tables: the model that was trained for it, if any."""
        if POLICY not in self.nodes[name].parents:
            return {}
        try:
            return {POLICY: self.model(name).identity}
        except PugcError:
            return {POLICY: ""}

    def command(self, to: str | None = None, shard: str | None = None) -> str:
        """The command that makes what is missing."""
        return f"pugc run --recipe {self.name}" + (f" --shard {shard}" if shard else "") + (f" --to {to}" if to else "")


def trained_model(start: ModelSpec, folder: str) -> ModelSpec:
    """A policy's folder, run as its start is; on this machine, where the start is on a server."""
    changes = {"id": str(Path(folder).absolute()), "revision": None, "base_urls": (), "adapter": None}
    local = start.model_copy(update=changes)
    return local.model_copy(update={"engine": "auto", "options": {}}) if start.remote else local


def _base(recipe: Recipe, workspace: Workspace) -> Chain | None:
    if recipe.base is None:
        return None
    try:
        return Chain(recipe.base, workspace)
    except PugcError as err:
        fix = f"{err.fix} (in recipe {recipe.base.name})" if err.fix else f"correct recipe {recipe.base.name}"
        kind = type(err) if isinstance(err, RecipeError) else RecipeError
        raise kind(f"recipe {recipe.name} extends {recipe.base.name}: {err.problem}", fix=fix) from err
