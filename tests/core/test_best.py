"""The pairs that a demo shows, and what the shape of the rewards says, on hand-made tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from pugc_core.results import summary
from pugc_core.stages import STAGES
from pugc_core.stages.records import ALL
from pugc_core.tables.store import Store, Tables, make_footer


def test_the_best_pairs_are_of_different_posts(tmp_path: Path) -> None:
    """By margin; of equal margins the better chosen answer, then the id; dropped ones are not shown or counted."""
    rows = [  # pair, post, chosen, rejected, kept
        ("a", "p1", 3.0, 1.0, True),
        ("b", "p1", 4.0, 1.0, True),
        ("c", "p1", 4.5, 1.0, True),
        ("d", "p2", 5.0, 4.0, True),
        ("e", "p3", 4.0, 2.0, True),
        ("f", "p4", 5.0, 3.0, True),
        ("g", "p5", 5.0, 3.0, True),
        ("h", "p6", 5.0, 1.0, False),
    ]
    store = Store(str(tmp_path))
    assert summary.best(Tables(store, "mine"), 3) == ([], 0)
    blank = dict.fromkeys(STAGES["dataset"].table.schema)
    frame = STAGES["dataset"].table.frame(
        {
            **blank,
            **{"pair_id": pair, "ugc_id": post, "shard": "s", "split": "train", "keep": kept},
            "drop_reason": None if kept else "duplicate",
            **{"chosen_reward": chosen, "rejected_reward": rejected, "margin": chosen - rejected},
            "prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": f"How {pair}?"}],
            **{side: [{"role": "assistant", "content": f"{side} {pair}"}] for side in ("chosen", "rejected")},
        }
        for pair, post, chosen, rejected, kept in rows
    )
    store.write("mine", frame, make_footer(frame, "dataset", ALL, {}, {}))
    found, total = summary.best(Tables(store, "mine"), 4)
    assert [pair.pair_id for pair in found] == ["c", "f", "g", "e"]
    assert total == 7
    assert found[0] == summary.Shown("c", "s", "How c?", "chosen c", "rejected c", 4.5, 1.0, 3.5)


def test_the_shape_of_rewards_says_how_full_its_fullest_band_is() -> None:
    """Eight rewards, three of them to a question that tied: 1 and 4 in the bands from 1.0, 3 in that from 2.5."""
    measured = {"reward_n": 8, "reward_sum": 14.0, "reward_squares": 28.0, "answers": 64, "parsed": 60}
    measured |= {"instructions": 3, "tied": 1, "tied_1.0": 3, "untied_1.0": 1, "untied_1.5": 1, "untied_2.5": 3}
    shape = summary.reward_shape(measured)
    assert shape is not None
    assert shape.histogram["1.0-1.5"] == 4
    assert (shape.fullest, shape.instructions, shape.tied) == (0.5, 3, 1)
    assert shape.all_tied == pytest.approx(1 / 3)
