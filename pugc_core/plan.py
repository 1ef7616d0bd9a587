"""What a recipe's run consists of: nodes, each one stage's work for one recipe, known before anything runs.

A node's identity is a digest of its work (the stage's fingerprint) and of the identities of the nodes it is made from.
A recipe that extends another shares every node whose identity is that of the other's node of the same name: the same
tables, the same asset, made once. It owns what differs, and what follows from that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pugc_core.config import digest
from pugc_core.errors import PugcError
from pugc_core.recipe import Recipe
from pugc_core.stages.base import Stage
from pugc_core.tables import Tables
from pugc_core.training import lineage
from pugc_core.workspace import Workspace

POLICY = "policy/"
"""What the names of policies begin with; the objective follows."""


@dataclass(frozen=True)
class Node:
    """One stage's work for one recipe."""

    owner: str
    """The recipe whose folder and group hold what it makes."""
    name: str
    identity: str
    parents: Mapping[str, Node]
    """By the slot that each fills: the name under which the work reads it."""


class Chain:
    """A recipe's nodes, in run order, and where what they make lies in a workspace.

    Raises RecipeError or ModelNotFound where a prompt or a model is amiss, here or in a recipe that this one extends.
    """

    def __init__(self, recipe: Recipe, workspace: Workspace) -> None:
        self.recipe = recipe
        self.workspace = workspace
        self.base = _base(recipe, workspace)
        self.stages: Mapping[str, Stage] = recipe.stages(workspace.source)
        self.nodes: Mapping[str, Node] = self._nodes()

    @property
    def name(self) -> str:
        return self.recipe.name

    def _nodes(self) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for name, stage in self.stages.items():
            found[name] = self._node(name, dict(stage.fingerprint), {slot: found[slot] for slot in stage.inputs})
        for objective in self.recipe.training.objectives:
            work = lineage.wanted(self.recipe, objective, None)
            found[POLICY + objective] = self._node(POLICY + objective, work, {"dataset": found["dataset"]})
        return found

    def _node(self, name: str, work: Mapping[str, Any], parents: Mapping[str, Node]) -> Node:
        identity = digest([name, work, {slot: parent.identity for slot, parent in parents.items()}])
        below = (chain.nodes.get(name) for chain in (self.base.lineage if self.base else ()))
        same = (node for node in below if node and node.identity == identity)
        return next(same, None) or Node(self.name, name, identity, parents)

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
        owners = {name: node.owner for name, node in self.nodes.items() if name in self.stages}
        return Tables(self.workspace.store, self.name, owners)

    @property
    def dataset(self) -> str:
        """The folder of the data set."""
        return self.workspace.dataset(self.nodes["dataset"].owner)

    def policy(self, objective: str) -> str:
        """The folder of a policy."""
        return self.workspace.policy(self.nodes[POLICY + objective].owner, objective)

    @property
    def report(self) -> str:
        return self.workspace.report(self.name)

    @cached_property
    def compared(self) -> list[Chain]:
        """The chains of the recipes that it is compared with. Raises RecipeError or ModelNotFound where one of them
        cannot be loaded."""
        return [Chain(recipe, self.workspace) for recipe in self.recipe.compared()]


def _base(recipe: Recipe, workspace: Workspace) -> Chain | None:
    if recipe.base is None:
        return None
    try:
        return Chain(recipe.base, workspace)
    except PugcError as err:
        fix = f"{err.fix} (in recipe {recipe.base.name})" if err.fix else f"correct recipe {recipe.base.name}"
        raise type(err)(f"recipe {recipe.name} extends {recipe.base.name}: {err.problem}", fix=fix) from err
