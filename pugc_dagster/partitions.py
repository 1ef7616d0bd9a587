"""A partition is a shard: one source file of hundreds to thousands of posts, shared by all recipes."""

from __future__ import annotations

import warnings

import dagster as dg

# Backfill policies have been "beta" for two years and each asset would say so at every start.
warnings.filterwarnings("ignore", category=dg.BetaWarning, message=".*backfill_policy.*")

shards = dg.DynamicPartitionsDefinition(name="ugc_shards")
EVERY_SHARDS_RUN = dg.BackfillPolicy.multi_run(max_partitions_per_run=64)
"""A backfill is a few runs over many shards; a stage loads its model once per run."""
