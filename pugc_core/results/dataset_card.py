"""The card of a data set: what it holds, under which licences, and of which models, prompts and recipe it was made."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pugc_core.prompts.base import Prompt
from pugc_core.results import licences
from pugc_core.results.licences import Licences
from pugc_core.stages.records import Counts
from pugc_core.stages.rewards import REFERENCE
from pugc_core.tables.shard_states import State, States

SPLITS = ("train", "test")


@dataclass(frozen=True)
class DatasetCard:
    """What a card tells. `sizes` has pairs by split, `groups` pairs by group (`pugc_core.stages.groups`), `wordings`
    the recipe's prompts, which are shown where the data set was made with them."""

    recipe: str
    fingerprint: str
    sizes: Mapping[str, int]
    groups: Mapping[str, int]
    licences: Licences
    funnel: Mapping[str, Counts]
    states: States
    views: Sequence[str] = ("",)
    wordings: Sequence[Prompt] = field(default=())

    def render(self) -> str:
        head = {
            **licences.metadata(self.licences),
            "pretty_name": f"Preference pairs from user-generated content, recipe {self.recipe}",
            "task_categories": ["text-generation"],
            "tags": ["preference", "pugc"],
            "configs": [_config(view) for view in self.views],
        }
        funnel = [
            f"| {stage} | {c.rows_in} | {c.kept} | {', '.join(f'{r} {n}' for r, n in c.dropped.items()) or '-'} |"
            for stage, c in self.funnel.items()
        ]
        largest = max(self.groups.values(), default=0)
        return f"""{front_matter(head)}
# Preference pairs from user-generated content, recipe `{self.recipe}`

{self.sizes["train"]} pairs to train on, {self.sizes["test"]} held out. Fingerprint `{self.fingerprint}`.

Made as in "Aligning Large Language Models with Implicit Preferences from User-Generated Content" (arXiv 2506.04463):
a post is read for the question it answers, a policy answers the question several times, and a judge scores the answers,
with the post as reference where its prompt shows it; the best and the worst form a pair. Nobody labelled anything.
`prompt`, `chosen` and `rejected` are conversational messages as TRL reads them; ids lead back to post, instruction and
responses. Where `chosen_cut_off` or `rejected_cut_off` is true the answer was cut off: no end of sequence belongs after
it. `load_dataset(path, "unpaired")` has one answer per row with a label, `load_dataset(path, "reward")` whole
conversations and the margin.

The split goes by groups: posts of one thread or title, near-duplicate posts, and posts with near-duplicate questions
stand on one side. There are {len(self.groups)} groups, the largest with {largest} of the pairs.

## Licences

{licences.table(self.licences)}

Each row says the licence, author, address and source of its post as the source names them. The posts themselves are not
in these files: questions were written from them, and answers judged against them. The answers are the policy's, so its
own licence counts too.

## Made with

Recipe `{self.recipe}`. {self._mixture()}{self._departures()}

{self._asked()}

{_prompts(self.wordings, {asked.prompt for asked in self.states.asked()})}

| stage | in | kept | dropped |
|---|---|---|---|
{chr(10).join(funnel)}
"""

    def _mixture(self) -> str:
        if not self.states.differences:
            return "All shards were made in the same way."
        lines = "\n".join(f"- {difference}" for difference in self.states.differences)
        return f"**Its shards were not made in the same way:**\n\n{lines}"

    def _departures(self) -> str:
        """Where it was made otherwise than told above."""
        words = {
            ("rewards", REFERENCE, "random"): "The judge was shown another post, drawn at random, instead of the post.",
            ("rewards", REFERENCE, "none"): "The judge was shown no post.",
            ("responses", "vary", None): "Every answer after the first was asked for with the earlier ones in sight.",
        }
        said = [text for key, text in words.items() if any(_is(state, *key) for state in self.states.of.values())]
        return f" **{' '.join(said)}**" if said else ""

    def _asked(self) -> str:
        total = len(self.states.of)
        lines = [
            f"| {a.stage} | `{a.model}` | `{a.prompt}` | {len(a.shards)} of {total} |" for a in self.states.asked()
        ]
        return "\n".join(["| stage | model | prompt | shards |", "|---|---|---|---|", *lines])


def _is(state: State, stage: str, part: str, value: str | None) -> bool:
    """Whether a part of a stage's fingerprint is there and has this value, or any when None."""
    there = state.get(stage, {}).get(part)
    return there is not None and value in (there, None)


def front_matter(head: Mapping[str, object]) -> str:
    """The head of a card. JSON is YAML, so nothing that a source wrote can break out of its value."""
    return "\n".join(
        ["---", *(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in head.items()), "---", ""]
    )


def _config(view: str) -> dict[str, object]:
    files = [{"split": split, "path": f"{view}{'/' * bool(view)}{split}.parquet"} for split in SPLITS]
    return {"config_name": view or "default", "data_files": files}


def _prompts(wordings: Iterable[Prompt], used: set[str]) -> str:
    shown = {wording.fingerprint: wording for wording in wordings if wording.fingerprint in used}
    texts = [
        f"`{fingerprint}`\n\n<pre>{html.escape(chr(10).join(filter(None, (w.system, w.user))))}</pre>"
        for fingerprint, w in sorted(shown.items())
    ]
    body = "\n\n".join(texts)
    return f"<details><summary>The prompts</summary>\n\n{body}\n\n</details>" if texts else ""
