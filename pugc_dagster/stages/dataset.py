"""Asset `dataset`: one over all shards, and the files that trainers read."""

import base64
from collections.abc import Generator, Mapping
from typing import Any

import dagster as dg

from pugc_core import exports, licences, plots, summary
from pugc_core.config import digest
from pugc_core.pipeline import Inputs, Made
from pugc_core.recipe import Recipe
from pugc_core.records import ALL
from pugc_core.stages.base import Stage
from pugc_core.states import states
from pugc_core.summary import funnel
from pugc_core.tables import Loaded
from pugc_core.workspace import Workspace
from pugc_dagster import checks
from pugc_dagster.io import ShardStream
from pugc_dagster.stages.base import Seen, column_schema, key, stream


def asset(recipe: Recipe, stage: Stage) -> dg.AssetsDefinition:
    @dg.asset(
        key=key(recipe, "dataset"),
        ins={"pairs": dg.AssetIn(key=key(recipe, "pairs"))},
        description=stage.about,
        group_name=recipe.group,
        code_version=digest(dict(stage.fingerprint)),
        io_manager_key="tables",
        required_resource_keys={"workspace", "ledger", "engines"},
        kinds={"parquet", "huggingface"},
        metadata={"pugc/recipe": recipe.name, "dagster/column_schema": column_schema("dataset")},
        check_specs=checks.specs(key(recipe, "dataset"), "dataset"),
    )
    def dataset(context: dg.AssetExecutionContext, pairs: Mapping[str, Loaded]) -> Any:
        workspace: Workspace = context.resources.workspace
        # A shard not yet made is no reason to wait; one whose file was taken out of the inbox is no longer wanted.
        there = set(workspace.store.shards(recipe.name, "pairs")) & workspace.shards().keys()
        inputs = {"pairs": {shard: table for shard, table in pairs.items() if shard in there}}
        seen = Seen(workspace, recipe, stage)
        footers = {shard: f for shard, f in workspace.store.footers(recipe.name, "pairs").items() if shard in there}
        yield from checks.mixture(key(recipe, "dataset"), seen.tables("pairs", footers, made=[]))
        yield dg.Output(ShardStream(_write_files(context, seen, inputs)))
        yield from seen.check_results()

    return dataset


def _write_files(context: dg.AssetExecutionContext, seen: Seen, inputs: Inputs) -> Generator[Made]:
    workspace, recipe = seen.workspace, seen.recipe
    for made in stream(context, seen, [ALL], inputs):
        yield made
        folder = workspace.dataset(recipe.name)
        frame = workspace.store.read(recipe.name, "dataset", ALL)
        shards = list(inputs["pairs"])
        now: Mapping[str, Any] = recipe.stages(workspace.source)
        exports.write_dataset(
            folder,
            frame,
            recipe=recipe.name,
            fingerprint=made.footer.content,
            funnel=funnel(workspace.store, recipe.name, shards),
            states=states(workspace.store, recipe.name, shards),
            wordings=[stage.prompt for stage in now.values() if stage.role],
        )
        shown = {"folder": dg.MetadataValue.path(folder), "shards": len(shards), "pairs": made.footer.kept}
        kept = frame.filter("keep")
        shown |= {f"{split}_pairs": int(n) for split, n in kept.group_by("split").len().sort("split").iter_rows()}
        sizes = kept.group_by("group").len()["len"].to_list()
        shown |= {"groups": len(sizes), "largest_group": max(sizes, default=0)}
        shown["licences"] = dg.MetadataValue.md(licences.table(licences.licences(frame)))
        judged = summary.measured(workspace.store, recipe.name, "rewards", shards)
        picture = base64.b64encode(plots.png(plots.dataset(frame, judged))).decode()
        plot = dg.MetadataValue.md(f"![rewards, margins, lengths](data:image/png;base64,{picture})")
        context.add_asset_metadata({**shown, "plots": plot})
