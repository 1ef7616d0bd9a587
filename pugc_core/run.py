"""Runs a recipe's nodes. No Dagster: who records what is made is not known here.

`tables` gives one node's tables as they are made, `export` writes a data set's files, `train` makes a policy; `run` is
the whole chain, one node after the other, each over all shards.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType

from pugc_core.engines.base import Engine
from pugc_core.engines.pins import pinned
from pugc_core.errors import TrainingError
from pugc_core.ledger.store import Ledger
from pugc_core.models.smollm2.cache import Say
from pugc_core.models.spec import ModelSpec
from pugc_core.plan import Chain
from pugc_core.results import exports
from pugc_core.results.summary import funnel
from pugc_core.stages.base import Asking
from pugc_core.stages.records import ALL, Counts
from pugc_core.tables.references import References
from pugc_core.tables.shard_states import States, merged, states
from pugc_core.tables.stage_run import Inputs, StageRun
from pugc_core.tables.store import Footer, Loaded
from pugc_core.training import lineage
from pugc_core.training.run import run as run_training
from pugc_core.training.summary import Report, Summary, unsaid

Engines = Callable[[ModelSpec], Engine]
"""Gives the engine of a model, when it is first needed."""


def inputs(chain: Chain, name: str, shards: Iterable[str]) -> Inputs:
    """The tables that a node reads, for these shards; for a node over all shards, of those of them that are there."""
    store, stage, names = chain.workspace.store, chain.stages[name], list(shards)
    found: dict[str, dict[str, Loaded]] = {}
    for slot in stage.inputs:
        parent = chain.nodes[name].parents[slot]
        there = None if stage.sharded else set(store.shards(parent.owner, parent.name))
        wanted = (shard for shard in names if there is None or shard in there)
        found[slot] = {shard: Loaded(store, parent.owner, parent.name, shard) for shard in wanted}
    return found


def tables(
    chain: Chain,
    name: str,
    shards: Iterable[str],
    read: Inputs,
    *,
    ledger: Ledger,
    engines: Engines,
    progress: Callable[[int, int, str], None] | None = None,
) -> StageRun:
    """The tables of a node for these shards (for ALL, where it has one over all), as they are made or found current;
    `read` are the tables that it reads. Writing them is the caller's part."""
    model, workspace = chain.model(name), chain.workspace
    return StageRun(
        chain.ready(name),
        name,
        shards,
        read,
        tables=chain.tables,
        ledger=ledger,
        engine=lambda: engines(pinned(model, ledger.root)),
        context=model.context,
        path_of=workspace.source,
        source_hashes={} if chain.nodes[name].parents else workspace.source_hashes(),
        progress=progress,
        references=References(chain.tables, workspace.shards()),
        besides=chain.besides(name),
    )


def export(chain: Chain, name: str, footer: Footer, shards: Iterable[str]) -> str:
    """Write the files of a data set whose table is there, made of these shards. Returns their folder."""
    folder, used = chain.folder(name), list(shards)
    asking = [stage for each in (chain, *chain.sources.values()) for stage in each.stages.values()]
    exports.write_dataset(
        folder,
        chain.tables.read(name, ALL),
        recipe=chain.name,
        fingerprint=footer.content,
        funnel=_funnel(chain, name, used),
        states=state(chain, name, used),
        wordings=dict.fromkeys(stage.prompt for stage in asking if isinstance(stage, Asking)),
    )
    return folder


def _funnel(chain: Chain, name: str, shards: Collection[str]) -> dict[str, Counts]:
    """The way of the rows into a data set; recipe by recipe, where several are merged."""
    if not chain.sources:
        return funnel(chain.tables, shards, [of for of in chain.behind(name) if of in chain.stages])
    each = {of: funnel(other.tables, shards, other.sharded) for of, other in chain.sources.items()}
    found = {f"{of}: {stage}": counts for of, stages in each.items() for stage, counts in stages.items()}
    return found | funnel(chain.tables, shards, [name])


def state(chain: Chain, name: str, shards: Collection[str]) -> States:
    """In which state the shards of a data set are, those of every recipe that it merges."""
    if not chain.sources:
        return states(chain.tables, shards, name.removesuffix(chain.stages[name].name))
    return merged({of: states(other.tables, shards) for of, other in chain.sources.items()})


def current(chain: Chain, name: str) -> bool:
    """Whether a policy is there and is what would be trained now."""
    dataset = chain.nodes[name].parents["dataset"].name
    return lineage.same(lineage.recorded(chain.folder(name)), chain.wanted(name, chain.tables.footer(dataset, ALL)))


def must_have_pairs(chain: Chain, name: str) -> None:
    """Raise TrainingError where the data set of a policy holds no pair, and say why that may be."""
    dataset = chain.nodes[name].parents["dataset"].name
    footer = chain.tables.footer(dataset, ALL)
    if footer is None or footer.kept:
        return
    rounds = chain.recipe.rounds.count
    why = f"; its posts are divided into {rounds} parts, one for every round" if rounds > 1 else ""
    fix = "lower [rounds] count, or take in more posts" if rounds > 1 else "take in more posts: pugc ingest FILE"
    raise TrainingError(f"{dataset} of recipe {chain.name} holds no pair to train on{why}", fix=fix)


def train(
    chain: Chain,
    name: str,
    *,
    report: Report = lambda event: None,
    say: Say = unsaid,
    module: str = "pugc_core.training",
    env: Mapping[str, str] = MappingProxyType({}),
) -> Summary:
    """Train a policy on its data set, into its folder. Raises TrainingError where it cannot be trained."""
    node, model = chain.nodes[name], pinned(chain.model(name), chain.workspace.ledger)
    model.bring(say)
    return run_training(
        system_role=model.system_role,
        dataset=chain.folder(node.parents["dataset"].name),
        start=start_of(model),
        objective=str(node.objective),
        config=chain.recipe.training,
        out=chain.folder(name),
        report=report,
        say=say,
        module=module,
        env=env,
    )


def record(chain: Chain, name: str) -> None:
    """Note what a policy was made from."""
    footer = chain.tables.footer(chain.nodes[name].parents["dataset"].name, ALL)
    lineage.record(chain.folder(name), chain.wanted(name, footer), dict(footer.inputs) if footer else {})


def start_of(model: ModelSpec) -> str:
    """Where training starts. Raises TrainingError for a model that is not at hand as weights."""
    if model.engine == "scripted":
        raise TrainingError(
            "the role policy is played by a script, which has no weights to train",
            fix="pugc run --to dataset, or give the role policy a model",
        )
    if model.adapter is not None:
        raise TrainingError(
            f"the role policy is played by {model.id} with an adapter, and training starts from whole models",
            fix="merge the adapter into the model (peft's merge_and_unload), and name the folder of the result as id",
        )
    return f"{model.location}@{model.revision}" if model.revision and not model.local else model.location


def run(
    chain: Chain,
    ledger: Ledger,
    engines: Engines,
    *,
    shards: Iterable[str] = (),
    to: str | None = None,
    trained: Callable[[Chain, str], object] = train,
    made: Callable[[str, StageRun], None] = lambda name, work: None,
) -> None:
    """Every node up to `to` (all, when None) over these shards (all of the inbox, when empty). `trained` makes a
    policy, and `made` is told of every node's tables once they are written.

    Raises the first error of a node when all its shards are through, and goes no further.
    """
    names = sorted(shards) or sorted(chain.workspace.shards())
    for name in chain.up_to(to):
        if chain.nodes[name].objective:
            must_have_pairs(chain, name)
            if not current(chain, name):
                trained(chain, name)
            record(chain, name)
            continue
        over = names if chain.stages[name].sharded else [ALL]
        work = tables(chain, name, over, inputs(chain, name, names), ledger=ledger, engines=engines)
        try:
            for shard, frame, footer, _ in work:
                if frame is not None:
                    chain.tables.write(frame, footer)
                if shard == ALL:
                    export(chain, name, footer, names)
        finally:
            made(name, work)
        if work.failed:
            raise next(iter(work.failed.values()))
