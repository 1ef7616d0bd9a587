"""Assets `policy/<objective>`: the policy trained on the dataset, one per objective of the recipe."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from pugc_core import progress, run, storage
from pugc_core.config import digest
from pugc_core.engines import EngineHost
from pugc_core.errors import PugcError, TrainingError
from pugc_core.plan import Chain
from pugc_core.progress import Reporter
from pugc_core.results import plots, policy_samples
from pugc_core.results.licences import licences
from pugc_core.stages.records import ALL
from pugc_core.tables.staleness import survey
from pugc_core.training import card
from pugc_core.training.config import VERSION
from pugc_core.training.summary import Summary
from pugc_dagster.keys import key, node_key
from pugc_dagster.stages import checks
from pugc_dagster.stages.metadata import cell, table

SENTENCE = "The policy, trained by {objective} to prefer the chosen answers; an ordinary Hugging Face folder."


def asset(chain: Chain, name: str) -> dg.AssetsDefinition:
    """The asset of a node of `chain`, its owner, that is a policy."""
    recipe, node = chain.recipe, chain.nodes[name]
    objective, dataset = str(node.objective), node.parents["dataset"].name

    @dg.asset(
        key=key(chain, name),
        deps=[node_key(parent) for parent in node.parents.values()],
        description=SENTENCE.format(objective=recipe.training.loss(objective).title),
        group_name=recipe.group,
        code_version=digest([VERSION, recipe.training.knobs(objective)]),
        required_resource_keys={"workspace", "engines"},
        pool="gpu",
        kinds={"pytorch", "huggingface"},
        check_specs=[
            dg.AssetCheckSpec(
                "learned",
                asset=key(chain, name),
                description="The loss is a number, and of the pairs that were trained on the chosen answers have come "
                "out ahead of the rejected ones. The held-out pairs say whether that holds for others.",
            ),
            checks.up_to_date_spec(key(chain, name)),
        ],
    )
    def policy(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]
        workspace = chain.workspace
        place = key(chain, name)
        host: EngineHost = context.resources.engines
        if "://" in workspace.root:
            raise TrainingError(
                f"a policy is trained from and into local folders, and the data lies on {workspace.root}",
                fix="pugc export the dataset, or set PUGC_DATA to a folder",
            )
        out = Path(chain.folder(name))
        footer = chain.tables.footer(dataset, ALL)
        run.must_have_pairs(chain, name)
        wanted = chain.wanted(name, footer)
        if run.current(chain, name):
            context.log.info("the policy is what this dataset and recipe would give again; nothing to train")
            summary = Summary.of(json.loads((out / "training.json").read_text(encoding="utf-8")))
            reused = True
        else:
            host.close()  # the models that made the data give the memory to the training
            summary = _train(context, chain, name, out)
            reused = False
        # Also where nothing was trained: other shards may have given the same data set.
        run.record(chain, name)
        asked = {stage.name: stage.fingerprint["prompt"] for stage in chain.stages.values() if stage.role}
        pairs = chain.tables.read(dataset, ALL, ["license", "keep"])
        card.write(out, recipe, summary, wanted, asked, licences(pairs))
        shown = _samples(context, chain, name, out)
        if recipe.training.push_to:
            context.log.info(f"pushed to {card.push(out, f'{recipe.training.push_to}-{objective}')}")
        picture = base64.b64encode(plots.png(plots.curves(summary.curve, objective))).decode()
        return dg.MaterializeResult(
            metadata={
                "path": dg.MetadataValue.path(str(out)),
                "headline": summary.headline,
                "figures": dg.MetadataValue.md(card.figures(summary)),
                **({"samples": dg.MetadataValue.md(answers_table(shown))} if shown else {}),
                "curves": dg.MetadataValue.md(f"![loss, margin, accuracy](data:image/png;base64,{picture})"),
                "steps": summary.steps,
                "pairs": summary.n_train,
                "test_pairs": summary.n_test,
                "dropped_too_long": summary.dropped_too_long,
                "device": summary.device,
                "devices": summary.devices,
                "tokens_per_second": summary.tokens_per_second,
                "resumed_at": summary.resumed_at,
                "seconds": summary.seconds,
                **{f"held_out_{name}": figure.value for name, figure in summary.held_out.items()},
                **{f"training_{name}": value for name, value in summary.final.items()},
                "reused": dg.MetadataValue.bool(reused),
            },
            data_version=dg.DataVersion(digest(wanted)),
            check_results=[_learned(place, summary), checks.up_to_date(place, name, survey(chain))],
        )

    return policy


def answers_table(samples: Sequence[Mapping[str, str]]) -> str:
    """A table in Markdown."""
    rows = [[cell(sample[name], 600) for name in ("question", "start", "trained")] for sample in samples]
    return table(["held-out question", "start", "trained"], rows)


def _learned(asset: dg.AssetKey, summary: Summary) -> dg.AssetCheckResult:
    loss, margin = summary.final.get("loss", math.nan), summary.final.get("margin", math.nan)
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name="learned",
        passed=math.isfinite(loss) and margin > 0,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{summary.headline}; on the {summary.n_train} pairs that it was trained on, "
        f"in {summary.steps} steps: loss {loss:.4g}, margin {margin:.4g}",
    )


def _samples(context: dg.AssetExecutionContext, chain: Chain, name: str, out: Path) -> list[dict[str, str]]:
    """Answers of start and policy to held-out questions, kept in the policy's folder for the report."""
    place = out / policy_samples.SAMPLES
    if not place.is_file():
        try:
            shown = policy_samples.held_out(chain, context.resources.engines, name)
        except PugcError as err:  # the policy is trained all the same
            context.log.warning(f"no samples of the policy: {err}")
            return []
        storage.write(str(place), json.dumps({"samples": shown}, indent=2).encode())
    return policy_samples.samples(str(out))


class _OneWriter(dg.PipesTempFileMessageReader):
    expected_writer_count = 1
    """Dagster's own says the same, with a warning in the log of every training that it is in preview."""


def _train(context: dg.AssetExecutionContext, chain: Chain, name: str, out: Path) -> Summary:
    recipe = chain.recipe
    # The lines of the log come from the training itself, through Dagster Pipes; the terminal's bar is ours.
    reporter = Reporter(f"{recipe.name} {name}", lambda _: None)

    def report(event: Mapping[str, Any]) -> None:
        shown = ("loss", "margin", "accuracy")
        note = " ".join(f"{name} {event[name]:.4g}" for name in shown if event.get(name) is not None)
        if event["step"] < event["total"]:  # the last word is on the held-out pairs
            reporter(int(event["step"]), int(event["total"]), f"training pairs: {note}")

    def say(what: str) -> None:
        context.log.info(what)
        progress.say(f"{recipe.name} {name}: {what}")

    progress.say(f"{recipe.name} {name}: starting the training: about 20 s")
    with dg.open_pipes_session(
        context=context,
        context_injector=dg.PipesTempFileContextInjector(),
        message_reader=_OneWriter(),
    ) as session:
        summary = run.train(
            chain, name, report=report, say=say, module="pugc_dagster.runs.piped", env=session.get_bootstrap_env_vars()
        )
    progress.say("")
    reporter(summary.steps, summary.steps, summary.headline)
    for note in summary.notes:
        context.log.warning(note)
    context.log.info(summary.headline)
    context.log.info(f"trained: {json.dumps({k: v for k, v in asdict(summary).items() if k != 'curve'})}")
    return summary
