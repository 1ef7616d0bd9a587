"""A pair and all behind it: what was asked of which model, in which words, with which seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from pugc_core.engines.base import Request
from pugc_core.plan import Chain
from pugc_core.stages.base import Asking
from pugc_core.stages.responses import Responses
from pugc_core.stages.rewards import REFERENCE
from pugc_core.tables.references import References, wanted


def asked(chain: Chain, behind: Mapping[str, Any]) -> dict[str, Any]:
    """By stage: model, sampling, the prompt as it was sent, and a seed per draw; for `rewards` one of these per
    response, and the id of the post that the judge was shown, where that is another. `behind` is what `summary.lineage`
    gives. `current` is False where the recipe has changed since the table was made (or, where another post was shown,
    which one that is): then this is what would be asked now. No prompt where there is nothing to ask. Where answers
    were shown those before them, `prompts` has the prompt of each draw.
    """
    shard = behind["shard"]
    references = References(chain.tables, chain.workspace.shards())
    found: dict[str, Any] = {}
    for name, stage in chain.stages.items():
        if not isinstance(stage, Asking):
            continue
        footer = chain.tables.footer(name, shard)
        inputs = {of: _behind(chain.tables.read(of, shard), behind) for of in stage.inputs}
        made: dict[str, Any] = {
            "model": stage.model,
            "sampling": stage.sampling.model_dump(exclude_defaults=True, mode="json"),
            "current": footer is not None and dict(footer.fingerprint) == dict(stage.fingerprint),
        }
        if wanted(stage):
            inputs[REFERENCE] = references.table(shard)
            made[REFERENCE] = references.other(behind["post"]["ugc_id"])
            made["current"] &= footer is not None and footer.inputs.get(REFERENCE) == references.state(shard)
        rows = list(stage.rows(inputs).iter_rows(named=True))
        if isinstance(stage, Responses) and stage.varied and rows:
            found[name] = made | _one_by_one(stage, rows[0], behind)
        elif stage.after == "responses":
            draws = {r["response_id"]: [v["draw"] for v in r["votes"] or []] for r in behind["responses"]}
            by_response = {row["response_id"]: _request(stage, row, draws[row["response_id"]]) for row in rows}
            found[name] = made | {"responses": by_response}
        else:
            found[name] = made | (_request(stage, rows[0], _draws(stage, behind)) if rows else _NOTHING)
    return found


_NOTHING: dict[str, Any] = {"prompt": [], "seeds": {}}


def _behind(table: pl.DataFrame, behind: Mapping[str, Any]) -> pl.DataFrame:
    """The rows that stand behind the pair."""
    ids = {"ugc_id": behind["post"]["ugc_id"], "instruction_id": behind["instruction"]["instruction_id"]}
    key = next((name for name in reversed(ids) if name in table.columns), None)
    return table.filter(pl.col(key) == ids[key]) if key else table


def _draws(stage: Asking, behind: Mapping[str, Any]) -> list[int]:
    """The draws that the tables have of a stage's request."""
    if stage.name == "instructions":
        return [behind["instruction"]["draw"]]
    return [r["draw"] for r in behind["responses"]] if stage.name == "responses" else [0]


def _one_by_one(stage: Responses, row: Mapping[str, Any], behind: Mapping[str, Any]) -> dict[str, Any]:
    """Of answers that were shown those before them: a prompt for every draw, in `prompts`."""
    texts = {r["draw"]: r["text"] for r in behind["responses"]}
    requests = {draw: stage.sent(row, (draw,), [texts[d] for d in texts if d < draw]) for draw in texts}
    asked = {draw: _asked(request, [draw]) for draw, request in requests.items()}
    return {
        "prompt": asked[min(asked)]["prompt"],
        "prompts": {draw: of["prompt"] for draw, of in asked.items()},
        "seeds": {draw: of["seeds"][draw] for draw, of in asked.items()},
    }


def _request(stage: Asking, row: Mapping[str, Any], draws: Sequence[int]) -> dict[str, Any]:
    if any(row[slot] is None for slot in stage.prompt.slots):  # no other post
        return _NOTHING
    return _asked(stage.request(row, draws or [0]), draws)


def _asked(request: Request, draws: Sequence[int]) -> dict[str, Any]:
    return {
        "prompt": [{"role": role, "content": content} for role, content in request.messages],
        "seeds": {draw: request.seed(draw) for draw in draws},
    }
