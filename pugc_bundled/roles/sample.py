"""What the base itself says, for the judge to learn on: answers to people's questions, and its own words for a text.

    python -m pugc_bundled.roles.sample --data DIR --out SAMPLED

Questions and texts are of the train side alone. Answers go to `SAMPLED/answers.jsonl` chunk by chunk; started again, it
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pugc_bundled.roles import corpus
from pugc_bundled.tiny.text import sentences
from pugc_core.engines import open_engine
from pugc_core.engines.base import Engine, Generation, Request, Sampling
from pugc_core.models.spec import ModelSpec
from pugc_core.prompts.base import Message

SEED = 29
QUESTIONS, TEXTS, ROWS, DRAWS, CHUNK = 1600, 500, 1600, 2, 64
"""Questions and texts to choose from, those of them that are asked, answers to a question, and questions at a time."""
SITES = 1000
"""Of the questions to choose from, those of communities."""
SAMPLING = Sampling(temperature=0.8, top_k=40, max_tokens=112)
BREVITY = ("\nAnswer in two or three sentences.", "\nAnswer in a few sentences.", "")
REWORD = "Rewrite this in your own words, in about the same length. Write nothing else.\n\n{text}"


def asked(posts: Sequence[corpus.Post], more: int = 0) -> list[dict[str, str]]:
    """What the base is asked, in the order of asking: questions, people's own of communities first, then texts. With
    `more`, as many other questions and no texts."""
    rng = random.Random(SEED)
    pool = [p for p in corpus.of("train", posts) if p.question]
    sites = [p for p in pool if p.source.startswith("stackexchange")]
    others = [p for p in pool if not p.source.startswith("stackexchange")]
    rng.shuffle(sites)
    rng.shuffle(others)
    first = [*sites[:SITES], *others]
    rest = [*sites[SITES : SITES + 3 * more // 4], *others[QUESTIONS:]]
    chosen = list(dict.fromkeys((p.question, p.key) for p in (rest if more else first)))[: more or QUESTIONS]
    rows = [
        {"kind": "answer", "key": key, "text": question, "prompt": question + rng.choice(BREVITY)}
        for question, key in chosen
    ]
    if more:
        return rows
    for post in rng.sample(corpus.of("train", posts), TEXTS):
        parts = sentences(post.text)
        start = rng.randrange(max(1, len(parts) - 2))
        text = " ".join(parts[start : start + rng.randint(1, 3)])
        rows.append({"kind": "reworded", "key": post.key, "text": text, "prompt": REWORD.format(text=text)})
    rng.shuffle(rows)
    return rows[:ROWS]


def answers(engine: Engine, rows: Sequence[dict[str, str]]) -> Iterable[dict[str, Any]]:
    """The rows with what the base said to each, and whether it came to an end."""
    requests = [
        Request(
            "smollm2",
            (Message("user", row["prompt"]),),
            SAMPLING,
            tuple(range(DRAWS if row["kind"] == "answer" else 1)),
        )
        for row in rows
    ]
    said = {a.key: a for a in engine.generate(iter(requests)) if isinstance(a, Generation)}
    for row, request in zip(rows, requests, strict=True):
        for draw in request.draws:
            if found := said.get(request.key(draw)):
                yield {**row, "said": found.text.strip(), "cut_off": found.cut_off}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Sample the base on questions and texts of the train side.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the open data")
    parser.add_argument("--base", required=True, help="folder of the base model")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--more", type=int, default=0, help="ask so many other questions, and no texts")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "answers.jsonl"
    rows = asked(corpus.posts(options.data), options.more)
    done = len({json.loads(line)["prompt"] for line in path.open()}) if path.exists() else 0
    engine = open_engine(ModelSpec(id=options.base, dtype="bfloat16", max_model_len=2048))
    began = time.monotonic()
    try:
        for start in range(done // CHUNK * CHUNK, len(rows), CHUNK):
            made = list(answers(engine, rows[start : start + CHUNK]))
            with path.open("a") as out:
                out.writelines(json.dumps(row) + "\n" for row in made)
            print(f"{start + CHUNK} of {len(rows)}, {time.monotonic() - began:.0f} s", flush=True)
    finally:
        engine.close()


if __name__ == "__main__":
    main()
