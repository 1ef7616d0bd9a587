"""Rewards: N votes of a judge on every response, with the post as reference document (paper 3.3).

A vote that does not parse is missing, never a number. For each missing one a further draw is made, up to
`max_draws`, so that N valid votes are reached where the judge can be understood at all.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field, model_validator

from pugc_core.config import Config, digest
from pugc_core.engines.base import Generation, Request, Sampling
from pugc_core.errors import RecipeError
from pugc_core.prompts import base as prompts
from pugc_core.prompts import rewards as contract
from pugc_core.stages.base import Asking, Build, Dropped, Inputs, Sources
from pugc_core.stages.measures import BANDS, Measures, sums
from pugc_core.stages.records import define

VOTE = pl.Struct({"draw": pl.Int32(), "score": pl.Int8(), "feedback": pl.String()})
REFERENCE = "reference"
"""The input that holds other posts, where the judge is shown those, and the part of a fingerprint that says so."""
_SHOWN = {
    "own": "with the post as reference",
    "random": "with another post, drawn at random, as reference",
    "none": "without a reference",
}
PATIENCE = 8
"""Draws without a single valid vote, or N where that is more, after which a response is not asked about further."""


class RewardsConfig(Config):
    """Where the judge is a classifier (`stages.scores`), only `prompt` and `reference` count."""

    prompt: str = "default"
    """`default` (reference document, the paper's reading), `prometheus` (reference answer worth 5), `short`, or the
    path of a prompt file with the slots {instruction}, {response} and {ugc}. With `reference = "none"`:
    `no-reference`, `no-reference-short`, or a file without {ugc}."""
    n: int = Field(8, ge=1)
    """Valid votes wanted per response (paper: N = 8)."""
    max_draws: int = Field(16, ge=1)
    """Most draws per response while some of its votes do not parse; where none does, only the first 8 (or N)."""
    min_valid: int | None = Field(None, ge=1)
    """Responses with fewer valid votes are dropped as `too_few_votes`; null takes half of `n`, rounded up."""
    reference: Literal["own", "random", "none"] = "own"
    """What the judge is shown besides question and answer: the post, or, as in two of the paper's ablations, another
    one or none (in a wording without {ugc}). `random` shows another post, drawn over all posts of the recipe: what is
    won without it says how much of the gain is the reference's. Take all posts in (`pugc run --to ugc`) before votes
    are asked for: posts that come later stand in for some of those before them, whose votes are then out of date."""
    aggregate: Literal["mean", "median", "majority"] = "mean"
    """How votes become a reward. The paper does not say; the mean is our reading of its figure 7."""
    sampling: Sampling = Sampling(temperature=1.0, top_p=0.9, max_tokens=1024, repetition_penalty=1.03)

    @model_validator(mode="after")
    def _bounds(self) -> RewardsConfig:
        if self.max_draws < self.n:
            raise ValueError(f"max_draws ({self.max_draws}) is below n ({self.n})")
        if self.least_votes > self.n:
            raise ValueError(f"min_valid ({self.min_valid}) is above n ({self.n})")
        return self

    @property
    def least_votes(self) -> int:
        """Valid votes that a reward takes: one vote does not rank beside eight."""
        return self.min_valid or -(-self.n // 2)

    def draws_allowed(self, valid: int) -> int:
        """Draws that a response may have in all, by its valid votes so far. One whose first draws hold none is given
        up: a judge that does not parse would not in twice as many."""
        return self.max_draws if valid else min(self.max_draws, max(self.n, PATIENCE))


def majority(votes: Sequence[int]) -> float:
    """The commonest vote; of equally common ones the lowest, so that a tie flatters nobody."""
    return float(min(set(votes), key=lambda v: (-votes.count(v), v)))


AGGREGATES: Mapping[str, Callable[[Sequence[int]], float]] = {
    "mean": statistics.fmean,
    "median": lambda votes: float(statistics.median(votes)),
    "majority": majority,
}


@dataclass
class _Ballot:
    """The draws made for one response so far."""

    row: Mapping[str, Any]
    votes: list[dict[str, Any]] = field(default_factory=list)
    refused: str | None = None

    @property
    def valid(self) -> list[int]:
        return [v["score"] for v in self.votes if v["score"] is not None]


def _vote(draw: int, answer: Generation | None) -> dict[str, Any]:
    """A row of the table's votes. A draw of which nothing came is a vote that is missing, like one that no one can
    read."""
    score = contract.parse(answer.text, cut_off=answer.cut_off) if answer else None
    return {"draw": draw, "score": score, "feedback": answer.text if answer else None}


@dataclass(frozen=True)
class Rewards(Asking):
    config: RewardsConfig

    name = "rewards"
    role = "reward_judge"
    contract: ClassVar[ModuleType] = contract
    after = "responses"
    reads = ("ugc", "instructions")
    unit = "votes"
    sentence = "N votes of the reward judge on every response, {shown}; the unparsable are drawn again."
    table = define(
        "rewards",
        "response_id",
        [
            ("response_id", pl.String(), "the judged response"),
            ("instruction_id", pl.String(), "its instruction"),
            (
                "votes",
                pl.List(VOTE),
                "every draw of the judge: score from 1 to 5 (null = did not parse, or never came) and the whole "
                "feedback; a classifier's one answer is its score as feedback",
            ),
            ("n_valid", pl.Int32(), "votes that parsed"),
            ("reward", pl.Float64(), "the valid votes aggregated, or a classifier's score; null when too few"),
            ("spread", pl.Float64(), "standard deviation of the valid votes (population)"),
        ],
    )
    row_for_row = True
    checks = ("parse_rate", "votes_complete")
    quantity = "reward"
    sample = ("response_id", "reward", "n_valid", "spread")
    sources: ClassVar[Sources] = {
        "response_id": [("responses", "response_id")],
        "instruction_id": [("responses", "instruction_id")],
        "votes": [("ugc", "text"), ("instructions", "instruction"), ("responses", "text")],
        "reward": [("ugc", "text"), ("instructions", "instruction"), ("responses", "text")],
    }
    dropped = Dropped("text", "responses", "response_id")

    @property
    def knobs(self) -> Mapping[str, str]:
        config = self.config
        return {
            "votes": digest([config.n, config.max_draws, config.least_votes]),
            "aggregate": config.aggregate,
            # Named only where it is not the post itself, so that tables from before there was a choice stay current.
            **({} if config.reference == "own" else {REFERENCE: config.reference}),
        }

    @property
    def about(self) -> str:
        return self.sentence.format(shown=_SHOWN[self.config.reference])

    @property
    def inputs(self) -> tuple[str, ...]:
        """Without the posts where the judge sees none."""
        return tuple(name for name in super().inputs if name != "ugc" or "ugc" in self.slots)

    @property
    def slots(self) -> tuple[str, ...]:
        return contract.WITHOUT_POST if self.config.reference == "none" else contract.SLOTS

    @functools.cached_property
    def prompt(self) -> prompts.Prompt:
        try:
            return super().prompt
        except RecipeError as err:
            if "{ugc}" not in err.problem:
                raise
            name = f"rewards.prompt = {self.config.prompt!r} does not go with rewards.reference"
            raise RecipeError(f"{name} = {self.config.reference!r}: {err.problem}", fix=self._fix()) from err

    def _fix(self) -> str:
        if "ugc" in self.slots:
            return 'put {ugc} where the post belongs in the text; to show none: [rewards] reference = "none"'
        return 'take {ugc} out of the text, or prompt = "no-reference"; to show the post: [rewards] reference = "own"'

    @property
    def draws(self) -> tuple[int, ...]:
        return tuple(range(self.config.n))

    def rows(self, inputs: Inputs) -> pl.DataFrame:
        """With null in column `ugc` where there is no other post to show."""
        instructions = inputs["instructions"].filter("keep").select("instruction_id", "ugc_id", "instruction")
        rows = (
            self.rows_in(inputs)
            .select("response_id", "instruction_id", response="text")
            .join(instructions, on="instruction_id", maintain_order="left")
        )
        if "ugc" not in self.slots:
            return rows
        own = self.config.reference == "own"
        posts = inputs["ugc"].filter("keep").select("ugc_id", ugc="text") if own else inputs[REFERENCE]
        return rows.join(posts, on="ugc_id", maintain_order="left")

    def build(self, shard: str, inputs: Inputs) -> Build:
        ballots = [_Ballot(row) for row in self.rows(inputs).iter_rows(named=True)]
        for ballot in ballots:
            ballot.refused = "no_other_post" if any(ballot.row[slot] is None for slot in self.slots) else None
        open_ballots = [b for b in ballots if self._missing(b)]
        while open_ballots:
            asked = [(b, self._next(b)) for b in open_ballots]
            answers = yield [request for _, request in asked]
            for ballot, request in asked:
                refused = answers.refused(request)
                # That a further draw has no text says nothing of the next, where others had one.
                ballot.refused = None if refused == "no_content" and ballot.votes else refused
                if not ballot.refused:
                    ballot.votes.extend(_vote(draw, g) for draw, g, _ in answers.by_draw(request))
            open_ballots = [b for b in open_ballots if self._missing(b)]
        return self.table.frame(self._count(ballot) for ballot in ballots)

    def _missing(self, ballot: _Ballot) -> int:
        """Draws to make next."""
        valid = len(ballot.valid)
        wanted = min(self.config.n - valid, self.config.draws_allowed(valid) - len(ballot.votes))
        return 0 if ballot.refused else max(0, wanted)

    def _next(self, ballot: _Ballot) -> Request:
        first = len(ballot.votes)
        return self.request(ballot.row, range(first, first + self._missing(ballot)))

    def _count(self, ballot: _Ballot) -> dict[str, Any]:
        votes = ballot.valid[: self.config.n]
        enough = len(votes) >= self.config.least_votes
        reason = None if enough else ballot.refused or "too_few_votes"
        return {
            "response_id": ballot.row["response_id"],
            "instruction_id": ballot.row["instruction_id"],
            "votes": ballot.votes,
            "n_valid": len(votes),
            "reward": AGGREGATES[self.config.aggregate](votes) if enough else None,
            "spread": statistics.pstdev(votes) if votes else None,
            "keep": enough,
            "drop_reason": reason,
        }

    @staticmethod
    def unread() -> pl.Expr:
        return pl.col("votes").list.len() > pl.col("n_valid")

    @staticmethod
    def measure(frame: pl.DataFrame) -> Measures:
        judged = frame.filter("keep")
        ties = judged.group_by("instruction_id").agg(tied=pl.col("reward").n_unique() == 1)
        # Bands are of the scale from 1 to 5, which a classifier's scores are not on.
        on_scale = pl.col("votes").list.eval(pl.element().struct.field("score").is_not_null()).list.any()
        banded = (
            judged.filter(on_scale)
            .join(ties, on="instruction_id")
            .with_columns(band=((pl.col("reward") * 2).floor() / 2).clip(BANDS[0], BANDS[-1]))
        )
        measures: dict[str, float] = {
            "answers": int(frame["votes"].list.len().sum()),
            "parsed": int(frame["n_valid"].sum()),
            "voteless": frame.filter(pl.col("n_valid") == 0, pl.col("votes").list.len() > 0).height,
            "instructions": ties.height,
            "tied": int(ties["tied"].sum()),
            **sums("reward", judged["reward"]),
            **sums("spread", judged["spread"]),
        }
        for n_valid, n in frame["n_valid"].value_counts().sort("n_valid").iter_rows():
            measures[f"votes_{n_valid}"] = n
        for tied, band, n in banded.group_by("tied", "band").len().sort("tied", "band").iter_rows():
            measures[f"{'tied' if tied else 'untied'}_{band:.1f}"] = n
        return measures
