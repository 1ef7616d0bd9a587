"""The report of a data set: one HTML file that opens offline and asks nothing of any server."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pugc_core import storage
from pugc_core.errors import PugcError, StorageError
from pugc_core.plan import Chain
from pugc_core.results import call_log, comparison, dropped_rows, plots, policy_samples, provenance, summary
from pugc_core.stages.measures import banded, cut_off_share

LISTED = 2000
"""Pairs in the table."""
DROPPED = 100
"""Dropped rows in the table for every stage and reason."""
WHOLE = 100
"""Pairs, of the widest margin, that are shown with all behind them."""


def write(chain: Chain) -> str:
    """Write the report and return its path."""
    environment = Environment(loader=PackageLoader("pugc_dagster"), autoescape=True, undefined=StrictUndefined)
    scripts = _scripts()
    page = environment.get_template("report.html").render(
        **_content(chain),
        style=Markup(_kept("vendor/tabulator_simple.min.css")),
        scripts=[Markup(script) for script in scripts],
        hashes=[Markup(f"'sha256-{_sha256(script)}'") for script in scripts],
    )
    path = chain.report
    storage.write(path, page.encode())
    return path


def outside(page: str) -> list[str]:
    """What a page would ask of a server when it is opened. Users' texts are escaped, and cannot; nor can its scripts,
    which the page's policy (Content-Security-Policy) forbids to load anything."""
    reader = _Outside()
    reader.feed(page)
    reader.close()
    return reader.found


class _Outside(HTMLParser):
    """Collects addresses in tags and styles; what is text, or the content of a script, is none."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_style = tag == "style"
        for name, value in attrs:
            if name.rpartition(":")[2] in ("src", "href") and value and not value.startswith("#"):
                self.found.append(value)
            elif value and name == "style":
                self._style(value)

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self._style(data)

    def _style(self, text: str) -> None:
        self.found += re.findall(r"""\burl\((?!\s*["']?#)\s*["']?([^)"']+)""", text)
        self.found += re.findall(r"""@import\s+["']([^"']+)""", text)


def _scripts() -> list[str]:
    """The page's scripts, in order. No other one runs in it: its policy names their hashes."""
    return [_kept(f"vendor/{name}.min.js") for name in ("tabulator", "diff")] + [_kept("report.js")]


def _kept(name: str) -> str:
    return resources.files("pugc_dagster").joinpath("templates", name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _content(chain: Chain) -> dict[str, Any]:
    tables = chain.tables
    inbox = chain.workspace.shards()
    shards = [shard for shard in tables.shards("ugc") if shard in inbox]
    footer = tables.footer("dataset", "_all")
    kept = summary.rows(tables, "dataset").filter("keep").sort("margin", "pair_id", descending=[True, False])
    policies = {
        objective: _training(Path(chain.policy(objective)) / "training.json")
        for objective in chain.recipe.training.objectives
    }
    whole = _whole(chain, kept.head(WHOLE))
    calls = call_log.of(chain)
    counted = summary.funnel(tables, shards)
    judged = summary.measured(tables, "rewards", shards)
    pairs = kept.head(LISTED)
    left_out = dropped_rows.sample(tables, shards, DROPPED)
    known = {behind["pair"]["pair_id"] for behind in whole}
    return {
        "recipe": chain.recipe,
        "fingerprint": footer.content if footer else "none yet",
        "shards": shards,
        "funnel": counted,
        "cut_off": cut_off_share(summary.measured(tables, "responses", shards)),
        "rewards": summary.reward_shape(judged),
        "calls": calls,
        "asked": any(c["made"] or c["from_ledger"] for c in calls.values()),
        "data": {
            "pairs": [_row(pair, known) for pair in pairs.iter_rows(named=True)],
            "dropped": left_out,
            "total": kept.height,
        },
        "listed": pairs.height,
        "total": kept.height,
        "any_dropped": bool(left_out),
        "each": DROPPED,
        "whole": whole,
        "left_out": min(WHOLE, kept.height) - len(whole),
        "policies": {objective: record for objective, record in policies.items() if record},
        "comparison": _comparison(chain),
        "samples": {objective: policy_samples.samples(chain.policy(objective)) for objective in policies},
        "pictures": _pictures(chain, kept, judged, counted, policies, shards),
    }


_BESIDES = ("license", "source", "author", "url", "chosen_cut_off", "rejected_cut_off")
"""Columns that the data set may have, shown where it has them."""


def _row(pair: Mapping[str, Any], behind: set[str]) -> dict[str, Any]:
    return {
        "id": pair["pair_id"],
        "question": pair["prompt"][-1]["content"],
        "chosen": pair["chosen"][0]["content"],
        "rejected": pair["rejected"][0]["content"],
        "margin": pair["margin"],
        "shard": pair["shard"],
        "split": pair["split"],
        "behind": pair["pair_id"] in behind,
        **{name: pair[name] for name in _BESIDES if pair.get(name)},
    }


def _whole(chain: Chain, pairs: pl.DataFrame) -> list[dict[str, Any]]:
    """Pairs with post, instruction, responses, votes, and what was asked of whom. A pair whose tables have changed
    since the data set was made is left out."""
    found = []
    for behind in summary.lineages(chain.tables, pairs["pair_id"].to_list()):
        with contextlib.suppress(StorageError):  # a table that has changed meanwhile
            behind["asked"] = provenance.asked(chain, behind)
            found.append(behind)
    return found


def _comparison(chain: Chain) -> dict[str, Any] | None:
    """The comparison that the recipe asks for, or why there is none; None where it asks for none."""
    if not chain.recipe.compare.with_:
        return None
    try:
        found = comparison.of([chain, *chain.compared])
    except PugcError as err:
        return {"error": err.line}
    picture = Markup(plots.svg(plots.comparison(found)))
    return {"error": "", "names": found.names, "rows": found.rows(), "notes": found.notes, "picture": picture}


def _pictures(
    chain: Chain,
    kept: pl.DataFrame,
    judged: Mapping[str, float],
    counted: Mapping[str, Any],
    policies: Mapping[str, Any],
    shards: list[str],
) -> dict[str, Markup]:
    figures = {"funnel": plots.funnel(counted)}
    if judged:
        votes = summary.rows(chain.tables, "rewards", shards)
        figures["rewards"] = plots.rewards(judged, votes["reward"])
        if banded(judged):  # a classifier's one score agrees with itself
            figures["agreement"] = plots.agreement(votes["spread"])
    if kept.height:
        figures["pairs"] = plots.pairs(kept)
    for objective, record in policies.items():
        if record:
            figures[f"policy {objective}"] = plots.curves(record["curve"], objective)
    return {name: Markup(plots.svg(figure)) for name, figure in figures.items()}


def _training(path: Path) -> dict[str, Any] | None:
    """The record of a policy's training; older ones have no held-out figures."""
    return {"held_out": {}, **json.loads(path.read_text(encoding="utf-8"))} if path.is_file() else None
