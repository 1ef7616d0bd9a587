"""What is watched while the model learns: how often it puts the right token first on documents of the test side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pugc_bundled.tiny.batches import whole
from pugc_bundled.tiny.tasks import DECIDED, Sample


def quick(model: Any, tok: Any, samples: Mapping[str, Sequence[Sample]]) -> dict[str, float]:
    """Per task, the share of the answer's tokens that the model puts first given those before; for relevance and the
    two judges (named `…_decides`) that of the tokens that decide."""
    made: dict[str, float] = {}
    model.eval()
    for task, chosen in samples.items():
        # These batches have all kinds of shapes; compiling for each would take longer than the training.
        with torch.compiler.set_stance("force_eager"):
            every, decisive = _right(model, tok, chosen)
        made[task] = sum(every) / len(every)
        if decisive:
            made[f"{task}_decides"] = sum(decisive) / len(decisive)
    model.train()
    return made


@torch.no_grad()
def _right(model: Any, tok: Any, samples: Sequence[Sample]) -> tuple[list[bool], list[bool]]:
    """Whether each token of the answers comes first, of all and of those that decide."""
    every: list[bool] = []
    decisive: list[bool] = []
    for batch in whole(samples, tok):
        ids, weights = torch.tensor(batch.ids), torch.tensor(batch.weights)[:, 1:]
        hit = model(input_ids=ids[:, :-1]).logits.argmax(-1) == ids[:, 1:]
        every += hit[weights > 0].tolist()
        decisive += hit[weights >= DECIDED].tolist()
    return every, decisive
