"""Intervals and the statistics of the bundled model's table, against values worked by hand."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from pugc_core.intervals import bootstrap, bootstrap_totals, share, share_of


def test_the_interval_of_a_share_is_wilsons() -> None:
    """8 of 10: centre (0.8 + 0.192073) / 1.384146 = 0.716738, half 0.226562."""
    made = share([True] * 8 + [False] * 2)
    assert (made.value, made.n) == (0.8, 10)
    assert (made.low, made.high) == (pytest.approx(0.490176, abs=1e-4), pytest.approx(0.943318, abs=1e-4))
    sure = share([True] * 10)
    assert sure.high == 1.0
    assert sure.low == pytest.approx(0.722467, abs=1e-4)
    assert share_of(8, 10) == made


def test_the_bootstrap_holds_the_statistic_and_repeats_itself() -> None:
    samples = [float(n) for n in range(100)]
    made = bootstrap(samples, statistics.fmean)
    assert made.value == 49.5
    # 1.96 standard errors: 28.87 / 10 = 2.887.
    assert made.low == pytest.approx(49.5 - 1.96 * 2.887, abs=0.8)
    assert made.high == pytest.approx(49.5 + 1.96 * 2.887, abs=0.8)
    assert bootstrap(samples, statistics.fmean) == made
    assert bootstrap([3.0] * 5, statistics.fmean).low == 3.0


def test_the_bootstrap_of_totals_is_that_of_samples() -> None:
    parts = np.array([[float(n), 1.0] for n in range(100)])
    made = bootstrap_totals(parts, lambda sums: sums[0] / sums[1])
    assert (made.value, made.n) == (49.5, 100)
    assert made.low == pytest.approx(49.5 - 1.96 * 2.887, abs=0.8)
    assert made.high == pytest.approx(49.5 + 1.96 * 2.887, abs=0.8)
    assert bootstrap_totals(parts, lambda sums: sums[0] / sums[1]) == made
    # A quarter of the resamples has twice the second sample, of which there is no statistic.
    some = bootstrap_totals(np.array([[1.0, 1.0], [1.0, 0.0]]), lambda s: s[0] / s[1] if s[1] else math.nan)
    assert (some.value, some.low, some.high) == (2.0, 1.0, 2.0)


def test_nothing_has_no_statistic() -> None:
    with pytest.raises(ValueError, match="of nothing"):
        share([])
    with pytest.raises(ValueError, match="of nothing"):
        bootstrap([], statistics.fmean)
    with pytest.raises(ValueError, match="of nothing"):
        bootstrap_totals(np.zeros((0, 2)), lambda sums: sums[0])


def test_auc_and_correlation_by_hand() -> None:
    from pugc_bundled.tiny.measure import auc, correlation

    # Of the four pairs sound against damaged: 5 > 3, 5 > 4, 4 > 3, 4 = 4.
    assert auc([(True, 5.0), (True, 4.0), (False, 3.0), (False, 4.0)]) == 3.5 / 4
    assert correlation([(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)]) == pytest.approx(1.0)
    assert correlation([(1.0, 2.0), (1.0, 4.0)]) == 0.0


@pytest.mark.parametrize(
    ("question", "good"),
    [
        ("What should I know about flour?", True),
        ("what should I know?", False),
        ("What should I know? And why?", False),
        ("What does the context say about flour?", False),
        ("What should I", False),
    ],
)
def test_a_well_formed_question_is_one_sentence_that_stands_alone(question: str, good: bool) -> None:
    from pugc_bundled.tiny.measure import well_formed

    assert well_formed(question) is good
