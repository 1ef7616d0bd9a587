"""Random references: over all posts of the recipe, however they are sharded, never one's own text, thread, or a dropped
post; and what changes them is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson
import polars as pl
from helpers.chain import Chain, no_engine, posts, scripted_recipe
from helpers.stages import ident, table

from pugc_core import plan, storage
from pugc_core.results import provenance, summary
from pugc_core.stages import STAGES
from pugc_core.stages.rewards import REFERENCE
from pugc_core.tables.references import References
from pugc_core.tables.staleness import survey
from pugc_core.tables.store import Store, Tables, make_footer

Post = tuple[str, str | None, str | None]
"""Text, thread, reason it was dropped for."""
RANDOM = scripted_recipe(rewards={"reference": "random"})


def stored(root: Path, shards: Mapping[str, Sequence[Post]]) -> References:
    store = Store(str(root))
    for shard, of in shards.items():
        rows = [
            {"ugc_id": ident(text), "shard": shard, "text": text, "thread": thread, "drop_reason": why}
            for text, thread, why in of
        ]
        frame = table(STAGES["ugc"].table, rows)
        store.write("r", frame, make_footer(frame, "ugc", shard, {}, {}))
    return References(Tables(store, "r"))


def shown(references: References, *shards: str) -> dict[str, str | None]:
    """The text that stands in for each text."""
    return {
        ugc_id: text for shard in shards for ugc_id, text in references.table(shard).select("ugc_id", "ugc").iter_rows()
    }


def test_the_next_post_in_the_order_of_ids_whatever_the_shards(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(40)]
    ring = sorted(texts, key=ident)
    wanted = {ident(text): after for text, after in zip(ring, [*ring[1:], ring[0]], strict=True)}
    for name, cut in {"one": [40], "halves": [20, 40], "many": list(range(3, 41)), "uneven": [1, 39, 40]}.items():
        shards = {f"s{i}": [(t, None, None) for t in texts[a:b]] for i, (a, b) in enumerate(zip([0, *cut], cut))}  # noqa: B905
        assert shown(stored(tmp_path / name, shards), *shards) == wanted, name
    assert {a for a, b in wanted.items() if ident(b) == a} == set()


def test_never_its_own_text_its_own_thread_or_a_dropped_post(tmp_path: Path) -> None:
    of = {
        "a": [(f"alpha {i}", "T", None) for i in range(10)] + [("twin", None, None)] + [("gone", None, "too_short")],
        "b": [(f"beta {i}", "U", None) for i in range(3)] + [("twin", None, None), ("left out", "V", "duplicate")],
    }
    found = shown(stored(tmp_path, of), "a", "b")
    thread = {ident(text): (text, thread) for rows in of.values() for text, thread, why in rows if not why}
    assert found.keys() == thread.keys()
    for ugc_id, other in found.items():
        assert other is not None
        text, own = thread[ugc_id]
        assert other != text
        assert thread[ident(other)][1] is None or thread[ident(other)][1] != own


def test_no_other_post(tmp_path: Path) -> None:
    for name, of in {"alone": [("one", None, None)], "thread": [("one", "T", None), ("two", "T", None)]}.items():
        references = stored(tmp_path / name, {"a": of, "b": [("gone", None, "too_short")]})
        assert set(shown(references, "a").values()) == {None}
        assert references.text(ident("one")) is None
    nothing = References(Tables(Store(str(tmp_path / "none")), "r"))
    assert nothing.other(ident("one")) is None
    assert nothing.table("a").is_empty()


def test_a_new_post_changes_the_reference_of_one(tmp_path: Path) -> None:
    of: list[Post] = [(f"text {i}", None, None) for i in range(30)]
    before = shown(stored(tmp_path / "1", {"a": of}), "a")
    after = shown(stored(tmp_path / "2", {"a": of, "b": [("new", None, None)]}), "a")
    assert [after[post] for post in before if before[post] != after[post]] == ["new"]


def test_shards_that_are_not_asked_for_lend_nothing(tmp_path: Path) -> None:
    stored(tmp_path, {"a": [("one", None, None), ("two", None, None)], "retired": [("old", None, None)]})
    assert set(shown(References(Tables(Store(str(tmp_path)), "r"), ["a"]), "a").values()) == {"one", "two"}


def chain(root: Path, **shards: list[str]) -> Chain:
    made = Chain(str(root), RANDOM)
    for shard, texts in shards.items():
        made.put(shard, texts)
    return made


def judged_by(made: Chain) -> Counter[str]:
    """Prompts of the judge, which hold question, answer and reference."""
    return Counter(r.messages[-1].content for r in made.last.requests["rewards"])


def test_the_judge_is_shown_the_same_however_posts_are_sharded(tmp_path: Path) -> None:
    texts = posts(40)
    one, three = chain(tmp_path / "1", a=texts), chain(tmp_path / "3", a=texts[:5], b=texts[5:30], c=texts[30:])
    one.run()
    three.run()
    assert judged_by(one)
    assert judged_by(one) == judged_by(three)


def test_a_new_shard_makes_those_out_of_date_whose_references_it_changes(tmp_path: Path) -> None:
    """And no other: what they are is in the footers, so that the same run again makes nothing, and the shards that are
    named are just those that a run makes again."""
    made = chain(tmp_path, **{f"s{i:02}": posts(8, start=100 * i) for i in range(12)})
    made.run()
    assert not survey(plan.Chain(RANDOM, made.workspace)).stages["rewards"]
    assert not made.run(engine=no_engine).made
    made.put("t", posts(3, start=5000))
    made.run(shards=["t"], to="ugc")
    outdated = survey(plan.Chain(RANDOM, made.workspace)).outdated("rewards")
    assert set(outdated.values()) == {"posts came or went, and with them its random references"}
    assert 1 <= len(outdated) <= 3, "three new posts stand in for three others at most"
    again = made.run()
    assert set(again.made["rewards"]) == {*outdated, "t"}
    assert not survey(plan.Chain(RANDOM, made.workspace)).stages["rewards"]


def test_own_references_have_no_such_input(tmp_path: Path) -> None:
    own = Chain(str(tmp_path), scripted_recipe())
    own.put("a", posts(10))
    own.run()
    footer = own.workspace.store.footer("scripted", "rewards", "a")
    assert footer is not None
    assert set(footer.inputs) == {"ugc", "instructions", "responses"}


def test_provenance_shows_the_prompts_that_were_sent(tmp_path: Path) -> None:
    made = chain(tmp_path, a=posts(30), b=posts(30, start=100))
    made.run()
    sent = {r.messages[-1].content for r in made.last.requests["rewards"]}
    texts = dict(made.rows("ugc").select("ugc_id", "text").iter_rows())
    pairs = summary.rows(Tables(made.workspace.store, "scripted"), "pairs").filter("keep")["pair_id"].to_list()
    assert pairs
    for pair in pairs:
        behind = summary.lineage(Tables(made.workspace.store, "scripted"), pair)
        asked = provenance.asked(plan.Chain(RANDOM, made.workspace), behind)["rewards"]
        assert asked["current"]
        assert asked[REFERENCE] != behind["post"]["ugc_id"]
        for response in asked["responses"].values():
            assert response["prompt"][-1]["content"] in sent
            assert texts[asked[REFERENCE]] in response["prompt"][-1]["content"]


def test_provenance_says_when_another_post_would_be_shown_now(tmp_path: Path) -> None:
    made = chain(tmp_path, a=posts(30))
    made.run()
    behind = summary.lineage(
        Tables(made.workspace.store, "scripted"), made.rows("pairs").filter(pl.col("keep"))["pair_id"].to_list()[0]
    )
    made.put("b", posts(60, start=1000))
    made.run(shards=["b"], to="ugc")
    asked = provenance.asked(plan.Chain(RANDOM, made.workspace), behind)
    assert not asked["rewards"]["current"]
    assert asked["quality"]["current"]


def test_posts_of_one_thread_never_judge_each_other(tmp_path: Path) -> None:
    made = Chain(str(tmp_path), RANDOM)
    rows = [{"text": text, "thread": "T" if i % 2 else f"own {i}"} for i, text in enumerate(posts(30))]
    path = storage.join(made.workspace.inbox, "a.jsonl")
    storage.write(path, b"".join(orjson.dumps(row) + b"\n" for row in rows))
    made.run()
    threads = {row["text"]: row["thread"] for row in rows}
    references = References(Tables(made.workspace.store, "scripted"))
    for ugc_id, text in made.rows("ugc").select("ugc_id", "text").iter_rows():
        other = references.text(ugc_id)
        assert other is not None
        assert threads[other] != threads[text]
