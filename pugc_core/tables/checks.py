"""Checks on a stage's tables, read off their footers as far as that goes. A failing one names the rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from pugc_core.errors import CheckFailed, StorageError
from pugc_core.recipe import ChecksConfig
from pugc_core.stages import STAGES, of_node
from pugc_core.stages.base import Stage
from pugc_core.stages.measures import Measures, parse_rate, total
from pugc_core.tables.shard_states import states
from pugc_core.tables.store import Footer, Tables

NAMED = 5
"""Rows that a failing check names."""


@dataclass(frozen=True)
class Result:
    """What a check found. `rows` are ids, or what else names the culprits."""

    name: str
    passed: bool
    words: str
    rows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checked:
    """The tables that a run has over its shards: what checks look at. `made` are those made in this run; the others
    were looked at when they were."""

    all: Tables
    """Those of the whole recipe."""
    stage: str
    footers: Mapping[str, Footer]
    made: Sequence[str]
    config: ChecksConfig
    n: int = 8
    """Votes wanted per response."""

    @property
    def measures(self) -> Measures:
        return total(footer.measures for footer in self.footers.values())

    def rows(self, wanted: pl.Expr) -> tuple[str, ...]:
        """Shard and id of the first rows for which `wanted` holds. Only the columns that it needs are read."""
        key = of_node(self.stage).table.key
        columns = list(dict.fromkeys([key, *wanted.meta.root_names()]))
        found: list[str] = []
        for shard in self.footers:
            table = self.all.read(self.stage, shard, columns)
            found += [f"{shard}/{value}" for value in table.filter(wanted)[key].head(NAMED).to_list()]
            if len(found) >= NAMED:
                break
        return tuple(found[:NAMED])


def schema(tables: Checked) -> Result:
    """The columns on disk are those of the stage's table."""
    wanted = list(of_node(tables.stage).table.columns)
    wrong = [shard for shard in tables.footers if tables.all.columns(tables.stage, shard) != wanted]
    return Result("schema", not wrong, _of(wrong, tables.footers, "have other columns"), tuple(wrong[:NAMED]))


def counts(tables: Checked) -> Result:
    """in = kept + dropped with a reason; and what a stage takes in is what the stage before it kept."""
    wrong = [s for s, f in tables.footers.items() if f.rows_in != f.kept + sum(f.dropped.values())]
    stage = of_node(tables.stage)
    for shard, footer in tables.footers.items() if stage.row_for_row else ():
        if footer.failed:  # of which another check tells
            continue
        before = _before(footer, stage)
        around = tables.stage.rpartition("/")[0]
        source = _footer(tables, f"{around}/{before}".lstrip("/"), shard)
        # An older table is the business of `up_to_date`.
        if source and source.content == footer.inputs.get(before) and source.kept != footer.rows_in:
            wrong.append(shard)
    return Result("counts", not wrong, _of(wrong, tables.footers, "lose rows"), tuple(wrong[:NAMED]))


def unique_ids(tables: Checked) -> Result:
    """No two kept rows of a table have the same id."""
    key = of_node(tables.stage).table.key
    rows = tables.rows(pl.col("keep") & pl.col(key).is_duplicated().over("keep"))
    return Result("unique_ids", not rows, "an id is there twice" if rows else "every id is there once", rows)


def parsed(tables: Checked) -> Result:
    """Enough of the model's answers could be read."""
    rate, floor = parse_rate(tables.measures), tables.config.min_parse_rate
    if rate is None or rate >= floor:
        shown = "nothing was asked" if rate is None else f"{rate:.1%} of the answers parsed"
        return Result("parse_rate", True, shown)
    rows = tables.rows(of_node(tables.stage).unread())
    words = f"{rate:.1%} of the answers parsed, fewer than {floor:.0%}"
    if voteless := int(tables.measures.get("voteless", 0)):
        words += f"; {voteless} responses have no valid vote in their first draws and were not asked about again"
    return Result("parse_rate", False, words, rows)


def votes_complete(tables: Checked) -> Result:
    """Enough of the responses have all the votes that were wanted."""
    votes = {int(name[6:]): n for name, n in tables.measures.items() if name.startswith("votes_")}
    responses, complete = sum(votes.values()), sum(n for valid, n in votes.items() if valid >= tables.n)
    floor = tables.config.min_votes_complete
    words = f"{int(complete)} of {int(responses)} responses have {tables.n} votes"
    if complete >= floor * responses:
        return Result("votes_complete", True, words)
    rows = tables.rows(pl.col("n_valid") < tables.n)
    return Result("votes_complete", False, f"{words}, fewer than {floor:.0%}", rows)


def distinct_texts(tables: Checked) -> Result:
    """Chosen and rejected never say the same."""
    rows = tables.rows(pl.col("keep") & (pl.col("chosen") == pl.col("rejected")))
    return Result(
        "distinct_texts", not rows, "chosen equals rejected" if rows else "chosen differs from rejected", rows
    )


def one_state(tables: Checked) -> Result:
    """All shards of the data set were made with the same prompts, models, parameters and code."""
    inputs = [name for footer in tables.footers.values() for name in footer.inputs]
    # Before the data set is made, the pairs that it would be made of are looked at.
    noun = of_node(tables.stage).name
    shards = tables.footers.keys() if noun == "pairs" else [n.removeprefix("pairs/") for n in inputs]
    if any("@" in name for name in inputs):  # merged from several recipes, whose pairs were looked at one by one
        return Result("one_state", True, "each recipe's shards were made in the same way")
    found = states(tables.all, shards, tables.stage.removesuffix(noun))
    if not found.differences:
        return Result("one_state", True, f"{len(found.of)} shards were made in the same way")
    if tables.config.mixed_shards:
        return Result("one_state", True, f"allowed by [checks] mixed_shards: {found}")
    return Result("one_state", False, str(found))


def drift(tables: Checked) -> Result:
    """No shard differs much from the one before it: in the share kept, or in the mean of what its stage measures."""
    quantity = of_node(tables.stage).quantity
    names = sorted(tables.all.shards(tables.stage))
    found = []
    for shard in sorted(tables.made):
        place = names.index(shard) if shard in names else 0
        if not place:
            continue
        earlier = tables.footers.get(names[place - 1]) or _footer(tables, tables.stage, names[place - 1])
        if earlier is None:
            continue
        this = tables.footers[shard]
        shares = _share_difference(this, earlier)
        means = _mean_difference(this.measures, earlier.measures, quantity) if quantity else 0.0
        if max(abs(shares), abs(means)) > tables.config.drift:
            what = "share kept" if abs(shares) >= abs(means) else f"mean {quantity}"
            found.append(f"{shard} after {names[place - 1]}: {what}")
    words = "; ".join(found[:NAMED]) or "no shard differs much from the one before it"
    return Result("drift", not found, words, tuple(found[:NAMED]))


def _footer(tables: Checked, stage: str, shard: str) -> Footer | None:
    try:
        return tables.all.footer(stage, shard)
    except StorageError:  # a damaged neighbour is not this run's business
        return None


def _before(footer: Footer, stage: type[Stage]) -> str:
    """The table whose kept rows are a table's rows: the last filter's, or that of the stage it comes after."""
    filters = [name for name, other in STAGES.items() if other.filters and other.after == stage.after]
    return next((name for name in reversed(filters) if name in footer.inputs), str(stage.after))


def _share_difference(a: Footer, b: Footer) -> float:
    """Difference of the shares kept, in standard errors (two-proportion z test)."""
    if not a.rows_in or not b.rows_in:
        return 0.0
    pooled = (a.kept + b.kept) / (a.rows_in + b.rows_in)
    error = math.sqrt(pooled * (1 - pooled) * (1 / a.rows_in + 1 / b.rows_in))
    return (a.kept / a.rows_in - b.kept / b.rows_in) / error if error else 0.0


def _mean_difference(a: Measures, b: Measures, name: str) -> float:
    """Difference of two means, in standard errors (Welch)."""
    sums = [(m.get(f"{name}_n", 0), m.get(f"{name}_sum", 0), m.get(f"{name}_squares", 0)) for m in (a, b)]
    if any(n < 2 for n, _, _ in sums):
        return 0.0
    means = [s / n for n, s, _ in sums]
    errors = [max(0.0, (q - s * s / n) / (n - 1)) / n for n, s, q in sums]
    error = math.sqrt(sum(errors))
    return (means[0] - means[1]) / error if error else 0.0


def _of(wrong: Sequence[str], all_: Iterable[str], what: str) -> str:
    n = len(list(all_))
    return f"{len(wrong)} of {n} tables {what}" if wrong else f"{n} tables are sound"


CHECKS: Mapping[str, Callable[[Checked], Result]] = {
    "schema": schema,
    "counts": counts,
    "unique_ids": unique_ids,
    "parse_rate": parsed,
    "votes_complete": votes_complete,
    "distinct_texts": distinct_texts,
    "one_state": one_state,
    "drift": drift,
}
WARN = frozenset({"drift"})
"""Checks that warn; the others stop the stages after them."""


def gate(tables: Checked) -> None:
    """Raise CheckFailed where a stage's answers are too poor for the stages after it, whenever they were made."""
    for name in ("parse_rate", "votes_complete"):
        if name in of(tables.stage) and not (found := CHECKS[name](tables)).passed:
            raise CheckFailed(
                f"{tables.stage}: {name}: {found.words}; for example {', '.join(found.rows)}",
                fix=f"read what the model said (pugc export {tables.stage}.jsonl --what {tables.stage} --all "
                f"--recipe {tables.all.recipe}); mend the prompt, or lower the threshold in [checks]",
            )


def refuse_mixture(tables: Checked) -> None:
    """Raise CheckFailed where a data set of these pairs would be made of shards in different states."""
    if not (found := one_state(tables)).passed:
        raise CheckFailed(
            f"the data set would be made of shards in different states: {found.words}",
            fix=f"pugc refresh --recipe {tables.all.recipe}, or allow it: [checks] mixed_shards = true",
        )


def of(stage: str) -> tuple[str, ...]:
    """The checks of a stage, by name."""
    asked = of_node(stage)
    return ("schema", "counts", "unique_ids", *asked.checks, *(["drift"] if asked.sharded else []))
