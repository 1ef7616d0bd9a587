"""One pass over many shards: what is asked, of whom, how often, and that order never matters."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from helpers.engines import AnyOrder, generation
from hypothesis import given, settings
from hypothesis import strategies as st

from pugc_core.engines.base import Answer, Engine, Refusal, Request, Sampling, serve
from pugc_core.engines.scripted import ScriptedEngine
from pugc_core.errors import EngineError, PugcError, SourceError, Unforeseen
from pugc_core.ledger.dispatch import Calls, Finished, answer
from pugc_core.ledger.store import Ledger
from pugc_core.prompts.base import Message
from pugc_core.stages.base import Answers, Build

WARM = Sampling(temperature=0.7)
GREEDY = Sampling(temperature=0.0)


def ask(text: str, *draws: int, sampling: Sampling = WARM, model: str = "m@1") -> Request:
    return Request(model, (Message("user", text),), sampling, draws or (0,))


def echo(request: Request, draw: int) -> str:
    """An answer that tells what was asked."""
    return f"{request.messages[-1].content}/{draw}"


def build(*batches: Sequence[Request]) -> Build:
    """A shard that asks one batch after the other; its table holds each request, its answers and its refusal."""
    rows: list[dict[str, Any]] = []
    for batch in batches:
        answers: Answers = yield batch
        rows += [
            {
                "asked": request.messages[-1].content,
                "texts": [g.text for g in answers.of(request)],
                "refused": answers.refused(request),
            }
            for request in batch
        ]
    return pl.DataFrame(rows, schema={"asked": pl.String(), "texts": pl.List(pl.String()), "refused": pl.String()})


def no_engine() -> Engine:
    raise AssertionError("an engine is wanted")


def tables(finished: Iterable[Finished]) -> dict[str, pl.DataFrame]:
    found = {}
    for shard, result, _ in finished:
        assert isinstance(result, pl.DataFrame), result
        assert shard not in found, f"{shard} came twice"
        found[shard] = result
    return found


def texts(table: pl.DataFrame) -> list[list[str]]:
    return table["texts"].to_list()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(str(tmp_path / "ledger"), flush_seconds=3600) as opened:
        yield opened


class Stub:
    """An engine made of one function."""

    name = "stub"

    def __init__(self, generate: Callable[[Iterator[Request | None]], Iterator[Answer | None]]) -> None:
        self._generate = generate

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Answer | None]:
        return self._generate(iter(requests))

    def close(self) -> None: ...


# --- answers reach who asked


def test_every_shard_gets_its_own_answers_in_the_order_of_its_draws(ledger: Ledger) -> None:
    shards = {"a": [ask("x", 0, 1, 2), ask("y")], "b": [ask("z", 1)], "empty": []}
    engine = ScriptedEngine(echo)
    made = tables(answer(((s, build(r)) for s, r in shards.items()), ledger, lambda: engine))
    assert texts(made["a"]) == [["x/0", "x/1", "x/2"], ["y/0"]]
    assert texts(made["b"]) == [["z/1"]]
    assert made["empty"].is_empty()
    assert engine.calls == 5


def test_a_table_that_is_given_out_has_its_answers_on_disk(ledger: Ledger) -> None:
    asked = [ask("x", 0, 1)]
    for _ in answer([("a", build(asked))], ledger, lambda: ScriptedEngine(echo)):
        assert len(Ledger(ledger.root).find("m@1", [asked[0].key(0), asked[0].key(1)])) == 2


def test_no_shard_at_all(ledger: Ledger) -> None:
    assert list(answer([], ledger, no_engine)) == []


@pytest.mark.parametrize("capacity", [1, 2, 7, 1000])
def test_the_order_of_completion_is_irrelevant(tmp_path: Path, capacity: int) -> None:
    def shards() -> Iterator[tuple[str, Build]]:
        for s in range(6):
            first = [ask(f"{s} {i}", *range(1 + i % 4)) for i in range(5)]
            yield f"s{s}", build(first, [ask(f"{s} again", 3, 4), ask(f"{s} 1", 2)], [ask("all ask this", 0, 1)])

    runs = []
    for seed in range(8):
        with Ledger(str(tmp_path / str(seed)), flush_seconds=3600) as ledger:
            engine = AnyOrder(seed, echo, capacity=capacity)
            made = tables(answer(shards(), ledger, lambda engine=engine: engine))
        runs.append({shard: table.to_dicts() for shard, table in sorted(made.items())})
        assert all(texts(made[f"s{s}"])[-1] == ["all ask this/0", "all ask this/1"] for s in range(6))
        asked = Counter(r.key(d) for r in engine.requests for d in r.draws)
        assert set(asked.values()) == {1}
    assert len(runs[0]) == 6
    assert all(run == runs[0] for run in runs)


def test_the_same_request_in_two_shards_and_twice_in_one_is_asked_once(ledger: Ledger) -> None:
    engine = ScriptedEngine(echo)
    shards = {
        "a": [ask("same", 0, 1), ask("same", 0, 1), ask("same", 0, 1, 2)],
        "b": [ask("same", 1, 2)],
        "c": [ask("same", 0)],
    }
    made = tables(answer(((s, build(r)) for s, r in shards.items()), ledger, lambda: engine))
    assert texts(made["a"]) == [["same/0", "same/1"], ["same/0", "same/1"], ["same/0", "same/1", "same/2"]]
    assert texts(made["b"]) == [["same/1", "same/2"]]
    assert texts(made["c"]) == [["same/0"]]
    assert sorted(d for r in engine.requests for d in r.draws) == [0, 1, 2]


def test_requests_that_differ_in_model_sampling_or_turns_are_not_the_same(ledger: Ledger) -> None:
    odd = Request("m@1", (Message("user", "x"), Message("user", "")), WARM)
    system = Request("m@1", (Message("system", "x"),), WARM)
    requests = [ask("x"), ask("x", model="m@2"), ask("x", sampling=GREEDY), ask("x", 1), odd, system]
    engine = ScriptedEngine(lambda r, d: f"{r.model} {r.sampling.temperature} {d} {r.messages}")
    (made,) = tables(answer([("a", build(requests))], ledger, lambda: engine)).values()
    assert engine.calls == 6
    assert len({t for (t,) in texts(made)}) == 6
    assert ledger.find("m@1", [requests[1].key(0)]) == {}
    assert ledger.find("m@2", [requests[1].key(0)])


# --- the ledger goes first


def test_what_the_ledger_has_needs_no_engine_at_all(tmp_path: Path) -> None:
    def shards() -> Iterator[tuple[str, Build]]:
        for s in "abc":
            yield s, build([ask(f"{s} one", 0, 1)], [ask(f"{s} two", sampling=GREEDY)])

    with Ledger(str(tmp_path)) as ledger:
        first = tables(answer(shards(), ledger, lambda: ScriptedEngine(echo)))
    with Ledger(str(tmp_path)) as ledger:
        finished = list(answer(shards(), ledger, no_engine))
    assert {s: t.to_dicts() for s, t in tables(finished).items()} == {s: t.to_dicts() for s, t in first.items()}
    assert all(f.calls == Calls(from_ledger=3) for f in finished)


def test_the_engine_is_made_once_and_only_when_it_is_needed(ledger: Ledger) -> None:
    ledger.add("m@1", [generation(ask("old"), 0, "stored")])
    events: list[str] = []

    def engine() -> Engine:
        events.append("engine")
        return ScriptedEngine(echo)

    shards = [("a", build([ask("old")])), ("b", build([ask("new")])), ("c", build([ask("old")], [ask("more")]))]
    events.extend(finished.shard for finished in answer(iter(shards), ledger, engine))
    assert events[:2] == ["a", "engine"]
    assert sorted(events[2:]) == ["b", "c"]


def test_only_the_draws_that_are_missing_are_asked(ledger: Ledger) -> None:
    whole = ask("x", *range(8))
    ledger.add("m@1", [generation(whole, draw, f"stored {draw}") for draw in (0, 1, 4)])
    engine = ScriptedEngine(echo)
    ((_, table, calls),) = answer([("a", build([whole]))], ledger, lambda: engine)
    assert isinstance(table, pl.DataFrame)
    stored = {0, 1, 4}
    assert texts(table) == [[f"stored {d}" if d in stored else f"x/{d}" for d in range(8)]]
    # Draws without a gap share a request: that is what an engine can take as n.
    assert sorted(r.draws for r in engine.requests) == [(2, 3), (5, 6, 7)]
    assert calls == Calls(made=5, from_ledger=3, prompt_tokens=2, completion_tokens=5)


def test_every_answer_is_in_the_ledger_even_when_the_pass_is_left_or_breaks(tmp_path: Path) -> None:
    requests = [ask(f"q{i}") for i in range(6)]
    keys = [r.key(0) for r in requests]
    with Ledger(str(tmp_path), flush_seconds=3600) as ledger:
        engine = ScriptedEngine(echo, capacity=1, faults={3: EngineError("out of memory")})
        with pytest.raises(EngineError, match="out of memory"):
            list(answer([("a", build(requests))], ledger, lambda: engine))
        assert set(ledger.find("m@1", keys)) == set(keys[:3])
    with Ledger(str(tmp_path), flush_seconds=3600) as ledger:
        engine = ScriptedEngine(echo, capacity=1)
        passed = answer(((f"s{i}", build([r])) for i, r in enumerate(requests)), ledger, lambda: engine)
        assert [next(passed).shard for _ in range(4)] == ["s0", "s1", "s2", "s3"]
        passed.close()  # the caller goes away
        assert set(ledger.find("m@1", keys)) >= set(keys[:4])
        assert engine.calls <= 2


# --- greedy


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=0.0, choices=("True", "False"))])
def test_greedy_requests_never_go_out_with_more_than_one_draw(ledger: Ledger, sampling: Sampling) -> None:
    engine = ScriptedEngine(echo)
    made = tables(answer([("a", build([ask("x", 0, 1, 2, sampling=sampling)]))], ledger, lambda: engine))
    assert texts(made["a"]) == [["x/0", "x/1", "x/2"]]
    assert [r.draws for r in engine.requests] == [(0,), (1,), (2,)]


# --- extra votes, refusals


def test_extra_votes_are_asked_while_other_shards_run(ledger: Ledger) -> None:
    """A shard that wants more does not wait for the others, nor they for it."""
    engine = ScriptedEngine(echo, capacity=1)
    shards = [
        ("needy", build([ask("n1")], [ask("n2")], [ask("n3")])),
        *((f"s{i}", build([ask(f"{i}")])) for i in range(5)),
    ]
    order = [finished.shard for finished in answer(iter(shards), ledger, lambda: engine)]
    assert order == ["needy", "s0", "s1", "s2", "s3", "s4"]
    assert [r.messages[-1].content for r in engine.requests][:4] == ["n1", "n2", "n3", "0"]


def test_an_engine_with_room_is_given_later_shards_while_the_first_waits(ledger: Ledger) -> None:
    engine = ScriptedEngine(echo, capacity=4)  # last in, first out: the first shard ends last
    shards = [("first", build([ask("f1")], [ask("f2")])), *((f"s{i}", build([ask(f"{i}")])) for i in range(9))]
    order = [finished.shard for finished in answer(iter(shards), ledger, lambda: engine)]
    assert order[-1] == "first"
    assert [r.messages[-1].content for r in engine.requests][:4] == ["f1", "0", "1", "2"]


def test_refusals_reach_the_stage_and_are_asked_again_next_time(tmp_path: Path) -> None:
    batch = [ask("long", 0, 1, 2), ask("short", 0, 1)]
    for _ in range(2):
        with Ledger(str(tmp_path), flush_seconds=3600) as ledger:
            engine = AnyOrder(1, echo, refuse=lambda r, d: "prompt_too_long" * (r.messages[-1].content == "long"))
            ((_, table, calls),) = answer([("a", build(batch, [ask("then")]))], ledger, lambda e=engine: e)
        assert isinstance(table, pl.DataFrame)
        assert table.to_dicts() == [
            {"asked": "long", "texts": [], "refused": "prompt_too_long"},
            {"asked": "short", "texts": ["short/0", "short/1"], "refused": None},
            {"asked": "then", "texts": ["then/0"], "refused": None},
        ]
        assert calls.refused == 1
        assert "long" in {r.messages[-1].content for r in engine.requests}


def test_a_refusal_stops_neither_its_shard_nor_the_others(ledger: Ledger) -> None:
    engine = ScriptedEngine(echo, faults={0: "prompt_too_long"})
    shards = [("a", build([ask("long", 0, 1)])), ("b", build([ask("fine")], [ask("more")])), ("c", build([ask("ok")]))]
    finished = list(answer(iter(shards), ledger, lambda: engine))
    refused = {f.shard: f.result["refused"].to_list() for f in finished if isinstance(f.result, pl.DataFrame)}
    assert refused == {"a": ["prompt_too_long"], "b": [None, None], "c": [None]}


def test_a_refused_draw_hides_no_other_and_is_asked_again_next_time(tmp_path: Path) -> None:
    def all_but_1(requests: Iterator[Request | None]) -> Iterator[Answer | None]:
        for request in filter(None, requests):
            asked.append(request.draws)
            yield from (generation(request, d, echo(request, d)) for d in request.draws if d != 1)
            if 1 in request.draws:
                yield Refusal(replace(request, draws=(1,)), "no_content")

    asked: list[tuple[int, ...]] = []
    for made, refused in ((2, 1), (0, 1)):
        with Ledger(str(tmp_path), flush_seconds=3600) as ledger:
            shards = [("a", build([ask("x", 0, 1, 2)]))]
            ((_, table, calls),) = answer(shards, ledger, lambda: Stub(all_but_1))
        assert isinstance(table, pl.DataFrame)
        assert table.to_dicts() == [{"asked": "x", "texts": ["x/0", "x/2"], "refused": None}]
        assert (calls.made, calls.refused) == (made, refused)
    assert asked == [(0, 1, 2), (1,)]


def test_a_refused_greedy_request_of_several_draws(ledger: Ledger) -> None:
    engine = AnyOrder(0, echo, refuse=lambda r, d: "prompt_too_long")
    ((_, table, calls),) = answer([("a", build([ask("x", 0, 1, sampling=GREEDY)]))], ledger, lambda: engine)
    assert isinstance(table, pl.DataFrame)
    assert table["refused"].to_list() == ["prompt_too_long"]
    assert calls.refused == 2


def test_a_refusal_of_a_request_that_two_shards_wait_for(ledger: Ledger) -> None:
    """The engine holds the request for a while, so that the second shard joins before it says no."""

    def slow_no(requests: Iterator[Request | None]) -> Iterator[Answer | None]:
        held = next(requests)
        assert held is not None
        assert next(requests) is None  # the second shard asks nothing new
        yield Refusal(held, "no")
        yield from (None for _ in requests)

    shards = [(name, build([ask("x", 0, 1)])) for name in "ab"]
    finished = list(answer(iter(shards), ledger, lambda: Stub(slow_no)))
    assert sorted((f.shard, f.calls.refused) for f in finished) == [("a", 1), ("b", 0)]
    assert all(f.result["refused"].to_list() == ["no"] for f in finished if isinstance(f.result, pl.DataFrame))


# --- engines that misbehave, shards that fail


def test_an_engine_that_yields_none_in_between(ledger: Ledger) -> None:
    def hesitant(requests: Iterator[Request | None]) -> Iterator[Answer | None]:
        for request in requests:
            yield None
            if request is not None:
                for draw in request.draws:
                    yield generation(request, draw, echo(request, draw))
                    yield None

    shards = [(f"s{i}", build([ask(f"{i}", 0, 1)], [ask(f"{i}", 2)])) for i in range(3)]
    made = tables(answer(iter(shards), ledger, lambda: Stub(hesitant)))
    assert texts(made["s2"]) == [["2/0", "2/1"], ["2/2"]]
    assert len(made) == 3


def test_an_engine_is_told_none_while_there_is_nothing_to_ask_but_much_to_wait_for(ledger: Ledger) -> None:
    seen: list[str | None] = []

    def greedy_for_work(requests: Iterator[Request | None]) -> Iterator[Answer | None]:
        while (request := next(requests, "end")) != "end":
            seen.append(request.messages[-1].content if isinstance(request, Request) else None)
            if isinstance(request, Request):
                held = request
            else:
                yield generation(held, 0, "x")

    list(answer([("a", build([ask("1")], [ask("2")]))], ledger, lambda: Stub(greedy_for_work)))
    assert seen == ["1", None, "2", None]


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_an_engine_that_stops_early_is_an_error(ledger: Ledger, taken: int) -> None:
    def lazy(requests: Iterator[Request | None]) -> Iterator[Answer | None]:
        for request in itertools.islice(requests, taken):
            assert request is not None
            yield generation(request, 0, "x")

    # Its last shards may not even have been opened: their tables must not be missing without a word.
    shards = [(f"s{i}", build([ask(f"{i}")])) for i in range(4)]
    finished = answer(iter(shards), ledger, lambda: Stub(lazy))
    assert [next(finished).shard for _ in range(taken)] == [f"s{i}" for i in range(taken)]
    with pytest.raises(EngineError, match="unanswered"):
        list(finished)


def test_an_engine_that_leaves_out_a_draw_is_an_error(ledger: Ledger) -> None:
    """n > 1 is cut to the first output by more than one server."""

    def cuts(requests: Iterator[Request | None]) -> Iterator[Answer | None]:
        for request in requests:
            if request is None:
                return
            yield generation(request, request.draws[0], "x")

    with pytest.raises(EngineError, match="2 draws unanswered"):
        list(answer([("a", build([ask("x", 0, 1, 2)]))], ledger, lambda: Stub(cuts)))


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(lambda r: generation(ask("never asked"), 0, "x"), id="another prompt"),
        pytest.param(lambda r: generation(r, 5, "x"), id="another draw"),
        pytest.param(lambda r: generation(r, 0, "x"), id="the same again"),
        pytest.param(lambda r: Refusal(ask("never asked"), "no"), id="a refusal of another prompt"),
    ],
)
def test_an_answer_that_nobody_asked_for_is_an_error(ledger: Ledger, extra: Callable[[Request], Answer]) -> None:
    def chatty(requests: Iterator[Request | None]) -> Iterator[Answer | None]:
        for request in requests:
            assert request is not None
            yield generation(request, 0, "x")
            yield extra(request)

    with pytest.raises(EngineError, match="nobody asked for"):
        list(answer([("a", build([ask("x")], [ask("y")]))], ledger, lambda: Stub(chatty)))
    assert ledger.find("m@1", [ask("never asked").key(0), ask("x").key(5)]) == {}


def test_an_error_in_one_shard_does_not_stop_the_others(ledger: Ledger) -> None:
    def breaks_at_once() -> Build:
        raise SourceError("no file")
        yield ()

    def breaks_later() -> Build:
        yield [ask("b")]
        raise SourceError("no use")

    shards = [("a", build([ask("a")])), ("now", breaks_at_once()), ("later", breaks_later()), ("z", build([ask("z")]))]
    finished = {f.shard: f for f in answer(iter(shards), ledger, lambda: ScriptedEngine(echo))}
    assert set(finished) == {"a", "now", "later", "z"}
    assert {s: str(f.result) for s, f in finished.items() if isinstance(f.result, PugcError)} == {
        "now": "no file",
        "later": "no use",
    }
    assert finished["later"].calls.made == 1  # it was paid for


def test_an_error_that_nobody_foresaw_stops_its_own_shard_only(ledger: Ledger) -> None:
    def breaks(err: BaseException) -> Build:
        yield [ask("b")]
        raise err

    odd = Request("m@1", (Message("user", "\ud800"),), WARM)  # has no key: a lone surrogate is no text
    shards = {"bug": breaks(ZeroDivisionError("by\nzero")), "deep": breaks(RecursionError()), "odd": build([odd])}
    shards["fine"] = build([ask("z")])
    finished = {f.shard: f.result for f in answer(shards.items(), ledger, lambda: ScriptedEngine(echo))}
    assert isinstance(finished.pop("fine"), pl.DataFrame)
    for shard, cause in {"bug": ZeroDivisionError, "deep": RecursionError, "odd": UnicodeEncodeError}.items():
        failure = finished[shard]
        assert isinstance(failure, Unforeseen)
        assert isinstance(failure.__cause__, cause)
        assert failure.__cause__.__traceback__ is not None
        assert "traceback" in str(failure.fix)
    assert str(finished["bug"]).startswith("ZeroDivisionError: by zero")
    with pytest.raises(KeyboardInterrupt):  # somebody wants out
        list(answer([("a", breaks(KeyboardInterrupt()))], ledger, lambda: ScriptedEngine(echo)))


# --- memory


class Gauge:
    """Counts tables that are finished but not yet taken by the caller, and shards that are open."""

    def __init__(self) -> None:
        self.finished = self.most_finished = 0
        self.open = self.most_open = 0

    def build(self, *batches: Sequence[Request]) -> Build:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        table = yield from build(*batches)
        self.open -= 1
        self.finished += 1
        self.most_finished = max(self.most_finished, self.finished)
        return table

    def take(self, finished: Iterable[Finished]) -> int:
        count = 0
        for _ in finished:
            self.finished -= 1
            count += 1
        return count


@pytest.mark.parametrize("asking", [{300}, {0}, {0, 299}, {150}, {0, 100, 200, 300}, set()])
def test_finished_tables_do_not_pile_up(ledger: Ledger, asking: set[int]) -> None:
    """Hundreds of shards that the ledger answers whole, with some that need the engine among them."""
    ledger.add("m@1", [generation(ask("stored"), 0, "x")])
    gauge = Gauge()
    shards = (
        (f"s{i}", gauge.build([ask("stored"), ask(f"new {i}")] if i in asking else [ask("stored")])) for i in range(301)
    )
    engine = ScriptedEngine(echo)
    assert gauge.take(answer(shards, ledger, lambda: engine)) == 301
    assert engine.calls == len(asking)
    assert gauge.most_finished <= 4


def test_no_more_shards_are_open_than_the_engine_has_room_for(ledger: Ledger) -> None:
    gauge = Gauge()
    shards = ((f"s{i}", gauge.build([ask(f"{i} {j}") for j in range(3)])) for i in range(100))
    engine = ScriptedEngine(echo, capacity=6)
    assert gauge.take(answer(shards, ledger, lambda: engine)) == 100
    assert gauge.most_open <= 5
    assert gauge.most_finished <= 4


# --- the count


def test_calls_and_tokens_of_draws_that_share_a_prompt(ledger: Ledger) -> None:
    """The prompt is prefilled once for draws asked together, and once more for each stretch asked apart."""
    words = "one two three four five"  # as the scripted engine counts, 5 tokens
    ledger.add("m@1", [generation(ask(words), 2, "stored")])
    for seed in range(5):  # whichever draw comes back first
        engine = AnyOrder(seed, lambda r, d: "two words")
        request = ask(words, 0, 1, 2, 3, 4, 5, sampling=Sampling(temperature=0.1 + seed / 10))
        ledger.add("m@1", [generation(request, 2, "stored")])
        ((_, _, calls),) = answer([("a", build([request]))], ledger, lambda e=engine: e)
        assert calls == Calls(made=5, from_ledger=1, prompt_tokens=10, completion_tokens=10)


def test_each_shard_is_charged_for_what_it_was_first_to_ask(ledger: Ledger) -> None:
    engine = ScriptedEngine(echo)  # all in hand at once
    shards = [("a", build([ask("x", 0, 1)])), ("b", build([ask("x", 1, 2), ask("y")]))]
    calls = {f.shard: f.calls for f in answer(iter(shards), ledger, lambda: engine)}
    assert calls["a"] == Calls(made=2, prompt_tokens=1, completion_tokens=2)
    assert calls["b"] == Calls(made=2, prompt_tokens=2, completion_tokens=2)
    total = Calls()
    for each in calls.values():
        total.add(each)
    assert total.made == engine.calls


def test_progress_ends_with_all_done_and_never_goes_back(ledger: Ledger) -> None:
    ledger.add("m@1", [generation(ask("x"), 0, "stored")])
    told: list[tuple[int, int, str]] = []
    shards = [
        ("a", build([ask("x", 0, 1), ask("long")], [ask("more")])),
        ("b", build([ask("x", 0, 1, 2)])),  # shares a draw that is in hand
        ("c", build([ask("x", 1)])),
    ]
    engine = AnyOrder(3, echo, refuse=lambda r, d: "no" * (r.messages[-1].content == "long"))
    list(answer(iter(shards), ledger, lambda: engine, progress=lambda *state: told.append(state)))
    # Six draws: x is asked 0, 1 and 2 (0 is stored and found by two shards), "long" is refused, "more" is asked.
    assert told[-1] == (6, 6, "4 asked, 2 from ledger")
    assert all(done <= known for done, known, _ in told)
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(told))


# --- anything at all

_requests = st.builds(
    lambda text, draws, greedy: ask(text, *sorted(draws), sampling=GREEDY if greedy else WARM),
    st.sampled_from("pqr"),
    st.sets(st.integers(0, 4), min_size=1, max_size=4),
    st.booleans(),
)
_shards = st.lists(st.lists(st.lists(_requests, max_size=4), max_size=3), max_size=6)


@settings(max_examples=80, deadline=None)
@given(shards=_shards, stored=st.lists(_requests, max_size=4), seed=st.integers(0, 999), capacity=st.integers(1, 5))
def test_any_shards_any_ledger_any_order(
    shards: list[list[list[Request]]], stored: list[Request], seed: int, capacity: int
) -> None:
    """Every shard gets exactly its answers; no draw is asked twice, none that is stored, greedy ones alone."""
    ledger = _InMemory()
    had = {r.key(d) for r in stored for d in r.draws}
    ledger.add("m@1", [generation(r, d, echo(r, d)) for r in stored for d in r.draws])
    engine = AnyOrder(seed, echo, capacity=capacity)
    finished = list(
        answer(((str(i), build(*batches)) for i, batches in enumerate(shards)), ledger, lambda: engine)  # type: ignore[arg-type]
    )
    assert {f.shard for f in finished} == {str(i) for i in range(len(shards))}
    for shard, table, _ in finished:
        wanted = [[echo(r, d) for d in r.draws] for batch in shards[int(shard)] for r in batch]
        assert isinstance(table, pl.DataFrame)
        assert texts(table) == wanted
    asked = Counter(r.key(d) for r in engine.requests for d in r.draws)
    needed = {r.key(d) for batches in shards for batch in batches for r in batch for d in r.draws}
    assert asked == Counter(needed - had)
    assert all(len(r.draws) == 1 for r in engine.requests if not r.sampling.temperature)
    assert sum(f.calls.made for f in finished) == len(needed - had)


class _InMemory:
    """What dispatch uses of a ledger, for tests by the hundred."""

    def __init__(self) -> None:
        self._kept: dict[bytes, Any] = {}

    def find(self, model: str, keys: Sequence[bytes]) -> Mapping[bytes, Any]:
        return {key: self._kept[key] for key in keys if key in self._kept}

    def add(self, model: str, generations: Iterable[Any]) -> None:
        self._kept.update((g.key, g) for g in generations)

    def flush(self) -> None: ...


def test_serve_is_what_these_engines_rest_on() -> None:
    """`serve` gives the turn back when it has nothing in hand, and never holds more than its capacity."""
    held: list[Request] = []
    most = 0

    def source() -> Generator[Request | None]:
        yield None
        yield from (ask(str(i)) for i in range(5))
        yield None

    def add(request: Request) -> None:
        nonlocal most
        held.append(request)
        most = max(most, len(held))

    def step() -> Iterator[tuple[int, list[Answer]]]:
        request = held.pop(0)
        yield 1, [generation(request, 0, echo(request, 0))]

    out = list(serve(source(), capacity=2, add=add, step=step))
    assert out[0] is None
    assert [a.text for a in out if a is not None and not isinstance(a, Refusal)] == [f"{i}/0" for i in range(5)]
    assert most == 2
