"""Asset `comparison`: a recipe's pairs and rewards beside those of the recipes that its `[compare]` names."""

import base64

import dagster as dg

from pugc_core.errors import PugcError
from pugc_core.intervals import Estimate
from pugc_core.plan import Chain
from pugc_core.results import comparison, plots
from pugc_core.results.comparison import Comparison
from pugc_dagster.keys import key
from pugc_dagster.stages.metadata import table

SENTENCE = "The pairs and rewards of {names} side by side; the first is the one that the others are compared with."


def asset(chain: Chain) -> dg.AssetsDefinition:
    """The asset of a recipe that is compared with others. It makes no table: each materialization looks anew."""
    try:
        others, wrong = chain.compared, ""
    except PugcError as err:  # the recipe is sound; only its comparison is not
        others, wrong = [], f" It cannot be made: {err.line}."
    names = ", ".join((chain.name, *chain.recipe.compare.with_))

    @dg.asset(
        key=key(chain, "comparison"),
        # Each once: a fork may share its pairs with what it is compared with.
        deps=list(dict.fromkeys(key(each, "pairs") for each in (chain, *others))),
        description=SENTENCE.format(names=names) + wrong,
        group_name=chain.recipe.group,
    )
    def compared(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]
        found = comparison.of([chain, *chain.compared])
        for note in found.notes:
            context.log.warning(note)
        picture = base64.b64encode(plots.png(plots.comparison(found))).decode()
        notes = {"notes": dg.MetadataValue.md("\n".join(f"- {note}" for note in found.notes))} if found.notes else {}
        return dg.MaterializeResult(
            metadata={
                "comparison": dg.MetadataValue.md(table(["", *found.names], found.rows())),
                **notes,
                "plot": dg.MetadataValue.md(f"![margins, lengths, flipped](data:image/png;base64,{picture})"),
                "figures": dg.MetadataValue.json(found.plain()),
                **_numbers(found),
            }
        )

    return compared


def _numbers(found: Comparison) -> dict[str, float | int]:
    """Every figure by "recipe/name", as the web UI plots it over materializations."""
    return {
        f"{each.recipe}/{name}": figure.value.value if isinstance(figure.value, Estimate) else figure.value
        for each in found.recipes
        for name, figure in each.figures.items()
        if figure.value is not None
    }
