"""Rewards: N votes of a judge on every response, with the post as reference document (paper 3.3).

A vote that does not parse is missing, never a number. For each missing one a further draw is made, up to
`max_draws`, so that N valid votes are reached where the judge can be understood at all.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
from pydantic import Field, model_validator

from pugc_core import records
from pugc_core.config import Config, digest
from pugc_core.engines.base import Generation, Request, Sampling
from pugc_core.prompts import base as prompts
from pugc_core.prompts import rewards as contract
from pugc_core.records import Table
from pugc_core.stages.base import Build

PATIENCE = 8
"""Draws without a single valid vote, or N where that is more, after which a response is not asked about further."""


class RewardsConfig(Config):
    prompt: str = "default"
    """`default` (reference document, the paper's reading), `prometheus` (reference answer worth 5), `short`, or the
    path of a prompt file with the slots {instruction}, {response} and {ugc}."""
    n: int = Field(8, ge=1)
    """Valid votes wanted per response (paper: N = 8)."""
    max_draws: int = Field(16, ge=1)
    """Most draws per response while some of its votes do not parse; where none does, only the first 8 (or N)."""
    min_valid: int | None = Field(None, ge=1)
    """Responses with fewer valid votes are dropped as `too_few_votes`; null takes half of `n`, rounded up."""
    reference: Literal["own", "random"] = "own"
    """`random` shows the judge another post, drawn over all posts of the recipe, as in the paper's ablation: what is
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
    messages: tuple[prompts.Message, ...]
    votes: list[dict[str, Any]]
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
class Rewards:
    config: RewardsConfig
    model: str
    context: int | None = None
    """The recipe's limit to the model's context; with another, other prompts are too long."""

    name = "rewards"
    role = "reward_judge"
    table: Table = records.REWARDS
    inputs = ("ugc", "instructions", "responses")

    @functools.cached_property
    def prompt(self) -> prompts.Prompt:
        return prompts.load(self.config.prompt, contract.WORDINGS, slots=contract.SLOTS, markers=contract.MARKERS)

    @property
    def fingerprint(self) -> Mapping[str, str]:
        # Named only where it is not the post itself, so that tables from before there was a choice stay current.
        reference = {} if self.config.reference == "own" else {"reference": self.config.reference}
        return {
            **reference,
            "version": "2",
            "prompt": self.prompt.fingerprint,
            "parser": str(contract.PARSER_VERSION),
            "model": self.model,
            "context": str(self.context),
            "sampling": digest(self.config.sampling.canonical),
            "votes": digest([self.config.n, self.config.max_draws, self.config.least_votes]),
            "aggregate": self.config.aggregate,
        }

    def build(self, shard: str, inputs: Mapping[str, pl.DataFrame]) -> Build:
        ballots = self._ballots(inputs)
        open_ballots = [b for b in ballots if self._missing(b)]
        while open_ballots:
            asked = [(b, self._request(b, len(b.votes), self._missing(b))) for b in open_ballots]
            answers = yield [request for _, request in asked]
            for ballot, request in asked:
                refused = answers.refused(request)
                # That a further draw has no text says nothing of the next, where others had one.
                ballot.refused = None if refused == "no_content" and ballot.votes else refused
                if not ballot.refused:
                    ballot.votes.extend(_vote(draw, g) for draw, g, _ in answers.by_draw(request))
            open_ballots = [b for b in open_ballots if self._missing(b)]
        return self.table.frame(self._count(ballot) for ballot in ballots)

    def _ballots(self, inputs: Mapping[str, pl.DataFrame]) -> list[_Ballot]:
        wording = self.prompt
        own = inputs["ugc"].filter(pl.col("keep")).select("ugc_id", ugc="text")
        posts = own if self.config.reference == "own" else inputs["reference"]
        instructions = inputs["instructions"].filter(pl.col("keep")).select("instruction_id", "ugc_id", "instruction")
        judged = (
            inputs["responses"]
            .filter(pl.col("keep"))
            .select("response_id", "instruction_id", response="text")
            .join(instructions, on="instruction_id", maintain_order="left")
            .join(posts, on="ugc_id", maintain_order="left")
        )
        return [
            _Ballot(row, wording.render(row), []) if row["ugc"] is not None else _Ballot(row, (), [], "no_other_post")
            for row in judged.iter_rows(named=True)
        ]

    def _missing(self, ballot: _Ballot) -> int:
        """Draws to make next."""
        valid = len(ballot.valid)
        wanted = min(self.config.n - valid, self.config.draws_allowed(valid) - len(ballot.votes))
        return 0 if ballot.refused else max(0, wanted)

    def _request(self, ballot: _Ballot, first: int, count: int) -> Request:
        return Request(self.model, ballot.messages, self.config.sampling, tuple(range(first, first + count)))

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
