"""A folder of open data in miniature, made of the bundled sample posts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import polars as pl
import pytest

import pugc_core
from pugc_bundled.roles import corpus
from pugc_bundled.roles.corpus import Post

SAMPLE = Path(pugc_core.__file__).parent / "sample"
SITES = ("stackexchange:bikes", "stackexchange:cooking", corpus.UNSEEN[0])


def bodies() -> list[str]:
    """Texts of the sample posts that are long enough to be posts here."""
    rows = [json.loads(line) for path in sorted(SAMPLE.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return [row["body"] for row in rows if len(str(row.get("body") or "").split()) >= corpus.SHORTEST]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("open-data")
    rows = []
    for i, body in enumerate(bodies()):
        words = [w.strip(".,") for w in body.split() if len(w) > 5][:3]
        kind = ("answer", "answer", "recipe", "question")[i % 4]
        rows.append(
            {
                "source": SITES[i % 3],
                "kind": kind,
                "group": f"thread {i // 2}",
                "title": f"How do I deal with {' and '.join(words)}?" if kind == "answer" else f"Notes {i}",
                "text": body,
                "score": i,
            }
        )
    pl.DataFrame(rows).write_parquet(folder / "ugc_open.parquet")
    dialogues = [
        {"instruction": f"What is said of case {i}?", "context": body if i % 2 else "", "response": body}
        for i, body in enumerate(bodies()[:12])
    ]
    for name in ("dolly15k", "oasst_en100"):
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as out:
            out.writelines(json.dumps(row) + "\n" for row in dialogues)
    judged = [
        {
            "instruction": f"Do {i}.",
            "response": b,
            "reference": b,
            "score": 1 + i % 5,
            "source": "prometheus-vicuna_eval" if i == 4 else "prometheus-mt_bench_eval",
        }
        for i, b in enumerate(bodies()[:5])
    ]
    pl.DataFrame(judged).write_parquet(folder / "judged_pointwise_open.parquet")
    pairs = [
        {
            "prompt": "P",
            "response_a": "a",
            "response_b": "b",
            "reference": reference,
            "label": label,
            "source": "llmbar",
        }
        for reference, label in (("r", "A"), ("r", "tie"), (None, "B"))
    ]
    pl.DataFrame(pairs).write_parquet(folder / "judged_pairs_open.parquet")
    return folder


@pytest.fixture(scope="session")
def posts(data: Path) -> list[Post]:
    return corpus.posts(data)
