"""What the web UI shows of a stage's tables: numbers and samples per shard, distributions over a run's shards."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg
import polars as pl

from pugc_core.ledger.dispatch import Calls
from pugc_core.models.spec import Price
from pugc_core.plan import Chain
from pugc_core.results import summary
from pugc_core.stages import of_node
from pugc_core.stages.measures import Measures, cut_off_share, moments, parse_rate, total
from pugc_core.stages.records import NOTHING
from pugc_core.tables.pair_diff import PairDiff
from pugc_core.tables.store import Footer
from pugc_dagster.keys import node_key

SAMPLE_ROWS = 3
_CELL = 140


def of_shard(path: str, footer: Footer, calls: Calls | None, price: Price, *, reused: bool) -> dict[str, Any]:
    """A shard's numbers."""
    metadata: dict[str, Any] = {
        "dagster/row_count": footer.rows_in,
        "path": dg.MetadataValue.path(path),
        "kept": footer.kept,
        "dropped": footer.rows_in - footer.kept,
        "drop_reasons": dg.MetadataValue.json(dict(footer.dropped)),
        "content": footer.content,
        "reused": dg.MetadataValue.bool(reused),
        **({"failed": footer.failed} if footer.failed else {}),
        **_numbers(footer.stage, footer.measures),
    }
    return metadata | (_calls(calls, price) if calls is not None else {})


def of_run(
    chain: Chain,
    stage: str,
    footers: Iterable[Footer],
    calls: Calls | None,
    price: Price,
    change: PairDiff | None,
    samples: Mapping[str, Any],
) -> dict[str, Any]:
    """What all shards of a run have in common: totals, distributions, what a change did. Stands on each of its events,
    since the asset's page shows the latest."""
    all_ = list(footers)
    counts, measures = sum((f.counts for f in all_), NOTHING), total(f.measures for f in all_)
    metadata: dict[str, Any] = {}
    if change is not None and (change.compared or change.gained or change.lost):
        metadata["change"] = change.sentence(max(chain.recipe.responses.k, 2))
        if change.examples:
            metadata["flipped pairs"] = dg.MetadataValue.md(_flipped(change))
    if of_node(stage).name == "rewards" and (shape := summary.reward_shape(measures)):
        metadata["distribution"] = dg.MetadataValue.md(distribution(shape))
    if of_node(stage).name == "quality":
        rows = [(str(score), int(measures.get(f"score_{score}", 0))) for score in range(1, 6)]
        metadata["distribution"] = dg.MetadataValue.md(_bars(["score", "posts"], rows))
    metadata |= {
        **samples,
        "run/shards": len(all_),
        "run/rows_in": counts.rows_in,
        "run/kept": counts.kept,
        "run/drop_reasons": dg.MetadataValue.json(dict(sorted(counts.dropped.items()))),
        **{f"run/{name}": value for name, value in _numbers(stage, measures).items()},
        **column_lineage(chain, stage),
    }
    if calls is not None:
        metadata |= {f"run/{name}": value for name, value in _calls(calls, price).items()}
    return metadata


def sample(chain: Chain, stage: str, frame: pl.DataFrame) -> dict[str, Any]:
    """The first rows that were kept; of pairs, both answers side by side."""
    kept = frame.filter("keep").head(SAMPLE_ROWS)
    if kept.is_empty():
        return {}
    if of_node(stage).name == "pairs":
        return {"three pairs": dg.MetadataValue.md(pairs_side_by_side(chain.name, kept.to_dicts()))}
    names = of_node(stage).sample
    if not names:
        return {}
    rows = [[cell(row[name]) for name in names] for row in kept.iter_rows(named=True)]
    return {"sample": dg.MetadataValue.md(table(names, rows))}


def distribution(shape: summary.RewardShape) -> str:
    """Rewards in bands, where they have any: of all responses, and without those to instructions whose responses all
    tied."""
    most = max([*shape.histogram.values(), 1])
    rows = [[band, str(n), str(shape.untied[band]), "█" * round(20 * n / most)] for band, n in shape.histogram.items()]
    fullest = f"; the fullest band has {shape.fullest:.1%}" if rows else ""
    head = (
        f"{shape.responses} responses, mean {shape.mean:.2f}, standard deviation {shape.std:.2f}; "
        f"{shape.parse_rate:.1%} of the votes parsed; all responses tied for {shape.all_tied:.1%} of the instructions"
        f"{fullest}"
    )
    return f"{head}\n\n{table(['reward', 'responses', 'without ties', ''], rows)}" if rows else head


def pairs_side_by_side(recipe: str, pairs: Sequence[Mapping[str, Any]]) -> str:
    """Chosen left, rejected right, under their question."""
    parts = []
    for pair in pairs:
        left, right = f"chosen ({pair['chosen_reward']:.2f})", f"rejected ({pair['rejected_reward']:.2f})"
        body = table([left, right], [[cell(pair["chosen"], 600), cell(pair["rejected"], 600)]])
        parts.append(
            f"**{cell(pair['instruction'], 300)}**\n\n{body}\n\n`pugc show pair {pair['pair_id']} --recipe {recipe}`"
        )
    return "\n\n---\n\n".join(parts)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any, most: int = _CELL) -> str:
    """A value on one line of a Markdown table, cut when long. Users' text never becomes markup."""
    if isinstance(value, float):
        return f"{value:.3g}"
    text = " ".join(str(value if value is not None else "").split())
    text = text if len(text) <= most else text[: most - 1] + "…"
    text = re.sub(r"(\S{40})", "\\1\u200b", text)  # so that it can be broken into lines
    text = text.replace("&", "&amp;").replace("://", ":\u200b//").replace("www.", "www\u200b.")  # no live links
    for mark in "\\|`*_<>[]#~$":
        text = text.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return text


def column_lineage(chain: Chain, stage: str) -> dict[str, Any]:
    """Which column comes from which, as the web UI draws it, of the tables that the stage reads."""
    parents = chain.nodes[stage].parents
    deps = {
        column: [
            dg.TableColumnDep(asset_key=node_key(parents[source]), column_name=name)
            for source, name in sources
            if source in parents
        ]
        for column, sources in of_node(stage).sources.items()
    }
    if not any(deps.values()):
        return {}
    return {"dagster/column_lineage": dg.TableColumnLineage(deps_by_column=deps)}


def _numbers(stage: str, measures: Measures) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    if (rate := parse_rate(measures)) is not None:
        numbers["parse_rate"] = round(rate, 4)
    if (name := of_node(stage).quantity) and (found := moments(measures, name)):
        numbers |= {f"{name}_mean": round(found.mean, 4), f"{name}_std": round(found.std, 4)}
    if found := moments(measures, "similarity"):
        numbers["similarity_mean"] = round(found.mean, 4)
    if (share := cut_off_share(measures)) is not None:
        numbers["cut_off"] = round(share, 4)
    if of_node(stage).name == "rewards" and measures.get("instructions"):
        numbers["all_tied"] = round(measures.get("tied", 0) / measures["instructions"], 4)
    if of_node(stage).name == "pairs":
        for side in ("chosen", "rejected"):
            if length := moments(measures, f"{side}_tokens"):
                numbers[f"{side}_tokens_mean"] = round(length.mean, 2)
    return numbers


def _calls(calls: Calls, price: Price) -> dict[str, Any]:
    return {
        "calls_made": calls.made,
        "calls_from_ledger": calls.from_ledger,
        "prompt_tokens": calls.prompt_tokens,
        "completion_tokens": calls.completion_tokens,
        "cost": round(price.cost(calls.prompt_tokens, calls.completion_tokens), 6),
    }


def _bars(head: Sequence[str], rows: Sequence[tuple[str, int]]) -> str:
    most = max(*(n for _, n in rows), 1)
    return table([*head, ""], [[name, str(n), "█" * round(20 * n / most)] for name, n in rows])


def _flipped(change: PairDiff) -> str:
    parts = []
    for example in change.examples:
        rows = [
            [when, *(cell(example[f"{name}_{when}"], 300) for name in ("chosen", "rejected")),
             f"{example[f'margin_{when}']:.2f}"]
            for when in ("before", "after")
        ]  # fmt: skip
        parts.append(f"**{cell(example['instruction'], 300)}**\n\n{table(['', 'chosen', 'rejected', 'margin'], rows)}")
    return "\n\n".join(parts)
