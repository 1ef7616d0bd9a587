"""The same question to the start model and to what was trained from it.

Nothing is stored in the ledger: an answer here is for a look. Its seed comes from the conversation, the sampling and
the weights, so the same question gets the same answer again for as long as the policy is the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from pugc_core import progress, storage
from pugc_core.engines import EngineHost
from pugc_core.engines.base import Generation, Refusal, Request
from pugc_core.engines.pins import pinned
from pugc_core.errors import EngineError, RecipeError, TrainingError
from pugc_core.ledger.store import Ledger
from pugc_core.models.spec import ModelSpec
from pugc_core.plan import Chain, trained_model
from pugc_core.prompts.base import Message, neutralise
from pugc_core.prompts.responses import parse
from pugc_core.stages.records import ALL
from pugc_core.stages.responses import Responses
from pugc_core.training import lineage

START = "start"
"""The name of the model that training starts from."""
HELD_OUT = 3
"""Held-out questions that a policy is shown with."""
SAMPLES = "samples.json"
"""In a policy's folder: {"samples": [{"question", "start", "trained"}]}."""


@dataclass(frozen=True)
class Side:
    """One of those that are asked."""

    name: str
    model: ModelSpec


def sides(chain: Chain, names: Sequence[str] = ()) -> list[Side]:
    """The policies of these names (`start`, or an objective); the start and all that are trained, when empty.

    Raises RecipeError for a name that the recipe does not have, TrainingError for a policy that is not trained yet.
    """
    recipe = chain.recipe
    known = (START, *recipe.training.objectives)
    if unknown := [name for name in names if name not in known]:
        raise RecipeError(
            f"recipe {recipe.name} has no policy {', '.join(unknown)}", fix=f"name one of {', '.join(known)}"
        )
    trained = [name for name in known[1:] if lineage.recorded(chain.policy(name)) is not None]
    wanted = list(dict.fromkeys(names)) or [START, *trained]
    for name in wanted:
        if name != START and name not in trained:
            raise TrainingError(
                f"policy {name} of recipe {recipe.name} is not trained yet", fix=f"pugc run --recipe {recipe.name}"
            )
    start = recipe.model("policy")
    return [Side(name, start if name == START else trained_model(start, chain.policy(name))) for name in wanted]


def held_out(chain: Chain, host: EngineHost, name: str) -> list[dict[str, str]]:
    """`question`, `start` and `trained` for the first few questions (by pair id, unpicked) of the data set that the
    policy was not trained on, of different groups. What the start answered when the pairs were made is taken from the
    ledger.

    Raises EngineError when a model cannot be asked, TrainingError when the policy is not trained.
    """
    dataset = chain.nodes[name].parents["dataset"].name
    rows = chain.tables.read(dataset, ALL).filter(pl.col("keep"), pl.col("split") == "test")
    prompts = rows.sort("pair_id").unique("group", keep="first", maintain_order=True)["prompt"].head(HELD_OUT).to_list()
    objective = str(chain.nodes[name].objective)
    start = Side(START, chain.recipe.model("policy"))
    trained = Side(objective, trained_model(start.model, chain.folder(name)))
    asked = [tuple(Message(turn["role"], turn["content"]) for turn in prompt) for prompt in prompts]
    if not asked:
        return []
    answers = {side.name: _each(side, asked, chain, host) for side in (start, trained)}
    return [
        {"question": messages[-1].content, "start": before, "trained": after}
        for messages, before, after in zip(asked, answers[START], answers[objective], strict=True)
        if before is not None and after is not None
    ]


def _each(side: Side, asked: Sequence[tuple[Message, ...]], chain: Chain, host: EngineHost) -> list[str | None]:
    """A side's first draw for each of the prompts; None where it refused."""
    requests = [Request(side.model.identity, messages, chain.recipe.responses.sampling) for messages in asked]
    with Ledger(chain.workspace.ledger) as ledger:
        given = ledger.find(side.model.identity, [request.key(0) for request in requests])
    if missing := [request for request in requests if request.key(0) not in given]:
        engine = host.engine(pinned(side.model, chain.workspace.ledger))
        with progress.doing(f"asking {side.name} what it says to {len(missing)} held-out questions: seconds"):
            for answer in engine.generate(missing):
                if isinstance(answer, Generation):
                    given[answer.key] = answer
    texts = (given.get(request.key(0)) for request in requests)
    return [parse(answer.text) + " [cut off]" * answer.cut_off if answer else None for answer in texts]


def samples(folder: str) -> list[dict[str, str]]:
    """What `held_out` gave for the policy in a folder, as its asset keeps it; empty where it has not."""
    try:
        found = json.loads(storage.read(storage.join(folder, SAMPLES)))["samples"]
    except FileNotFoundError:
        return []
    return [{name: str(sample.get(name, "")) for name in ("question", "start", "trained")} for sample in found]


class Talk:
    """Conversations with several policies, each with its own answers in its memory.

    One engine at a time, so that two models need the room of one; the policy that was asked last is asked first.
    """

    def __init__(self, chain: Chain, sides: Sequence[Side], host: EngineHost) -> None:
        stage = chain.stages["responses"]
        assert isinstance(stage, Responses)
        self._prompt, self._sampling = stage.prompt, stage.config.sampling
        self._sides, self._host = list(sides), host
        self._order = list(sides)
        self._said: dict[str, tuple[Message, ...]] = {side.name: () for side in sides}

    def ask(self, text: str, draws: int = 1) -> dict[str, list[Generation]]:
        """The answers of each side, by name. The first is what the side remembers to have said.

        Raises EngineError when a model cannot be asked or the conversation has become too long for it.
        """
        rendered = self._prompt.render({"instruction": text})
        answers: dict[str, list[Generation]] = {}
        said: dict[str, tuple[Message, ...]] = {}
        for side in self._order:
            before = self._said[side.name]
            messages = (*before, *(rendered[-1:] if before else rendered))
            answers[side.name] = self._answers(side, messages, draws)
            said[side.name] = (*messages, Message("assistant", neutralise(parse(answers[side.name][0].text))))
        self._said = said  # of all sides or, where one could not be asked, of none
        self._order.reverse()
        return {side.name: answers[side.name] for side in self._sides}

    def _answers(self, side: Side, messages: tuple[Message, ...], draws: int) -> list[Generation]:
        # Servers refuse n > 1 for greedy answers, which would all be the same.
        wanted = tuple(range(draws if self._sampling.temperature else 1))
        request = Request(side.model.identity, messages, self._sampling, wanted)
        given: dict[bytes, Generation] = {}
        refused = None
        for answer in self._host.engine(side.model).generate([request]):
            if isinstance(answer, Refusal):
                refused = answer.reason
            elif answer is not None:
                given[answer.key] = answer
        if refused and not given:
            raise EngineError(f"{side.name} cannot take this in: {refused}", fix="ask less, or begin anew")
        return [given[key] for key in map(request.key, wanted) if key in given]
