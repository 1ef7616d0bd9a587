"""Asset `dataset`: one over all shards, and the files that trainers read."""

import base64
import re
from collections.abc import Generator, Mapping
from typing import Any

import dagster as dg

from pugc_core import run
from pugc_core.config import digest
from pugc_core.plan import Chain
from pugc_core.results import licences, plots, summary
from pugc_core.stages.records import ALL
from pugc_core.tables.stage_run import Inputs, Made
from pugc_core.tables.store import Loaded
from pugc_dagster.io import ShardStream
from pugc_dagster.keys import key, node_key
from pugc_dagster.stages import checks
from pugc_dagster.stages.base import Seen, column_schema, stream


def asset(chain: Chain, name: str) -> dg.AssetsDefinition:
    """The asset of the node of `chain`, its owner, that has one table over all shards."""
    recipe, stage, parents = chain.recipe, chain.stages[name], chain.nodes[name].parents

    @dg.asset(
        key=key(chain, name),
        ins={re.sub(r"\W", "_", of): dg.AssetIn(key=node_key(parent)) for of, parent in parents.items()},
        description=stage.about,
        group_name=recipe.group,
        code_version=digest(dict(stage.fingerprint)),
        io_manager_key="tables",
        required_resource_keys={"workspace", "ledger", "engines"},
        kinds={"parquet", "huggingface"},
        metadata={"pugc/recipe": recipe.name, "pugc/node": name, "dagster/column_schema": column_schema(name)},
        check_specs=checks.specs(key(chain, name), stage),
    )
    def dataset(context: dg.AssetExecutionContext, **tables: Mapping[str, Loaded]) -> Any:
        # A shard not yet made is no reason to wait; one whose file was taken out of the inbox is no longer wanted.
        inputs = run.inputs(chain, name, chain.workspace.shards())
        seen = Seen(chain, name)
        for of, parent in parents.items():
            source = chain.sources.get(of.partition("@")[2], chain)
            footers = {shard: table.footer for shard, table in inputs[of].items()}
            before = Seen(source, parent.name).checked(parent.name, footers, made=[])
            yield from checks.mixture(key(chain, name), before)
        yield dg.Output(ShardStream(_write_files(context, seen, inputs)))
        yield from seen.check_results()

    return dataset


def _write_files(context: dg.AssetExecutionContext, seen: Seen, inputs: Inputs) -> Generator[Made]:
    chain = seen.chain
    for made in stream(context, seen, [ALL], inputs):
        yield made
        frame = chain.tables.read(seen.name, ALL)
        shards = sorted({shard for tables in inputs.values() for shard in tables})
        folder = run.export(chain, seen.name, made.footer, shards)
        shown = {"folder": dg.MetadataValue.path(folder), "shards": len(shards), "pairs": made.footer.kept}
        kept = frame.filter("keep")
        shown |= {f"{split}_pairs": int(n) for split, n in kept.group_by("split").len().sort("split").iter_rows()}
        sizes = kept.group_by("group").len()["len"].to_list()
        shown |= {"groups": len(sizes), "largest_group": max(sizes, default=0)}
        shown["licences"] = dg.MetadataValue.md(licences.table(licences.licences(frame)))
        judged = summary.measured(chain.tables, "rewards", shards)
        picture = base64.b64encode(plots.png(plots.dataset(frame, judged))).decode()
        plot = dg.MetadataValue.md(f"![rewards, margins, lengths](data:image/png;base64,{picture})")
        context.add_asset_metadata({**shown, "plots": plot})
