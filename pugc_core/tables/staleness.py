"""Which tables are out of date, and why: read off their footers, exact and transitive, without reading a row.

A table is out of date when what shapes it (prompt, model, parameters, code) or what it was made from (source file,
tables before it) is no longer what its footer says, or when a table before it is out of date for such a reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pugc_core.errors import StorageError, TrainingError
from pugc_core.plan import Chain, Node
from pugc_core.stages import POLICY, STAGES, of_node
from pugc_core.stages.records import ALL
from pugc_core.stages.rewards import REFERENCE
from pugc_core.tables.references import References, wanted
from pugc_core.tables.store import Footer
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
    "limit": "size limit",
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
    sharded: Sequence[str] = ()
    """Those of the stages that have a table per shard."""

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
    sources = chain.workspace.source_hashes()
    names = chain.up_to(to)
    found = Survey({}, {}, {}, {}, [name for name in names if name in chain.sharded])
    look = _Look(chain, sources, found)
    for name in names:
        if name not in chain.stages:
            look.policy(name)
        elif chain.stages[name].sharded:
            look.shards(name)
        else:
            look.whole(name)
    return found


class _Look:
    """Looks at one node after the other, and fills in what it finds."""

    def __init__(self, chain: Chain, sources: Mapping[str, str], found: Survey) -> None:
        self.chain, self.sources, self.found = chain, sources, found
        self.references = References(chain.tables, sources)
        self.footers: dict[str, Mapping[str, Footer]] = {}

    def _add(self, name: str, whys: dict[str, str], total: int, made: int, failed: Mapping[str, str]) -> None:
        for place, value in ((self.found.stages, whys), (self.found.total, total), (self.found.made, made)):
            place[name] = value  # type: ignore[index]
        if failed:
            self.found.failed[name] = failed  # type: ignore[index]

    def shards(self, name: str) -> None:
        stage, parents = self.chain.stages[name], self.chain.nodes[name].parents
        there = self.footers[name] = self.chain.tables.footers(name)
        tables = {slot: parent.name for slot, parent in parents.items() if parent.name in self.footers}
        fingerprint, besides = dict(stage.fingerprint), self.chain.besides(name)
        whys, failed = dict[str, str](), dict[str, str]()
        for shard, source in self.sources.items():
            inputs = {slot: self.footers[of][shard].content for slot, of in tables.items() if shard in self.footers[of]}
            inputs |= besides if parents else {"source": source}
            if wanted(stage) and shard in self.footers["ugc"]:
                inputs[REFERENCE] = _state(self.references, shard)
            before = next((why for parent in parents.values() if (why := self._before(parent, shard))), None)
            if why := _why(name, fingerprint, there.get(shard), inputs, before):
                whys[shard] = why
            elif shard in there and there[shard].failed:
                failed[shard] = there[shard].failed
        self._add(name, whys, len(self.sources), sum(shard in there for shard in self.sources), failed)

    def _before(self, parent: Node, shard: str) -> str | None:
        """Why what a table is made of is out of date."""
        whys = self.found.stages.get(parent.name, {})
        return whys.get(ALL) if parent.objective else whys.get(shard)

    def whole(self, name: str) -> None:
        """A table over all shards of the tables before it."""
        stage, parents = self.chain.stages[name], self.chain.nodes[name].parents
        self.footers[name] = self.chain.tables.footers(name)
        footer = self.footers[name].get(ALL)
        inputs = {
            f"{slot}/{shard}": made.content
            for slot, parent in parents.items()
            for shard, made in self.chain.workspace.store.footers(parent.owner, parent.name).items()
            if shard in self.sources
        }
        whys = (_summed(self._shards_before(slot, parent), self.sources) for slot, parent in parents.items())
        before = next(filter(None, whys), None)
        why = _why(name, dict(stage.fingerprint), footer, inputs, before)
        self._add(name, {ALL: why} if why else {}, 1, int(footer is not None), {})

    def _shards_before(self, slot: str, parent: Node) -> Mapping[str, str]:
        """Why shards of a table before one over all shards are out of date."""
        source = self.chain.sources.get(slot.partition("@")[2])
        return (survey(source, parent.name) if source else self.found).stages[parent.name]

    def policy(self, name: str) -> None:
        dataset = self.chain.nodes[name].parents["dataset"]
        why = _policy(self.chain, name, self.footers[dataset.name].get(ALL), self.found.stages[dataset.name].get(ALL))
        self._add(name, {ALL: why} if why else {}, 1, int(why != MISSING), {})


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
    if footer.format != of_node(stage).format:
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
    if not of_node(stage).sharded:
        return _words_of_pairs(footer.inputs, inputs)
    different = [name for name in footer.inputs.keys() | inputs.keys() if footer.inputs.get(name) != inputs.get(name)]
    if different == [POLICY]:
        return "the policy that it was sampled from was trained again"
    if different == [REFERENCE]:
        return "posts came or went, and with them its random references"
    filters = [name for name in STAGES if name in different and STAGES[name].filters]
    if put_in := [name for name in filters if name not in footer.inputs]:
        return f"the filter {' and '.join(put_in)} was put in"
    if left_out := [name for name in filters if name not in inputs]:
        return f"the filter {' and '.join(left_out)} was left out"
    return f"made again: the table {' and '.join(sorted(different))}"


def _words_of_pairs(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    new, gone = len(now.keys() - then.keys()), len(then.keys() - now.keys())
    other = sum(then[name] != now[name] for name in then.keys() & now.keys())
    parts = ((new, "new"), (other, "changed"), (gone, "retired"))
    return f"shards of pairs: {', '.join(f'{n} {word}' for n, word in parts if n)}"


def _summed(pairs: Mapping[str, str], shards: Collection[str]) -> str | None:
    """What the shards' pairs mean for the data set: those out of date count, those not made yet do not hold it up."""
    outdated = [why for why in pairs.values() if why != MISSING]
    return f"{len(outdated)} of {len(shards)} shards of pairs: {reasons(outdated)}" if outdated else None


def _policy(chain: Chain, name: str, dataset: Footer | None, before: str | None) -> str | None:
    node = chain.nodes[name]
    try:
        then = lineage.recorded(chain.folder(name))
    except StorageError:
        then = None
    if then is None:
        return MISSING
    if before is not None:
        return before if before != MISSING else "the dataset is not made yet"
    try:
        now = chain.wanted(name, dataset)
    except TrainingError:
        return "the policy that it starts from is not trained yet"
    changed = [part for part, value in now.items() if then.get(part) != value]
    words = {
        "dataset": "it was trained on another dataset",
        "start": "the model that it starts from changed"
        if "start" not in node.parents
        else "its start was trained again",
        "version": "the training code changed",
        "system_role": "it was trained with the system role that the model does not have",
    }
    return "; ".join(words.get(part, "its training settings changed") for part in changed) or None


def to_refresh(found: Survey, stages: Sequence[str]) -> tuple[list[str], list[str]]:
    """(stages, shards) that a refresh runs, of these sharded stages: from the first with something to do on, as far as
    any shard has come. Shards that were never begun are no business of a refresh, nor are those whose file is of no
    use; one that failed later on may come through this time."""
    furthest = max((i for i, stage in enumerate(stages) if found.made[stage]), default=-1)
    used = stages[: furthest + 1]
    unbegun = set.intersection(*(set(found.missing(stage)) for stage in stages))
    failed = {stage: found.failed.get(stage, {}).keys() if of_node(stage).after else set[str]() for stage in used}
    todo = {stage: (found.stages[stage].keys() - unbegun) | failed[stage] for stage in used}
    first = next((i for i, stage in enumerate(used) if todo[stage]), len(used))
    return list(used[first:]), sorted({shard for shards in todo.values() for shard in shards})
