"""Stage quality: one greedy answer per kept post; no score is no number."""

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.stages import changed, drive, ident, posts, refuse
from pydantic import ValidationError

from pugc_core.engines.base import Sampling
from pugc_core.stages.quality import Quality, QualityConfig

STAGE = Quality(QualityConfig(), "judge@1")


def test_scores_and_reasons() -> None:
    texts = ["post-a", "post-b", "post-c", "post-d", "post-e"]
    run = drive(
        STAGE,
        {
            "post-a": "fine\nScore: 5",
            "post-b": "fine\nScore: 4",
            "post-c": "thin\nScore: 3",
            "post-d": "I cannot say.",
            "post-e": None,
        },
        ugc=posts(*texts, dropped=["post-x"]),
    )
    assert run.rows("ugc_id", "score", "keep", "drop_reason") == [
        (ident("post-a"), 5, True, None),
        (ident("post-b"), 4, True, None),
        (ident("post-c"), 3, False, "low_quality"),
        (ident("post-d"), None, False, "unparsable"),
        (ident("post-e"), None, False, "prompt_too_long"),
    ]
    assert run.rows("reasoning")[2:] == ["thin\nScore: 3", "I cannot say.", None]
    assert run.counts == (5, 2, {"low_quality": 1, "prompt_too_long": 1, "unparsable": 1})


def test_one_greedy_request_per_kept_post() -> None:
    run = drive(STAGE, lambda request, draw: "Score: 4", ugc=posts("post-a", "post-b", dropped=["post-x"]))
    assert len(run.rounds) == 1
    assert [r.draws for r in run.requests] == [(0,), (0,)]
    assert {r.model for r in run.requests} == {"judge@1"}
    assert all(r.sampling.temperature == 0 for r in run.requests)
    assert ["post-x" in r.messages[-1].content for r in run.requests] == [False, False]


@pytest.mark.parametrize("least", [1, 2, 3, 4, 5])
def test_the_threshold_is_inclusive(least: int) -> None:
    stage = Quality(QualityConfig(min_score=least), "judge@1")
    answers = {f"post-{i}": f"Score: {i}" for i in range(1, 6)}
    assert drive(stage, answers, ugc=posts(*answers)).rows("keep") == [i >= least for i in range(1, 6)]


@pytest.mark.parametrize("least", [0, 6, 3.5])
def test_a_threshold_off_the_scale_is_refused(least: float) -> None:
    with pytest.raises(ValidationError):
        QualityConfig(min_score=least)  # type: ignore[arg-type]


def test_a_band_of_quality() -> None:
    """Both ends are in it; what is above is dropped for that, and what does not parse is in no band."""
    answers: dict[str, str | None] = {f"post-{i}": f"Score: {i}" for i in range(1, 6)} | {"post-x": "Score"}
    run = drive(replace(STAGE, config=QualityConfig(min_score=2, max_score=3)), answers, ugc=posts(*answers))
    assert run.rows("drop_reason") == ["low_quality", None, None, "above_max_score", "above_max_score", "unparsable"]
    with pytest.raises(ValidationError, match=r"max_score \(3\) is below min_score \(4\)"):
        QualityConfig(max_score=3)
    assert "rated 2 to 3 go on" in replace(STAGE, config=QualityConfig(min_score=2, max_score=3)).about


def test_no_posts_no_rows() -> None:
    run = drive(STAGE, {}, ugc=posts(dropped=["post-x"]))
    assert run.requests == []
    assert run.counts == (0, 0, {})


def test_any_refusal_is_the_drop_reason() -> None:
    run = drive(STAGE, lambda request, draw: refuse(request, "content_filter"), ugc=posts("post-a"))
    assert run.rows("drop_reason") == ["content_filter"]


def test_the_fingerprint_holds_what_shapes_the_table(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("Rate {ugc}")
    config = STAGE.config
    assert changed(STAGE, replace(STAGE, config=QualityConfig(prompt=str(mine)))) == {"prompt"}
    assert changed(STAGE, replace(STAGE, config=QualityConfig(prompt="short"))) == {"prompt"}
    assert changed(STAGE, replace(STAGE, config=QualityConfig(min_score=3))) == {"threshold"}
    assert changed(STAGE, replace(STAGE, config=QualityConfig(max_score=4))) == {"threshold"}
    assert STAGE.fingerprint["threshold"] == "4", "tables of before there were bands stay current"
    assert changed(STAGE, replace(STAGE, model="judge@2")) == {"model"}
    for sampling in (Sampling(temperature=0.1, max_tokens=512), Sampling(temperature=0.0, max_tokens=64)):
        assert changed(STAGE, replace(STAGE, config=QualityConfig(sampling=sampling))) == {"sampling"}
    assert changed(STAGE, Quality(config.model_copy(), "judge@1")) == set()
    # Not where a prompt file lies, only what it says.
    twin = tmp_path / "twin.txt"
    twin.write_text("Rate {ugc}\n")
    first, second = (Quality(QualityConfig(prompt=str(p)), "judge@1") for p in (mine, twin))
    assert changed(first, second) == set()
