"""Dropped rows for reading: every reason, with the text that was dropped."""

from pathlib import Path

from helpers.stages import DEFAULTS

from pugc_core.results import dropped_rows
from pugc_core.stages import STAGES
from pugc_core.tables.store import Footer, Store, Tables


def write(store: Store, stage: str, shard: str, *rows: dict) -> None:
    table = STAGES[stage].table
    frame = table.frame([{**dict.fromkeys(table.columns), **DEFAULTS, **row} for row in rows])
    counts = table.count(frame)
    store.write("r", frame, Footer(stage, shard, {}, {}, "x", *counts))


def out(reason: str, **columns: object) -> dict:
    return {"keep": False, "drop_reason": reason, **columns}


def test_every_reason_with_its_text(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write(store, "ugc", "a", out("too_short", ugc_id="1", text="hm", detail="2"), {"ugc_id": "2", "text": "a post"})
    write(store, "quality", "a", out("low_quality", ugc_id="2", reasoning="thin", score=1))
    write(store, "instructions", "a", {"instruction_id": "i", "instruction": "How?"})
    write(store, "relevance", "a", out("not_relevant", instruction_id="i"))
    write(store, "responses", "a", {"response_id": "r", "text": "So."}, out("empty", response_id="e"))
    write(store, "rewards", "a", out("too_few_votes", response_id="r"))
    write(store, "pairs", "a", out("all_tied", pair_id="p", instruction="How?", chosen="So."))
    write(store, "ugc", "gone", out("too_short", ugc_id="9", text="of a shard that is not asked for"))
    found = [tuple(row.values()) for row in dropped_rows.sample(Tables(store, "r"), ["a"], 10)]
    assert found == [
        ("ugc", "a", "too_short", "1", "hm", "2"),
        ("quality", "a", "low_quality", "2", "a post", "thin"),
        ("relevance", "a", "not_relevant", "i", "How?", ""),
        ("responses", "a", "empty", "e", "", ""),
        ("rewards", "a", "too_few_votes", "r", "So.", ""),
        ("pairs", "a", "all_tied", "p", "How?", "So."),
    ]


def test_of_much_a_sample_but_of_every_reason_some(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for shard in ("a", "b", "c"):
        write(store, "ugc", shard, *(out("too_short", ugc_id=f"{shard}{i}", text="hm") for i in range(4)))
    write(store, "ugc", "d", out("broken", ugc_id="d"), {"ugc_id": "k", "text": "kept"})
    found = dropped_rows.sample(Tables(store, "r"), ["a", "b", "c", "d"], 5)
    assert [row["reason"] for row in found] == ["too_short"] * 5 + ["broken"]
    assert [row["id"] for row in found] == ["a0", "a1", "a2", "a3", "b0", "d"]
    # A table that is gone in the meantime is no error.
    Path(store.path("r", "ugc", "d")).unlink()
    assert len(dropped_rows._rows(Tables(store, "r"), "ugc", "d")) == 0
