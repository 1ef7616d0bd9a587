"""The stages of the pipeline, one module each. This is the one place where they are listed."""

from __future__ import annotations

from collections.abc import Mapping

from pugc_core.stages.base import Stage
from pugc_core.stages.dataset import Dataset
from pugc_core.stages.instructions import Instructions
from pugc_core.stages.pairs import Pairs
from pugc_core.stages.quality import Quality
from pugc_core.stages.relevance import Relevance
from pugc_core.stages.responses import Responses
from pugc_core.stages.rewards import Rewards
from pugc_core.stages.ugc import Ugc

STAGES: Mapping[str, type[Stage]] = {
    stage.name: stage for stage in (Ugc, Quality, Instructions, Relevance, Responses, Rewards, Pairs, Dataset)
}
"""By name, in run order. A filter stands after the stage whose rows it judges and before those that go on from it."""


def of_node(name: str) -> type[Stage]:
    """The stage of the node of a name, which may begin with a round."""
    return STAGES[name.rpartition("/")[2]]


POLICY, REPORT = "policy", "report"
CHAIN = (*STAGES, POLICY, REPORT)
"""All that a recipe makes, in run order; `policy` is one for every objective of training."""
SHARDED = tuple(name for name, stage in STAGES.items() if stage.sharded)
"""The stages that have one table per shard."""
