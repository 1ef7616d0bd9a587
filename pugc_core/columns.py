"""Which column comes from which: (table, column) pairs, for the web UI's column lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pugc_core.records import ORIGIN

Source = tuple[str, str]
_GROUPED_BY = ("thread", "title", "post", "instruction")

LINEAGE: Mapping[str, Mapping[str, Sequence[Source]]] = {
    "quality": {
        "ugc_id": [("ugc", "ugc_id")],
        "score": [("ugc", "text")],
        "reasoning": [("ugc", "text")],
    },
    "instructions": {
        "instruction_id": [("quality", "ugc_id")],
        "ugc_id": [("quality", "ugc_id")],
        "instruction": [("ugc", "text")],
    },
    "relevance": {
        "instruction_id": [("instructions", "instruction_id")],
        "relevant": [("ugc", "text"), ("instructions", "instruction")],
    },
    "responses": {
        "response_id": [("instructions", "instruction_id")],
        "instruction_id": [("relevance", "instruction_id")],
        "text": [("instructions", "instruction")],
    },
    "rewards": {
        "response_id": [("responses", "response_id")],
        "instruction_id": [("responses", "instruction_id")],
        "votes": [("ugc", "text"), ("instructions", "instruction"), ("responses", "text")],
        "reward": [("ugc", "text"), ("instructions", "instruction"), ("responses", "text")],
    },
    "pairs": {
        "instruction_id": [("instructions", "instruction_id")],
        "ugc_id": [("instructions", "ugc_id")],
        "instruction": [("instructions", "instruction")],
        "chosen_response_id": [("responses", "response_id"), ("rewards", "reward")],
        "rejected_response_id": [("responses", "response_id"), ("rewards", "reward")],
        "chosen": [("responses", "text"), ("rewards", "reward")],
        "rejected": [("responses", "text"), ("rewards", "reward")],
        "margin": [("rewards", "reward")],
        "chosen_cut_off": [("responses", "finish_reason")],
        "rejected_cut_off": [("responses", "finish_reason")],
        "post": [("ugc", "text")],
        **{name: [("ugc", name)] for name in ("line", "title", "thread", *ORIGIN)},
    },
    "dataset": {
        "pair_id": [("pairs", "pair_id")],
        "ugc_id": [("pairs", "ugc_id")],
        "prompt": [("pairs", "instruction")],
        "chosen": [("pairs", "chosen")],
        "rejected": [("pairs", "rejected")],
        "margin": [("pairs", "margin")],
        "chosen_cut_off": [("pairs", "chosen_cut_off")],
        "rejected_cut_off": [("pairs", "rejected_cut_off")],
        **{side: [("pairs", name) for name in _GROUPED_BY] for side in ("split", "group")},
        **{name: [("pairs", name)] for name in ORIGIN},
    },
}
