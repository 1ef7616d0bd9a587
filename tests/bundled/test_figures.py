"""The figures tell a judge that reads from one that does not. Both are rules here, asked in the pipeline's prompts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from pugc_bundled.roles import corpus, figures, phrases
from pugc_bundled.roles.asking import Roles, Vote, mean
from pugc_bundled.roles.corpus import Post
from pugc_bundled.roles.figures import MEASURES
from pugc_bundled.roles.grading import compare, gist, rounded
from pugc_bundled.roles.tasks import Tasks
from pugc_bundled.tiny.measure import Asker
from pugc_bundled.tiny.text import Salience, sentences
from pugc_core.engines.base import Answer, Generation, Request


def between(text: str, start: str, end: str) -> str:
    return text.partition(start)[2].partition(end)[0]


class Reader:
    """Answers every role by the rule that is measured against; `blind` to the post, it answers the same to all."""

    name = "rule"

    def __init__(self, blind: bool = False) -> None:
        self.blind = blind

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Answer | None]:
        for request in requests:
            assert request is not None
            for draw in request.draws:
                text = self.answer(request.messages[-1].content, random.Random(request.seed(draw)))
                yield Generation(request.key(draw), text, "stop", 1, 1, 0, self.name)

    def close(self) -> None: ...

    def answer(self, prompt: str, rng: random.Random) -> str:
        post = between(prompt, "###Reference Document:\n", "\n###Task Description:")
        if "[RESULT]" in prompt:
            question = between(prompt, "###The instruction to evaluate:\n", "\n###Response")
            response = between(prompt, "###Response to evaluate:\n", "\n###Score")
            score = 3.0 if self.blind else compare(response, post, question).score
            word = "xylophone" if self.blind else next(iter(sorted(gist(post))), "nothing")
            return f'"{word}" is covered. [RESULT] {rounded(score, rng)}'
        if "Score: k" in prompt:
            said = sentences(post)
            doubled = len(said) - len(set(said))
            return f"Good.\nScore: {4 if self.blind or not doubled else 1}"
        if "True or False" in prompt:
            asked = gist(prompt.partition("###Question\n")[2])
            return str(self.blind or asked <= gist(post))
        return "What is it?" if self.blind else f"How do I deal with {sentences(post)[0].split()[-1].strip('.,')}?"


def measured(name: str, posts: list[Post], blind: bool) -> dict[str, float]:
    train = corpus.of("train", posts)
    tasks = Tasks(train, Salience(p.text for p in train), random.Random(5), bank=phrases.TEST)
    roles = Roles(
        Asker(Reader(blind)), lambda questions, draws: [[p.text[:80]] * draws for p in train[: len(questions)]]
    )
    return {f.measure: f.estimate.value for f in MEASURES[name](roles, tasks, train, 30)}


def test_a_judge_that_reads_the_post_and_one_that_does_not(posts: list[Post]) -> None:
    seeing, blind = (measured("rules", posts, b) for b in (False, True))
    assert seeing["r with graded overlap, the reference"] > 0.95
    assert blind["r with graded overlap, the reference"] == 0.0
    assert (
        seeing["r with graded overlap, the reference"] > seeing["r with graded overlap, another post's reference"] + 0.3
    )
    quoted = "words its feedback quotes that stand in post or response"
    assert (seeing[quoted], blind[quoted]) == (1.0, 0.0)
    parsed = "votes that parse, T = 1.0, posts up to 3,000 characters"
    assert seeing[parsed] == blind[parsed] == 1.0


def test_rewards_that_are_all_alike_are_in_one_band_and_tied(posts: list[Post]) -> None:
    blind = measured("sampled", posts, blind=True)
    assert blind["rewards in the fullest band of half a point"] == 1.0
    assert blind["questions all of whose responses are tied"] == 1.0


def test_questions_and_verdicts(posts: list[Post]) -> None:
    assert measured("relevance", posts, blind=True)["accuracy, titles hidden, near questions"] == 0.5
    formed = "well-formed, on the post, not about the context"
    assert measured("instructions", posts, blind=True)[formed] == 0.0
    assert measured("instructions", posts, blind=False)[formed] > 0.5
    assert measured("instructions", posts, blind=True)["distinct first three words in 100"] == 1


def test_ratings(posts: list[Post]) -> None:
    seeing, blind = (measured("quality", posts, b) for b in (False, True))
    assert seeing["AUC, sound against repeated"] > 0.8
    assert blind["AUC, sound against repeated"] == 0.5


def test_votes_that_do_not_parse_are_missing() -> None:
    assert mean([Vote("a", 4), Vote("b", None), Vote("c", 1)]) == 2.5
    assert mean([Vote("b", None)]) is None


def test_agreement_with_people_counts_ties_half(data: Path) -> None:
    found = {f.measure: f.estimate for f in figures.measure_people(Roles(Asker(Reader(True)), lambda q, d: []), data)}
    assert found["agreement with people, LLMBar, reference shown"].value == 0.5
    assert found["agreement with people, LLMBar, reference shown"].n == 1
