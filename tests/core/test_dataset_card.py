"""Licences as they are, and the card of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from helpers.chain import Chain, posts, scripted_recipe

from pugc_core import storage
from pugc_core.results import exports, licences
from pugc_core.results.licences import identifier, metadata
from pugc_core.results.summary import funnel
from pugc_core.tables.shard_states import states
from pugc_core.tables.store import Tables
from pugc_core.training import card


def head_of(page: str) -> dict[str, Any]:
    """What a reader of YAML makes of a card's head."""
    yaml = pytest.importorskip("yaml")
    assert page.startswith("---\n")
    found: dict[str, Any] = yaml.safe_load(page.split("\n---\n", 1)[0])
    return found


def test_licences_by_the_names_of_the_hub() -> None:
    cases = {
        "CC BY-SA 4.0": "cc-by-sa-4.0",
        "cc by 4.0": "cc-by-4.0",
        "CC0-1.0": "cc0-1.0",
        "MIT": "mit",
        "Apache 2.0": "apache-2.0",
        "Unlicense (public domain)": "unlicense",
        "https://creativecommons.org/licenses/by-sa/3.0/": "cc-by-sa-3.0",
        "http://creativecommons.org/publicdomain/zero/1.0/": "cc0-1.0",
        "CC BY-SA 2.5": None,
        "public domain": None,
        "all rights reserved": None,
        "": None,
    }
    assert {licence: identifier(licence) for licence in cases} == cases


def test_only_a_licence_that_all_have_is_named() -> None:
    def other(name: str) -> dict[str, str]:
        return {"license": "other", "license_name": name, "license_link": "README.md"}

    cases: list[tuple[dict[str | None, int], dict[str, str]]] = [
        ({"CC BY 4.0": 3}, {"license": "cc-by-4.0"}),
        ({"CC BY 4.0": 3, "cc-by-4.0": 1}, {"license": "cc-by-4.0"}),
        ({"CC BY 4.0": 3, "CC BY-SA 4.0": 1}, other("mixed")),
        ({"CC BY 4.0": 300, None: 1}, other("mixed")),
        ({None: 3}, other("unknown")),
        ({}, other("unknown")),
        ({"House rules\n---\nlicense: mit": 3}, other("house-rules-license-mit")),
        ({"©": 3}, other("unnamed")),
    ]
    for found, expected in cases:
        assert metadata(found) == expected, found


def chain_with_licences(root: Path) -> Chain:
    """Two shards of posts: of a the licence is stated, of b it is not."""
    chain = Chain(str(root), scripted_recipe())
    for shard in ("a", "b"):
        lines = [
            {"text": text, "license": "CC BY-SA 4.0", "author": "mia", "url": f"http://x.test/{i}", "source": "forum"}
            if shard == "a"
            else {"text": text}
            for i, text in enumerate(posts(25, start=100 * ord(shard)))
        ]
        frame = pl.DataFrame(lines, infer_schema_length=None)
        storage.write(storage.join(chain.workspace.inbox, f"{shard}.jsonl"), frame.write_ndjson().encode())
    chain.run()
    return chain


def write(chain: Chain, folder: Path) -> str:
    store, name = chain.workspace.store, chain.recipe.name
    stages: Any = chain.recipe.stages(chain.workspace.source)
    exports.write_dataset(
        str(folder),
        chain.rows("dataset"),
        recipe=name,
        fingerprint="abc",
        funnel=funnel(Tables(store, name), ["a", "b"]),
        states=states(Tables(store, name), ["a", "b"]),
        wordings=[stage.prompt for stage in stages.values() if stage.role],
    )
    return (folder / "README.md").read_text(encoding="utf-8")


def test_origin_goes_from_the_post_into_the_files_and_the_card(tmp_path: Path) -> None:
    chain = chain_with_licences(tmp_path / "data")
    kept = chain.rows("dataset").filter("keep")
    page = write(chain, tmp_path / "out")
    for view in ("", "unpaired", "reward"):
        rows = pl.concat(pl.read_parquet(tmp_path / "out" / view / f"{s}.parquet") for s in ("train", "test"))
        origin = ["source", "author", "url", "license"]
        posts_of = {row[0]: row[1:] for row in chain.rows("ugc").select("ugc_id", *origin).iter_rows()}
        assert {posts_of[row[0]] for row in rows.select("ugc_id").iter_rows()} == set(rows.select(origin).iter_rows())
        assert all(posts_of[row[0]] == row[1:] for row in rows.select("ugc_id", *origin).iter_rows())
    of_a = kept.filter(pl.col("shard") == "a").height
    assert 0 < of_a < kept.height
    assert f"| CC BY-SA 4.0 | {of_a} |" in page
    assert f"| not stated | {kept.height - of_a} |" in page
    head = head_of(page)
    assert (head["license"], head["license_name"]) == ("other", "mixed")
    assert [config["config_name"] for config in head["configs"]] == ["default", "unpaired", "reward"]
    assert head["configs"][1]["data_files"][0] == {"split": "train", "path": "unpaired/train.parquet"}
    fingerprint = chain.recipe.stages(str)["rewards"].fingerprint
    assert f"| rewards | `judge@scripted` | `{fingerprint['prompt']}` | 2 of 2 |" in page
    assert "[RESULT]" in page.split("<pre>", 1)[1], "the prompts themselves"
    assert "All shards were made in the same way." in page


def test_the_card_says_what_its_shards_differ_in(tmp_path: Path) -> None:
    chain = chain_with_licences(tmp_path / "data")
    chain.recipe = scripted_recipe(rewards={"prompt": "default"})
    chain.run(shards=["b"], to="pairs")
    chain.run(shards=["a", "b"], groups=[["b"]], to="dataset")
    page = write(chain, tmp_path / "out")
    assert "**Its shards were not made in the same way:**\n\n- the rewards prompt differs: a against b" in page
    assert page.count("| rewards | `judge@scripted` |") == 2
    assert page.count(" | 1 of 2 |") == 2


def test_the_card_says_where_a_recipe_departs_from_the_method(tmp_path: Path) -> None:
    chain = chain_with_licences(tmp_path / "data")
    cases = {
        "": {},
        " **The judge was shown no post.**": {"rewards": {"reference": "none", "prompt": "no-reference-short"}},
        " **The judge was shown another post, drawn at random, instead of the post.**": {
            "rewards": {"reference": "random"}
        },
        " **Every answer after the first was asked for with the earlier ones in sight.**": {
            "responses": {"vary": "earlier"}
        },
    }
    for words, changes in cases.items():
        chain.recipe = scripted_recipe(**changes)
        chain.run()
        assert f"All shards were made in the same way.{words}\n" in write(chain, tmp_path / "out"), words


def test_a_sources_own_words_stay_within_their_cell() -> None:
    page = licences.table({"a | b\n\n# c <script>": 3})
    assert page.splitlines()[2:] == ["| a \\| b \\# c \\<script\\> | 3 |"]


def test_the_head_of_a_policys_card(tmp_path: Path) -> None:
    folder = tmp_path / "start"
    folder.mkdir()
    models = {"judge": {"id": "judge", "engine": "scripted"}, "policy": {"id": str(folder)}}
    recipe = scripted_recipe(models=models)
    cases: list[tuple[str, dict[str | None, int], str]] = [
        ("---\nlicense: cc-by-4.0\n---\n", {"CC BY 4.0": 3}, "cc-by-4.0"),
        ("---\nlicense: apache-2.0\n---\n", {"CC BY 4.0": 3}, "other"),
        ("---\nlicense: cc-by-4.0\n---\n", {"CC BY 4.0": 3, None: 1}, "other"),
        ("---\ntags: [x]\n---\nlicense: cc-by-4.0\n", {"CC BY 4.0": 3}, "other"),
        ("no head", {"CC BY 4.0": 3}, "other"),
    ]
    for readme, found, expected in cases:
        (folder / "README.md").write_text(readme)
        head = card.head(recipe, "dpo", found)
        assert (head["license"], head["base_model"], head["datasets"]) == (expected, "start", ["pugc-scripted"]), readme
        assert str(tmp_path) not in str(head)
    hub = scripted_recipe(models={**models, "policy": {"id": "org/model"}})
    assert card.head(hub, "dpo", {})["base_model"] == "org/model"
