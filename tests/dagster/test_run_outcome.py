"""What came of a run, in short, in the terminal: hand-made tables, worked by hand."""

from __future__ import annotations

import io
import re

from rich.cells import cell_len
from rich.console import Console

from pugc_core.intervals import Estimate
from pugc_core.results.summary import RewardShape, Shown
from pugc_core.training.summary import Summary
from pugc_dagster.terminal import run_outcome

BANDS = ("1.0-1.5", "1.5-2.0", "2.0-2.5", "2.5-3.0", "3.0-3.5", "3.5-4.0", "4.0-4.5", "4.5-5.0")
SHAPE = RewardShape(
    responses=81,
    mean=2.5,
    std=0.5,
    histogram=dict(zip(BANDS, (10, 40, 20, 0, 9, 1, 1, 0), strict=True)),
    untied=dict(zip(BANDS, (0, 30, 20, 0, 1, 1, 0, 0), strict=True)),
    parse_rate=0.984,
    all_tied=0.25,
    instructions=20,
    tied=5,
    fullest=40 / 81,
)


def printed(*shown: object, width: int = 80) -> str:
    out = io.StringIO()
    for each in shown:
        Console(file=out, width=width, highlight=False).print(each)
    return out.getvalue()


def test_the_histogram_has_a_bar_and_a_count_for_every_band() -> None:
    """The fullest band, 40 rewards, has 40 columns, so every reward has one; of 10 that are tied all are light."""
    assert [line.rstrip() for line in run_outcome.histogram(SHAPE, 80)] == [
        "rewards of 81 answers: mean 2.50, std 0.50",
        f"  1.0-1.5  {'░' * 10:<40}    10",
        f"  1.5-2.0  {'█' * 30 + '░' * 10}    40",
        f"  2.0-2.5  {'█' * 20:<40}    20",
        f"  2.5-3.0  {'':<40}     0",
        f"  3.0-3.5  {'█' + '░' * 8:<40}     9",
        f"  3.5-4.0  {'█':<40}     1",
        f"  4.0-4.5  {'░':<40}     1",
        f"  4.5-5.0  {'':<40}     0",
        "the fullest bin has 49% of them; all tied (░): 5 of 20 questions, 25%; 98.4% of the votes parsed",
    ]
    narrow = list(run_outcome.histogram(SHAPE, 38))  # a bar of 20 columns: one for two rewards, and never none for one
    assert max(cell_len(line) for line in narrow[1:-1]) <= 38
    assert narrow[2] == f"  1.5-2.0  {'█' * 15 + '░' * 5}    40"
    assert narrow[6] == f"  3.5-4.0  {'█':<20}     1"


def test_a_text_is_wrapped_and_cut_between_words() -> None:
    assert run_outcome.clipped("one two\n\n three", 20, 2) == ["one two three"]
    assert run_outcome.clipped("one two three four five", 9, 3) == ["one two", "three", "four five"]
    assert run_outcome.clipped("one two three four five six", 9, 3) == ["one two", "three", "four …"]
    assert run_outcome.clipped("a" * 30, 10, 2) == ["a" * 10, "a" * 8 + " …"]
    assert run_outcome.clipped("", 10, 2) == [""]
    for line in run_outcome.clipped("漢字 " * 40, 11, 3):  # two columns each
        assert cell_len(line) <= 11


def shown(**changes: object) -> Shown:
    values = {
        **{"pair_id": "d62ab818", "shard": "kitchen", "question": "How do I descale a kettle?"},
        **{"chosen": "Citric acid. " * 60, "rejected": "No idea.", "margin": 2.75},
        **{"chosen_reward": 4.0, "rejected_reward": 1.25},
    }
    return Shown(**{**values, **changes})  # type: ignore[arg-type]


def test_a_pair_takes_a_few_lines_of_any_width_and_no_colour_on_a_pipe() -> None:
    text = printed(*run_outcome.pairs([shown()], 38, 80))
    assert text.splitlines() == [
        "the best 1 of 38 pairs, by reward margin and one of a post",
        "",
        "  How do I descale a kettle?",
        "  shard kitchen, pair d62ab818, reward margin 2.75",
        f"  chosen   4.00 {('Citric acid. ' * 5).rstrip()}",
        *[f"{'':<16}{('Citric acid. ' * 5).rstrip()}"] * 2,
        f"{'':<16}{'Citric acid. ' * 4}Citric …",
        "  rejected 1.25 No idea.",
    ]
    for width in (40, 80, 110):
        long = shown(question="Why? " * 99, chosen="x" * 999, rejected="漢" * 999)
        lines = printed(*run_outcome.pairs([long, long], 2, width), width=width).splitlines()
        assert max(map(cell_len, lines)) <= width
        assert len(lines) <= 2 + 2 * (1 + 2 + 2 + 4 + 4)
        assert "\x1b" not in "".join(lines)
    assert list(run_outcome.pairs([], 0, 80)) == []


def policy(**changes: object) -> Summary:
    zeros = dict.fromkeys(
        ("steps", "n_train", "pairs_trained", "tokens_per_epoch", "resumed_at", "dropped_too_long"), 0
    )
    record = {**zeros, "objective": "dpo", "n_test": 12, "seconds": 1.0, "devices": 1, "tokens_per_second": 1.0}
    record |= {"dropped": {}, "final": {}, "curve": [], "device": "cpu", "precision": "fp32", "notes": []}
    return Summary.of({**record, **changes})


def test_policies_stand_with_gain_interval_and_count() -> None:
    figures = {"accuracy": Estimate(0.75, 0.467, 0.911, 12), "gain": Estimate(0.12, 0.03, 0.21, 12)}
    held_out = {name: vars(figure) for name, figure in figures.items()}
    older = {"accuracy": held_out["accuracy"]}
    table, note = run_outcome.held_out(
        {"dpo": policy(held_out=held_out), "simpo": policy(held_out=older), "kto": policy(n_test=0)}
    )
    rows = [re.split(r"\s*│\s*", line.strip("│ \n")) for line in printed(table).splitlines() if line.startswith("│")]
    assert rows == [
        ["dpo", "12", "0.750 (0.467 to 0.911)", "0.120 (0.030 to 0.210)"],
        ["simpo", "12", "0.750 (0.467 to 0.911)", "-"],
        ["kto", "0", "-", "-"],
    ]
    assert "95% intervals" in str(note)
    assert list(run_outcome.held_out({})) == []


def test_start_and_trained_stand_side_by_side_at_any_width() -> None:
    sample = {"question": "How [bold]do[/] I?", "start": "By hand. " * 80, "trained": "x" * 300}
    for width in (40, 80, 110):
        text = printed(run_outcome.side_by_side([sample] * 3, "SimPO", width), width=width)
        assert max(map(cell_len, text.splitlines())) <= width
        assert len(text.splitlines()) <= 8 + 3 * 8
        assert "[bold]" in text
        assert text.count("…") == 6
    assert "first 3 held-out questions" in text
    assert "trained by SimPO" in text
    assert run_outcome.side_by_side([], "SimPO", 80) is None


def test_nothing_that_a_terminal_obeys_gets_through() -> None:
    for text in ("\x1b[2Jgone", "\x1b]0;title\x07", "\x9b31mred", "\u202egnp.exe", "lone \ud800", "over\rwritten\x08"):
        pair = shown(question=text, chosen=text, rejected=text, shard=text, pair_id=text)
        sample = dict.fromkeys(("question", "start", "trained"), text)
        out = printed(*run_outcome.pairs([pair], 1, 80), run_outcome.side_by_side([sample], "DPO", 80))
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800]", out), text
