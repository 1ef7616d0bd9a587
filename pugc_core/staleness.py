"""Which tables are out of date, and why: read off their footers, exact and transitive, without reading a row.

A table is out of date when what shapes it (prompt, model, parameters, code) or what it was made from (source file,
tables before it) is no longer what its footer says, or when a table before it is out of date for such a reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pugc_core.errors import StorageError
from pugc_core.plan import Chain
from pugc_core.records import ALL
from pugc_core.references import References, wanted
from pugc_core.stages.base import Stage
from pugc_core.stages.rewards import REFERENCE
from pugc_core.tables import FORMAT, Footer
from pugc_core.training import lineage

MISSING = "not made yet"
PARTS = {
    "version": "code",
    "near": "rule for near-duplicates",
    "model": "model",
    "context": "model's context",
    "sampling": "sampling parameters",
    "votes": "number of votes",
    "judge": "kind of judge",
    "threshold": "threshold",
    "margin": "smallest margin",
    "ties": "rule for ties",
}
"""What a part of a fingerprint is called where its own name would not say it."""


@dataclass(frozen=True)
class Survey:
    """What is out of date in a recipe.

    `stages` has every stage in run order ("policy/<objective>" for policies), each with the reason by shard; a stage
    without shards has the one shard "_all". `total` counts the tables that there should be, `made` those there are.
    `failed` has the shards that could not be made of what is there now, with the reason, by stage. They are not out of
    date: those of stage ugc wait for their file to change, and a refresh tries the others again (`to_refresh`).
    """

    stages: Mapping[str, Mapping[str, str]]
    total: Mapping[str, int]
    made: Mapping[str, int]
    failed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def outdated(self, stage: str) -> dict[str, str]:
        """The tables of a stage that are there and out of date, with the reason."""
        return {shard: why for shard, why in self.stages[stage].items() if why != MISSING}

    def missing(self, stage: str) -> list[str]:
        return [shard for shard, why in self.stages[stage].items() if why == MISSING]

    def sentence(self, stage: str) -> str:
        """ "37 of 200 shards out of date: the rewards prompt changed"."""
        outdated, missing = self.outdated(stage), self.missing(stage)
        parts = []
        if outdated:
            noun = "" if ALL in outdated else f"{len(outdated)} of {self.total[stage]} shards "
            parts.append(f"{noun}out of date: {reasons(outdated.values())}")
        if missing:
            parts.append("not made yet" if ALL in missing else f"{len(missing)} shards not made yet")
        if failed := self.failed.get(stage):
            parts.append(f"{len(failed)} of {self.total[stage]} shards could not be made")
        return "; ".join(parts) or "up to date"


def reasons(whys: Iterable[str]) -> str:
    """The reasons, the commonest first, with their number where there are several."""
    counted = Counter(whys).most_common()
    return ", ".join(why if len(counted) == 1 else f"{why} ({n})" for why, n in counted)


def survey(chain: Chain, to: str | None = None) -> Survey:
    """Compare every table of a recipe with what would be made now. Asks no model and reads no rows.

    `to` names the last stage to look at; all, when None.
    """
    stages, tables, workspace = chain.stages, chain.tables, chain.workspace
    if to is not None and to in stages:
        names = list(stages)
        stages = {name: stages[name] for name in names[: names.index(to) + 1]}
    sources = workspace.source_hashes()
    references = References(tables, sources)
    footers = {name: tables.footers(name) for name in stages}
    found: dict[str, dict[str, str]] = {}
    failed: dict[str, dict[str, str]] = {}
    total, made = {}, {}
    for name, stage in stages.items():
        if name == "dataset":
            continue
        there, fingerprint = footers[name], dict(stage.fingerprint)
        total[name], made[name] = len(sources), sum(shard in there for shard in sources)
        found[name] = {}
        for shard, source in sources.items():
            inputs = _inputs_now(stage, shard, source, footers)
            if wanted(stage) and shard in footers["ugc"]:
                inputs[REFERENCE] = _state(references, shard)
            before = next((found[i][shard] for i in stage.inputs if shard in found[i]), None)
            if why := _why(name, fingerprint, there.get(shard), inputs, before):
                found[name][shard] = why
            elif shard in there and there[shard].failed:
                failed.setdefault(name, {})[shard] = there[shard].failed
    if "dataset" not in stages:
        return Survey(found, total, made, failed)
    dataset = footers["dataset"].get(ALL)
    pairs = {f"pairs/{shard}": f.content for shard, f in footers["pairs"].items() if shard in sources}
    before = _summed(found["pairs"], len(sources))
    why = _why("dataset", dict(stages["dataset"].fingerprint), dataset, pairs, before)
    total["dataset"], made["dataset"] = 1, int(dataset is not None)
    found["dataset"] = {ALL: why} if why else {}
    for objective in chain.recipe.training.objectives if to != "dataset" else ():
        name = f"policy/{objective}"
        why = _policy(chain, objective, dataset, found["dataset"].get(ALL))
        total[name], made[name] = 1, int(why != MISSING)
        found[name] = {ALL: why} if why else {}
    return Survey(found, total, made, failed)


def _inputs_now(stage: Stage, shard: str, source: str, footers: Mapping[str, Mapping[str, Footer]]) -> dict[str, str]:
    if not stage.inputs:
        return {"source": source}
    return {name: footers[name][shard].content for name in stage.inputs if shard in footers[name]}


def _state(references: References, shard: str) -> str:
    try:
        return references.state(shard)
    except StorageError:  # a damaged table of posts, which is told where it stands
        return ""


def _why(
    stage: str, fingerprint: Mapping[str, str], footer: Footer | None, inputs: Mapping[str, str], before: str | None
) -> str | None:
    """Why a table is out of date: for its own reasons first, then for those of a table before it."""
    if footer is None:
        return MISSING
    if footer.format != FORMAT:
        return "made by an older version of pugc"
    if footer.fingerprint != fingerprint:
        changed = [name for name in fingerprint if footer.fingerprint.get(name) != fingerprint[name]]
        return f"the {stage} {' and '.join(PARTS.get(n, n) for n in changed) or 'code'} changed"
    if before is not None:
        return before if before != MISSING else "a table before it is not made yet"
    if footer.inputs == inputs:
        return None
    if "source" in inputs:
        return "its file changed"
    if stage == "dataset":
        return _words_of_pairs(footer.inputs, inputs)
    different = [name for name in footer.inputs.keys() | inputs.keys() if footer.inputs.get(name) != inputs.get(name)]
    if different == [REFERENCE]:
        return "posts came or went, and with them its random references"
    return f"made again: the table {' and '.join(sorted(different))}"


def _words_of_pairs(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    new, gone = len(now.keys() - then.keys()), len(then.keys() - now.keys())
    other = sum(then[name] != now[name] for name in then.keys() & now.keys())
    parts = ((new, "new"), (other, "changed"), (gone, "retired"))
    return f"shards of pairs: {', '.join(f'{n} {word}' for n, word in parts if n)}"


def _summed(pairs: Mapping[str, str], total: int) -> str | None:
    """What the shards' pairs mean for the data set: those out of date count, those not made yet do not hold it up."""
    outdated = [why for why in pairs.values() if why != MISSING]
    return f"{len(outdated)} of {total} shards of pairs: {reasons(outdated)}" if outdated else None


def _policy(chain: Chain, objective: str, dataset: Footer | None, before: str | None) -> str | None:
    try:
        then = lineage.recorded(chain.policy(objective))
    except StorageError:
        then = None
    if then is None:
        return MISSING
    if before is not None:
        return before if before != MISSING else "the dataset is not made yet"
    now = lineage.wanted(chain.recipe, objective, dataset.content if dataset else None)
    changed = [name for name, value in now.items() if then.get(name) != value]
    words = {
        "dataset": "it was trained on another dataset",
        "start": "the model that it starts from changed",
        "version": "the training code changed",
        "system_role": "it was trained with the system role that the model does not have",
    }
    return "; ".join(words.get(name, "its training settings changed") for name in changed) or None


def to_refresh(found: Survey, stages: Sequence[str]) -> tuple[list[str], list[str]]:
    """(stages, shards) that a refresh runs, of these sharded stages: from the first with something to do on, as far as
    any shard has come. Shards that were never begun are no business of a refresh, nor are those whose file is of no
    use; one that failed later on may come through this time."""
    furthest = max((i for i, stage in enumerate(stages) if found.made[stage]), default=-1)
    used = stages[: furthest + 1]
    unbegun = set.intersection(*(set(found.missing(stage)) for stage in stages))
    failed = {stage: found.failed.get(stage, {}).keys() if stage != "ugc" else set[str]() for stage in used}
    todo = {stage: (found.stages[stage].keys() - unbegun) | failed[stage] for stage in used}
    first = next((i for i, stage in enumerate(used) if todo[stage]), len(used))
    return list(used[first:]), sorted({shard for shards in todo.values() for shard in shards})
